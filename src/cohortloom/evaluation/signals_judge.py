"""Judges of waveforms: can a classifier tell them from real ones, and do labels mean what they mean in real ones?

The classifier sees random convolutions (MiniROCKET's kind): kernels of length 9 with weights -1 and 2 that sum to zero,
random dilation, applied to one to three channels; of each response the share above thresholds (quantiles of training
responses) and the largest value. A logistic regression on these is a strong judge of short and long series alike and
needs no tuning. A second judge is boosting on the intervals of each record.

    discriminative AUC   synthetic against held-out, folds by patient; .5 is a draw
    per-label fidelity   a classifier of each label, trained on real training records: AUC on held-out less AUC on
                         synthetic records

References:
    Dempster, Schmidt, Webb (2021). MiniRocket: a very fast (almost) deterministic transform for time series
    classification. KDD. doi:10.1145/3447548.3467231
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cohortloom.evaluation.detection import auc, auc_interval, judge, one_thread
from cohortloom.evaluation.intervals import not_computed, not_measurable
from cohortloom.evaluation.signals_sides import Side, SignalContext
from cohortloom.report import Goal, Score

__all__ = ["Kernels", "has", "scores", "series"]

FS = 128.0
MOST_SAMPLES = 1500
TOLERANCE = 0.65
FEWEST = 15


@dataclass
class Kernels:
    """Random convolutions with thresholds fitted on some records.

    Args:
        channels: Channels each kernel adds up (padded with -1), kernel x 3.
        place: Which three of the nine weights are 2, kernel x 3.
        dilation: Per kernel.
        thresholds: kernel x 4.
        scale: Per channel.
    """

    channels: np.ndarray
    place: np.ndarray
    dilation: np.ndarray
    thresholds: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, n: int, rng: np.random.Generator) -> Kernels:
        """Draw n kernels for records (record x channel x sample)."""
        n_channels, length = x.shape[1:]
        channels = np.full((n, 3), -1)
        for k in range(n):
            take = rng.integers(1, min(3, n_channels) + 1)
            channels[k, :take] = rng.choice(n_channels, take, replace=False)
        place = np.stack([rng.choice(9, 3, replace=False) for _ in range(n)])
        most = max(1.0, (length - 1) / 16)
        dilation = np.floor(2 ** rng.uniform(0, np.log2(most + 1e-9) if most > 1 else 0, n)).astype(int).clip(1)
        scale = np.maximum(np.median(x.std(axis=2), axis=0), 1e-9)
        made = cls(channels, place, dilation, np.zeros((n, 4)), scale)
        few = x[rng.permutation(len(x))[:50]]
        for k, response in enumerate(made._responses(few)):
            made.thresholds[k] = np.quantile(response, rng.uniform(0.05, 0.95, 4))
        return made

    def _responses(self, x: np.ndarray):
        x = (x / self.scale[:, None]).astype(np.float32)
        for channels, place, d in zip(self.channels, self.place, self.dilation, strict=True):
            y = x[:, channels[channels >= 0]].sum(axis=1)
            n = y.shape[1] - 8 * d
            total = sum((y[:, i * d : i * d + n] for i in range(9)), start=np.float32(0))
            yield 3 * sum(y[:, i * d : i * d + n] for i in place) - total

    def transform(self, x: np.ndarray) -> np.ndarray:
        """record x (kernel, 5)."""
        out = []
        for k, r in enumerate(self._responses(x)):
            out += [(r > t).mean(axis=1) for t in self.thresholds[k]]
            out.append(r.max(axis=1) / (np.abs(self.thresholds[k]).max() + 1e-6))
        return np.stack(out, axis=1).astype(np.float64)


def series(ctx: SignalContext, side: Side) -> np.ndarray:
    """record x channel x sample at about 128 Hz, all of one length: the middle of long records, short ones padded."""
    from scipy.signal import resample_poly  # heavy

    if "series" not in side.memo:
        lengths = np.concatenate([s.signal.records["n_samples"].to_numpy() for s in ctx.views.values()])
        down = max(1, int(ctx.spec.fs // FS))
        n = min(int(np.quantile(lengths, 0.1)) // down, MOST_SAMPLES)
        out = np.zeros((len(side.patient), len(ctx.spec.channels), max(n, 10)), dtype=np.float32)
        for row, r in enumerate(side):
            y = r.filled - np.median(r.filled, axis=1, keepdims=True)
            y = resample_poly(y, 1, down, axis=1, padtype="line") if down > 1 else y
            start = max(0, (y.shape[1] - n) // 2)
            part = y[:, start : start + out.shape[2]]
            out[row, :, : part.shape[1]] = part
        side.memo["series"] = out
    return side.memo["series"]


def _logistic(seed: int):
    from sklearn.linear_model import LogisticRegression  # heavy
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, random_state=seed % 2**31))


def scores(ctx: SignalContext) -> list[Score]:
    """Both judges and the labels."""
    return [_convolutions(ctx), _intervals(ctx), *_labels(ctx)]


# -- detection -------------------------------------------------------------------------------------------------------


def _convolutions(ctx: SignalContext) -> Score:
    key, name = f"signals.{ctx.name}.judge", f"{ctx.name}: judge on random convolutions, AUC"
    real = np.concatenate([series(ctx, ctx.views[k]) for k in ("train", "held_out")])
    kernels = Kernels.fit(real, 60 if ctx.fast else 150, ctx.rng.child("kernels").numpy)
    seen = {k: kernels.transform(series(ctx, s)) for k, s in ctx.views.items()}
    return _detect(ctx, key, name, seen, _cross_validated)


def _intervals(ctx: SignalContext) -> Score:
    key, name = f"signals.{ctx.name}.judge_intervals", f"{ctx.name}: judge on intervals, AUC"
    names = [c for c in ctx.views["train"].features.columns if c != "row"]
    if not names:
        return not_computed(ctx, key, name, "no feature is known for this kind of signal")
    seen = {k: np.stack([s.column(c) for c in names], axis=1) for k, s in ctx.views.items()}

    def boosted(x, label, patient, seed):
        score, of, _, _ = judge(x.astype(np.float32), label, patient, seed=seed, fast=ctx.fast)
        return score, of

    return _detect(ctx, key, name, seen, boosted)


def _cross_validated(x: np.ndarray, label: np.ndarray, patient: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Score and label per patient: three folds by patient."""
    draw = np.random.default_rng(seed % 2**63)
    who, index = np.unique(patient, return_inverse=True)
    of = np.zeros(len(who), dtype=int)
    of[index] = label
    fold = np.zeros(len(who), dtype=int)
    for value in (0, 1):
        members = draw.permutation(np.flatnonzero(of == value))
        fold[members] = np.arange(len(members)) % 3
    out = np.zeros(len(label))
    with one_thread():
        for k in range(3):
            test = fold[index] == k
            out[test] = _logistic(seed + k).fit(x[~test], label[~test]).decision_function(x[test])
    return np.bincount(index, weights=out) / np.bincount(index), of


def _detect(ctx: SignalContext, key: str, name: str, seen: dict[str, np.ndarray], look) -> Score:
    from scipy.stats import norm  # heavy

    held = ctx.views["held_out"]
    result = {}
    for k in ("synthetic", "train", "bootstrap", "independent"):
        side = ctx.views["train" if k == "bootstrap" else k]
        n = min(side.n, held.n)
        if n < FEWEST:
            return not_computed(ctx, key, name, f"fewer than {FEWEST} patients with records on a side")
        draw = ctx.rng.child(key, k).numpy
        some, others = draw.permutation(side.n)[:n], draw.permutation(held.n)[:n]
        rows = np.flatnonzero(np.isin(side.patient, some))
        if k == "bootstrap":
            times = np.bincount(draw.integers(0, n, n), minlength=n)
            count = np.zeros(side.n, dtype=int)
            count[some] = times
            rows = np.repeat(np.arange(len(side.patient)), count[side.patient])
        real = np.flatnonzero(np.isin(held.patient, others))
        data = seen["train" if k == "bootstrap" else k]
        x = np.concatenate([data[rows], seen["held_out"][real]])
        label = np.concatenate([np.ones(len(rows), int), np.zeros(len(real), int)])
        patient = np.concatenate([side.patient[rows], held.patient[real] + side.n])
        score, of = look(x, label, patient, ctx.rng.integer(key, k))
        result[k] = auc(score, of), auc_interval(score, of)[1:], int(of.sum()), int((1 - of).sum())
    value, interval, a, b = result["synthetic"]
    null = np.sqrt((a + b + 1) / (12 * a * b))
    limit = max(TOLERANCE, float(0.5 + 1.3 * norm.ppf(1 - ctx.alpha) * null))
    measurable = value > limit or result["independent"][0] > limit
    return Score(
        name=name, group="signals", key=key, value=value, interval=interval, n=a, goal=Goal.NEAR, limit=limit,
        floor=result["train"][0], anchors={k: result[k][0] for k in ("bootstrap", "independent")},
        measurable=measurable, reason="" if measurable else not_measurable(ctx.n), details={"chance": 0.5},
    )  # fmt: skip


# -- labels ----------------------------------------------------------------------------------------------------------


def has(side: Side, label: str) -> np.ndarray:
    """Which records have a label."""
    texts = side.signal.records["label"].to_list()
    return np.array([t is not None and label in t.split("|") for t in texts])


def _labels(ctx: SignalContext) -> list[Score]:
    from scipy.stats import norm  # heavy

    key, name = f"signals.{ctx.name}.labels", f"{ctx.name}: labels, AUC lost"
    sides = ctx.views
    if any("label" not in s.signal.records.columns for s in sides.values()):
        return [not_computed(ctx, key, name, "records have no labels")]
    known = {
        t
        for s in (sides["train"], sides["held_out"])
        for x in s.signal.records["label"].drop_nulls()
        for t in x.split("|")
    }
    usable = []
    for label in sorted(known):
        counts = [
            (has(sides[k], label).sum(), (~has(sides[k], label)).sum()) for k in ("train", "held_out", "synthetic")
        ]
        if min(min(c) for c in counts) >= 8:
            usable.append(label)
    if not usable:
        return [not_computed(ctx, key, name, "no label has 8 records with and without it on every side")]
    kernels = Kernels.fit(series(ctx, sides["train"]), 60 if ctx.fast else 150, ctx.rng.child("label kernels").numpy)
    seen = {k: kernels.transform(series(ctx, s)) for k, s in sides.items()}
    rows, lost, error = [], [], []
    copies = ctx.rng.child("label copies").numpy.integers(0, len(seen["train"]), len(seen["train"]))
    anchors: dict[str, list[float]] = {"bootstrap": [], "independent": []}
    for label in usable[:12]:
        with one_thread():
            model = _logistic(ctx.rng.integer("label", label)).fit(seen["train"], has(sides["train"], label))
            said = {k: model.decision_function(x) for k, x in seen.items()}
        truth = {k: has(s, label).astype(int) for k, s in sides.items()}
        held = auc(said["held_out"], truth["held_out"])
        ours = auc(said["synthetic"], truth["synthetic"])
        se = np.hypot(auc_interval(said["held_out"], truth["held_out"])[0],
                      auc_interval(said["synthetic"], truth["synthetic"])[0])  # fmt: skip
        lost.append(held - ours)
        error.append(se)
        anchors["bootstrap"].append(held - auc(said["train"][copies], truth["train"][copies]))
        anchors["independent"].append(held - auc(said["independent"], truth["independent"]))
        rows.append({"label": label, "real": round(held, 4), "synthetic": round(ours, 4)})
    far = float(norm.ppf(1 - ctx.alpha))
    worst = int(np.argmax(np.array(lost) - far * np.array(error)))
    se = float(error[worst])
    limit = max(0.1, far * se)
    value = float(lost[worst])
    blank = float(np.nanmax(anchors["independent"]))
    measurable = bool(value > limit or blank > limit)
    return [
        Score(
            name=f"{name}, worst: {usable[worst]}", group="signals", key=key, value=value,
            interval=(value - 1.96 * se, value + 1.96 * se), n=ctx.n, limit=limit, floor=0.0,
            anchors={"bootstrap": anchors["bootstrap"][worst], "independent": anchors["independent"][worst]},
            measurable=measurable, reason="" if measurable else not_measurable(ctx.n), details={"labels": rows},
        )
    ]  # fmt: skip
