"""Kinds of columns.

A column says what one cell may hold: kind, unit, bounds, levels, whether it may be missing and why, and whether it
identifies or harms. The dtype a cohort stores is fixed by the kind, so no table ever needs a second look:

    number Float64 | count Int64 | category, ordinal, code, identifier String | flag Boolean
    timestamp: Datetime("us"), Duration("us") or Int64, by the clock of the schema
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cohortloom.schema.priors import ColumnPrior

__all__ = [
    "Category",
    "Code",
    "Column",
    "Count",
    "Flag",
    "Identifier",
    "Item",
    "Number",
    "Ordinal",
    "Strict",
    "Timestamp",
]


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Base(Strict):
    description: str = ""
    missing: bool = Field(True, description="May a cell be empty?")
    missing_reason: str = Field("", description="Why a cell is empty, e.g. 'not ordered'.")
    sensitive: bool = Field(False, description="Its disclosure would harm (diagnosis, outcome).")
    quasi_identifier: bool = Field(False, description="Known to others and able to single a person out.")
    code: str | None = Field(None, description="Code of the column itself, system first: 'LOINC:2160-0'.")
    prior: ColumnPrior | None = Field(None, description="Law used where no data is given (simulate).")


class Number(_Base):
    """Real number with unit (UCUM), bounds (inclusive) and decimals as recorded."""

    kind: Literal["number"] = "number"
    unit: str = "1"
    low: float | None = None
    high: float | None = None
    decimals: int | None = Field(None, ge=0, le=12)

    @model_validator(mode="after")
    def _ordered(self) -> "Number":
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} lies above high {self.high:g}; swap them")
        return self


class Count(_Base):
    """Non-negative whole number."""

    kind: Literal["count"] = "count"
    unit: str = "1"
    low: int = 0
    high: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Count":
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}; swap them")
        return self


class _Levels(_Base):
    levels: tuple[str, ...] = Field(description="All levels that may occur.", min_length=1)
    labels: dict[str, str] = Field(default_factory=dict, description="Level -> words for people.")

    @model_validator(mode="after")
    def _distinct(self) -> "_Levels":
        twice = sorted({level for level in self.levels if self.levels.count(level) > 1})
        if twice:
            raise ValueError(f"levels listed twice: {', '.join(twice)}; list each once")
        foreign = sorted(set(self.labels) - set(self.levels))
        if foreign:
            raise ValueError(f"labels for levels that do not exist: {', '.join(foreign)}")
        return self


class Category(_Levels):
    """One of a list of levels without order."""

    kind: Literal["category"] = "category"


class Ordinal(_Levels):
    """One of a list of levels, lowest first."""

    kind: Literal["ordinal"] = "ordinal"


class Flag(_Base):
    """True or false."""

    kind: Literal["flag"] = "flag"


class Item(Strict):
    """What the value beside one code means (long tables: one row is a code and its value)."""

    name: str = ""
    unit: str = "1"
    low: float | None = None
    high: float | None = None
    decimals: int | None = Field(None, ge=0, le=12)


class Code(_Base):
    """Code of a coding system, with more levels than one would list (ICD-10, ATC, item ids).

    `items` gives name, unit and bounds of the number that stands beside the code in the same row.
    """

    kind: Literal["code"] = "code"
    system: str = ""
    levels: tuple[str, ...] | None = Field(None, description="Closed list, if there is one.")
    items: dict[str, Item] = Field(default_factory=dict)


class Timestamp(_Base):
    """A moment, on the clock of the schema (absolute, or since the subject's own origin)."""

    kind: Literal["timestamp"] = "timestamp"
    granularity: Literal["year", "month", "day", "hour", "minute", "second", "exact"] = "exact"


class Identifier(_Base):
    """A name or number of a person or thing. Never modelled; made anew in synthetic data."""

    kind: Literal["identifier"] = "identifier"


Column = Annotated[
    Number | Count | Category | Ordinal | Flag | Code | Timestamp | Identifier, Field(discriminator="kind")
]
