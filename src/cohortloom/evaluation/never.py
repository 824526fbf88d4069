"""Pairs that never meet: a man with a code of pregnancy, a tablet given into a vein.

A few such patients among thousands move no mean and no correlation, yet they are the first thing that a reader sees.
The score counts synthetic patients with a pair of values (`cohort.pairs` says which) that no real patient has, though
chance would show it in ten or more of them.

What few real patients have, another sample of them may have where this one has not. The limit comes from dealing real
and synthetic patients anew into two cohorts of the same sizes, as in `intervals.py`; what chance would show does not
change then. A single patient never fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.cohort.pairs import Column, crossings, numbered, read_columns, rulers
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import not_computed, upper_quantile
from cohortloom.report import Goal, Score

__all__ = ["Met", "meetings", "novel", "scores"]

KEY = "association.never"
NAME = "patients with two values that never meet in real patients, though chance would show it"
EXPECTED = 10.0
MOST_REAL, MOST_JUDGED, MOST_FAST = 100_000, 50_000, 10_000  # patients of a cohort; what is rare is real if one has it
TOLERANCE = 0.002
DEALINGS = 200
REAL, JUDGED = 1, 2
NAMED = 20
SIDES = {"synthetic": ("train", "held_out"), "independent": ("train", "held_out"), "held_out": ("train",)}


@dataclass(frozen=True)
class Met:
    """Who holds pairs that are rare, or that no real patient holds.

    Args:
        pair, patient: One entry per pair and patient.
        words: Of each pair.
        expected: Real patients in whom chance would show the pair.
    """

    pair: np.ndarray
    patient: np.ndarray
    words: tuple[str, ...]
    expected: np.ndarray

    @property
    def n(self) -> int:
        return len(self.words)


def scores(ctx: Context) -> list[Score]:
    """The score of pairs that never meet."""
    from scipy.stats import beta  # heavy

    columns, places = _columns(ctx)
    if not any(c.ruler.deciding for c in columns):
        return [not_computed(ctx, KEY, NAME, "no column of few levels")]
    share, found = {}, {}
    for judged, real in SIDES.items():
        side = np.zeros(places["independent"].stop, np.int8)
        side[places[judged]] = JUDGED
        for name in real:
            side[places[name]] = REAL
        found[judged] = meetings(columns, side), side
        share[judged] = float(novel(found[judged][0], side == JUDGED).sum() / (side == JUDGED).sum())
    met, side = found["synthetic"]
    n, hits = int((side == JUDGED).sum()), int(novel(met, side == JUDGED).sum())
    dealt = _dealt(met, side, ctx.rng.child("never").numpy)
    middle = float(dealt.mean())
    most = 1 + middle + (1 + 10 / n) * (upper_quantile(dealt, 1 - ctx.alpha) - middle)
    limit, value = max(TOLERANCE, most / n), share["synthetic"]
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    measurable = value > limit or share["independent"] > limit
    told = _told(met, side == JUDGED)
    name = f"{NAME}, most often {told['worst']}" if value > limit else NAME
    return [
        Score(
            name=name, group="association", key=KEY, value=value, interval=(low, high), n=n, goal=Goal.LOW, limit=limit,
            floor=share["held_out"], anchors={"bootstrap": 0.0, "independent": share["independent"]},
            measurable=measurable, details=told,
            reason="" if measurable else "real columns hardly exclude one another: even independent columns would pass",
        )
    ]  # fmt: skip


def novel(met: Met, judged: np.ndarray) -> np.ndarray:
    """Which patients are judged and hold a pair that none of the others holds?"""
    mine = judged[met.patient]
    others = np.bincount(met.pair[~mine], minlength=met.n)
    out = np.zeros(len(judged), bool)
    out[met.patient[mine & (others[met.pair] == 0)]] = True
    return out


def meetings(columns: list[Column], side: np.ndarray) -> Met:
    """Pairs that chance would show in real patients, and who holds them; common ones are left out.

    Args:
        columns: Of all patients.
        side: REAL, JUDGED or neither, for each patient.
    """
    taken = side > 0
    of_real = float((side == REAL).sum() / max(taken.sum(), 1))
    often = np.log(1e-5) / np.log(
        1 - min(max(of_real, 1e-3), 0.999)
    )  # so many: some real patient has it, however dealt
    pairs, patients, words, expected = [], [], [], []
    for crossing in crossings(columns, taken):
        size, chance = len(crossing.expected), crossing.expected * of_real
        rows = np.bincount(crossing.pair, minlength=size)
        real = np.bincount(crossing.pair[side[crossing.patient] == REAL], minlength=size)
        chosen = (chance >= EXPECTED) & (rows > 0) & ((real == 0) | (rows <= 50 * often))
        keep = chosen[crossing.pair]
        entry = np.unique(crossing.patient[keep] * size + crossing.pair[keep])
        places = np.flatnonzero(chosen)
        pairs.append(len(words) + np.searchsorted(places, entry % size))
        patients.append(entry // size)
        expected.append(chance[places])
        words += [crossing.words(int(k)) for k in places]
    joined = [np.concatenate(x) if x else np.zeros(0, int) for x in (pairs, patients, expected)]
    return Met(joined[0], joined[1], tuple(words), joined[2])


def _dealt(met: Met, side: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Patients with such a pair, over dealings of all patients into two cohorts of the same sizes."""
    there, n = np.flatnonzero(side), int((side == JUDGED).sum())
    out = np.zeros(DEALINGS)
    for k in range(DEALINGS if met.n else 0):
        mine = np.zeros(len(side), bool)
        mine[draw.permutation(there)[:n]] = True
        out[k] = novel(met, mine).sum()
    return out


def _told(met: Met, judged: np.ndarray) -> dict:
    """The pairs that most patients have."""
    mine = judged[met.patient]
    real = np.bincount(met.pair[~mine], minlength=met.n)
    here = np.where(real == 0, np.bincount(met.pair[mine], minlength=met.n), 0)
    rows = [
        {"of": met.words[k], "patients": int(here[k]), "expected in real patients": round(float(met.expected[k]), 1)}
        for k in np.argsort(-here, kind="stable")[:NAMED]
        if here[k]
    ]
    return {"pairs": rows, **({"worst": rows[0]["of"]} if rows else {})}


def _columns(ctx: Context) -> tuple[list[Column], dict[str, slice]]:
    """Columns of the four cohorts, and the places of each one's patients."""
    places, parts, end = {}, [], 0
    judged = MOST_FAST if ctx.fast else MOST_JUDGED
    for name, most in {"train": MOST_REAL, "held_out": MOST_REAL, "synthetic": judged, "independent": judged}.items():
        subjects = ctx.cohorts[name].subjects
        if len(subjects) > most:
            draw = ctx.rng.child("never", name).numpy
            subjects = subjects.gather(np.sort(draw.choice(len(subjects), most, replace=False)))
        parts.append(numbered(ctx.cohorts[name], subjects, end))
        places[name] = slice(end, end := end + len(subjects))
    known = rulers(ctx.schema, [ctx.cohorts["train"], ctx.cohorts["held_out"]])
    columns = {table: ["__who", *(r.column for r in known if r.table == table)] for table in ctx.schema.tables}
    frames = {
        table: pl.concat([part[table].select(list(dict.fromkeys(wanted))) for part in parts], how="vertical_relaxed")
        for table, wanted in columns.items()
    }
    return read_columns(known, frames), places
