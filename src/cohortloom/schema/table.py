"""Tables of patients, visits and events."""

from typing import Literal

from pydantic import Field, field_validator

from cohortloom.schema.column import Code, Column, Number, Strict
from cohortloom.schema.source import Grid, Source

__all__ = ["Table"]

RESERVED = ("subject_id", "visit_id", "time")


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
    code: str | None = Field(None, description="Event table in long form: its column of kind 'code'.")
    value: str | None = Field(None, description="Event table in long form: the number that belongs to the code.")
    source: Source | None = None
    description: str = ""

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: dict[str, Column]) -> dict[str, Column]:
        bad = [name for name in columns if name in RESERVED]
        if bad:
            raise ValueError(f"{', '.join(bad)}: reserved, every table has it where it applies; remove it from columns")
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
