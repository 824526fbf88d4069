"""A cohort in a few lines of counts, for people: no value of a single patient, no id, no smallest or largest cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from cohortloom.cohort.cohort import Cohort
from cohortloom.cohort.origin import Origin
from cohortloom.cohort.signals import SignalSet
from cohortloom.schema import Schema

__all__ = ["TableSummary", "summary_text", "table_summaries"]


@dataclass(frozen=True)
class TableSummary:
    """Counts of one table.

    Args:
        name: Table.
        role: "static", "visit" or "event".
        rows: Number of rows.
        subjects: Subjects with at least one row.
        per_subject: Quartiles of rows per subject with a row; None for static or empty tables.
        missing: Column -> share of empty cells; empty for an empty table.
    """

    name: str
    role: str
    rows: int
    subjects: int
    per_subject: tuple[float, float, float] | None
    missing: dict[str, float]


def table_summaries(schema: Schema, tables: Mapping[str, pl.LazyFrame]) -> list[TableSummary]:
    """Counts of every table, in the schema's order."""
    out = []
    for name, table in schema.tables.items():
        per = tables[name].group_by("subject_id").len().collect(engine="streaming")["len"].cast(pl.Float64)
        counts = tables[name].select(pl.len().alias("subject_id"), *(pl.col(c).null_count() for c in table.columns))
        rows, *empty = counts.collect(engine="streaming").row(0)
        quartiles = None
        if table.role != "static" and per.len():
            quartiles = tuple(float(per.quantile(q, "linear") or 0.0) for q in (0.25, 0.5, 0.75))
        missing = {c: n / rows for c, n in zip(table.columns, empty)} if rows else {}
        out.append(TableSummary(name, table.role, rows, per.len(), quartiles, missing))  # type: ignore[arg-type]
    return out


def summary_text(cohort: Cohort) -> str:
    """One line per table and signal, then the notes of the origin.

    Example:
        >>> from cohortloom.schema import Count, Schema, Table
        >>> schema = Schema(name="s", tables={"patients": Table(role="static", columns={"age": Count()})})
        >>> frames = {"patients": pl.DataFrame({"subject_id": [1, 2], "age": [40, None]})}
        >>> print(summary_text(Cohort.build(schema, frames)))
        s: 2 patients, real
          patients (static): 2 rows, 2 patients; most often missing: age 50%
    """
    tables = {name: frame.lazy() for name, frame in cohort.tables.items()}
    return tables_text(cohort.schema, tables, cohort.n_subjects, cohort.origin, cohort.signals)


def tables_text(
    schema: Schema,
    tables: Mapping[str, pl.LazyFrame],
    subjects: int,
    origin: Origin,
    signals: Mapping[str, SignalSet] = MappingProxyType({}),
) -> str:
    """As `summary_text`, of tables that need not be in memory."""
    lines = [f"{schema.name}: {subjects:,} patients, {origin.kind}"]
    for one in table_summaries(schema, tables):
        line = f"  {one.name} ({one.role}): {one.rows:,} rows, {one.subjects:,} patients"
        if one.per_subject:
            low, middle, high = one.per_subject
            line += f", {middle:g} per patient (quartiles {low:g} to {high:g})"
        worst = sorted(((s, c) for c, s in one.missing.items() if s > 0), key=lambda x: (-x[0], x[1]))[:3]
        if one.role == "static" and one.subjects < subjects:
            line += f"; {subjects - one.subjects:,} patients of other tables have none"
        if worst:
            line += "; most often missing: " + ", ".join(f"{c} {s:.0%}" for s, c in worst)
        lines.append(line)
    for name, signal in signals.items():
        n = signal.records["subject_id"].n_unique()
        lines.append(f"  {name} ({signal.spec.kind}): {signal.records.height:,} records, {n:,} patients")
    lines += [f"  {what}: {count}" for what, count in sorted(origin.notes.items())]
    return "\n".join(lines)
