"""Where a table's columns come from in the user's own files.

A source is data, not code: file name or glob, their column names, wide or long layout, time unit and origin, marks for
missing, value maps, row filters, statics repeated on every row, and a regular grid. `formats/tabular.py` carries it
out.
"""

import re
from typing import Literal

from pydantic import Field, model_validator

from cohortloom.schema.column import Strict

__all__ = [
    "FILE_NAME",
    "FOLDER_NAME",
    "TIME_UNITS",
    "CodeMap",
    "Filter",
    "Grid",
    "Source",
    "SourceTime",
    "named_by_place",
]

#: As a subject: the name of the file, where there is one per patient.
FILE_NAME = "(file)"
FOLDER_NAME = "(folder)"

#: Days in one unit; the keys are the time units a schema may name.
TIME_UNITS = {
    "us": 1e-6 / 86400,
    "ms": 1e-3 / 86400,
    "s": 1 / 86400,
    "min": 1 / 1440,
    "h": 1 / 24,
    "d": 1.0,
    "wk": 7.0,
    "mo": 30.4375,
    "a": 365.25,
}

Aggregate = Literal["last", "first", "mean", "median", "min", "max", "sum", "any", "count"]


class Filter(Strict):
    """Keep a row if `column` is (or is not) one of the values."""

    column: str = Field(description="Column name in the file.")
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None


class SourceTime(Strict):
    """How the time of a row is written in the file."""

    column: str
    unit: Literal["us", "ms", "s", "min", "h", "d", "wk", "mo", "a"] | None = Field(
        None, description="The column is a number in this unit since the origin; absent: a date, or an order."
    )
    format: str | None = Field(
        None,
        description="strptime format of a date, guessed if absent; several are joined by '|'. 'excel', "
        "'unix', 'unix_ms': numbers as spreadsheets and computers count them.",
    )
    origin: str = Field(
        "subject",
        description="'subject': offsets count from the subject's own origin; an ISO date: offsets count from there; "
        "'first': absolute dates become offsets from the subject's first row in any table.",
    )


class CodeMap(Strict):
    """One code of a long file -> one of our columns (or codes), with a linear change of unit.

    The number becomes scale * theirs + shift.
    """

    column: str
    scale: float = 1.0
    shift: float = 0.0


class Grid(Strict):
    """Bins of a regular grid; a row is made for each bin in which something was recorded."""

    every: str = Field(description="Bin width, such as '1h', '15min', '1d'.", pattern=r"^[0-9.]+(us|ms|s|min|h|d|wk)$")
    aggregate: dict[str, Aggregate] = Field(default_factory=dict, description="Our column -> how; '*' for the rest.")
    empty_bins: bool = Field(False, description="Also make rows for bins without a record, up to the last one.")


def named_by_place(path: str, by: str) -> str:
    """What a file's place says of its patient: `p01` of `wear/p01.csv.gz` by "(file)", `wear` by "(folder)"."""
    *folders, name = path.replace("\\", "/").split("/")
    if by == FOLDER_NAME:
        return folders[-1] if folders else ""
    return re.sub(r"(\.(csv|tsv|txt|parquet))?(\.gz)?$", "", name)


class Source(Strict):
    """The file behind a table."""

    file: str = Field(
        description="File name or glob below the folder that is read; compressed files are read as they are."
    )
    layout: Literal["wide", "long"] = "wide"
    subject: str = Field(
        "subject_id",
        description='Their column with the patient; "(file)", "(folder)": what the file or folder of each is called.',
    )
    visit: str | None = Field(None, description="Their column with the visit, where rows belong to one.")
    time: SourceTime | str | None = Field(
        None, description="A bare name means a date (or number of the schema's clock)."
    )
    columns: dict[str, str] = Field(default_factory=dict, description="Our column -> theirs, where the names differ.")
    code: str | None = Field(None, description="Long layout: their column with the code.")
    value: str | None = Field(None, description="Long layout: their column with the value.")
    codes: dict[str, CodeMap | str] = Field(
        default_factory=dict,
        description="Long layout: their code -> our column. A table that is itself long: their code -> our code. "
        "Rows with other codes are passed over. A code that ends in '*' stands for all that begin so: what follows is "
        "the value of a column of words, or fills the '*' of our code.",
    )
    unit: str | None = Field(
        None, description='Their column with the unit of the value; `codes` may then name "CODE|UNIT" as well.'
    )
    missing: tuple[str, ...] = Field(("",), description="Cells that mean 'missing', in every column.")
    missing_in: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="Our column -> further marks.")
    values: dict[str, dict[str, str]] = Field(default_factory=dict, description="Our column -> their value -> ours.")
    scale: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="Our column -> (scale, shift): ours = scale * theirs + shift."
    )
    extract: tuple[str, ...] = Field(
        (),
        description="Our columns whose cells are numbers with signs around them: <5, 1,234, 12 %, $3.50, (3.50) for "
        "-3.50. The number is read.",
    )
    mixed: dict[str, Literal["numbers", "words", "above", "below"]] = Field(
        default_factory=dict,
        description="Our column -> which cells of a column of numbers and words (12.5, <5, positive) it reads; the "
        "others are missing there; 'above' and 'below' read pairs (120/80). Two of our columns may read one of theirs.",
    )
    where: tuple[Filter, ...] = ()
    repeated: bool = Field(
        False,
        description="Statics repeated on every row of a long file: one row per subject is kept. In a visit table: one "
        "row per visit, at its first time.",
    )
    contradiction: Literal["first", "last", "most", "missing", "fail"] = Field(
        "most", description="What differs between the rows of one subject (or visit) becomes; always counted."
    )
    out_of_range: Literal["fail", "missing", "clip", "keep"] = Field(
        "fail",
        description="What a value outside the column's bounds becomes; 'fail': on_error decides. Always counted.",
    )
    grid: Grid | None = None
    formats: dict[str, str] = Field(
        default_factory=dict,
        description="Our column of moments -> its format, or the unit ('min', 'h', 'd', ...) of numbers since the "
        "origin, where it is not that of the time.",
    )
    separator: str = ","
    decimal: Literal[".", ","] = Field(
        ".", description="Mark before decimals; with ',' a point between groups of three digits is passed over."
    )
    encoding: str = "utf8"

    @model_validator(mode="after")
    def _long_is_complete(self) -> "Source":
        if self.layout == "long" and not (self.code and self.value and self.codes):
            raise ValueError(
                'layout \'long\' needs code, value and codes, e.g. code = "Parameter", value = "Value", '
                'codes = { HR = "heart_rate" }'
            )
        return self

    @property
    def when(self) -> SourceTime | None:
        """The time in its full form."""
        return SourceTime(column=self.time) if isinstance(self.time, str) else self.time
