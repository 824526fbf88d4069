"""Four sets of records that are compared, and what is measured on each record.

    synthetic     what is judged
    train         the floor: real against real
    held_out      the reference
    independent   anchor: training records with the phases of their Fourier components drawn anew in each channel; the
                  power spectrum stays, beats and the agreement of channels are gone. In its record table, records are
                  dealt out to other patients.

The unit is the patient: at most a few records of each are looked at, and each patient counts once however many they
are. Records are reduced to arrays once; every measure works on these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.evaluation.context import ALPHA, Context, Draws, make_draws
from cohortloom.rng import Rng
from cohortloom.rules.ecg_beats import fill_gaps
from cohortloom.rules.waveform import features_of, records_of
from cohortloom.schema import Signal

__all__ = ["Side", "SignalContext", "made_of", "prepare_signal", "scrambled"]

MOST_PATIENTS, FAST_PATIENTS, MOST_RECORDS = 800, 250, 4
ANCHOR_PATIENTS = 200


@dataclass
class Side:
    """Records of one cohort.

    Args:
        signal: The records looked at.
        patient: Patient number of each record, 0 to n - 1.
        subjects: Id of each patient.
        cohort: Where they come from.
    """

    signal: SignalSet
    patient: np.ndarray
    subjects: pl.Series
    cohort: Cohort
    memo: dict = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        return self.subjects.len()

    @property
    def n_groups(self) -> int:
        return self.n

    @cached_property
    def features(self) -> pl.DataFrame:
        return features_of(self.signal)

    def column(self, name: str) -> np.ndarray:
        if name not in self.features.columns:
            return np.full(len(self.patient), np.nan)
        return self.features[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def per_patient(self, values: np.ndarray) -> np.ndarray:
        """Mean over a patient's records of (record, ...) -> (patient, ...)."""
        total = np.zeros((self.n, *values.shape[1:]))
        np.add.at(total, self.patient, values)
        count = np.bincount(self.patient, minlength=self.n)
        return total / np.maximum(count, 1).reshape(-1, *[1] * (values.ndim - 1))

    def among(self, member: np.ndarray) -> Side:
        """The records of some patients, with what was made of them."""
        rows = np.flatnonzero(member[self.patient])
        signal = SignalSet(self.signal.spec, self.signal.records[rows], self.signal.samples[rows], None)
        number = np.cumsum(member) - 1
        made = Side(signal, number[self.patient[rows]], self.subjects.filter(pl.Series(member)), self.cohort)
        made.features = self.features[rows].with_columns(row=pl.int_range(len(rows)))
        for key, found in self.memo.items():
            made.memo[key] = _taken(found, rows)
        return made

    def __iter__(self):
        for _, record in records_of(self.signal):
            yield record


@dataclass
class SignalContext:
    """What the measures of one signal need; has the fields of `Context` that `assess` reads.

    `memo` of a side holds arrays, lists or tuples of these with one entry per record.
    """

    name: str
    spec: Signal
    views: dict[str, Side]
    draws: Draws
    rng: Rng
    fast: bool
    alpha: float = ALPHA
    memo: dict = field(default_factory=dict, init=False, repr=False)

    @property
    def n(self) -> int:
        return self.views["synthetic"].n

    def sums(self, statistic) -> dict[str, np.ndarray]:
        return {k: statistic(side) for k, side in self.views.items()}


def _taken(found, rows: np.ndarray):
    """Some records of arrays, lists or tuples with one entry per record."""
    if isinstance(found, tuple):
        return tuple(_taken(x, rows) for x in found)
    return [found[i] for i in rows] if isinstance(found, list) else found[rows]


def prepare_signal(ctx: Context, name: str) -> SignalContext | str:
    """Sides and draws of one signal; or the reason why it can't be compared."""
    spec = ctx.schema.signals[name]
    rng = ctx.rng.child("signals", name)
    most = FAST_PATIENTS if ctx.fast else MOST_PATIENTS
    sides: dict[str, Side] = {}
    for side in ("synthetic", "train", "held_out"):
        cohort = ctx.cohorts[side]
        signal = cohort.signals.get(name)
        if signal is None or not signal.records.height:
            return f"the {side.replace('_', '-')} cohort has no record of it"
        theirs = signal.spec
        if theirs.channels != spec.channels or theirs.fs != spec.fs:
            return f"the {side.replace('_', '-')} cohort has other channels or another sampling frequency"
        sides[side] = make_side(cohort, signal, most, rng.child("records", side))
    least = min(s.n for s in sides.values())
    if least < 4:
        return "fewer than 4 patients with records on a side"
    few = make_side(ctx.cohorts["train"], sides["train"].signal, min(most, ANCHOR_PATIENTS), rng.child("anchor"))
    sides["independent"] = scrambled(few, rng.child("scrambled"))
    views = {k: sides[k] for k in ("synthetic", "train", "held_out", "independent")}
    return made_of(name, spec, views, rng, fast=ctx.fast)


def made_of(
    name: str, spec: Signal, views: dict[str, Side], rng: Rng, *, fast: bool, alpha: float = ALPHA
) -> SignalContext:
    """The sides with draws of their patients."""
    draws = make_draws(views, rng.child("draws").numpy, 60 if fast else 200)
    return SignalContext(name, spec, views, draws, rng, fast, alpha)


def make_side(cohort: Cohort, signal: SignalSet, most: int, rng: Rng) -> Side:
    """At most `most` patients with at most a few records each, drawn at random."""
    draw = rng.numpy
    records = signal.records
    codes = records["subject_id"].rank("dense").to_numpy().astype(int) - 1
    order = draw.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    start = np.concatenate([[True], codes[order][1:] != codes[order][:-1]])
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(start, np.arange(len(order)), 0))
    chosen = draw.permutation(codes.max() + 1)[:most]
    rows = np.sort(order[(place < MOST_RECORDS) & np.isin(codes[order], chosen)])
    kept = records[rows]
    subjects = kept["subject_id"].unique(maintain_order=True)
    patient = kept.join(
        pl.DataFrame({"subject_id": subjects}).with_row_index("patient"), on="subject_id", how="left",
        maintain_order="left",
    )["patient"].to_numpy().astype(int)  # fmt: skip
    return Side(SignalSet(signal.spec, kept, signal.samples[rows], None), patient, subjects, cohort)


def scrambled(side: Side, rng: Rng) -> Side:
    """The independent anchor: random phases in each channel, records dealt out among patients."""
    draw = rng.numpy
    samples = np.array(side.signal.samples, dtype=np.float32)
    lengths = side.signal.records["n_samples"].to_numpy()
    for row, n in enumerate(lengths):
        x = samples[row, :, :n]
        gaps = ~np.isfinite(x)
        f = np.fft.rfft(fill_gaps(x), axis=1)
        turn = np.exp(2j * np.pi * draw.random(f.shape))
        turn[:, 0] = 1
        y = np.fft.irfft(f * turn, n=n, axis=1)
        y[gaps] = np.nan
        samples[row, :, :n] = y
    records = side.signal.records
    dealt = draw.permutation(len(records))
    swapped = records.with_columns(records["label"].gather(dealt)) if "label" in records.columns else records
    return Side(SignalSet(side.signal.spec, swapped, samples, None), side.patient, side.subjects, side.cohort)
