"""Files and frames opened for a look.

CSV is read as text, so that nothing is guessed by the parser; Parquet and frames keep their types. Words of a parser
are not passed on, as they quote cells.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from cohortloom.errors import FileFormatError, Problem
from cohortloom.schema.profile import Profile, profile, snake

__all__ = ["MAX_ROWS", "Sheet", "ids", "read_sheets", "sheet_of"]

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
MAX_ROWS = 5_000_000


@dataclass
class Sheet:
    """One file or frame, with what was found out about it."""

    name: str
    file: str
    frame: pl.DataFrame
    profiles: dict[str, Profile]
    cut: bool = False
    separator: str = ","
    subject: str | None = None
    visit: str | None = None
    time: str | None = None
    time_unit: str | None = None
    time_note: str = ""
    code: str | None = None
    value: str | None = None
    unit: str | None = None
    role: str = "event"
    skip: str = ""
    keys: dict[str, pl.Series] = field(default_factory=dict, repr=False)

    def ids(self, column: str) -> pl.Series:
        """Values of an id column as text, without the .0 that floats leave."""
        if column not in self.keys:
            self.keys[column] = ids(self.frame[column])
        return self.keys[column]


def ids(series: pl.Series) -> pl.Series:
    if series.dtype.is_float():
        series = series.cast(pl.Int64, strict=False)
    text = series.cast(pl.String).str.strip_chars().str.strip_suffix(".0")
    return text.to_frame("k").select(pl.when(pl.col("k") != "").then(pl.col("k"))).to_series()


def read_sheets(source: str | Path | Sequence[str | Path]) -> list[Sheet]:
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(p) for p in source]
    root = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if root:
        paths = sorted(p for p in root.rglob("*") if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    problems, sheets = [], []
    for path in paths:
        label = path.relative_to(root).as_posix() if root else path.name
        try:
            frame, separator = _open(path)
        except FileNotFoundError:
            problems.append(Problem("no-file", label, "the file does not exist", "Check the path."))
        except Exception as error:  # parsers quote cells, so their words stay out
            what = f"can't be read ({type(error).__name__})"
            problems.append(Problem("unreadable", label, what, "It may be truncated or no CSV, TSV or Parquet file."))
        else:
            short = path.name
            for suffix in SUFFIXES:
                short = short.removesuffix(suffix)
            sheets.append(sheet_of(short, label, frame, separator))
    if problems:
        raise FileFormatError("no schema can be drafted from these files", problems)
    if not sheets:
        where = str(paths[0].name if paths else source)
        raise FileFormatError("", [Problem("no-file", where, "holds no CSV, TSV or Parquet file", "Check the path.")])
    return sheets


def _open(path: Path) -> tuple[pl.DataFrame, str]:
    """The first rows of a file (text, unless Parquet), and its separator."""
    if path.name.endswith(".parquet"):
        return pl.scan_parquet(path).head(MAX_ROWS + 1).collect(), ","
    separator = "\t" if ".tsv" in path.name else _separator(path)
    frame = pl.read_csv(path, separator=separator, infer_schema=False, n_rows=MAX_ROWS + 1, encoding="utf8-lossy")
    return frame, separator


def _separator(path: Path) -> str:
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", encoding="utf8", errors="replace") as file:
        head = str(file.readline())
    return max(",;\t|", key=head.count)


def sheet_of(name: str, file: str, frame: pl.DataFrame, separator: str = ",") -> Sheet:
    cut, frame = frame.height > MAX_ROWS, frame.head(MAX_ROWS)
    return Sheet(snake(name), file, frame, {c: profile(frame[c]) for c in frame.columns}, cut, separator)
