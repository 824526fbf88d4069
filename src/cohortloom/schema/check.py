"""Everything that is wrong with a schema, at once.

pydantic stops at the models: it says nothing about links between tables while one key is misspelt. So what it refuses
is noted and taken out of a copy (an unknown key is dropped, a broken column becomes a stand-in of its kind), and the
rest is tried again until it builds; then `Schema.problems` has its say. What only follows from a part taken out is no
news and is dropped.
"""

import json
import math
import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from cohortloom.errors import nearest
from cohortloom.schema import column as columns
from cohortloom.schema import priors
from cohortloom.schema.lines import Path
from cohortloom.schema.schema import Schema, Survival, Task
from cohortloom.schema.signals import Signal
from cohortloom.schema.source import CodeMap, Filter, Grid, Source, SourceTime
from cohortloom.schema.table import RESERVED, Table
from cohortloom.schema.units import check_unit

__all__ = ["WARNINGS", "Finding", "findings"]

#: Codes of problems that are worth a look but stop nothing.
WARNINGS = frozenset({"unknown-unit"})

_KINDS = {
    "number": columns.Number,
    "count": columns.Count,
    "category": columns.Category,
    "ordinal": columns.Ordinal,
    "flag": columns.Flag,
    "code": columns.Code,
    "timestamp": columns.Timestamp,
    "identifier": columns.Identifier,
}
_KIND_NAMES = {
    "float": "number", "real": "number", "numeric": "number", "numerical": "number", "double": "number",
    "continuous": "number", "int": "count", "integer": "count", "bool": "flag", "boolean": "flag", "binary": "flag",
    "str": "category", "string": "category", "text": "category", "categorical": "category", "enum": "category",
    "nominal": "category", "ordered": "ordinal", "date": "timestamp", "datetime": "timestamp", "time": "timestamp",
    "id": "identifier", "key": "identifier", "icd": "code",
}  # fmt: skip
_PRIORS: dict[tuple[str, ...], type[BaseModel]] = {
    (): priors.Simulation, ("age",): priors.Prior, ("follow_up",): priors.FollowUp, ("course",): priors.Course,
    ("course", "states", "*"): priors.State, ("visits", "*"): priors.Stream, ("treatments", "*"): priors.Treatment,
    ("rows", "*"): priors.Rows,
}  # fmt: skip
_KEY_NAMES = {
    "min": "low", "max": "high", "minimum": "low", "maximum": "high", "lower": "low", "upper": "high", "type": "kind",
    "dtype": "kind", "values": "levels", "categories": "levels", "units": "unit", "nullable": "missing",
    "optional": "missing", "precision": "decimals", "digits": "decimals", "doc": "description", "frequency": "fs",
    "sampling_rate": "fs", "leads": "channels", "path": "file", "glob": "file", "delimiter": "separator",
    "sep": "separator", "na_values": "missing", "rename": "columns", "filter": "where",
}  # fmt: skip
_IMPLIED = {
    "key": "Remove it: every table has subject_id, and visit_id where it applies.",
    "time": "Remove it: visit and event tables have a time of their own; their column for it is source.time.",
    "primary_key": "Remove it: every table has subject_id, and visit_id where it applies.",
}
_TYPES = {
    "string": "text in quotes",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "tuple": "a list in [ ]",
    "list": "a list in [ ]",
    "dict": "a table { ... }",
    "model": "a table { ... }",
    "model_attributes": "a table { ... }",
}


@dataclass(frozen=True)
class Finding:
    """One problem and where it stands in the file's tree."""

    code: str
    path: Path
    what: str
    fix: str = ""


def findings(data: dict[str, Any]) -> tuple[Schema | None, list[Finding]]:
    """Build the schema and list all that is wrong with it.

    Returns:
        The schema (None if anything but warnings was found) and the findings.
    """
    found = _infinite(data, ())
    work, kept = (
        deepcopy(data),
        {
            k: list(range(len(data.get(k) or [])))
            for k in ("rules", "tasks", "survival")
            if isinstance(data.get(k), list)
        },
    )
    for finding in found:
        _take_out(work, finding.path, "wrong-type", set())
    damaged: set[str] = set()
    schema = None
    for _ in range(12):
        try:
            schema = Schema.model_validate_json(json.dumps(work), strict=True)
            break
        except ValidationError as error:
            new = _translated(error, work, kept)
            if not new:
                break
            known = {f.path for f in found}  # what was taken out is missing afterwards: no news
            found += [f for f, _ in new if not (f.code == "missing-key" and f.path in known) and f not in found]
            for finding, place in sorted(new, key=lambda n: _order(n[1]), reverse=True):
                _take_out(work, place, finding.code, damaged, kept)
    if schema is not None:
        cross = [_placed(p.code, p.where, p.what, p.fix, schema, kept) for p in schema.problems()]
        follow = ("no-columns", "no-tables", "no-time", "value-without-code") if damaged else ()
        quoted = {f'"{d}"' for d in damaged} | {f'.{d}"' for d in damaged}
        found += [f for f in cross if f.code not in follow and not any(q in f.what for q in quoted)]
        found += _units(schema)
    unsound = [f for f in found if f.code not in WARNINGS]
    return (None if unsound else schema), found


def _order(path: Path) -> tuple:
    return tuple((1, p, "") if isinstance(p, int) else (0, 0, p) for p in path)


def _infinite(value: Any, path: Path) -> list[Finding]:
    if isinstance(value, float) and not math.isfinite(value):
        return [Finding("not-finite", path, f"{value} is not a number", "Leave the key out where there is no bound.")]
    if isinstance(value, dict):
        return [f for k, v in value.items() for f in _infinite(v, (*path, k))]
    if isinstance(value, list):
        return [f for i, v in enumerate(value) for f in _infinite(v, (*path, i))]
    return []


# -- pydantic's errors in our words -------------------------------------------------------------------------------


def _at(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _path(loc: tuple) -> Path:
    """pydantic's place without the names of union members (column kinds, the two forms of a time or code)."""
    for depth, wanted in ((4, "columns"), (4, "time"), (5, "codes")):
        inside = loc[2:4] == ("source", wanted) if depth == 5 or wanted == "time" else loc[2:3] == (wanted,)
        if loc[:1] == ("tables",) and inside and len(loc) > depth:
            return loc[:depth] + loc[depth + 1 :]
    return loc


def _model(path: Path, data: dict) -> type[BaseModel] | None:
    """The model whose keys stand at a path."""
    match path:
        case ():
            return Schema
        case ("tables", _):
            return Table
        case ("tables", _, "columns", _):
            return _KINDS.get(str((_at(data, path) or {}).get("kind")))
        case ("tables", _, "columns", _, "items", _):
            return columns.Item
        case ("tables", _, "source"):
            return Source
        case ("tables", _, "source", "time"):
            return SourceTime
        case ("tables", _, "source", "codes", _):
            return CodeMap
        case ("tables", _, "source", "where", _):
            return Filter
        case ("tables", _, "source", "grid"):
            return Grid
        case ("signals", _):
            return Signal
        case ("tasks", _):
            return Task
        case ("survival", _):
            return Survival
        case ("simulation", *rest):
            return _PRIORS.get(tuple(rest)) or _PRIORS.get((*rest[:-1], "*"))
    return None


def _translated(error: ValidationError, data: dict, kept: dict[str, list[int]]) -> list[tuple[Finding, Path]]:
    """Findings, each with its place in the file and in the copy."""
    out: dict[Path, tuple[Finding, Path]] = {}
    for e in error.errors(include_url=False):
        place = _path(e["loc"])
        if e["loc"] != place and e["loc"][-1] == "str" and isinstance(_at(data, place), dict):
            continue  # the other form was meant
        if e["type"] == "too_short" and _at(data, place):
            continue  # pydantic counts good elements only
        code, what, fix = _words(e, place, data)
        # one word for a list of wrong elements
        once = place[:-1] if place and isinstance(place[-1], int) else place
        out.setdefault((*once, code), (Finding(code, _original(place, kept), what, fix), place))
    return list(out.values())


def _original(place: Path, kept: dict[str, list[int]]) -> Path:
    """Place in the file of a place in the copy, from which list elements may have been taken."""
    if len(place) > 1 and place[0] in kept and isinstance(place[1], int):
        return (place[0], kept[str(place[0])][place[1]], *place[2:])
    return place


def _words(e: Any, place: Path, data: dict) -> tuple[str, str, str]:
    kind, ctx = e["type"], e.get("ctx") or {}
    key, above = (str(place[-1]), place[:-1]) if place else ("", ())
    value = _at(data, place)
    shown = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, int, float, bool)) else "this"
    if kind == "extra_forbidden":
        model = _model(above, data)
        known = list(model.model_fields) if model else []
        if model is Table and key in _IMPLIED:
            return "unknown-key", f'key "{key}" is unknown', _IMPLIED[key]
        if model is Table and key in Source.model_fields:
            return "unknown-key", f'key "{key}" is unknown here', f"It belongs under [tables.{above[1]}.source]."
        if _KEY_NAMES.get(key) in known:
            return "unknown-key", f'key "{key}" is unknown', f'Write "{_KEY_NAMES[key]}".'
        hint = nearest(key, known).strip() or (f"The keys here are {', '.join(known)}." if known else "Remove it.")
        return "unknown-key", f'key "{key}" is unknown', hint
    if kind == "missing":
        add = {
            "levels": 'levels = ["...", "..."]',
            "file": 'file = "name.csv"',
            "fs": "fs = 500",
            "role": 'role = "static"',
        }
        return "missing-key", f'key "{key}" is missing', f"Add {add.get(key, key + ' = ...')}."
    if kind == "union_tag_invalid":
        wrong = str(ctx.get("tag"))
        hint = f' Write "{_KIND_NAMES[wrong.lower()]}".' if wrong.lower() in _KIND_NAMES else nearest(wrong, _KINDS)
        return "unknown-kind", f'kind "{wrong}" is unknown; the kinds are {", ".join(_KINDS)}', hint.strip()
    if kind == "union_tag_not_found":
        if not isinstance(value, dict):
            return "wrong-type", f"{shown} is not a column", 'Write { kind = "number", unit = "1" }.'
        return "no-kind", "the column says no kind", f"Add kind = one of {', '.join(_KINDS)}."
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", str(ctx.get("expected")))
        hint = nearest(str(value), options).strip()
        return "not-one-of", f"{shown} is not one of {', '.join(options)}", hint
    if kind == "string_pattern_mismatch":
        if key == "every":
            return "bad-text", f"{shown} is not a bin width", 'Write a number and a unit, such as "1h" or "15min".'
        return "bad-text", f"{shown} can't be used here", "Use letters, digits, _ and -, and a letter first."
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign = {"greater_than": "above", "greater_than_equal": "at least", "less_than": "below"}.get(kind, "at most")
        return "out-of-range", f"{shown} is not possible, it must be {sign} {next(iter(ctx.values()))}", ""
    if kind == "too_short":
        return "empty-list", "the list is empty", "List at least one."
    if kind == "value_error":
        what, _, fix = str(ctx.get("error")).partition("; ")
        return "contradiction", what, fix and fix[0].upper() + fix[1:] + "."
    if kind == "json_invalid" or not kind.endswith(("_type", "_parsing", "_from_float")):
        return "invalid", f"{shown}: {e['msg']}", ""
    if place[:1] == ("tables",) and place[2:3] == ("columns",) and len(place) == 4:
        return "wrong-type", f"{shown} is not a column", 'Write { kind = "number", unit = "1" }.'
    wanted = _TYPES.get(kind.rsplit("_", 1)[0], "something else")
    if place[2:] == ("source", "time"):
        wanted = 'text in quotes or { column = "...", unit = "..." }'
        return "wrong-type", f"{shown} is of the wrong type", f"Write {wanted}."
    example = f"Write {key} = [{shown}]." if "list" in wanted and shown != "this" else ""
    if wanted == "text in quotes" and isinstance(value, (int, float)):
        example = f'Write "{shown}".'
    if wanted == "a number" and isinstance(value, str) and re.fullmatch(r"-?[\d.]+", value):
        example = f"Remove the quotes: {key} = {value}."
    return "wrong-type", f"{shown} is of the wrong type, it must be {wanted}", example


# -- going on without the broken part -------------------------------------------------------------------------------


def _take_out(data: dict, place: Path, code: str, damaged: set[str], kept: dict[str, list[int]] | None = None) -> None:
    """Remove what pydantic refused, or put a stand-in, so that the rest can be looked at."""
    if place[:1] == ("tables",) and len(place) >= 4 and place[2] == "columns" and code != "unknown-key":
        column = _at(data, place[:4])
        if column is not None:
            damaged.add(str(place[3]))
            data["tables"][place[1]]["columns"][place[3]] = _stand_in(column)
        return
    if code == "contradiction" and len(place) == 3 and place[2] == "columns":  # reserved names
        columns = _at(data, place)
        for name in [n for n in columns if n in RESERVED or n.startswith("__")]:
            columns.pop(name)
        return
    if place == ("name",):
        data["name"] = "schema"
        return
    if place[:1] == ("tables",) and place[2:] == ("role",):
        damaged.update((str(place[1]), "visit", "event", "static"))
        if isinstance(_at(data, place[:2]), dict):
            data["tables"][place[1]]["role"] = "event"
        return
    if kept is not None and len(place) > 1 and place[0] in kept and code != "unknown-key":
        place = place[:2]
        if _at(data, place) is None:
            return
        kept[str(place[0])].pop(int(place[1]))
    elif code in ("missing-key", "empty-list") and len(place) > 1:
        place = place[:-1]
    while place:
        above = _at(data, place[:-1])
        if isinstance(above, dict) and place[-1] in above:
            damaged.update(str(p) for p in place[-1:])
            del above[place[-1]]
            return
        if isinstance(above, list) and isinstance(place[-1], int) and place[-1] < len(above):
            del above[place[-1]]
            return
        place = place[:-1]


def _stand_in(column: Any) -> dict:
    column = column if isinstance(column, dict) else {}
    kind = str(column.get("kind"))
    kind = kind if kind in _KINDS else _KIND_NAMES.get(kind, "identifier")
    out: dict[str, Any] = {"kind": kind}
    if kind in ("category", "ordinal"):
        levels = column.get("levels")
        texts = [v for v in levels if isinstance(v, str)] if isinstance(levels, list) else []
        out["levels"] = list(dict.fromkeys(texts)) or ["?"]
    return out


# -- the schema's own problems, placed ------------------------------------------------------------------------------

_KEY_OF = {
    "unknown-parent": "parent",
    "bad-parent": "parent",
    "value-without-code": "value",
    "code-outside-event": "code",
    "repeated-outside-static": "repeated",
    "grid-outside-visit": "grid",
    "no-columns": "columns",
}


def _placed(code: str, where: str, what: str, fix: str, schema: Schema, kept: dict[str, list[int]]) -> Finding:
    """Give a problem of `Schema.problems` its path: the key it is about, or the quoted word it names."""
    data = schema.model_dump(mode="json", exclude_defaults=True)
    path: Path = ()
    if code == "two-visit-tables":
        path = ("tables", list(schema.by_role("visit"))[1], "role")
    for group in ("tables", "signals"):
        for name in data.get(group, {}):
            if where == f"{group}.{name}":
                path = (group, name)
            elif where == f"{group}.{name}.source":
                path = (group, name, "source")
    listed = re.fullmatch(r"(tasks|survival)\[(\d+)\]", where)
    if listed:
        path = (listed[1], int(listed[2]))
    elif where in ("subgroups", "site"):
        path = (where,)
    if code in _KEY_OF and path:
        return Finding(code, _original((*path, _KEY_OF[code]), kept), what, fix)
    named = re.match(r"(code|value) = ", what)
    if named:
        return Finding(code, (*path, named[1]), what, fix)
    words = re.findall(r'"([^"]+)"', what)
    inside = [found for word in words for found in _search(_at(data, path), word, path)]
    return Finding(code, _original(inside[0] if inside else path, kept), what, fix)


def _search(value: Any, word: str, path: Path) -> list[Path]:
    """Paths below `path` whose key or value is the word."""
    out: list[Path] = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if inner == word or key == word:
            out.append((*path, key))
        if path[2:3] != ("columns",):
            out += _search(inner, word, (*path, key))
    return out


def _units(schema: Schema) -> list[Finding]:
    places: list[tuple[Path, str]] = []
    for name, table in schema.tables.items():
        for c, column in table.columns.items():
            if isinstance(column, (columns.Number, columns.Count)):
                places.append((("tables", name, "columns", c, "unit"), column.unit))
            if isinstance(column, columns.Code):
                places += [
                    (("tables", name, "columns", c, "items", k, "unit"), i.unit) for k, i in column.items.items()
                ]
    places += [(("signals", name, "unit"), signal.unit) for name, signal in schema.signals.items()]
    return [Finding(bad[0], path, bad[1], bad[2]) for path, unit in places if (bad := check_unit(unit))]
