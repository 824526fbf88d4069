"""Scores of the waveform validators, for `validate`.

One score per check and signal: the share of records that fail. Up to 5 % may fail, since real collections hold a few
broken records; with fewer than 20 records none may. Warnings are counted beside it, without a verdict. Of large
cohorts an even sample of records is looked at.
"""

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.report import Goal, Score
from cohortloom.rules.waveform import Verdicts, check_records
from cohortloom.rules.waveform_record import FAIL, WARN

__all__ = ["MOST_RECORDS", "signal_scores"]

MOST_RECORDS = 2000
MOST_FAILED = 0.05


def signal_scores(cohort: Cohort) -> list[Score]:
    """Scores of every check of every signal of a cohort."""
    return [score for name, signal in cohort.signals.items() for score in _scores(name, signal)]


def _scores(name: str, signal: SignalSet) -> list[Score]:
    n = signal.records.height
    group = f"signal {name}"
    if not n:
        return [Score(name="waveforms", group=group, key=f"signals.{name}", value=None, reason="no record")]
    rows = np.unique(np.linspace(0, n - 1, min(n, MOST_RECORDS)).round().astype(int)).tolist()
    verdicts = check_records(signal, rows=rows)
    counts = verdicts.table.group_by("check").agg(
        n=pl.len(), failed=(pl.col("verdict") == FAIL).sum(), warned=(pl.col("verdict") == WARN).sum()
    )
    found = {row["check"]: row for row in counts.iter_rows(named=True)}
    return [_score(name, group, check, found.get(check.name), verdicts, len(rows)) for check in verdicts.checks]


def _score(name: str, group: str, check, count: dict | None, verdicts: Verdicts, looked: int) -> Score:
    key = f"signals.{name}.{check.name}"
    if count is None:
        reason = f"could not be judged on any of {looked:,} records"
        return Score(name=check.words, group=group, key=key, value=None, n=looked, reason=reason)
    n, failed, warned = count["n"], int(count["failed"]), int(count["warned"])
    said = []
    if failed:
        said.append(f"{failed:,} of {n:,} records")
    if warned:
        said.append(f"{warned:,} more unusual")
    details = {
        "judged": n, "failed": failed, "unusual": warned, "looked at": looked,
        "reasons": _reasons(verdicts.table.filter(pl.col("check") == check.name)),
        "first records": verdicts.rows(FAIL, check.name)[:10],
    }  # fmt: skip
    limit = MOST_FAILED if n >= 20 else 0.0
    return Score(
        name=check.words, group=group, key=key, value=failed / n, n=n, goal=Goal.LOW, limit=limit,
        reason=", ".join(said), details=details,
    )  # fmt: skip


def _reasons(table: pl.DataFrame) -> list[dict]:
    """Reasons and channels of what did not pass, most frequent first."""
    bad = table.filter(pl.col("verdict") != "pass")
    grouped = bad.group_by("verdict", "reason", "lead").agg(pl.len().alias("records"))
    return grouped.sort(["records", "reason", "lead"], descending=[True, False, False]).head(8).to_dicts()
