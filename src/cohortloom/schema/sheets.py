"""Files and frames opened for a look.

CSV is read as text, so that nothing is guessed by the parser; Parquet and frames keep their types. Words of a parser
are not passed on, as they quote cells.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import polars as pl
import polars.selectors as cs

from cohortloom.errors import FileFormatError, Problem, SettingsError
from cohortloom.schema.profile import (
    LIMIT,
    MARKS,
    NUMBER_MARKS,
    PAIR,
    Profile,
    bare,
    number_in,
    profile,
    snake,
    with_points,
)
from cohortloom.schema.text_files import BOTH, content, decoded, is_cut, said_separator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_ROWS", "Sheet", "from_pandas", "has_sheets", "ids", "read_sheets", "sheet_of"]

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
    encoding: str = "utf8"
    decimal: str = "."
    subject: str | None = None
    visit: str | None = None
    time: str | None = None
    time_unit: str | None = None
    time_note: str = ""
    code: str | None = None
    value: str | None = None
    unit: str | None = None
    apart: list[str] = field(default_factory=list)
    role: str = "event"
    repeats: bool = False
    visits: bool = False
    skip: str = ""
    where: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, pl.Series] = field(default_factory=dict, repr=False)
    mixed: dict[str, str] = field(default_factory=dict)
    virtual: dict[str, str] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    copies: int = 0

    def ids(self, column: str) -> pl.Series:
        """Values of an id column as text, without the .0 that floats leave."""
        if column not in self.keys:
            self.keys[column] = ids(self.frame[column])
        return self.keys[column]

    def without_copies(self) -> None:
        """One row per patient, where a table would have it but for rows that are exact copies of others."""
        kept = self.frame.unique(maintain_order=True)
        copies = self.frame.height - kept.height
        if not copies or 5 * copies > self.frame.height or kept[self.subject or ""].n_unique() < kept.height:
            return
        self.frame, self.copies, self.keys = kept, copies, {}
        self.profiles = {c: profile(kept[c]) for c in kept.columns}

    def split(self, column: str) -> None:
        """Take a column of numbers and words for two: the numbers under its name, and the words."""
        words = f"{column}_words"
        self.frame = self.frame.with_columns(pl.col(column).alias(words))
        self.virtual[words] = column
        self.words_of(words)
        number = number_in(pl.col(column).cast(pl.String))
        self.frame = self.frame.with_columns(pl.when(number.is_not_null()).then(pl.col(column)))
        self.profiles[column] = profile(self.frame[column])
        self.mixed[column] = "numbers"

    def split_pair(self, column: str) -> None:
        """Take a column of pressures (120/80) for two columns of numbers."""
        for k, (name, part) in enumerate((("systolic", "above"), ("diastolic", "below")), 1):
            ours = f"{column}_{name}"
            self.frame = self.frame.with_columns(pl.col(column).cast(pl.String).str.extract(PAIR, k).alias(ours))
            self.profiles[ours] = profile(self.frame[ours])
            self.virtual[ours], self.mixed[ours] = column, part
        self.frame = self.frame.drop(column)
        del self.profiles[column]

    def words_of(self, column: str) -> None:
        """Only the cells of a column that are no numbers."""
        number = number_in(pl.col(column).cast(pl.String))
        self.frame = self.frame.with_columns(pl.when(number.is_null()).then(pl.col(column)).alias(column))
        self.profiles[column] = profile(self.frame[column])
        self.mixed[column] = "words"


def ids(series: pl.Series) -> pl.Series:
    if series.dtype.is_float():
        series = series.cast(pl.Int64, strict=False)
    text = bare(series.cast(pl.String).str.strip_chars())
    if text.str.ends_with(".0").any() and text.str.contains(r"^$|^-?\d+(\.0)?$").all():  # E11.0 and 250.0 beside 250.6
        text = text.str.strip_suffix(".0")  # are codes
    return text.to_frame("k").select(pl.when(pl.col("k") != "").then(pl.col("k"))).to_series()


def has_sheets(source: Path, others: set[str]) -> bool:
    """Is there a CSV, TSV or Parquet file besides `others`, or is the source one?"""
    if not source.is_dir():
        return source.name not in others
    found = (p for p in source.rglob("*") if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    return any(p.relative_to(source).as_posix() not in others for p in found)


def read_sheets(source: str | Path | Sequence[str | Path]) -> list[Sheet]:
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(p) for p in source]
    root = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if root:
        paths = sorted(p for p in root.rglob("*") if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    problems, sheets = [], []
    for path in paths:
        label = path.relative_to(root).as_posix() if root else path.name
        try:
            frame, separator, encoding = _open(path)
        except FileNotFoundError:
            problems.append(Problem("no-file", label, "the file does not exist", "Check the path."))
        except pl.exceptions.ComputeError:
            problems.append(Problem("unreadable", label, *_uneven(path)))
        except Exception as error:  # parsers quote cells, so their words stay out
            what = f"can't be read ({type(error).__name__})"
            problems.append(Problem("unreadable", label, what, "It may be truncated or no CSV, TSV or Parquet file."))
        else:
            short = path.name
            for suffix in SUFFIXES:
                short = short.removesuffix(suffix)
            broken = is_cut(path, separator)
            frame, passed = _without_headers(frame.head(frame.height - broken))
            sheet = sheet_of(short, label, frame, separator, encoding)
            sheet.where, sheet.broken = passed, broken
            sheets += _kinds(sheet)
    if problems:
        raise FileFormatError("no schema can be drafted from these files", problems)
    if not sheets:
        where = str(paths[0].name if paths else source)
        raise FileFormatError("", [Problem("no-file", where, "holds no CSV, TSV or Parquet file", "Check the path.")])
    return sheets


def _open(path: Path) -> tuple[pl.DataFrame, str, str]:
    """The first rows of a file (text, unless Parquet), its separator and its encoding."""
    if path.name.endswith(".parquet"):
        return pl.scan_parquet(path).head(MAX_ROWS + 1).collect(), ",", "utf8"
    encoding = _wide_encoding(path)
    said = said_separator(path)
    separator = said or ("\t" if ".tsv" in path.name else _separator(path, encoding))
    options: dict[str, Any] = {"separator": separator, "infer_schema": False, "n_rows": MAX_ROWS + 1}
    options |= {"skip_lines": 1} if said else {}
    if encoding != "utf8":
        return pl.read_csv(decoded(content(path), encoding).encode(), **options), separator, encoding
    frame, encoding = pl.read_csv(path, encoding="utf8-lossy", **options), "utf8"
    odd = pl.all().cast(pl.String).str.contains("\ufffd", literal=True).any()
    if any("\ufffd" in name for name in frame.columns) or any(frame.select(odd).row(0) if frame.width else ()):
        found = content(path)
        for encoding in _encodings(found):
            try:
                frame = pl.read_csv(decoded(found, encoding).encode(), **options)
                break
            except UnicodeDecodeError:
                continue
    return frame, separator, encoding


def _encodings(found: bytes) -> tuple[str, ...]:
    """What spreadsheets of western hospitals write, lines of UTF-8 among it or not."""
    lines = found.splitlines()
    mixed = any(len(line.decode("utf8", "ignore").encode()) == len(line) for line in lines if not line.isascii())
    return (BOTH, "cp1252", "latin1") if mixed else ("cp1252", "latin1")


def _opened(path: Path, mode: str, **options: str) -> IO[Any]:
    """A plain file, or what a compressed one holds."""
    return (gzip.open if path.name.endswith(".gz") else open)(path, mode, **options)  # type: ignore[call-overload]


def _wide_encoding(path: Path) -> str:
    """UTF-16 by its mark, as spreadsheets write "Unicode text"; else "utf8"."""
    with _opened(path, "rb") as file:
        return "utf16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf8"


def _separator(path: Path, encoding: str) -> str:
    with _opened(path, "rt", encoding=encoding, errors="replace") as file:
        head = str(file.readline())
    return max(",;\t|", key=head.count)


def _uneven(path: Path) -> tuple[str, str]:
    """What is wrong with a file whose rows have more cells than its first line, and what to do."""
    with _opened(path, "rt", encoding="utf8", errors="replace") as file:
        head = list(islice(file, 10_000))
    separator = max(",;\t|", key="".join(head[:50]).count)
    cells = [len(row) for row in csv.reader(head, delimiter=separator)]
    usual = max(set(cells), key=cells.count, default=0)
    if cells and cells[0] < usual:
        first = cells.index(usual) + 1
        return f"has {usual} columns, but not in its first lines", f"Remove what stands above the names (row {first}?)."
    more = next((i for i, n in enumerate(cells) if n > cells[0]), None)
    if more is None:
        return "can't be read as a table", "It may be truncated, or have an open quote."
    return f"row {more + 1} has more cells than the first line", "Quote cells that hold the separator."


_TOTAL = (
    r"(?i)^\W*(grand )?(total|sub-?total|sum|summe|gesamt(summe|ergebnis)?|zwischensumme|somme|totale|average|mean|"
    r"mittelwert|durchschnitt|stand|quelle|source|end of (file|report))\b"
)


def _without_headers(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Without rows that repeat the names of the columns, and rows of totals, and the filters that leave them out.

    Files pasted from several sheets hold the first; exports of spreadsheets end in the second, which have a word like
    "Total" in the first column and few other cells.
    """
    if frame.height < 3 or not all(dtype == pl.String for dtype in frame.dtypes) or frame.width < 2:
        return frame, []
    filled = frame.select(pl.sum_horizontal((pl.all().fill_null("") != "").cast(pl.Int32))).to_series()
    named = frame.select(pl.sum_horizontal((pl.col(c).str.strip_chars() == c).fill_null(False) for c in frame.columns))
    headers = (named.to_series() >= 2) & (named.to_series() > 0.8 * filled)
    first = frame.columns[0]
    totals = frame[first].fill_null("").str.contains(_TOTAL) & (filled < 0.5 * float(filled.median() or 0)) & ~headers
    passed = []
    if headers.any():
        at = next((c for c in frame.columns if (frame[c].str.strip_chars() == c).filter(headers).all()), None)
        if at is None:
            headers = headers & False
        else:
            passed.append({"column": at, "exclude": [at]})
    if totals.any():
        words = frame[first].filter(totals).str.strip_chars().unique().sort().to_list()
        passed.append({"column": first, "exclude": words})
    return frame.filter(~(headers | totals)), passed


def _kinds(sheet: Sheet) -> list[Sheet]:
    """REDCap writes visits and repeated forms into one file; here each kind of row is a sheet of its own."""
    mark = "redcap_repeat_instrument"
    if mark not in sheet.frame.columns:
        return [sheet]
    parts = []
    for (kind,), frame in sheet.frame.with_columns(pl.col(mark).fill_null("")).partition_by(mark, as_dict=True).items():
        drop = [c for c in frame.columns if c == mark or frame[c].cast(pl.String).fill_null("").eq("").all()]
        name = f"{sheet.name}_{snake(str(kind))}" if kind else sheet.name
        part = sheet_of(name, sheet.file, frame.drop(drop), sheet.separator, sheet.encoding)
        part.where, part.decimal = [*sheet.where, {"column": mark, "include": [kind]}], sheet.decimal
        part.repeats = bool(kind)
        parts.append(part)
    return parts


def from_pandas(frame: pd.DataFrame) -> pl.DataFrame:
    """The polars frame of a pandas frame; named index levels become columns, mixed columns become text."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    frame = frame.rename(columns=str)
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if column.ndim > 1:
            raise SettingsError(f'the pandas frame has column "{name}" twice; rename one of them')
        columns[name] = _series(column)
    return pl.DataFrame(columns)


def _series(column: pd.Series) -> pl.Series:
    """One column; objects of several types are read as text, so that the check of cells speaks about them."""
    import pandas as pd  # heavy

    if column.dtype == object:
        known = column.dropna()
        kinds = {type(v) for v in known}
        if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
            if len(kinds) == 1 and issubclass(next(iter(kinds)), (pd.Timestamp, pd.Timedelta)):
                return pl.from_pandas(pd.Series(pd.to_datetime(column)) if pd.Timestamp in kinds else column)
            column = column.map(str, na_action="ignore")
        values = [None if missing else value for value, missing in zip(column, column.isna())]
        return pl.Series(str(column.name), values, strict=True)
    return pl.from_pandas(column, nan_to_null=True)


def sheet_of(name: str, file: str, frame: pl.DataFrame, separator: str = ",", encoding: str = "utf8") -> Sheet:
    cut, frame = frame.height > MAX_ROWS, frame.head(MAX_ROWS)
    decimal = "," if _has_decimal_commas(frame, separator) else "."
    frame = frame.with_columns(with_points(cs.string())) if decimal == "," else frame
    profiles = {c: profile(frame[c]) for c in frame.columns}
    cells = cs.nested() | cs.duration() | cs.binary() | cs.object()  # of no text: their profiles say so, none is read
    frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(c) for c in frame.select(cells).columns)
    return Sheet(snake(name), file, frame, profiles, cut, separator, encoding, decimal)


def _has_decimal_commas(frame: pl.DataFrame, separator: str) -> bool:
    """Are there columns of numbers like 12,5, and none of numbers like 12.5?

    Where commas part the cells, 1,234 in quotes is a thousand rather than a bit more than one.
    """
    marks = [*MARKS, *NUMBER_MARKS]
    commas = False
    for series in frame.select(cs.string()):
        cells = series.drop_nulls().str.strip_chars()
        cells = cells.filter(~cells.is_in(marks)).str.replace(LIMIT, "")
        whole = cells.str.contains(r"^[-+]?\d+$")
        for mark in (r"\.", ","):
            broken = cells.str.contains(rf"^[-+]?\d+{mark}\d+$")
            if broken.any() and (whole | broken).mean() > 0.95:  # type: ignore[operator]
                if mark != ",":
                    return False
                thousands = cells.filter(broken).str.contains(r"^[-+]?[1-9]\d{0,2},\d{3}$").all()
                commas = commas or not (thousands and separator == ",")
    return commas
