"""Encoded patients as the tensors a recurrent GAN reads, and back.

A step is [normal score of the gap, columns of the codec, repeat marks]. A repeat mark stands for a column that often
keeps its last recorded value: a number copied forward to the last digit, which no continuous law would do, or a
category that seldom changes (a stage). The mark is drawn, and where it says yes the last value is written again.

Auto-normalisation (DoppelGANger): of each patient and number of a step, centre c = (max + min) / 2 and half-range
w = (max - min) / 2 become statics (log w; a constant course has w = 0, marked by its own absence), and the step holds
(x - c) / w.

A number that is not recorded at a step stands there as the line between the records around it (NaN if there are none),
with its mark off. The embedder then reads one course per number, and whether it is shown is another matter.

What lies within something that is not there (`codec.gates`) counts as not recorded, and the laws leave it out
(`nets.gan_law`). Gates whose value says so (a count, a yes) are neither repeated nor scaled: they are read as drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cohortloom.codec import Codec
from cohortloom.codec.gates import gates_of, shut_of
from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays, StaticArrays
from cohortloom.nets.gan_autoencoder import Batch
from cohortloom.nets.length_law import length_bins
from cohortloom.nets.tokens import carried
from cohortloom.rng import Rng

__all__ = ["MAX_STEPS", "NEVER", "Records", "decoded", "followed_by", "measured", "raw_of", "records", "without_shut"]

#: Longest course that is modelled [steps].
MAX_STEPS = 512
#: Log share of what never occurs.
NEVER = -12.0


@dataclass(frozen=True)
class Records:
    """Patients: a row of statics each, and ragged steps.

    Args:
        static, static_seen: [subject column].
        step, step_seen: The patients' steps, one after the other [step column].
        length: Steps of each patient [subject].
    """

    static: torch.Tensor
    static_seen: torch.Tensor
    step: torch.Tensor
    step_seen: torch.Tensor
    length: torch.Tensor

    def batch(self, index: torch.Tensor, window: int | None = None) -> Batch:
        """Some patients side by side, their courses cut behind `window` steps."""
        length = self.length[index]
        n_steps = min(int(length.max()) if len(index) else 0, window or MAX_STEPS)
        place = torch.arange(n_steps)
        start = (torch.cumsum(self.length, 0) - self.length)[index]
        there = place < length[:, None]
        rows = torch.where(there, start[:, None] + place, 0)
        if not len(self.step):
            n_columns = self.step.shape[1]
            empty = torch.zeros(len(index), n_steps, n_columns)
            return Batch(self.static[index], self.static_seen[index], empty, empty.bool(), length)
        step = torch.where(there[..., None], self.step[rows], 0.0)
        seen = self.step_seen[rows] & there[..., None]
        return Batch(self.static[index], self.static_seen[index], step, seen, length)


def measured(codec: Codec, data: Encoded, *, normalise: bool, rng: Rng) -> dict[str, Any]:
    """Plain facts of the training patients that shape the networks."""
    assert data.sequence is not None and data.static is not None
    seq, static = without_shut(codec, data.sequence), without_shut(codec, data.static)
    gates = [_levels(codec, part.features) for part in (static, seq)]
    plain = {k for _, k, level in gates[1] if level is not None}
    facts: dict[str, Any] = {
        "n_steps": int(min(seq.length.max(initial=0), MAX_STEPS)),
        "bins": length_bins(np.minimum(seq.length, MAX_STEPS), fewest=codec.k_min),
        "repeats": [j for j in _repeats(codec, seq) if j not in plain],
        "scaled": [j for j in _numbers(seq.features) if j not in plain] if normalise else [],
        "static_gates": gates[0],
        "step_gates": [(j + 1, k + 1, level) for j, k, level in gates[1]],
    }
    found = records(codec, data, facts, rng)
    counts = [len(f.levels) for f in static.features] + [0, 0] * len(facts["scaled"])
    facts["static"] = _starts(counts, found.static, found.static_seen, _shut(codec, static))
    counts = [0, *(len(f.levels) for f in seq.features), *[3] * len(facts["repeats"])]
    shut = {j + 1: rows[seq.position < facts["n_steps"]] for j, rows in _shut(codec, seq).items()}
    facts["step"] = _starts(counts, found.step, found.step_seen, shut)
    facts["clock"] = _clock(codec, seq)
    plain_series = not any(f.levels for f in seq.features) and seq.observed.all() and not facts["repeats"]
    facts["tied"] = not plain_series  # what is always there and always a number is left to the latents
    facts["limits"] = _limits(found, [j for j, n in enumerate(counts) if not n])
    facts["step_levels"], facts["n_numbers"] = counts, counts.count(0)
    return facts


def _limits(found: Records, numbers: Sequence[int]) -> list[float]:
    """Largest absolute value of each number of a step, 1 for one that was never recorded."""
    size = torch.where(found.step_seen, torch.nan_to_num(found.step), 0.0).abs()
    return [max(float(size[:, j].max()), 1.0) if len(size) else 1.0 for j in numbers]


def _clock(codec: Codec, seq: SequenceArrays) -> tuple[list[float], float, float]:
    """Gap [d] of evenly spaced scores, the usual gap and the longest span that `k_min` patients reach."""
    scores = np.linspace(-6, 6, 1201)
    gaps = codec.times.gap_days(scores, np.zeros(len(scores), bool)) if len(seq.gap) else np.ones(len(scores))
    later = seq.position > 0
    span = np.sort(np.bincount(seq.subject, weights=np.where(later, seq.gap, 0.0), minlength=len(seq.length)))
    usual = max(float(np.median(seq.gap[later])), 1e-3) if later.any() else 1.0
    longest = float(span[-min(codec.k_min, len(span))]) if len(span) else 1.0
    return gaps.tolist(), usual, max(longest, usual)


def records(codec: Codec, data: Encoded, facts: Mapping[str, Any], rng: Rng) -> Records:
    """Patients as tensors."""
    assert data.sequence is not None and data.static is not None
    seq, static = without_shut(codec, data.sequence), without_shut(codec, data.static)
    first, keep = seq.position == 0, seq.position < facts["n_steps"]
    gap = codec.times.gap_score(seq.gap, first, rng) if len(first) else np.zeros(0)
    values, seen = np.where(seq.observed, seq.values, 0.0), seq.observed
    extra, extra_seen, values = _scaled(seq, values, seen, facts["scaled"])
    values = _filled(values, seen, seq.subject, _numbers(seq.features))
    marks = _marks(codec, seq, facts["repeats"])
    step = np.column_stack([gap, values, marks])[keep]
    step_seen = np.column_stack([np.ones(len(gap), bool), seen, marks > 0])[keep]
    length = np.minimum(seq.length, facts["n_steps"]).astype(np.int64)
    values = np.column_stack([np.where(static.observed, static.values, 0.0), extra])
    return Records(
        torch.from_numpy(values).float(),
        torch.from_numpy(np.column_stack([static.observed, extra_seen])),
        torch.from_numpy(step).float(),
        torch.from_numpy(step_seen),
        torch.from_numpy(length),
    )


def decoded(
    codec: Codec, facts: Mapping[str, Any], batch: Batch, statics: tuple[Feature, ...], steps: tuple[Feature, ...]
) -> Encoded:
    """Drawn patients in the codec's arrays."""
    there = batch.there
    length = there.sum(1).numpy().astype(np.int64)
    x, seen = (part[there].numpy().copy() for part in (batch.step, batch.step_seen))
    owner = np.repeat(np.arange(len(length)), length)
    n, k = len(statics), len(steps)
    first = np.zeros(len(x), bool)
    first[(np.cumsum(length) - length)[length > 0]] = True
    gap = codec.times.gap_days(x[:, 0].astype(float), first) if len(x) else np.zeros(0)
    values, has, marks = x[:, 1 : 1 + k].astype(float), seen[:, 1 : 1 + k], x[:, 1 + k :]
    for i, j in enumerate(facts["repeats"]):
        again = marks[:, i] > 1.5
        values[:, j], has[:, j] = _written_again(values[:, j], has[:, j], again, owner)
    static, extra = batch.static.numpy().astype(float), batch.static_seen.numpy()
    for i, j in enumerate(facts["scaled"]):
        centre, wide = static[:, n + 2 * i], extra[:, n + 2 * i + 1]
        half = np.where(wide, np.exp(np.clip(static[:, n + 2 * i + 1], -8, 3)), 0.0)
        values[:, j] = centre[owner] + np.clip(values[:, j], -1, 1) * half[owner]
    values *= has
    return Encoded(
        StaticArrays(statics, static[:, :n] * extra[:, :n], extra[:, :n]),
        SequenceArrays(steps, values, has, gap, length),
    )


def followed_by(past: SequenceArrays, drawn: SequenceArrays) -> SequenceArrays:
    """The steps of the past, then those of `drawn` behind as many as the past has, patient by patient."""
    new = drawn.position >= past.length[drawn.subject]
    length = past.length + np.bincount(drawn.subject[new], minlength=len(past.length))
    owner = np.concatenate([past.subject, drawn.subject[new]])
    order = np.argsort(owner, kind="stable")
    parts = ((getattr(past, name), getattr(drawn, name)[new]) for name in ("values", "observed", "gap"))
    return SequenceArrays(past.features, *(np.concatenate(pair)[order] for pair in parts), length)


# -- what lies within what ---------------------------------------------------------------------------------------------


def _shut(codec: Codec, part: StaticArrays | SequenceArrays) -> dict[int, np.ndarray]:
    """Column -> rows in which it is not there."""
    gates = gates_of(part.features)
    raw = {gate.column: raw_of(codec, part, gate.column) for gate in gates.values()}
    return shut_of(raw, gates)


def without_shut(codec: Codec, part: Any) -> Any:
    """Statics or steps in which what is not there is missing."""
    seen = part.observed.copy()
    for j, rows in _shut(codec, part).items():
        seen[rows, j] = False
    return replace(part, observed=seen)


def _levels(codec: Codec, features: Sequence[Feature]) -> list[tuple[int, int, float | None]]:
    """(column, gate, value the gate is above where the column is there, None: the gate has to be observed)."""
    grid = np.linspace(-5, 5, 4001)
    out = []
    for j, gate in gates_of(features).items():
        law, level = codec.transforms.get(features[gate.column].name), gate.least
        if law is not None and not np.isnan(level):
            level = float(np.max(grid[gate.shuts(law.decode(grid))], initial=-6.0))
        out.append((j, gate.column, None if np.isnan(level) else level))
    return out


# -- repeats -----------------------------------------------------------------------------------------------------------


def raw_of(codec: Codec, seq: StaticArrays | SequenceArrays, j: int) -> np.ndarray:
    """A column of a step as it stands in the table (ids of a category), NaN where missing [step]."""
    law = codec.transforms.get(seq.features[j].name)
    x = seq.values[:, j].astype(float)
    return np.where(seq.observed[:, j], law.decode(x) if law is not None else x, np.nan)


def _repeats(codec: Codec, seq: SequenceArrays) -> list[int]:
    """Columns that repeat their last value more often than by chance.

    By chance means for a number: as often as neighbouring values follow each other; for a category: as its shares say.
    """
    found = []
    for j, feature in enumerate(seq.features):
        raw = raw_of(codec, seq, j)
        last = carried(raw, seq.subject)
        both = ~np.isnan(raw) & ~np.isnan(last)
        if both.sum() < 30:
            continue
        change = np.abs(raw[both] - last[both])
        same = np.mean(change == 0)
        if feature.kind == "category":
            by_chance = np.square(np.unique(raw[both], return_counts=True)[1] / both.sum()).sum()
            more = same > by_chance + 0.1 * (1 - by_chance)
        else:
            near = np.min(change[change > 0], initial=np.inf)  # the grid of the column
            rivals = np.mean((change > 0) & (change < 1.5 * near)) if np.isfinite(near) else 0.0
            more = same > 0.02 and same > 1.5 * rivals / 2
        if more and (same < 1 or feature.kind == "category"):
            found.append(j)
    return found


def _marks(codec: Codec, seq: SequenceArrays, columns: Sequence[int]) -> np.ndarray:
    """0 where there is nothing to repeat, 1 no, 2 yes [step repeat]."""
    out = np.zeros((len(seq.values), len(columns)))
    for i, j in enumerate(columns):
        raw = raw_of(codec, seq, j)
        last = carried(raw, seq.subject)
        both = ~np.isnan(raw) & ~np.isnan(last)
        out[:, i] = np.where(both, np.where(raw == last, 2.0, 1.0), 0.0)
    return out


def _written_again(
    values: np.ndarray, has: np.ndarray, again: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values with repeats written: a step that repeats takes the last value drawn freely before it."""
    own = has & ~again
    row = np.arange(len(values))
    source = np.maximum.accumulate(np.where(own, row, -1)) if len(row) else row
    valid = source >= 0
    valid &= owner[np.maximum(source, 0)] == owner
    take = has & again & valid
    return np.where(take, values[np.maximum(source, 0)], values), has


def _filled(values: np.ndarray, seen: np.ndarray, subject: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Numbers with the line between a subject's records where there is none, its first and last held on, else NaN."""
    n, out = len(values), np.where(seen, values, 0.0)
    row = np.arange(n)
    for j in columns:
        has = seen[:, j]
        before = np.maximum.accumulate(np.where(has, row, -1)) if n else row
        after = np.minimum.accumulate(np.where(has, row, n)[::-1])[::-1] if n else row
        left, right = np.maximum(before, 0), np.minimum(after, max(n - 1, 0))
        known, coming = (before >= 0) & (subject[left] == subject), (after < n) & (subject[right] == subject)
        share = np.where(known & coming, (row - left) / np.maximum(right - left, 1), np.where(known, 0.0, 1.0))
        line = (1 - share) * values[left, j] + share * values[right, j]
        out[:, j] = np.where(has, values[:, j], np.where(known | coming, line, np.nan))
    return out


# -- normalisation of each patient -------------------------------------------------------------------------------------


def _scaled(
    seq: SequenceArrays, values: np.ndarray, seen: np.ndarray, columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centre and log half-range of each patient and column, are they there, scaled values)."""
    n, values = len(seq.length), values.copy()
    extra, there = np.zeros((n, 2 * len(columns))), np.zeros((n, 2 * len(columns)), bool)
    for i, j in enumerate(columns):
        high, low = np.full(n, -np.inf), np.full(n, np.inf)
        rows = seen[:, j]
        np.maximum.at(high, seq.subject[rows], values[rows, j])
        np.minimum.at(low, seq.subject[rows], values[rows, j])
        any_, half = np.isfinite(high), np.where(np.isfinite(high), (high - low) / 2, 0.0)
        wide = half > 1e-3
        centre = np.where(any_, (np.where(any_, high, 0) + np.where(any_, low, 0)) / 2, 0.0)
        extra[:, 2 * i], there[:, 2 * i] = centre, any_
        extra[:, 2 * i + 1], there[:, 2 * i + 1] = np.where(wide, np.log(np.maximum(half, 1e-3)), 0.0), wide
        shifted = values[:, j] - centre[seq.subject]
        values[:, j] = np.where(rows & wide[seq.subject], shifted / np.maximum(half, 1e-3)[seq.subject], 0.0)
    return extra, there, values


def _numbers(features: Sequence[Feature]) -> list[int]:
    return [j for j, f in enumerate(features) if f.kind == "number"]


def _starts(
    counts: Sequence[int], values: torch.Tensor, seen: torch.Tensor, shut: Mapping[int, np.ndarray]
) -> list[list[float]]:
    """Log odds of being observed for a number, log shares of its ids for a category, of the rows in which the column is
    there; what never occurs gets -12."""
    found = []
    for j, n_ids in enumerate(counts):
        rows = torch.from_numpy(~shut[j]) if j in shut else slice(None)
        n = max(len(values[rows]), 1)
        if not n_ids:
            share = (float(seen[rows, j].sum()) + 0.5) / (n + 1)
            found.append([float(np.log(share / (1 - share)))])
        else:
            count = np.bincount(values[rows, j].numpy().astype(int), minlength=n_ids)
            found.append(np.where(count > 0, np.log(np.maximum(count, 1) / n), NEVER).tolist())
    return found
