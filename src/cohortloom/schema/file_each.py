"""A file or a folder per patient: files with the same columns in one folder, or with one name in a folder each, are one
table, found by a pattern (`person_*.csv`, `*/vitals.csv`).

What tells patients apart is a column that is constant in each file and differs between them; else the name of the file
or of the folder, which a source calls `subject = "(file)"` and `"(folder)"`.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import polars as pl

from cohortloom.schema.links import subject_score
from cohortloom.schema.sheets import MAX_ROWS, SUFFIXES, Sheet, sheet_of
from cohortloom.schema.source import FILE_NAME, FOLDER_NAME, named_by_place

__all__ = ["joined_files"]

_FEW = 5


def joined_files(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The sheets, those of a file or folder per patient as one; they take the place of the first."""
    return _by_file(_by_folder(list(sheets)))


def _by_folder(sheets: list[Sheet]) -> list[Sheet]:
    alike: dict[tuple, list[Sheet]] = defaultdict(list)
    for sheet in sheets:
        place = PurePosixPath(sheet.file)  # p01/p01_vitals.csv is the "*_vitals.csv" of its patient
        name = place.name.replace(place.parent.name, "*") if place.parent.name else place.name
        alike[place.parent.parent, len(place.parts), name, *_form(sheet)].append(sheet)
    found = []
    for (above, depth, name, *_), group in alike.items():
        folders = {PurePosixPath(s.file).parent for s in group}
        each = depth > 1 and len(folders) == len(group) >= _FEW and not any(s.where for s in group)
        pattern = (above / "*" / name).as_posix()
        others = [s.file for s in sheets if s not in group and PurePosixPath(s.file).match(pattern)]
        each = each and not others and not re.search(r"[\[\]?]", pattern) and "*" not in above.as_posix()
        found += [_joined(group, pattern, FOLDER_NAME)] if each else group
    return found


def _form(sheet: Sheet) -> tuple:
    return tuple(sheet.frame.columns), sheet.separator, sheet.encoding, sheet.decimal


def _by_file(sheets: list[Sheet]) -> list[Sheet]:
    alike: dict[tuple, list[Sheet]] = defaultdict(list)
    for sheet in sheets:
        alike[str(PurePosixPath(sheet.file).parent), *_form(sheet)].append(sheet)
    found = []
    for group in alike.values():
        pattern = _pattern(group, [s.file for s in sheets]) if len(group) >= _FEW else ""
        found += [_joined(group, pattern, FILE_NAME)] if pattern else group
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


def _joined(group: list[Sheet], pattern: str, by: str) -> Sheet:
    first, rows = group[0], max(1000, MAX_ROWS // len(group))
    named = any(_tells_apart(group, column) for column in first.frame.columns)
    frames = [
        s.frame.head(rows).with_columns(*([] if named else [pl.lit(named_by_place(s.file, by)).alias(by)]))
        for s in group
    ]
    words = [
        re.sub(r"^[^A-Za-z]+|[^A-Za-z]+$", "", w) for w in re.sub(r"\.\w+", "", PurePosixPath(pattern).name).split("*")
    ]
    name = next(filter(None, words), re.sub(r"[*].*", "", PurePosixPath(pattern).parent.name))
    sheet = sheet_of(
        name or "rows", pattern, pl.concat(frames, how="vertical_relaxed"), first.separator, first.encoding
    )
    sheet.decimal, sheet.broken = first.decimal, any(s.broken for s in group)
    return sheet


def _tells_apart(group: list[Sheet], column: str) -> bool:
    """Is it constant in each file, different in most, and named or placed like an id (ages differ too)?"""
    values = [s.frame[column].drop_nulls().unique() for s in group]
    rows = max(s.frame.height for s in group)
    placed = subject_score(column) > 0 or (column == group[0].frame.columns[0] and rows > 1)
    return placed and all(v.len() == 1 for v in values) and len({v[0] for v in values}) > 0.5 * len(group)
