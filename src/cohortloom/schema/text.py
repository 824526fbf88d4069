"""Schema files: TOML by people, JSON by us, and a JSON Schema for editors.

A file is read whole: whatever is wrong with it comes in one error, each with line and fix.

    icu.toml:12: tables.labs.columns.sodium.lo: key "lo" is unknown. Did you mean "low"?
"""

import json
import re
import tomllib
from datetime import date, datetime, time
from pathlib import Path as FilePath
from typing import Any

from cohortloom.errors import Problem, SchemaError
from cohortloom.files import write_text
from cohortloom.schema.check import WARNINGS, findings
from cohortloom.schema.lines import line_of, lines_of, path_text
from cohortloom.schema.schema import Schema
from cohortloom.schema.toml import to_toml

__all__ = ["dump_schema", "json_schema", "parse_schema", "read_schema", "schema_problems", "show", "write_schema"]


def read_schema(path: str | FilePath) -> Schema:
    """Read a schema from a `.toml` or `.json` file.

    Raises:
        SchemaError: with every problem of the file, each with its line.
    """
    name, text, kind, problems = _open(path)
    return _answer(*((None, problems) if problems else _parse(text, kind, name)), name)


def parse_schema(text: str, *, kind: str = "toml", name: str = "schema") -> Schema:
    """Read a schema from a text.

    Args:
        text: TOML or JSON.
        kind: "toml" or "json".
        name: What messages call the text.

    Raises:
        SchemaError: with every problem of the text, each with its line.
    """
    return _answer(*_parse(text, kind, name), name)


def schema_problems(path: str | FilePath) -> list[Problem]:
    """Everything wrong with a schema file, and what is worth a look (codes in `check.WARNINGS`); for `schema check`."""
    name, text, kind, problems = _open(path)
    return problems or _parse(text, kind, name)[1]


def dump_schema(schema: Schema, kind: str = "toml") -> str:
    """Text of a schema; defaults are left out. JSON keeps the order of tables and columns, as it has meaning."""
    data = schema.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    for name, table in schema.tables.items():
        for c, column in table.columns.items():
            plain = data["tables"][name]["columns"][c] = {"kind": column.kind, **data["tables"][name]["columns"][c]}
            for bounded in (plain, *plain.get("items", {}).values()):
                bounded |= {k: int(v) for k in ("low", "high") if (v := bounded.get(k)) is not None and v == int(v)}
    data["rules"] = [r.model_dump(mode="json", exclude_defaults=True) for r in schema.rules]
    data = {k: v for k, v in data.items() if v != []}
    if kind == "json":
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return to_toml(data)


def write_schema(schema: Schema, path: str | FilePath) -> None:
    """Write a schema as TOML or JSON, by the suffix; reading it again gives an equal schema.

    Raises:
        SchemaError: another suffix.
    """
    path = FilePath(path)
    if path.suffix not in (".toml", ".json"):
        raise SchemaError("", [_unknown_suffix(path)])
    write_text(path, dump_schema(schema, path.suffix[1:]))


def json_schema() -> dict[str, Any]:
    """JSON Schema of schema files, for completion and checks in editors (schemas/cohortloom.schema.json)."""
    out = Schema.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **out, "title": "cohortloom schema"}


def show(schema: Schema) -> str:
    """A summary for people: tables, keys, columns with kind, unit, bounds and marks."""
    counted = [f"{len(t)} {role}" for role in ("static", "visit", "event") if (t := schema.by_role(role))]
    out = [f"{schema.name} (version {schema.version}): {', '.join(counted) or 'no'} tables; clock: {schema.clock}"]
    out += [schema.description] if schema.description else []
    for name, table in schema.tables.items():
        parent = f", of {table.parent}" if table.parent else ""
        long = f", one row per code ({table.code}, {table.value})" if table.is_long else ""
        out += ["", f"{name}: {table.role}{parent}{long}; keys {', '.join(schema.keys(name))}"]
        if table.source:
            out.append(f"  from {table.source.file} ({table.source.layout})")
        width = max((len(c) for c in table.columns), default=0)
        out += [f"  {c:<{width}}  {_facts(column)}" for c, column in table.columns.items()]
    for name, signal in schema.signals.items():
        length = f"{signal.duration:g} s" if signal.duration else "any length"
        shape = f"{len(signal.channels)} channels, {signal.fs:g} Hz, {signal.unit}, {length}"
        out += ["", f"{name}: {signal.kind} signal; {shape}"]
    named = {"rules": schema.rules, "tasks": schema.tasks, "survival pairs": schema.survival}
    more = [f"{len(v)} {k}" for k, v in named.items() if v]
    return "\n".join([*out, *(["", ", ".join(more)] if more else [])]) + "\n"


def _facts(column: Any) -> str:
    facts = [f"{column.kind:<10}"]
    low, high = getattr(column, "low", None), getattr(column, "high", None)
    if low is not None or high is not None:
        facts.append(f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}")
    if getattr(column, "unit", "1") != "1":
        facts.append(column.unit)
    if getattr(column, "levels", None):
        shown = " | ".join(column.levels[:6])
        facts.append(shown + (f" | ... ({len(column.levels)} levels)" if len(column.levels) > 6 else ""))
    facts += [column.system] if getattr(column, "system", "") else []
    facts += [f"{len(column.items)} items"] if getattr(column, "items", None) else []
    marks = {"never missing": not column.missing, "sensitive": column.sensitive, "quasi-id": column.quasi_identifier}
    facts += [f"[{', '.join(m for m, on in marks.items() if on)}]"] if any(marks.values()) else []
    return " ".join(facts).rstrip()


# -- reading ----------------------------------------------------------------------------------------------------------


def _open(path: str | FilePath) -> tuple[str, str, str, list[Problem]]:
    path = FilePath(path)
    if path.suffix not in (".toml", ".json"):
        return path.name, "", "", [_unknown_suffix(path)]
    try:
        return path.name, path.read_text(encoding="utf-8-sig"), path.suffix[1:], []
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        what = "is not UTF-8 from here on"
        return path.name, "", "", [Problem("not-utf8", f"{path.name}:{line}", what, "Save the file as UTF-8.")]
    except OSError as error:
        what = (
            "the file does not exist" if isinstance(error, FileNotFoundError) else f"can't be read ({error.strerror})"
        )
        return path.name, "", "", [Problem("no-file", path.name, what, "Check the path.")]


def _unknown_suffix(path: FilePath) -> Problem:
    return Problem("unknown-suffix", path.name, "a schema file ends in .toml or .json", "Rename it.")


def _answer(schema: Schema | None, problems: list[Problem], name: str) -> Schema:
    if schema is None:
        raise SchemaError(f"{name} can't be used as a schema", [p for p in problems if p.code not in WARNINGS])
    return schema


def _parse(text: str, kind: str, name: str) -> tuple[Schema | None, list[Problem]]:
    text = text.removeprefix("\ufeff")
    data, problem = (_toml if kind == "toml" else _json)(text, name)
    if problem:
        return None, [problem]
    schema, found = findings(data)
    lines = lines_of(text, kind)
    problems = []
    for f in found:
        place = f"{name}:{line_of(lines, f.path)}"
        problems.append(
            (
                line_of(lines, f.path),
                Problem(f.code, f"{place}: {path_text(f.path)}" if f.path else place, f.what, f.fix),
            )
        )
    return schema, [p for _, p in sorted(problems, key=lambda pair: pair[0])]


def _toml(text: str, name: str) -> tuple[dict, Problem | None]:
    try:
        return _plain(tomllib.loads(text)), None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r"\(at line (\d+), column \d+\)", message)
        line = int(found[1]) if found else text.count("\n") + 1
        what = re.sub(r" \(at .*\)$", "", message)
        return {}, Problem(
            "not-toml", f"{name}:{line}", f"is not TOML: {what[0].lower() + what[1:]}", _toml_fix(text, line, what)
        )


def _toml_fix(text: str, line: int, what: str) -> str:
    rows = text.split("\n")
    row = rows[min(line, len(rows)) - 1]
    if "verwrite" in what or "twice" in what:
        return "The key or header stands there twice; keep one."
    if re.search(r"=\s*(True|False)\b", row):
        return "Write true or false in small letters."
    if re.search(r"=\s*(None|null)\b", row):
        return "TOML has no null; leave the key out."
    if row.count("{") > row.count("}"):
        return "An inline table { ... } must end on its line; or write columns.name.key = ... line by line."
    if "nvalid value" in what:
        return "Put text in quotes."
    if row.count('"') % 2:
        return "A quote is open."
    return "Correct this line and check again; what follows was not read."


def _json(text: str, name: str) -> tuple[dict, Problem | None]:
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict:
        keys = [k for k, _ in items]
        twice.extend(k for k in dict.fromkeys(keys) if keys.count(k) > 1)
        return dict(items)

    try:
        data = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        return {}, Problem(
            "not-json", f"{name}:{error.lineno}", f"is not JSON: {error.msg.lower()}", "It may be truncated."
        )
    if twice:
        return {}, Problem(
            "duplicate-key", name, f"keys stand twice: {', '.join(twice)}", "Keep one of each.", len(twice)
        )
    if not isinstance(data, dict):
        return {}, Problem("not-a-schema", f"{name}:1", "is not an object", 'Start with { "name": ... }.')
    return data, None


def _plain(value: Any) -> Any:
    """TOML's dates as ISO text, so that TOML and JSON say the same."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.isoformat() if isinstance(value, (date, datetime, time)) else value
