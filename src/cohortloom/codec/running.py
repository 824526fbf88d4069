"""Sums so far: a cumulative dose, the number of injections since the first visit.

    T_t = c + x_1 + ... + x_t        "so far", or without x_t: "before"

over the visits of a patient, cells of x that are missing counting as 0. Drawn row by row T would contradict x in most
rows, so where the law holds (as those of `derived`: 99.5 % of the rows of either half of 20 patients or more) T is
computed.
"""

from __future__ import annotations

import numpy as np

from cohortloom.codec.derived import ALWAYS, PATIENTS, Column, Derived
from cohortloom.codec.steps import Steps

__all__ = ["FORMS", "find_running", "running"]

FORMS = ("so far", "before")
_SAMPLE, _SHARE, _DISTINCT = 400, 0.98, 4


def running(x: np.ndarray, steps: Steps, form: str) -> np.ndarray:
    """Sums of a column over the steps of each subject.

    Args:
        x: [step] numbers, NaN where missing.
        form: "so far": the step itself belongs to it; "before": it does not.
    """
    known = np.nan_to_num(x)
    total = np.cumsum(known)
    before = total - known
    start = np.repeat(before[steps.starts[steps.length > 0]], steps.length[steps.length > 0])
    return (total if form == "so far" else before) - start


def find_running(columns: list[Column], steps: Steps) -> tuple[Derived, ...]:
    """Laws of visit columns that sum up another one."""
    numbers = [c for c in columns if not c.time]
    again = np.flatnonzero(~steps.first)
    if len(numbers) < 2 or not len(again):
        return ()
    values = np.stack([c.values for c in numbers])
    shown = np.nan_to_num(values)
    found: list[Derived] = []
    for i, target in enumerate(numbers):
        y = values[i]
        if not target.wanted or not np.isfinite(y).any() or np.isfinite(y).mean() < ALWAYS:
            continue
        step = y[again] - y[again - 1]
        moves = np.flatnonzero(np.nan_to_num(step))
        rows = moves[:: max(1, len(moves) // _SAMPLE)]
        if not len(rows):
            continue
        computed = {law.path for law in found}
        sources = {path for law in found for path, _ in law.terms}
        for form, at in zip(FORMS, (again[rows], again[rows] - 1)):
            close = (np.abs(shown[:, at] - step[rows]) <= 1e-6 * np.maximum(1, np.abs(step[rows]))).mean(axis=1)
            for j in np.flatnonzero(close >= _SHARE):
                if j == i or numbers[j].path in computed or target.path in computed | sources:
                    continue
                law = _law(target, numbers[j], steps, form)
                if law is not None:
                    found.append(law)
                    computed.add(target.path)
    return tuple(found)


def _law(target: Column, source: Column, steps: Steps, form: str) -> Derived | None:
    known = np.isfinite(target.values)
    off = target.values - running(source.values, steps, form)
    constant = float(np.median(off[known]))
    holds = np.abs(off - constant) <= 1e-6 * np.maximum(1, np.abs(target.values))
    later = known & ~steps.first
    enough = len(np.unique(steps.subject[later])) >= PATIENTS and len(np.unique(target.values[known])) >= _DISTINCT
    if not enough or any(holds[known & (steps.subject % 2 == half)].mean() < ALWAYS for half in (0, 1)):
        return None
    return Derived(target.path, ((source.path, 1.0),), step=target.step, form=form, constant=constant)  # type: ignore[arg-type]
