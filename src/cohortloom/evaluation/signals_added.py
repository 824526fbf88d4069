"""Does adding the synthetic records help a classifier of a label, and more than simple means would?

For each label a classifier is trained on the same real training records

    real         as they are
    copies       those with the label counted as often as those without
    transformed  with transformed copies of those with the label: shifted, stretched, scaled, noise added
    synthetic    with the synthetic records

and tested on held-out patients by AUROC. It is ridge regression on random convolutions (as in MiniROCKET); each arm
chooses its penalty by folds of real training patients, and weights sum to the same in every arm, so that none wins by a
weaker penalty. What counts is the difference to the first two, whichever those folds favour. Its variance is that of
held-out patients (bootstrap, models fixed) plus half of the jackknife's by tenths of the training patients, real and
synthetic; the half was chosen on small cohorts with known truth, and `benchmarks.added_records` compares it with the
spread over others. It is the answer for this synthetic cohort; another draw of the generator, or a classifier of
another kind, may do otherwise.

    helped          the 95 % interval lies above 0, and the classifier is better than guessing
    harmed          below 0, and it was better than guessing, or is worse now
    no difference   within 0.03 of it
    can't be told   else

References:
    Dempster, Schmidt, Webb (2021), doi:10.1145/3447548.3467231. Iwana, Uchida (2021). An empirical survey of data
    augmentation for time series classification with neural networks. PLoS ONE 16(7):e0254841.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.detection import auc, one_thread
from cohortloom.evaluation.signals_judge import Kernels, has, series
from cohortloom.evaluation.signals_sides import Side, SignalContext
from cohortloom.report import Score

__all__ = ["ARMS", "scores", "transformed"]

ARMS = ("real", "copies", "transformed", "synthetic")
FEWEST_TRAIN, FEWEST_HELD_OUT = 4, 8  # patients with the label, and without
TOLERANCE = 0.05
SAME = 0.03
PENALTIES, FOLDS, NEAR = tuple(10.0**k for k in range(-1, 5)), 4, 0.02
GROUPS, JACKKNIFE = 10, 0.5
MOST_LABELS, MOST_MADE, KERNELS = 6, 400, 80


def scores(ctx: SignalContext) -> list[Score]:
    """One score of each label that both real sides have in enough patients; none where the synthetic side has none."""
    sides = {k: ctx.views[k] for k in ("train", "synthetic", "held_out", "independent")}
    if any("label" not in s.signal.records.columns for s in sides.values()):
        return []
    if not sides["synthetic"].signal.records["label"].drop_nulls().len():
        return []
    texts = sides["train"].signal.records["label"].drop_nulls()
    share = {t: has(sides["train"], t).mean() for t in sorted({t for x in texts for t in x.split("|")})}
    usable = [t for t, s in sorted(share.items(), key=lambda item: item[1]) if s <= 0.5 and not _too_few(sides, t)]
    if not usable:
        return []
    draw = ctx.rng.child("added kernels").numpy
    kernels = Kernels.fit(series(ctx, sides["train"]), 60 if ctx.fast else KERNELS, draw)
    seen = {k: _with_bias(kernels.transform(series(ctx, s))) for k, s in sides.items()}
    with one_thread():
        return [_score(ctx, label, kernels, sides, seen) for label in usable[:MOST_LABELS]]


def _too_few(sides: dict[str, Side], label: str) -> bool:
    for k, least in (("train", FEWEST_TRAIN), ("held_out", FEWEST_HELD_OUT)):
        mine = has(sides[k], label)
        if min(len(np.unique(sides[k].patient[mine])), len(np.unique(sides[k].patient[~mine]))) < least:
            return True
    return False


def _with_bias(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def transformed(x: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`n` records (record x channel x sample) made of others: stretched by up to 10 %, shifted, scaled, with noise.

    Returns:
        The records, and the row each was made of.
    """
    of = rng.integers(0, len(x), n)
    length = x.shape[2]
    made = np.empty((n, *x.shape[1:]), dtype=np.float32)
    for i, row in enumerate(of):
        rate, start = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1) * length
        place = np.clip(start + rate * np.arange(length), 0, length - 1)
        low = np.minimum(place.astype(int), length - 2)
        y = x[row][:, low] + (place - low) * (x[row][:, low + 1] - x[row][:, low])
        noise = 0.05 * y.std(axis=1, keepdims=True) * rng.standard_normal(y.shape)
        made[i] = rng.lognormal(0, 0.15) * y + noise
    return made, of


class _Arms:
    """What each arm is trained on: rows of one matrix, labels, patients, and weights that sum to the real records."""

    def __init__(self, ctx: SignalContext, label: str, kernels: Kernels, sides: dict[str, Side], seen: dict) -> None:
        self.real, rng = seen["train"], ctx.rng.child("added", label).numpy
        y, who = has(sides["train"], label), sides["train"].patient
        made_y, made_who = has(sides["synthetic"], label), sides["synthetic"].patient
        n = int(np.clip(made_y.sum(), 1, MOST_MADE))
        more, of = transformed(series(ctx, sides["train"])[y], n, rng)
        blank = sides["independent"]
        self.parts = {  # features, label, patient; patients of the synthetic side have numbers of their own
            "real": (seen["train"], y, who),
            "transformed": (_with_bias(kernels.transform(more)), np.ones(n, bool), who[y][of]),
            "synthetic": (seen["synthetic"], made_y, made_who + who.max() + 1),
            "independent": (seen["independent"], has(blank, label), blank.patient + who.max() + 1),
        }
        self.folds_said: dict[str, float] = {}
        self.group = {k: _spread(y, who, GROUPS, rng) for k, (_, y, who) in self.parts.items()}
        self.group["transformed"] = self.group["real"]
        self.fold = _spread(y, who, FOLDS, rng)
        self.penalty = {arm: self._penalty(arm) for arm in (*ARMS, "independent")}

    def fitted(self, arm: str, *, fold: int = -1, group: int = -1, penalty: float = 0.0) -> np.ndarray:
        """Coefficients of an arm.

        Args:
            arm: One of ARMS, or "independent".
            fold: Fold of real patients, and of what is transformed of them, that is left out.
            group: The same of a tenth of all patients, synthetic ones too.
            penalty: In place of the one chosen for the arm.
        """
        names = ("real",) if arm in ("real", "copies") else ("real", arm)
        x, y, w = [], [], []
        for name in names:
            features, label, who = self.parts[name]
            count = (self.group[name][who] != group).astype(float)
            if name in ("real", "transformed"):
                count *= self.fold[who] != fold
            x.append(features)
            y.append(label)
            w.append(count)
        features, target, weight = np.concatenate(x), np.where(np.concatenate(y), 1.0, -1.0), np.concatenate(w)
        if arm == "copies":
            sums = {v: max(weight[target == v].sum(), 1e-9) for v in (1.0, -1.0)}
            weight = weight / np.where(target > 0, sums[1.0], sums[-1.0])
        total = w[0].sum()
        return _ridge(features, target, weight * total / max(weight.sum(), 1e-9), penalty or self.penalty[arm])

    def _penalty(self, arm: str) -> float:
        """The largest one that is near the best AUC over folds of real training patients."""
        x, y, who = self.parts["real"]
        found = []
        for penalty in PENALTIES:
            said = np.zeros(len(y))
            for k in range(FOLDS):
                out = self.fold[who] == k
                said[out] = x[out] @ self.fitted(arm, fold=k, penalty=penalty)
            found.append(auc(said, y.astype(int)))
        self.folds_said[arm] = max(found)
        return PENALTIES[max(i for i, value in enumerate(found) if value >= max(found) - NEAR)]


def _spread(label: np.ndarray, who: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """A group from 0 to n - 1 for each patient; those with the label are dealt out evenly."""
    group, positive = np.zeros(who.max() + 1, dtype=int), np.zeros(who.max() + 1, dtype=bool)
    positive[who[label]] = True
    for part in (positive, ~positive):
        members = rng.permutation(np.flatnonzero(part))
        group[members] = np.arange(len(members)) % n
    return group


def _ridge(x: np.ndarray, y: np.ndarray, weight: np.ndarray, penalty: float) -> np.ndarray:
    """Weighted ridge regression on standardised columns; the last column is the constant."""
    share = weight / weight.sum()
    mean = share @ x[:, :-1]
    spread = np.sqrt(np.maximum(share @ np.square(x[:, :-1] - mean), 1e-12))
    z = (x[:, :-1] - mean) / spread
    middle = share @ y
    root = np.sqrt(weight)[:, None]
    a, b = root * z, root[:, 0] * (y - middle)
    if len(a) < a.shape[1]:  # as many equations as records
        slope = a.T @ np.linalg.solve(a @ a.T + penalty * np.eye(len(a)), b)
    else:
        slope = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b)
    slope = slope / spread
    return np.append(slope, middle - mean @ slope)


def _score(ctx: SignalContext, label: str, kernels: Kernels, sides: dict[str, Side], seen: dict) -> Score:
    from scipy.stats import norm  # heavy

    arms = _Arms(ctx, label, kernels, sides, seen)
    rng, held = ctx.rng.child("added draws", label).numpy, sides["held_out"]
    truth = has(held, label).astype(int)
    said = {arm: seen["held_out"] @ arms.fitted(arm) for arm in (*ARMS, "independent")}
    value = {arm: auc(s, truth) for arm, s in said.items()}
    tests = np.empty((100 if ctx.fast else 300, len(ARMS)))
    for draw in tests:
        rows = _rows_of(held.patient, rng)
        draw[:] = [auc(said[arm][rows], truth[rows]) for arm in ARMS]
    left = np.array([[auc(seen["held_out"] @ arms.fitted(arm, group=g), truth) for arm in ARMS] for g in range(GROUPS)])

    def error(arm: str, other: str) -> float:
        i, j = ARMS.index(arm), ARMS.index(other)
        jackknife = JACKKNIFE * (GROUPS - 1) * np.var(left[:, i] - left[:, j])
        return max(float(np.sqrt(np.nanvar(tests[:, i] - tests[:, j], ddof=1) + jackknife)), 1e-6)

    base = max(("real", "copies"), key=lambda arm: arms.folds_said[arm])
    gain, se = {arm: value[arm] - value[base] for arm in value}, {arm: error(arm, base) for arm in ARMS}
    alone = dict(zip(ARMS, 1.96 * np.nanstd(tests, axis=0, ddof=1), strict=True))
    better = max(("synthetic", base), key=lambda arm: value[arm])
    guess = value[better] - alone[better] <= 0.5 and value["synthetic"] + alone["synthetic"] >= 0.5
    told = _told(gain["synthetic"], se["synthetic"], guess)
    limit, lost = max(TOLERANCE, float(norm.ppf(1 - ctx.alpha)) * se["synthetic"]), -gain["synthetic"]
    measurable = bool(lost > limit or (-gain["independent"] > limit and told != "harmed"))
    low, high = gain["synthetic"] - 1.96 * se["synthetic"], gain["synthetic"] + 1.96 * se["synthetic"]
    n = {k: len(np.unique(sides[k].patient[has(sides[k], label)])) for k in ("train", "synthetic")}
    simple = value["transformed"] - value["synthetic"]
    far = 1.96 * error("transformed", "synthetic")
    beside = "more" if simple > far else "less" if simple < -far else "no different as far as can be told"
    sentence = (
        f"{_WORDS[told].format(label)}: AUROC {value['synthetic']:.2f} with them, {value[base]:.2f} without, on "
        f"held-out patients (gain {gain['synthetic']:+.2f}, 95 % {low:+.2f} to {high:+.2f}; {n['train']} training "
        f"patients have it). Transformed copies of real records give {value['transformed']:.2f} ({beside})."
    )
    rows = [
        {"trained on": arm, "AUROC": round(value[arm], 4), "gain": round(gain[arm], 4),
         "low": round(gain[arm] - 1.96 * se[arm], 4), "high": round(gain[arm] + 1.96 * se[arm], 4)}
        for arm in ARMS
    ]  # fmt: skip
    return Score(
        name=f'{ctx.name}: AUROC of "{label}" lost by adding synthetic records (negative: gained)', group="signals",
        key=f"signals.{ctx.name}.added.{_slug(label)}", value=lost, interval=(-high, -low), n=n["synthetic"],
        limit=limit, floor=0.0, anchors={"bootstrap": -gain["copies"], "independent": -gain["independent"]},
        measurable=measurable, reason=sentence, details={"answer": told, "told": sentence, "arms": rows},
    )  # fmt: skip


_WORDS = {
    "helped": 'Adding the synthetic records helped a classifier find "{}"',
    "harmed": 'Adding the synthetic records harmed a classifier of "{}"',
    "no difference": 'Adding the synthetic records made no difference to a classifier of "{}"',
    "can't be told": 'Whether adding the synthetic records helps a classifier find "{}" can\'t be told',
}


def _told(gain: float, se: float, guess: bool) -> str:
    """The answer; where nobody does better than guessing there was nothing to help or to harm."""
    low, high = gain - 1.96 * se, gain + 1.96 * se
    if low > 0 and not guess:
        return "helped"
    if high < 0 and not guess:
        return "harmed"
    return "no difference" if low > -SAME and high < SAME else "can't be told"


def _rows_of(who: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of patients drawn with replacement."""
    n = who.max() + 1
    return np.repeat(np.arange(len(who)), np.bincount(rng.integers(0, n, n), minlength=n)[who])


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label.lower()).strip("_") or "label"
