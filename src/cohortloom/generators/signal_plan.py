"""Which waveform records a patient gets: how many, at which visit or time, and how long.

Learned as counts: records per patient (the few highest numbers are pulled down to the fifth highest, so no single
patient's number comes back), the share of records that belong to a visit, their times, their lengths.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.rng import Rng

__all__ = ["RecordPlan"]

_QUANTILES = 101


@dataclass(frozen=True)
class RecordPlan:
    """The law of records.

    Args:
        signal: Name of the signal.
        counts: Share of patients with 0, 1, 2, ... records.
        at_visit: Share of records that belong to a visit.
        times: Quantiles of the time of records outside visits [us since origin or 1970], empty if they have none.
        lengths: Quantiles of the length [samples].
        visits: Chance of a record at a patient's first visit, and at one in the first and second half of the others.
        clock: What a record's time is: "duration", "datetime" or "order"; "" if records carry none.
    """

    signal: str
    counts: tuple[float, ...]
    at_visit: float
    times: tuple[float, ...]
    lengths: tuple[float, ...]
    clock: str
    visits: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def fit(cls, cohort: Cohort, signal: str) -> RecordPlan:
        records = cohort.signals[signal].records
        counts = records.group_by("subject_id").len()["len"].to_numpy()
        counts = np.concatenate([counts, np.zeros(cohort.n_subjects - len(counts), dtype=counts.dtype)])
        top = np.sort(counts)[-min(5, len(counts))]
        share = np.bincount(np.minimum(counts, top)) / len(counts)
        times = records["time"].drop_nulls().cast(pl.Int64).to_numpy()
        edges = np.linspace(0.01, 0.99, _QUANTILES)
        lengths = records["n_samples"].to_numpy()
        if cohort.schema.signals[signal].n_samples is not None or lengths.min() == lengths.max():
            quantiles = [float(lengths.max())] * 2
        else:
            quantiles = np.quantile(lengths, edges).tolist()
        return cls(
            signal,
            tuple(share.tolist()),
            float(records["visit_id"].is_not_null().mean() or 0.0),  # type: ignore[arg-type]
            tuple(np.quantile(times, edges).tolist()) if len(times) else (),
            tuple(quantiles),
            _clock(records["time"].dtype) if len(times) else "",
            _visit_chances(cohort, records),
        )

    def draw(
        self, cohort: Cohort, ids: pl.Series, rng: Rng, *, per_patient: int | None = None, at_least: int = 0
    ) -> pl.DataFrame:
        """Records of patients, without samples.

        Args:
            cohort: Tables of the patients.
            ids: The patients (some may have no row in any table).
            rng: Random stream.
            per_patient: Fixed number of records; None: drawn.
            at_least: Least number of records of each patient.

        Returns:
            record_id, subject_id, visit_id, time, n_samples; label is null.
        """
        draw = rng.numpy
        if per_patient is not None:
            count = np.full(len(ids), per_patient)
        else:
            count = draw.choice(len(self.counts), size=len(ids), p=np.array(self.counts) / sum(self.counts))
        count = np.maximum(count, at_least)
        owner = np.repeat(np.arange(len(ids)), count)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        n = len(owner)
        length = np.rint(np.quantile(self.lengths, draw.random(n))).astype(np.int64) if n else np.zeros(0, np.int64)
        time = np.quantile(self.times, draw.random(n)) if self.times and n else np.zeros(n)
        time = time[np.lexsort((time, owner))]  # rising within a patient
        wants = draw.random(n) < self.at_visit
        dtype = _CLOCKS[self.clock or "duration"]
        records = pl.DataFrame(
            {
                "record_id": pl.Series(ids.gather(owner).cast(pl.Int64) * 10_000 + place, dtype=pl.Int64)
                if ids.dtype.is_integer()
                else pl.Series(np.arange(n), dtype=pl.Int64),
                "subject_id": ids.gather(owner),
                "wants": wants,
                "time": pl.Series(np.rint(time).astype(np.int64)).cast(dtype)
                if self.clock
                else pl.Series([None] * n, dtype=dtype),
                "n_samples": length,
                "label": pl.Series([None] * n, dtype=pl.String),
            }
        )
        return self._with_visits(cohort, records, rng.child("visits"))

    def _with_visits(self, cohort: Cohort, records: pl.DataFrame, rng: Rng) -> pl.DataFrame:
        """Records that want a visit get one of the patient's, each visit once at most; the time is the visit's."""
        name = cohort.schema.visit_table
        order = ["record_id", "subject_id", "visit_id", "time", "n_samples", "label"]
        if name is None or not records["wants"].any():
            return records.with_columns(pl.lit(None, pl.Int64).alias("visit_id")).select(order)
        visits = cohort.tables[name].select("subject_id", "visit_id", "time")
        # exponential times over their rates come in the order of a draw without replacement by weight
        rate = np.maximum(np.array(self.visits), 1e-9)[_place_of_visits(visits)]
        visits = visits.with_columns(pl.Series("key", rng.numpy.standard_exponential(visits.height) / rate))
        visits = visits.sort("subject_id", "key").with_columns(pl.int_range(pl.len()).over("subject_id").alias("turn"))
        visits = visits.rename({"time": "visit_time"}).drop("key")
        wanting = records.with_columns(
            pl.when("wants").then(pl.col("wants").cum_sum().over("subject_id") - 1).cast(pl.Int64).alias("turn")
        )
        met = wanting.join(visits, on=["subject_id", "turn"], how="left", maintain_order="left")
        if met["time"].dtype == met["visit_time"].dtype:
            met = met.with_columns(pl.coalesce("visit_time", "time").alias("time"))
        met = met.filter(~pl.col("wants") | pl.col("visit_id").is_not_null())
        return met.select(order)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> RecordPlan:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in state.items()})


def _place_of_visits(visits: pl.DataFrame) -> np.ndarray:
    """0 for a patient's first visit, 1 and 2 for the first and second half of the others."""
    rank = pl.col("time").rank("ordinal").over("subject_id") - 1
    later = 1 + (2 * pl.col("time").rank("ordinal").over("subject_id") > pl.len().over("subject_id") + 1).cast(pl.Int64)
    return visits.select(pl.when(rank == 0).then(0).otherwise(later).fill_null(0).cast(pl.Int64)).to_series().to_numpy()


def _visit_chances(cohort: Cohort, records: pl.DataFrame) -> tuple[float, float, float]:
    """Share of visits with a record, by the visit's place among the patient's."""
    name = cohort.schema.visit_table
    if name is None or not cohort.tables[name].height or records["visit_id"].null_count() == records.height:
        return 1.0, 1.0, 1.0
    visits = cohort.tables[name].select("subject_id", "visit_id", "time")
    place = _place_of_visits(visits)
    has = visits["visit_id"].is_in(records["visit_id"].drop_nulls().implode()).to_numpy()
    n = np.bincount(place, minlength=3)
    share = np.bincount(place, weights=has, minlength=3) / np.maximum(n, 1)
    return tuple(np.where(n > 0, share, share.max(initial=0)).tolist())  # type: ignore[return-value]


_CLOCKS = {"duration": pl.Duration("us"), "datetime": pl.Datetime("us"), "order": pl.Int64()}


def _clock(dtype: pl.DataType) -> str:
    return next((name for name, known in _CLOCKS.items() if type(known) is type(dtype)), "duration")
