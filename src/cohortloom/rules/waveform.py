"""Waveform validators: every record of a signal, every check, with verdict, place and reason.

    verdicts = check_records(cohort.signals["ecg"])
    verdicts.table      one row per record and check: verdict, value, lead, start, stop, reason
    verdicts.features   one row per record: heart rate, PR, QRS, QTc, ...

Failures are what can't come from a heart or a recorder; warnings are rare. Around 10 ms per 12-lead record of 10 s:
beats are found in all leads at once and one average beat is measured, instead of every beat in every lead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.cohort import SignalSet
from cohortloom.errors import SettingsError, nearest
from cohortloom.rules import ecg_checks, eeg_checks, waveform_checks
from cohortloom.rules.waveform_record import FAIL, Check, Record, Verdict

__all__ = ["Verdicts", "check_record", "check_records", "checks_for", "features_of"]

DETECTORS = ("own", "neurokit2")
_FEATURES = {"ecg": ecg_checks.ecg_features, "eeg": eeg_checks.eeg_features}
_TABLE = {
    "row": pl.Int64, "check": pl.String, "verdict": pl.String, "value": pl.Float64, "lead": pl.String,
    "start": pl.Float64, "stop": pl.Float64, "reason": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class Verdicts:
    """What the checks said.

    Args:
        checks: Asked, in order.
        table: row (of the signal's records), check, verdict (pass, warn, fail; what could not be judged has no row),
            value, lead, start, stop [s], reason.
        features: One row per record, NaN as null.
    """

    checks: tuple[Check, ...]
    table: pl.DataFrame
    features: pl.DataFrame

    def rows(self, verdict: str = FAIL, check: str | None = None) -> list[int]:
        """Records with this verdict (of one check, or of any)."""
        keep = pl.col("verdict") == verdict
        if check is not None:
            keep &= pl.col("check") == check
        return sorted(self.table.filter(keep)["row"].unique().to_list())


def checks_for(kind: str) -> tuple[Check, ...]:
    """The checks for a kind of signal."""
    every = (*waveform_checks.CHECKS, *ecg_checks.CHECKS, *eeg_checks.CHECKS)
    return tuple(c for c in every if not c.kinds or kind in c.kinds)


def records_of(signal: SignalSet, rows: Sequence[int] | None = None, detector: str = "own"):
    """Each record with its row, cut to its length."""
    if detector not in DETECTORS:
        hint = nearest(detector, DETECTORS)
        raise SettingsError(f'detector "{detector}" is not known; there are {", ".join(DETECTORS)}.{hint}')
    lengths = signal.records["n_samples"].to_numpy()
    for row in range(len(lengths)) if rows is None else rows:
        n = int(lengths[row])
        yield row, Record(np.asarray(signal.samples[row, :, :n]), signal.spec, detector)


def check_record(record: Record, checks: Sequence[Check]) -> list[tuple[Check, Verdict]]:
    """Verdicts of one record; checks that can't judge it are left out."""
    found = []
    with np.errstate(all="ignore"):
        for check in checks:
            verdict = check.look(record)
            if verdict is not None:
                found.append((check, verdict))
    return found


def check_records(signal: SignalSet, *, rows: Sequence[int] | None = None, detector: str = "own") -> Verdicts:
    """Ask every check of every record.

    Args:
        signal: Records in physical units.
        rows: Records to look at; None: all.
        detector: "own", or "neurokit2" (needs the extra `signals`).

    Raises:
        SettingsError: unknown detector, or its package is absent.
    """
    checks = checks_for(signal.spec.kind)
    said: list[tuple] = []
    features: list[dict] = []
    measure = _FEATURES.get(signal.spec.kind)
    for row, record in records_of(signal, rows, detector):
        for check, v in check_record(record, checks):
            said.append((row, check.name, v.verdict, v.value, v.lead, v.start, v.stop, v.reason))
        with np.errstate(all="ignore"):
            features.append({"row": row, **(measure(record) if measure else {})})
    table = pl.DataFrame(said, schema=_TABLE, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))
    return Verdicts(checks, table, _frame(features))


def features_of(signal: SignalSet, *, rows: Sequence[int] | None = None) -> pl.DataFrame:
    """Features alone, one row per record."""
    measure = _FEATURES.get(signal.spec.kind)
    with np.errstate(all="ignore"):
        found = [{"row": row, **(measure(r) if measure else {})} for row, r in records_of(signal, rows)]
    return _frame(found)


def _frame(features: list[dict]) -> pl.DataFrame:
    if not features:
        return pl.DataFrame(schema={"row": pl.Int64})
    frame = pl.DataFrame(features, infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))
