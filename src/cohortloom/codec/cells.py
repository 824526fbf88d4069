"""One column of a table as numbers.

    number, count                      the number itself
    category, ordinal, flag, code      id of the level: 0 MISSING, 1 RARE, then levels
    timestamp                          days since a reference time of the row (the subject's origin, start of step);
                                       whole days, from calendar day to calendar day, if the column holds dates;
                                       in two parts, days and the rest, where visits have days (an admission over
                                       night and an hour in the clinic are of different size)
    identifier                         never encoded; made anew on decoding

Declared levels are public and all kept. Levels of a code without a closed list are learned: one held by fewer than
`k_min` patients is never stored. Of the stored ones the most frequent get an id of their own, the others share RARE and
are drawn from their shares on decoding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from cohortloom.codec.clock import DAY, floor_to, grid_of, round_to, series_of, ticks_of, ticks_per_day
from cohortloom.codec.columns import QuantileTransform, decimals_of
from cohortloom.codec.rare import lifts
from cohortloom.codec.tensors import MISSING, RARE, Feature
from cohortloom.schema import Category, Code, Column, Count, Flag, Identifier, Number, Ordinal, Schema, Timestamp

__all__ = ["RESERVED_LEVELS", "Cell", "draw_levels"]

_ROWS = 20_000
RESERVED_LEVELS = ("<missing>", "<rare>")
_FLAG = ("false", "true")
Part = Literal["", "days", "rest", "shared"]


@dataclass(frozen=True)
class Cell:
    """How the cells of one column become numbers and back.

    Args:
        table, column: Where the column stands.
        kind: "number", "category" or "time".
        levels: Levels with an id of their own, in id order (the two reserved ids not among them).
        rare, rare_share: Levels that RARE stands for, and their shares.
        rare_lift: What each fact of the patient adds to the log share of each of them.
        decimals, low, high: Grid and bounds of a number.
        grid: Grid of a time [ticks].
        always: Is no cell empty?
        part: What of a timestamp: "days" from the calendar day of the visit, the "rest", whether it is the "shared"
            date (no/yes); "" is all.
        after: Does no time lie before its reference?
        shared: Date that many subjects share (the end of a study) [ticks]; part "shared" says who has it.
        law: Learned law of the numbers (and of times, in days).
        beside, usual: "table.column" of the date this one counts from in place of the origin, and where that lies
            after the origin [d] where it is missing (`anchors`).
    """

    table: str
    column: str
    kind: Literal["number", "category", "time"]
    levels: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    rare_share: tuple[float, ...] = ()
    rare_lift: tuple[tuple[float, ...], ...] = ()
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    grid: int = 1
    always: bool = False
    part: Part = ""
    after: bool = False
    shared: int | None = None
    law: QuantileTransform | None = None
    beside: str = ""
    usual: float = 0.0

    @classmethod
    def fit(
        cls,
        schema: Schema,
        table: str,
        column: str,
        series: pl.Series,
        subject: np.ndarray,
        reference: np.ndarray,
        *,
        k_min: int,
        max_levels: int,
        bounds: str,
        part: Part = "",
    ) -> Cell | None:
        """Learn one column; None for identifiers.

        Args:
            series: The cells of training rows.
            subject: Number of the patient of each row.
            reference: Reference time of each row [ticks]; used by timestamps only.
        """
        spec = schema.tables[table].columns[column]
        always = not spec.missing and series.null_count() == 0
        if isinstance(spec, Identifier):
            return None
        if isinstance(spec, (Category, Ordinal, Flag, Code)):
            levels, rare, share = _levels(spec, series, subject, k_min, max_levels)
            return cls(table, column, "category", levels, rare, share, always=always)
        if isinstance(spec, Timestamp):
            ticks, known = ticks_of(series)
            grid = grid_of(schema, ticks[known], spec.granularity)
            decimals = 0 if schema.clock == "order" or grid % DAY == 0 or part == "days" else None
            cell = cls(table, column, "time", decimals=decimals, grid=grid, always=always, part=part)
            after = bool(known.any() and np.all((ticks >= reference)[known]))
            cell = replace(cell, shared=_shared(schema, cell, series, reference, k_min), after=after)
            if part == "shared":
                return replace(cell, kind="category", levels=("no", "yes"), decimals=None)
        else:
            cell = cls(table, column, "number", **_number(spec, series), always=always)
        values, observed = cell.encode(schema, series, reference)
        law = QuantileTransform.fit(
            values[observed], k_min, decimals=cell.decimals, low=cell.low, high=cell.high, subject=subject[observed]
        )
        if cell.kind == "time":
            law = replace(law, decimals=cell.decimals)
        if bounds == "data" and cell.kind == "number" and law.n:
            low, high = law.ends
            cell = replace(
                cell, low=low if cell.low is None else cell.low, high=high if cell.high is None else cell.high
            )
        return replace(cell, law=law)

    @property
    def feature(self) -> Feature:
        """The column as generators see it."""
        name = f"{self.table}.{self.column}" + (f".{self.part}" if self.part in ("days", "shared") else "")
        if self.kind == "category":
            return Feature(name, "category", RESERVED_LEVELS + self.levels, always=self.always)
        return Feature(name, "number", (), self.decimals, self.low, self.high, self.always)

    def encode(self, schema: Schema, series: pl.Series, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (0 where missing) and whether there is a value."""
        if self.part == "shared":
            ticks, known = ticks_of(series)
            return np.where(known, 2.0 + (ticks == self.shared), MISSING), known
        if self.kind == "category":
            ids = self.ids(series)
            return ids.astype(float), ids != MISSING
        if self.kind == "time":
            ticks, known = ticks_of(series)
            days = (ticks - self._from(reference)) / ticks_per_day(schema)
            if self.part:
                whole = (floor_to(ticks, DAY) - floor_to(reference, DAY)) / DAY
                days = whole if self.part == "days" else days - whole
            return np.where(known, days, 0.0), known
        values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        observed = np.isfinite(values)
        return np.where(observed, values, 0.0), observed

    def _from(self, reference: np.ndarray) -> np.ndarray:
        """What times count from [ticks]: for dates the calendar day (or month, year) of the reference."""
        return floor_to(reference, self.grid) if self.grid % DAY == 0 else reference

    def ids(self, series: pl.Series) -> np.ndarray:
        """Level ids of cells; a level the codec does not know is RARE."""
        if series.dtype == pl.Boolean:
            ids = series.cast(pl.Int64) + 2
        elif not self.levels:
            ids = pl.Series(np.full(series.len(), RARE))
        else:
            known = np.arange(2, 2 + len(self.levels))
            ids = series.cast(pl.String).replace_strict(list(self.levels), known, default=RARE, return_dtype=pl.Int64)
        empty = series.is_null().to_numpy()
        return np.where(empty, MISSING, ids.fill_null(MISSING).to_numpy()).astype(np.int64)

    def decode(
        self,
        schema: Schema,
        values: np.ndarray,
        observed: np.ndarray,
        reference: np.ndarray,
        draw: np.random.Generator,
        facts: np.ndarray | None = None,
    ) -> pl.Series:
        """Cells of raw numbers, in the dtype of the column; `facts` of each row's patient tell rare levels apart."""
        spec = schema.tables[self.table].columns[self.column]
        if self.kind == "category":
            return self._decode_levels(spec, values, observed, draw, facts)
        observed = observed & np.isfinite(values)
        if self.kind == "time":
            days = np.where(observed, self.law.sane(values) if self.law else values, 0.0)
            days = np.abs(days) if self.after else days
            ticks = self._from(reference) + np.round(days * ticks_per_day(schema)).astype(np.int64)
            return self._times(schema, ticks, observed)
        return self._numbers(spec, values, observed)

    def of(self, schema: Schema, values: np.ndarray, observed: np.ndarray) -> pl.Series:
        """Cells of numbers, or of times in days since the origin of the clock; of words empty ones."""
        if self.kind == "number":
            return self._numbers(schema.tables[self.table].columns[self.column], values, observed)
        if self.kind == "category":
            flag = schema.tables[self.table].columns[self.column].kind == "flag"
            return pl.Series(self.column, [None] * len(values), dtype=pl.Boolean if flag else pl.String)
        ticks = np.round(np.where(observed, values, 0.0) * ticks_per_day(schema)).astype(np.int64)
        return self._times(schema, ticks, observed)

    def _times(self, schema: Schema, ticks: np.ndarray, observed: np.ndarray) -> pl.Series:
        return series_of(schema, round_to(ticks, self.grid), observed, self.column)

    def _numbers(self, spec: Column, values: np.ndarray, observed: np.ndarray) -> pl.Series:
        x = np.where(observed, values, 0.0)
        if self.decimals is not None:
            x = np.round(x, self.decimals)
        x = np.clip(x, -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high)
        series = pl.Series(self.column, x).cast(pl.Int64 if isinstance(spec, Count) else pl.Float64)
        return pl.select(pl.when(pl.Series(observed)).then(series).alias(self.column)).to_series()

    def _decode_levels(
        self,
        spec: Column,
        values: np.ndarray,
        observed: np.ndarray,
        draw: np.random.Generator,
        facts: np.ndarray | None,
    ) -> pl.Series:
        ids = np.where(observed & np.isfinite(values), np.round(np.nan_to_num(values)), MISSING).astype(np.int64)
        ids = np.clip(ids, 0, 1 + len(self.levels))
        names = np.array(["", "", *self.levels, *self.rare], dtype=object)
        if self.rare_lift and facts is not None:
            drawn = self._rare_of(facts[ids == RARE], draw)
        else:
            drawn = draw_levels(self.rare_share, int((ids == RARE).sum()), draw)
        ids[ids == RARE] = np.where(drawn < 0, MISSING, 2 + len(self.levels) + drawn)
        if not self.rare and isinstance(spec, Flag):
            text = pl.Series(self.column, ids == 3)
        else:
            text = pl.Series(self.column, names).gather(ids)
        return pl.select(pl.when(pl.Series(ids != MISSING)).then(text).alias(self.column)).to_series()

    def _rare_of(self, facts: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Places of rare levels, one for each row of facts."""
        base, lift = np.log(np.asarray(self.rare_share) / sum(self.rare_share)), np.asarray(self.rare_lift).T
        parts = np.array_split(facts, max(1, -(-len(facts) // _ROWS)))
        found = [(base + part @ lift + draw.gumbel(size=(len(part), len(base)))).argmax(1) for part in parts]
        return np.concatenate(found)

    @property
    def hides(self) -> bool:
        """Does RARE stand for levels without an id?"""
        return self.kind == "category" and bool(self.rare) and not set(self.rare) & set(self.levels)

    def told(self, series: pl.Series, subject: np.ndarray, facts: np.ndarray) -> Cell:
        """The same with what patients' facts say of rare levels.

        Args:
            series: Training cells.
            subject: Patient of each.
            facts: Patient x fact, 0 or 1.
        """
        place = series.cast(pl.String).replace_strict(list(self.rare), range(len(self.rare)), default=-1).to_numpy()
        rows = np.flatnonzero(place >= 0)
        if not len(rows):
            return self
        place, held = place[rows], facts[subject[rows]]
        both = np.zeros((len(self.rare), facts.shape[1]))
        np.add.at(both, place, held)
        chance = np.outer(np.bincount(place, minlength=len(self.rare)), held.mean(0))
        return replace(
            self, rare_lift=tuple(map(tuple, np.round(lifts(both, chance), 1).tolist()))
        )  # no count can be read off

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        state = {key: value for key, value in self.__dict__.items() if key != "law"}
        for key in ("levels", "rare", "rare_share"):
            state[key] = list(state[key])
        return state | {"law": self.law.to_json() if self.law else None}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Cell:
        """The cell of a state written by `to_json`."""
        state = dict(state)
        law = state.pop("law")
        for key in ("levels", "rare", "rare_share"):
            state[key] = tuple(state[key])
        state["rare_lift"] = tuple(map(tuple, state["rare_lift"]))
        return cls(**state, law=QuantileTransform.from_json(law) if law else None)


def draw_levels(share: tuple[float, ...] | np.ndarray, n: int, draw: np.random.Generator) -> np.ndarray:
    """`n` places drawn from shares; -1 if there are none."""
    if not len(share):
        return np.full(n, -1)
    total = np.cumsum(np.asarray(share, dtype=float))
    return np.searchsorted(total, draw.random(n) * total[-1], side="right").clip(0, len(total) - 1)


def _number(spec: Column, series: pl.Series) -> dict[str, Any]:
    if isinstance(spec, Count):
        return {"decimals": 0, "low": float(spec.low), "high": None if spec.high is None else float(spec.high)}
    assert isinstance(spec, Number)
    decimals = spec.decimals
    if decimals is None:
        decimals = decimals_of(series.drop_nulls().to_numpy())
    return {"decimals": decimals, "low": spec.low, "high": spec.high}


def _shared(schema: Schema, cell: Cell, series: pl.Series, reference: np.ndarray, k_min: int) -> int | None:
    """The date that a twentieth of the subjects share, and twice as many as share one distance to the origin."""
    if schema.clock != "timestamp" or schema.tables[cell.table].role != "static":
        return None
    days, known = replace(cell, part="").encode(schema, series, reference)
    if known.sum() < 4 * k_min:
        return None
    dates, times = np.unique(ticks_of(series)[0][known], return_counts=True)
    apart = np.unique(days[known], return_counts=True)[1].max()
    return int(dates[times.argmax()]) if times.max() >= max(k_min, 0.05 * known.sum(), 2 * apart) else None


def _levels(
    spec: Column, series: pl.Series, subject: np.ndarray, k_min: int, max_levels: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
    """Levels with an id, levels behind RARE, and their shares."""
    if isinstance(spec, Flag):
        return _FLAG, (), ()
    held = (
        pl.DataFrame({"level": series.cast(pl.String), "subject": subject})
        .drop_nulls()
        .group_by("level")
        .agg(pl.col("subject").n_unique().alias("patients"), pl.len().alias("rows"))
        .sort("patients", "level", descending=[True, False])
    )
    if isinstance(spec, (Category, Ordinal)):
        # a cell that is not a declared level is drawn anew among the declared ones
        rows = dict(zip(held["level"], held["rows"]))
        return spec.levels, spec.levels, tuple(float(rows.get(level, 0) + 1) for level in spec.levels)
    assert isinstance(spec, Code)
    declared = set(spec.levels or ())
    safe = held.filter((pl.col("patients") >= k_min) | pl.col("level").is_in(list(declared)))
    levels = safe["level"].to_list()
    shares = safe["rows"].cast(pl.Float64).to_list()
    kept = sorted(levels[:max_levels])
    if len(levels) <= max_levels and not spec.missing:  # a rare code becomes another one, as the cell must not be empty
        return tuple(kept), tuple(levels), tuple(shares)
    return tuple(kept), tuple(levels[max_levels:]), tuple(shares[max_levels:])
