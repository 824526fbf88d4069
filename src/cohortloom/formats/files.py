"""Finding and opening the files behind a table.

CSV is scanned as text, so that nothing is guessed by the parser; Parquet keeps its types. Messages of the parser are
never passed on, as they quote cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import polars as pl

from cohortloom.errors import FileFormatError, nearest
from cohortloom.formats.base import Findings
from cohortloom.formats.check import ROW
from cohortloom.schema import Source
from cohortloom.schema.profile import with_points
from cohortloom.schema.source import FILE_NAME, FOLDER_NAME, named_by_place
from cohortloom.schema.text_files import content, decoded, is_cut, said_separator

__all__ = ["collect", "from_parser", "locate", "parquet", "parquet_rows", "scan"]

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")


def locate(path: Path, source: Source, where: str, findings: Findings) -> list[Path]:
    """Files of a source, sorted by name; a problem if there are none.

    Args:
        path: Folder that is read, or the one file there is.
        source: What the schema says; a name is also found with or without `.gz`.
        where: Table, for messages.
        findings: Takes the problem.
    """
    pattern = source.file
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        fix = "Name files relative to the folder that is read."
        findings.stop("outside-folder", where, "its source points outside the folder that is read", fix)
        return []
    if path.is_file():
        return [path]
    tries = [pattern, f"{pattern}.gz", pattern.removesuffix(".gz")]
    for one in dict.fromkeys(tries):
        found = sorted(p for p in path.glob(one) if p.is_file()) if _is_glob(one) else [path / one]
        if found and found[0].is_file():
            return found
    if _is_glob(pattern):
        findings.stop("no-file", where, f'no file matches "{pattern}"', "Check the path and the pattern of the source.")
    else:
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.name.endswith(_TABLES)]
        hint = nearest(pattern, names) if len(names) <= 200 else ""
        findings.stop("no-file", where, f'"{pattern}" does not exist in the folder', f"Check the path.{hint}")
    return []


def scan(files: list[Path], source: Source, where: str, findings: Findings) -> pl.LazyFrame | None:
    """All files of a table as one lazy frame with `ROW`; None if one can't be read."""
    parts, before = [], len(findings.problems)
    for i, file in enumerate(files):
        place = _place(where, source, file, i, len(files))
        part = _guard(lambda file=file: _scan_one(file, source), place, findings)
        if part is not None and source.subject in (FILE_NAME, FOLDER_NAME):
            part = part.with_columns(pl.lit(named_by_place(file.as_posix(), source.subject)).alias(source.subject))
        if part is not None and (file.name.endswith(".parquet") or _header_is_sound(part, source, place, findings)):
            parts.append(part)
            if is_cut(file, source.separator):
                fix = "Fetch or write the file again, or delete its last row."
                findings.stop("cut-file", place, "ends in the middle of its last row", fix)
    if len(findings.problems) > before or not parts:
        return None
    names = parts[0].collect_schema().names()
    other = sum(set(p.collect_schema().names()) != set(names) for p in parts)
    if other:
        fix = "Give all files of the table the same header, or list them as tables of their own."
        findings.stop("ragged-rows", where, f"{other} of {len(parts)} files have other columns than the first", fix)
        return None
    frame = parts[0] if len(parts) == 1 else pl.concat([p.select(names) for p in parts], how="vertical_relaxed")
    return frame.with_row_index(ROW)


def collect(make: Callable[[], pl.DataFrame | None], files: list[Path], source: Source, where: str, findings: Findings):
    """Run a query over files; what the parser trips over becomes one problem per file that can't be read."""
    try:
        return make()
    except BaseException as error:
        if not from_parser(error):
            raise
        before = len(findings.problems)
        for i, file in enumerate(files):
            place = _place(where, source, file, i, len(files))
            _guard(lambda file=file: _scan_one(file, source).collect(), place, findings)
        if len(findings.problems) == before:
            raise
        return None


def _place(where: str, source: Source, file: Path, i: int, n: int) -> str:
    """Table and file; a file found by a pattern goes by its number, as its name may be that of a patient."""
    return f"{where} ({source.file}, file {i + 1} of {n})" if _is_glob(source.file) else f"{where} ({file.name})"


def _is_glob(pattern: str) -> bool:
    return any(mark in pattern for mark in "*?[")


def _scan_one(file: Path, source: Source) -> pl.LazyFrame:
    if file.name.endswith(".parquet"):
        frame = pl.scan_parquet(file, glob=False)
        frame.collect_schema()
        return frame
    options = {"separator": source.separator, "infer_schema": False, "glob": False}
    options |= {"skip_lines": 1} if said_separator(file) else {}
    if source.encoding.lower().replace("-", "") == "utf8":
        frame = pl.scan_csv(file, **options)
    else:  # polars reads UTF-8 only
        options.pop("glob")
        frame = pl.read_csv(decoded(content(file), source.encoding).encode(), **options).lazy()
    frame.collect_schema()
    return frame.with_columns(with_points(pl.all())) if source.decimal == "," else frame


def _header_is_sound(part: pl.LazyFrame, source: Source, place: str, findings: Findings) -> bool:
    names = part.collect_schema().names()
    if any("\0" in n or "\ufffd" in n for n in names):
        fix = 'Name it in the source, e.g. encoding = "utf16" or "latin1".'
        findings.stop("not-text", place, f"is not {source.encoding} text", fix)
        return False
    for mark, shown in ((";", ";"), ("\t", "\\t"), ("|", "|"), (",", ",")):
        if len(names) == 1 and mark != source.separator and mark in names[0]:
            fix = f'Set separator = "{shown}" in the source.'
            findings.stop("wrong-separator", place, "has one column; another separator is used", fix)
            return False
    if any(_looks_like_data(n) for n in names):
        fix = "Add a first line with the column names."
        findings.stop("no-header", place, "the first line looks like data, not like names", fix)
        return False
    return True


def _looks_like_data(name: str) -> bool:
    try:
        return math.isfinite(float(name))  # "nan" is a name people give
    except ValueError:
        return False


def from_parser(error: BaseException) -> bool:
    """Is it the files that were at fault?"""
    if isinstance(error, (pl.exceptions.PolarsError, OSError, EOFError, UnicodeError, LookupError)):
        return True
    return type(error).__name__ == "PanicException"


def _guard(make: Callable, place: str, findings: Findings):
    """The result, or a problem in our own words."""
    try:
        return make()
    except BaseException as error:
        if not from_parser(error):
            raise
        text = str(error).lower()
        if isinstance(error, pl.exceptions.NoDataError):
            findings.stop("empty-file", place, "is empty, without even a header", "Write the file again.")
        elif isinstance(error, LookupError) and not isinstance(error, pl.exceptions.PolarsError):
            findings.stop("not-text", place, "its encoding is not known", 'Use a name such as "utf8" or "latin1".')
        elif "utf-8" in text or "utf8" in text or isinstance(error, UnicodeError):
            fix = 'Name the encoding in the source, e.g. encoding = "latin1".'
            findings.stop("not-text", place, "is not text in the encoding of its source", fix)
        elif "more fields" in text:
            fix = "Quote cells that hold the separator, and check the separator."
            findings.stop("ragged-rows", place, "has rows with more cells than the header", fix)
        else:
            fix = "It may be truncated, damaged, or have an open quote; fetch or write it again."
            findings.stop("unreadable-file", place, "can't be read to its end", fix)
        return None


def parquet(file: Path, place: str) -> pl.DataFrame:
    """One Parquet file in memory.

    Raises:
        FileFormatError: it can't be read.
    """
    return _or_raise(lambda: pl.read_parquet(file, glob=False), place)


def parquet_rows(file: Path, place: str) -> pl.LazyFrame:
    """The rows of one Parquet file, not yet read.

    Raises:
        FileFormatError: it is none.
    """
    _or_raise(lambda: pl.read_parquet_schema(file), place)
    return pl.scan_parquet(file, glob=False)


def _or_raise(make: Callable, place: str):
    findings = Findings()
    made = _guard(make, place, findings)
    if made is None:
        raise FileFormatError("", findings.problems)
    return made
