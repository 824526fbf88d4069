"""One vector per patient: what a careful reader would notice about a record.

A judge that is told means only can't see that a synthetic patient's creatinine jumps where a real one's drifts. So
each number over time gives count, missing share, mean, sd, least, greatest, first, last, trend, lag-1 product, mean
absolute change, and the share of exact repeats; each category the share of its levels, of changes, its first and last
level; each table its row count, start, length, mean and sd of gaps, and the product of consecutive gaps; and each pair
of numbers the mean product of their deviations within the patient. A long table gives count, mean, sd, last and trend
by frequent code. Where times are dates, starts and the dates of statics count from the patient's first time anywhere.

Level and code lists come from a reference (real patients), so that vectors of two cohorts have the same columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from cohortloom.cohort.cohort import Cohort
from cohortloom.schema import Schema

__all__ = ["Features", "Vocabulary", "patient_features"]

MICROSECONDS_PER_DAY = 86_400e6
MAX_PAIRS = 30
_NUMBERS = ("number", "count")
_LEVELS = ("category", "ordinal", "flag", "code")


@dataclass(frozen=True)
class Vocabulary:
    """Levels that get a feature of their own, by "table.column", most frequent among patients first."""

    levels: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, cohorts: Iterable[Cohort], *, most: int = 20) -> Vocabulary:
        """The `most` levels of every column that most patients of the cohorts have."""
        cohorts = list(cohorts)
        found: dict[str, tuple[str, ...]] = {}
        for table, spec in cohorts[0].schema.tables.items():
            for name, column in spec.columns.items():
                if column.kind not in _LEVELS:
                    continue
                rows = pl.concat(
                    c.tables[table].select(
                        pl.lit(i).alias("k"),
                        pl.col("subject_id").cast(pl.String),
                        pl.col(name).cast(pl.String).alias("level"),
                    )
                    for i, c in enumerate(cohorts)
                )
                counts = rows.drop_nulls("level").unique().group_by("level").len()
                counts = counts.sort(["len", "level"], descending=[True, False])
                found[f"{table}.{name}"] = tuple(counts["level"].head(most).to_list())
        return cls(found)


@dataclass(frozen=True)
class Features:
    """Vectors of patients.

    Args:
        subjects: Ids, in the order of the rows.
        names: Feature names in words, "visits.creatinine: trend".
        columns: "table.column" (or "table") each feature is made of; several joined by " x ".
        values: patient x feature, float32, NaN where it can't be computed.
    """

    subjects: pl.Series
    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray

    def without(self, columns: Iterable[str]) -> Features:
        """Without the features made of some columns."""
        drop = set(columns)
        keep = [i for i, c in enumerate(self.columns) if not drop & set(c.split(" x "))]
        return Features(
            self.subjects,
            tuple(self.names[i] for i in keep),
            tuple(self.columns[i] for i in keep),
            self.values[:, keep],
        )


def patient_features(
    cohort: Cohort, vocabulary: Vocabulary | None = None, subjects: pl.Series | None = None
) -> Features:
    """The vectors of a cohort's patients.

    Args:
        cohort: Whose patients.
        vocabulary: Levels with features; default those of the cohort itself. Give the reference's to compare cohorts.
        subjects: Which patients, in which order; default all.
    """
    vocabulary = vocabulary or Vocabulary.of([cohort])
    order = cohort.subjects if subjects is None else subjects
    base = pl.DataFrame({"subject_id": order})
    columns: dict[str, str] = {}
    parts = []
    begun = _begun(cohort)
    for table, spec in cohort.schema.tables.items():
        frame = cohort.tables[table].join(base.unique(), on="subject_id", how="semi")
        frame = frame if begun is None else frame.join(begun, on="subject_id", how="left", maintain_order="left")
        if spec.role == "static":
            made = _static(frame, cohort.schema, table, vocabulary)
        else:
            made = _over_time(frame, cohort.schema, table, vocabulary)
        exprs, origin, grouped = made
        columns |= origin
        parts.append(grouped if grouped is not None else frame.select("subject_id", *exprs))
    joined = base
    for part in parts:
        joined = joined.join(
            part.unique("subject_id", keep="first"), on="subject_id", how="left", maintain_order="left"
        )
    names = [n for n in joined.columns if n != "subject_id"]
    fill = [pl.col(n).fill_null(0) for n in names if n.endswith((": rows", ": count"))]
    joined = joined.with_columns(fill)
    values = joined.select(pl.col(n).cast(pl.Float32) for n in names).to_numpy() if names else np.zeros((len(order), 0))
    values = np.array(values, dtype=np.float32, ndmin=2).reshape(len(order), len(names))
    values[~np.isfinite(values)] = np.nan
    return Features(order, tuple(names), tuple(columns[n] for n in names), values)


def _static(frame: pl.DataFrame, schema: Schema, table: str, vocabulary: Vocabulary):
    exprs, origin = [], {}
    for name, column in schema.tables[table].columns.items():
        path = f"{table}.{name}"
        if column.kind in _NUMBERS:
            exprs.append(pl.col(name).cast(pl.Float64).alias(path))
        elif column.kind == "timestamp":
            day = pl.col(name).cast(pl.Int64) / MICROSECONDS_PER_DAY
            exprs.append(day.alias(path))
            if "__begun" in frame.columns:
                exprs.append((day - pl.col("__begun")).alias(f"{path}: after the first time"))
                origin[f"{path}: after the first time"] = path
        elif column.kind in _LEVELS:
            for level in vocabulary.levels.get(path, ()):
                exprs.append((pl.col(name).cast(pl.String) == level).alias(f"{path} = {level}"))
                origin[f"{path} = {level}"] = path
        if column.kind in (*_NUMBERS, "timestamp"):
            origin[path] = path
    return exprs, origin, None


def _begun(cohort: Cohort) -> pl.DataFrame | None:
    """First time of each patient in any table [d]; None where times count from the patient's own origin."""
    timed = [t for t in cohort.schema.tables if cohort.schema.has_time(t)]
    if cohort.schema.clock != "timestamp" or not timed:
        return None
    times = pl.concat(cohort.tables[t].select("subject_id", "time") for t in timed)
    return times.group_by("subject_id").agg(__begun=_time(cohort.schema).min())


def _time(schema: Schema) -> pl.Expr:
    return (
        pl.col("time").cast(pl.Float64)
        if schema.clock == "order"
        else pl.col("time").cast(pl.Int64) / MICROSECONDS_PER_DAY
    )


def _slope(y: pl.Expr, t: pl.Expr) -> pl.Expr:
    """Least-squares slope; null where time does not vary."""
    t = t.filter(y.is_not_null())
    y = y.drop_nulls()
    return pl.when((t.var() > 0) & (y.len() >= 3)).then(
        ((t - t.mean()) * _centred(y)).sum() / ((t - t.mean()) ** 2).sum()
    )


def _centred(y: pl.Expr) -> pl.Expr:
    """Deviations from the mean, exactly 0 for equal values: the rounding of their mean depends on how rows are laid out
    in memory, and a judge would tell cohorts by it."""
    return pl.when(y.min() == y.max()).then(y - y.min()).otherwise(y - y.mean())


def _number(path: str, y: pl.Expr, timed: bool) -> dict[str, pl.Expr]:
    """Summaries of a number within a patient."""
    seen = y.drop_nulls()
    change = seen.diff().drop_nulls()
    centred = _centred(seen)
    out = {
        f"{path}: missing": y.is_null().mean(),
        f"{path}: mean": y.mean(),
        f"{path}: sd": pl.when((seen.len() > 1) & (y.min() == y.max())).then(0.0).otherwise(y.std()),
        f"{path}: least": y.min(),
        f"{path}: greatest": y.max(),
        f"{path}: first": seen.first(),
        f"{path}: last": seen.last(),
        f"{path}: lag-1 product": (centred * centred.shift(1)).mean(),
        f"{path}: mean change": change.abs().mean(),
        f"{path}: repeats": (change == 0).mean(),
    }
    if timed:
        out[f"{path}: trend"] = _slope(y, pl.col("__t"))
    return out


def _over_time(frame: pl.DataFrame, schema: Schema, table: str, vocabulary: Vocabulary):
    spec = schema.tables[table]
    timed = schema.has_time(table)
    aggs: dict[str, pl.Expr] = {f"{table}: rows": pl.len()}
    origin = {f"{table}: rows": table}
    if timed:
        frame = frame.with_columns(__t=_time(schema))
        if schema.clock != "order":
            gap = pl.col("__t").diff().drop_nulls()
            since = pl.col("__begun").first() if "__begun" in frame.columns else pl.lit(0.0)
            made = {
                "start": pl.col("__t").min() - since,
                "length": pl.col("__t").max() - pl.col("__t").min(),
                "mean gap": gap.mean(),
                "sd of gaps": gap.std(),
                "greatest gap": gap.max(),
                "least gap": gap.min(),
                "product of gaps": (gap * gap.shift(1)).mean() / (gap.mean() ** 2 + 1e-9),
            }
            aggs |= {f"{table}: {k}": e for k, e in made.items()}
            origin |= {f"{table}: {k}": table for k in made}
    numbers = [n for n, c in spec.columns.items() if c.kind in _NUMBERS and not (spec.is_long and n == spec.value)]
    for name in numbers:
        made = _number(f"{table}.{name}", pl.col(name).cast(pl.Float64), timed)
        aggs |= made
        origin |= dict.fromkeys(made, f"{table}.{name}")
    for a, b in list(combinations(numbers, 2))[:MAX_PAIRS]:
        x, y = pl.col(a).cast(pl.Float64), pl.col(b).cast(pl.Float64)
        label = f"{table}.{a} x {table}.{b}: product within"
        aggs[label] = (_centred(x) * _centred(y)).mean()
        origin[label] = f"{table}.{a} x {table}.{b}"
    for name, column in spec.columns.items():
        if column.kind not in _LEVELS:
            continue
        path = f"{table}.{name}"
        text = pl.col(name).cast(pl.String)
        seen = text.drop_nulls()
        made = {}
        for k, level in enumerate(vocabulary.levels.get(path, ())):
            made[f"{path} = {level}: share"] = (seen == level).mean()
            if k < 4 and not spec.is_long:
                made[f"{path} = {level}: at first"] = seen.first() == level
                made[f"{path} = {level}: at last"] = seen.last() == level
        if not spec.is_long:
            made[f"{path}: missing"] = text.is_null().mean()
            made[f"{path}: changes"] = (seen != seen.shift(1)).mean()
        else:
            made[f"{path}: distinct"] = seen.n_unique()
        aggs |= made
        origin |= dict.fromkeys(made, path)
    grouped = frame.group_by("subject_id", maintain_order=True).agg(e.alias(n) for n, e in aggs.items())
    if spec.is_long and spec.value:
        for code in vocabulary.levels.get(f"{table}.{spec.code}", ()):
            path, origin_path = f"{table}[{code}]", f"{table}.{spec.code}"
            made = {f"{path}: count": pl.len(), **_number(path, pl.col(spec.value), timed)}
            part = frame.filter(pl.col(spec.code) == code)
            part = part.group_by("subject_id").agg(e.alias(n) for n, e in made.items())
            grouped = grouped.join(part, on="subject_id", how="left", maintain_order="left")
            origin |= dict.fromkeys(made, origin_path)
    return [], origin, grouped
