"""What a patient's record says at the time of a waveform.

One row of numbers per waveform record, in this order of sources:

    label                    each label a record may carry (several at once), if its label is known
    static columns           numbers, flags and ranks as they are, categories level by level, moments (date of birth)
                             as years from then to the record
    visit columns            the value at the record's own visit, known or not; without a visit the nearest in time
    event columns            the value of the record's own visit, else the nearest in time of that patient;
                             of a long table each frequent code is a column of its own
    codes                    whether the patient has the code (diagnoses, drugs) up to the record, its visit included

Numbers are standardised on the training records. What is not known is 0 with observed = False, so a patient of whom
nothing is known is a row like any other.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from cohortloom.cohort import Cohort
from cohortloom.schema import Schema

__all__ = ["ContextFeature", "RecordContext"]

#: Most features beside labels, and the share of records that must have one.
MOST, LEAST_SEEN, MOST_LEVELS, MOST_CODES = 96, 0.05, 12, 24
#: A code that a larger share of patients has tells nothing by being there.
MOST_HELD = 0.9
_YEAR = 365.25 * 86_400e6


@dataclass(frozen=True)
class ContextFeature:
    """One number of the context.

    Args:
        table, column: Where it comes from; table "" is the record's label.
        level: Level of a category, label or code whose presence it tells; "" for a number.
        code: Code of a long table whose value it is.
        mean, sd: Of the training records.
        log: Is the logarithm taken first? So for positive numbers that are less skewed on that scale.
    """

    table: str
    column: str
    level: str = ""
    code: str = ""
    mean: float = 0.0
    sd: float = 1.0
    log: bool = False

    @property
    def name(self) -> str:
        parts = [p for p in (self.table or "label", self.column, self.code, self.level) if p]
        return ".".join(parts)


@dataclass(frozen=True)
class RecordContext:
    """Features of a record's context, learned from a training cohort."""

    signal: str
    features: tuple[ContextFeature, ...]

    @classmethod
    def fit(cls, cohort: Cohort, signal: str) -> "RecordContext":
        """Choose features and learn their scales."""
        signals = cohort.signals[signal]
        known = {part for text in signals.records["label"].drop_nulls() for part in text.split("|")}
        levels = [*signals.spec.labels, *sorted(known - set(signals.spec.labels))]
        labels = [ContextFeature("", "", level) for level in levels] if known else []
        candidates = [f for name in cohort.schema.tables for f in _of_table(cohort, name)]
        raw = cls(signal, tuple(candidates))
        values, observed = raw._raw(cohort, signals.records)
        share = observed.mean(axis=0) if len(observed) else np.zeros(len(candidates))
        chosen = []
        for k in np.argsort(-share, kind="stable")[:MOST]:
            seen = values[observed[:, k], k]
            if share[k] >= LEAST_SEEN and seen.std() > 1e-9:
                log = bool(seen.min() > 0) and abs(_skew(np.log(seen))) < abs(_skew(seen))
                seen = np.log(seen) if log else seen
                chosen.append((k, {"mean": float(seen.mean()), "sd": float(seen.std()), "log": log}))
        scaled = [replace(candidates[k], **scale) for k, scale in sorted(chosen, key=lambda c: c[0])]
        return cls(signal, (*labels, *scaled))

    @property
    def n_labels(self) -> int:
        return sum(not f.table for f in self.features)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f.level for f in self.features if not f.table)

    def encode(
        self, cohort: Cohort, records: pl.DataFrame
    ) -> tuple[Float[np.ndarray, "record feature"], Bool[np.ndarray, "record feature"]]:
        """Standardised values (0 where unknown), and which are known.

        Args:
            cohort: Patients of the records.
            records: Columns subject_id, visit_id, time, label.
        """
        values, observed = self._raw(cohort, records)
        mean, sd = (np.array([getattr(f, a) for f in self.features]) for a in ("mean", "sd"))
        for k in (k for k, f in enumerate(self.features) if f.log):
            observed[:, k] &= values[:, k] > 0
            values[:, k] = np.log(np.where(observed[:, k], values[:, k], 1.0))
        return np.where(observed, (values - mean) / sd, 0.0) if len(mean) else values, observed

    def _raw(self, cohort: Cohort, records: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        values = np.zeros((records.height, len(self.features)))
        observed = np.zeros(values.shape, dtype=bool)
        base = records.select("subject_id", "visit_id", "time", "label").with_row_index("row")
        lookup: dict[tuple[str, str, str], pl.Series] = {}
        for k, feature in enumerate(self.features):
            if not feature.table:
                has = base["label"].str.split("|").list.contains(feature.level)
                column = has.cast(pl.Float64)
            else:
                key = (feature.table, feature.column, feature.code)
                if key not in lookup:
                    lookup[key] = _column(cohort, base, feature)
                found = lookup[key]
                column = found.cast(pl.Float64) if not feature.level else (found == feature.level).cast(pl.Float64)
            observed[:, k] = column.is_not_null().to_numpy()
            values[:, k] = column.fill_null(0.0).to_numpy()
        return values, observed

    def to_json(self) -> dict[str, Any]:
        return {"signal": self.signal, "features": [asdict(f) for f in self.features]}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "RecordContext":
        return cls(state["signal"], tuple(ContextFeature(**f) for f in state["features"]))


_RANKED = ("number", "count", "flag", "ordinal")
_NAMED = ("category", "code")


def _skew(x: np.ndarray) -> float:
    z = (x - x.mean()) / max(float(x.std()), 1e-12)
    return float(np.mean(z**3))


def _of_table(cohort: Cohort, name: str) -> list[ContextFeature]:
    """Candidates of one table."""
    table, frame = cohort.schema.tables[name], cohort.tables[name]
    if table.is_long and table.code:
        codes = _frequent(frame, table.code, MOST_CODES)
        if table.value:
            held = [c for c in codes if _holders(frame, table.code, c) < MOST_HELD * cohort.n_subjects]
            return [*(ContextFeature(name, table.value, code=c) for c in codes),
                    *(ContextFeature(name, table.code, level="yes", code=c) for c in held)]  # fmt: skip
        return [ContextFeature(name, table.code, level="yes", code=c) for c in codes]
    found = []
    for column, spec in table.columns.items():
        if spec.kind in _RANKED or (spec.kind == "timestamp" and table.role == "static"):
            found.append(ContextFeature(name, column))
        elif spec.kind == "code" and table.role == "event":
            found += [ContextFeature(name, column, level="yes", code=c) for c in _frequent(frame, column, MOST_CODES)]
        elif spec.kind in _NAMED:
            found += [ContextFeature(name, column, level=c) for c in _frequent(frame, column)]
    return found


def _frequent(frame: pl.DataFrame, column: str, most: int = MOST_LEVELS) -> list[str]:
    """Levels most patients have, the rarest (fewer than 5 patients) left out."""
    counts = frame.select("subject_id", pl.col(column).cast(pl.String)).drop_nulls().unique().group_by(column).len()
    counts = counts.filter(pl.col("len") >= 5).sort(["len", column], descending=[True, False])
    return counts[column].head(most).to_list()


def _column(cohort: Cohort, base: pl.DataFrame, feature: ContextFeature) -> pl.Series:
    """Value of a table's column for each record, null where there is none."""
    schema, name = cohort.schema, feature.table
    table, frame = schema.tables[name], cohort.tables[name]
    value = _readable(schema, name, feature.column)
    keys = [k for k in ("subject_id", "visit_id", "time") if k in frame.columns]
    if feature.code:
        code = table.code if table.is_long and table.code else feature.column
        frame = frame.filter(pl.col(code).cast(pl.String) == feature.code)
    frame = frame.select(*keys, value.alias("value")).drop_nulls("value")
    if feature.code and feature.level:  # presence: a null would say "unknown", absence is known
        return _present(base, frame)
    if table.role == "static":
        rows = frame.unique("subject_id", keep="first", maintain_order=True)
        found = base.join(rows, on="subject_id", how="left", maintain_order="left")["value"]
        return _years(base["time"], found) if found.dtype.is_temporal() else found
    nearest = _nearest(base, frame)
    if "visit_id" not in frame.columns or base["visit_id"].null_count() == base.height:
        return nearest
    own = frame.drop_nulls("visit_id").unique(["subject_id", "visit_id"], keep="last", maintain_order=True)
    own = own.with_columns(pl.col("visit_id").cast(base["visit_id"].dtype)).select("subject_id", "visit_id", "value")
    same = base.join(own, on=["subject_id", "visit_id"], how="left", maintain_order="left")["value"]
    if table.role == "visit":  # the visit is known, so what it leaves open is unknown: another day's pulse misleads
        nearest = nearest.set(base["visit_id"].is_not_null(), None)
    return pl.select(pl.coalesce(same, nearest)).to_series()


def _readable(schema: Schema, table: str, column: str) -> pl.Expr:
    spec = schema.tables[table].columns[column]
    if spec.kind == "ordinal" and spec.levels:
        ranks = {level: float(i) for i, level in enumerate(spec.levels)}
        return pl.col(column).replace_strict(ranks, default=None, return_dtype=pl.Float64)
    if spec.kind == "timestamp":
        return pl.col(column)
    return pl.col(column).cast(pl.String) if spec.kind in _NAMED else pl.col(column).cast(pl.Float64)


def _years(time: pl.Series, moment: pl.Series) -> pl.Series:
    """Years from a moment to the record; null where the two can't be compared."""
    if type(time.dtype) is not type(moment.dtype):
        return pl.Series("value", [None] * len(time), dtype=pl.Float64)
    return (time.cast(pl.Int64) - moment.cast(pl.Int64)) / _YEAR


def _holders(frame: pl.DataFrame, column: str, code: str) -> int:
    return frame.filter(pl.col(column).cast(pl.String) == code)["subject_id"].n_unique()


def _comparable(base: pl.DataFrame, frame: pl.DataFrame) -> bool:
    """Are the records' times on the tables' clock?"""
    if "time" not in frame.columns:
        return False
    return type(frame["time"].dtype) is type(base["time"].dtype)


def _nearest(base: pl.DataFrame, frame: pl.DataFrame) -> pl.Series:
    """Value nearest in time within the patient; the last one where there is no common clock."""
    timed = frame.drop_nulls("time") if "time" in frame.columns else frame
    last = (timed.sort("time") if "time" in frame.columns else timed).unique("subject_id", keep="last")
    fallback = base.join(last.select("subject_id", "value"), on="subject_id", how="left", maintain_order="left")[
        "value"
    ]
    if not _comparable(base, frame):
        return fallback
    left = base.select("row", "subject_id", "time").drop_nulls("time").sort("time")
    right = timed.select("subject_id", pl.col("time").cast(base["time"].dtype), "value").sort("time")
    met = left.join_asof(right, on="time", by="subject_id", strategy="nearest", check_sortedness=False)
    met = base.select("row").join(met.select("row", "value"), on="row", how="left", maintain_order="left")["value"]
    return pl.select(pl.coalesce(met, fallback)).to_series()


def _present(base: pl.DataFrame, frame: pl.DataFrame) -> pl.Series:
    """Text "yes" or "no": does the patient have a row at the record's visit (a drug is written down as it ends), or up
    to the record's time (at any time if clocks differ)?"""
    first = frame.group_by("subject_id").agg(
        pl.col("time").min() if "time" in frame.columns else pl.lit(None).alias("time")
    )
    met = base.join(first.rename({"time": "first"}).with_columns(any=pl.lit(True)), on="subject_id", how="left",
                    maintain_order="left")  # fmt: skip
    here = pl.col("any").fill_null(False)
    if _comparable(base, frame):
        here = here & (pl.col("first") <= pl.col("time")).fill_null(True)
    if "visit_id" in frame.columns:
        own = frame.select("subject_id", pl.col("visit_id").cast(base["visit_id"].dtype)).drop_nulls().unique()
        met = met.join(own.with_columns(own=pl.lit(True)), on=["subject_id", "visit_id"], how="left",
                       maintain_order="left")  # fmt: skip
        here = here | pl.col("own").fill_null(False)
    return met.select(pl.when(here).then(pl.lit("yes")).otherwise(pl.lit("no")).alias("value")).to_series()
