"""Tables of patients, visits and events."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cohortloom.schema.column import Code, Column, Number, Strict
from cohortloom.schema.source import Grid, Source

__all__ = ["Table"]

RESERVED = ("subject_id", "visit_id", "time")
# Columns that code puts beside those of a schema for a while begin with two underscores, so none can be a user's.


class Table(Strict):
    """One table of a cohort.

    Roles: "static" has one row per subject; "visit" has a row per visit with its time (a schema has at most one);
    "event" has rows that belong to a subject and, if `parent` is the visit table, to a visit.

    A cohort's frames always hold `subject_id`; a visit table holds `visit_id` and `time`; an event table holds `time`
    if `timed`, and `visit_id` (null: outside any visit) if its parent is the visit table. These three are implied and
    never listed in `columns`.
    """

    role: Literal["static", "visit", "event"]
    parent: str | None = Field(None, description="Table this one hangs on; absent: the subject itself.")
    timed: bool = Field(True, description="Event tables: has each row a time of its own?")
    columns: dict[str, Column] = Field(default_factory=dict)
    code: str | None = Field(
        None, description="Event table in long form: its column of kind 'code'; found by itself if there is one."
    )
    value: str | None = Field(
        None, description="Event table in long form: the number that belongs to the code; found by itself if only one."
    )
    source: Source | None = None
    description: str = ""

    @model_validator(mode="after")
    def _long_by_its_columns(self) -> "Table":
        """An event table with one column of kind "code" is long, and its only number belongs to the code."""
        codes = [n for n, c in self.columns.items() if c.kind == "code"]
        if self.role == "event" and self.code is None and self.value is None and len(codes) == 1:
            numbers = [n for n, c in self.columns.items() if c.kind == "number"]
            self.__dict__["code"] = codes[0]
            self.__dict__["value"] = numbers[0] if len(numbers) == 1 else None
        return self

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: dict[str, Column]) -> dict[str, Column]:
        bad = [name for name in columns if name in RESERVED]
        if bad:
            raise ValueError(f"{', '.join(bad)}: reserved, every table has it where it applies; remove it from columns")
        ours = [name for name in columns if name.startswith("__")]
        if ours:
            raise ValueError(
                f"{', '.join(ours)}: names with two leading underscores are cohortloom's own; rename in the source, "
                f'columns.{ours[0].lstrip("_") or "name"} = "{ours[0]}"'
            )
        return columns

    @property
    def is_long(self) -> bool:
        """Is a row one code with its value?"""
        return self.code is not None

    @property
    def grid(self) -> Grid | None:
        return self.source.grid if self.source else None

    def code_column(self) -> Code:
        column = self.columns[self.code or ""]
        assert isinstance(column, Code)
        return column

    def value_column(self) -> Number:
        column = self.columns[self.value or ""]
        assert isinstance(column, Number)
        return column
