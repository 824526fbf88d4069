"""A file per patient: many files with the same columns in one folder are one table, found by a pattern.

What tells patients apart is a column that is constant in each file and differs between them; else the file's name,
which a source calls `subject = "(file)"`.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import polars as pl

from cohortloom.schema.sheets import MAX_ROWS, SUFFIXES, Sheet, sheet_of
from cohortloom.schema.source import FILE_NAME, file_stem

__all__ = ["joined_files"]

_FEW = 5


def joined_files(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The sheets, those of a file per patient as one; they take the place of the first."""
    alike: dict[tuple, list[Sheet]] = defaultdict(list)
    for sheet in sheets:
        folder = str(PurePosixPath(sheet.file).parent)
        alike[folder, tuple(sheet.frame.columns), sheet.separator, sheet.encoding, sheet.decimal].append(sheet)
    found = []
    for group in alike.values():
        pattern = _pattern(group, [s.file for s in sheets]) if len(group) >= _FEW else ""
        found += [_joined(group, pattern)] if pattern else group
    return found


def _pattern(group: list[Sheet], files: list[str]) -> str:
    """A pattern of the files of a group and of no others; empty if there is none, or a file holds several tables."""
    own = [s.file for s in group]
    if len(set(own)) < len(own) or any(s.where for s in group):
        return ""
    end = next((e for e in sorted(SUFFIXES, key=len, reverse=True) if all(f.endswith(e) for f in own)), "")
    one, other = min(own), max(own)  # what the first and the last share, all share
    same = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), len(one))
    begin = re.sub(r"[0-9]+$", "", one.removesuffix(end)[:same])
    pattern = f"{begin}*{end}"
    free = end and not re.search(r"[\[\]?*]", begin + end)
    return pattern if free and set(fnmatch.filter(files, pattern)) == set(own) else ""


def _joined(group: list[Sheet], pattern: str) -> Sheet:
    first, rows = group[0], max(1000, MAX_ROWS // len(group))
    named = any(_tells_apart(group, column) for column in first.frame.columns)
    frames = [
        s.frame.head(rows).with_columns(*([] if named else [pl.lit(file_stem(s.file)).alias(FILE_NAME)])) for s in group
    ]
    name = re.sub(r"[^A-Za-z]+$", "", PurePosixPath(pattern).name.split("*")[0]) or PurePosixPath(pattern).parent.name
    sheet = sheet_of(
        name or "rows", pattern, pl.concat(frames, how="vertical_relaxed"), first.separator, first.encoding
    )
    sheet.decimal, sheet.broken = first.decimal, any(s.broken for s in group)
    return sheet


def _tells_apart(group: list[Sheet], column: str) -> bool:
    """Is it constant in each file, and different in most?"""
    values = [s.frame[column].drop_nulls().unique() for s in group]
    return all(v.len() == 1 for v in values) and len({v[0] for v in values}) > 0.5 * len(group)
