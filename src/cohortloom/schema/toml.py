"""Schemas as TOML that people can read and mend.

A table gets a header, a column one line (`columns.age = { kind = "number", ... }`); what does not fit a line is spread
over dotted keys and long lists over several lines. Defaults are left out. A comment may stand above any key, which is
how a draft says what it saw.
"""

import json
import re
from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from cohortloom.errors import Problem, SchemaError
from cohortloom.schema.lines import Path, path_text

__all__ = ["to_toml"]

WIDTH = 118
INLINE = 150  # a column is easier to read on one long line than on seven short ones
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(data: Mapping[str, Any], comments: Mapping[Path, str] | None = None, head: str = "") -> str:
    """TOML text of a schema's plain form (`Schema.model_dump(mode="json", exclude_defaults=True)`).

    Args:
        data: Plain dicts, lists and scalars.
        comments: Path -> words to stand above it, wrapped to the line length.
        head: Comment for the top of the file.

    Raises:
        SchemaError: a list holds null, which TOML has not.
    """
    notes = dict(comments or {})
    out = [_comment(head), ""] if head else []
    for key, value in data.items():
        if not isinstance(value, dict) and not _tables(value):
            out += _entry((key,), (key,), value, notes)
    for key, value in data.items():
        if _tables(value):
            for i, part in enumerate(value):
                out += ["", *_note((key, i), notes), f"[[{_key(key)}]]"]
                for k, v in part.items():
                    out += _entry((k,), (key, i, k), v, notes)
        elif isinstance(value, dict) and key in ("tables", "signals"):
            for name, table in value.items():
                out += _table((key, name), table, notes)
        elif isinstance(value, dict):
            out += ["", *_note((key,), notes), f"[{_key(key)}]"]
            for k, v in value.items():
                out += _entry((k,), (key, k), v, notes)
    return "\n".join(out).strip("\n") + "\n"


def _tables(value: Any) -> bool:
    """Is this a list of tables (rules, tasks)?"""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, dict) for v in value)


def _table(path: Path, table: dict, notes: dict[Path, str]) -> list[str]:
    """A table or signal: its own keys, its columns, then its source under a header of its own."""
    out = ["", *_note(path, notes), f"[{path_text(path)}]"]
    for key, value in table.items():
        if key == "columns":
            out += _note((*path, "columns"), notes)
            if not value:
                out.append("columns = {}")
            for name, column in value.items():
                out += _entry(("columns", name), (*path, "columns", name), column, notes)
        elif key != "source" or path[0] != "tables":
            out += _entry((key,), (*path, key), value, notes)
    if path[0] == "tables" and "source" in table:
        out += ["", *_note((*path, "source"), notes), f"[{path_text((*path, 'source'))}]"]
        for key, value in table["source"].items():
            out += _entry((key,), (*path, "source", key), value, notes)
    return out


def _entry(key: tuple[str, ...], path: Path, value: Any, notes: dict[Path, str]) -> list[str]:
    """Lines of one key: inline if that fits, otherwise spread."""
    if value is None:
        return []
    name = ".".join(_key(k) for k in key)
    below = any(len(p) > len(path) and p[: len(path)] == path for p in notes)
    line = f"{name} = {_inline(value)}"
    if (
        (len(line) <= (INLINE if isinstance(value, dict) else WIDTH) and not below)
        or not isinstance(value, (dict, list, tuple))
        or not value
    ):
        return [*_note(path, notes), line]
    if isinstance(value, dict):
        out = _note(path, notes)
        for k, v in value.items():
            out += _entry((*key, k), (*path, k), v, notes)
        return out
    parts = [_inline(v) for v in value]
    body = parts if any(isinstance(v, dict) for v in value) else _fill(parts)
    ends = "," if body is parts else ""
    return [*_note(path, notes), f"{name} = [", *(f"  {line}{ends}" for line in body), "]"]


def _fill(parts: list[str]) -> list[str]:
    """Elements packed into lines."""
    out, line = [], ""
    for part in parts:
        if line and len(line) + len(part) + 2 > WIDTH - 2:
            out.append(line)
            line = ""
        line += (" " if line else "") + part + ","
    return [*out, line]


def _note(path: Path, notes: Mapping[Path, str]) -> list[str]:
    return [_comment(notes[path])] if notes.get(path) else []


def _comment(text: str) -> str:
    lines = [line for part in text.split("\n") for line in (wrap(part, WIDTH - 2, break_long_words=False) or [""])]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(str(k))} = {_inline(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_inline(v) for v in value)}]"
    raise SchemaError(
        "",
        [Problem("not-toml", "schema", f"a {type(value).__name__} can't be written as TOML", "Write it as .json.")],
    )
