"""How much rarer a drawn patient is than a real one, told by boosted trees on patient summaries.

A model of small factors (the next visit given the past) gathers errors over a whole course that no factor shows. A
classifier that tells drawn from training patients by their summaries knows them: with as much weight on either side,

    log p_real(x) / p_drawn(x) = log odds that x is real

so a patient is drawn until a draw is accepted, with probability w / bound (rejection sampling); after a limit one of
its draws is kept with odds w (sampling importance resampling). Either moves the drawn law towards the real one in all
that the classifier sees. The trees see training patients, so what they say is only trusted as far as it holds for
patients they have not seen: their log odds are scaled by a logistic regression on the folds left out, and where these
patients gain nothing there is no ratio. Where every draw is told from every patient the odds say nothing of who is
real: the least suspicious draws are those of whom little is recorded, and choosing them bends the law of all that was
right before. So the scale is the share of `SCALES` with which the summaries of left-out draws lie nearest to those of
patients; if that is none, there is no ratio. And since long courses show a fault more surely than short ones, bounded
weights make drawn courses shorter: a term of the number of rows is added that gives it the law it has in patients.

References:
    Sugiyama, Suzuki, Kanamori (2012). Density Ratio Estimation in Machine Learning, chapter 4.
    Rubin (1987). The SIR algorithm. JASA 82(398). Azadi et al. (2019). Discriminator rejection sampling.
    arXiv:1810.06758. Deng et al. (2020). Residual energy-based models for text generation. arXiv:2004.11714.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.cohort.features import Vocabulary, patient_features
from cohortloom.rng import Rng
from cohortloom.sharding import merge

__all__ = ["FEWEST", "DensityRatio", "Trees", "chosen"]

FEWEST = 40  #: Patients below which nothing is learned.
MOST = 4000  #: Training patients looked at, and half of the drawn ones.
FOLDS = 5
STAGES = (25, 50, 100, 200, 400)  #: Numbers of trees that are tried.
WORTH = 0.55  #: AUC from which a difference is worth several draws.
MASS = 0.95  #: Of the weight of drawn patients that lies below the bound,
DRAWS = 6.0  #: or as much as so many draws on average reach.
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)  #: Of the log odds; among these weights the summaries decide.
PER_SIZE, SIZES = 50, 6  #: Patients for each of so many numbers of rows, at most.
OFF = 0.1  #: Difference of the shares of numbers of rows that is mended (half the sum).
MOST_TERM = 2.0  #: By which the odds at a number of rows may change at once [nat].
CANDIDATES = 16  #: The most that is drawn for one patient.


@dataclass(frozen=True)
class Trees:
    """Regression trees in arrays; node 0 is the root, a leaf is its own child.

    Args:
        feature: Feature a node looks at [tree node].
        threshold: Up to which value it sends to the left [tree node].
        left, right: Child nodes [tree node].
        missing_left: Where missing values go [tree node].
        value: What a leaf says [tree node].
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, model: Any, features: np.ndarray) -> Trees:
        """Those of a fitted HistGradientBoostingClassifier.

        Args:
            model: Two classes, numbers only.
            features: What its columns are called here [column].
        """
        nodes = [tree.nodes for stage in model._predictors for tree in stage]
        most = 2 * model.max_leaf_nodes - 1
        shape = (len(nodes), most)
        out = cls(
            np.zeros(shape, np.int64), np.zeros(shape), np.tile(np.arange(most), (len(nodes), 1)),
            np.tile(np.arange(most), (len(nodes), 1)), np.zeros(shape, bool), np.zeros(shape),
        )  # fmt: skip
        for i, tree in enumerate(nodes):
            inner = np.flatnonzero(tree["is_leaf"] == 0)
            out.feature[i, inner] = features[tree["feature_idx"][inner]]
            out.threshold[i, inner] = tree["num_threshold"][inner]
            out.left[i, inner], out.right[i, inner] = tree["left"][inner], tree["right"][inner]
            out.missing_left[i, inner] = tree["missing_go_to_left"][inner] != 0
            out.value[i, : len(tree)] = np.where(tree["is_leaf"] != 0, tree["value"], 0.0)
        return out

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Sum of all trees [row] at features [row feature]."""
        parts = np.array_split(x, max(1, -(-len(x) // 512)))
        return np.concatenate([self.each(part).sum(axis=1) for part in parts])

    def each(self, x: np.ndarray) -> np.ndarray:
        """What every tree says [row tree]."""
        n_trees, n_nodes = self.value.shape
        root = np.arange(n_trees) * n_nodes  # nodes of all trees, one after the other
        children = np.stack([self.left + root[:, None], self.right + root[:, None]], axis=-1).ravel()
        feature, threshold, value = self.feature.ravel(), self.threshold.ravel(), self.value.ravel()
        missing_right = ~self.missing_left.ravel()
        begin, flat = np.arange(len(x))[:, None] * x.shape[1], np.ascontiguousarray(x).ravel()
        node = np.repeat(root[None], len(x), axis=0)
        while True:
            at = flat.take(begin + feature.take(node))
            right = at > threshold.take(node)
            unknown = np.isnan(at)
            right[unknown] = missing_right.take(node[unknown])
            below = children.take(2 * node + right)
            if (below == node).all():
                return value.take(node)
            node = below

    def first(self, n: int) -> Trees:
        """The first of them."""
        return Trees(**{name: array[:n] for name, array in vars(self).items()})

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(array) for name, array in vars(self).items()}


@dataclass(frozen=True)
class DensityRatio:
    """log p_real / p_drawn of a patient, up to a constant.

    Args:
        trees: Of all folds.
        names: The summaries they look at.
        vocabulary: Levels that have summaries of their own, those of drawn patients.
        slope: Of the log odds, from the folds left out.
        bound: Of the ratio; a draw of at least this ratio is accepted [nat].
        candidates: Draws of a patient, at most.
        auc: How well patients left out are told apart.
        sizes, terms: What is added at a log number of rows [nat], linear between.
    """

    trees: Trees
    names: tuple[str, ...]
    vocabulary: Vocabulary
    slope: float
    bound: float
    candidates: int
    auc: float
    sizes: tuple[float, ...] = (0.0,)
    terms: tuple[float, ...] = (0.0,)

    @classmethod
    def fit(cls, real: Cohort, drawn: Cohort, rng: Rng, *, candidates: int | None = None) -> DensityRatio | None:
        """Learn to tell drawn from real patients.

        Args:
            real: Training patients.
            drawn: Patients of the model, about twice as many.
            rng: Stream of folds and trees.
            candidates: Draws of a patient, at most; None: thrice what it takes on average to have one accepted, 2 to
                `CANDIDATES`.

        Returns:
            None where patients left out are hardly told apart: with an AUC below `WORTH`, or a mean gain in log loss
            over a guess of less than two standard errors, or if weights bring no summaries nearer.
        """
        vocabulary = Vocabulary.of([drawn])
        parts = [patient_features(cohort, vocabulary) for cohort in (real, drawn)]
        x = np.concatenate([part.values for part in parts])
        y = np.repeat([0.0, 1.0], [len(part.values) for part in parts])
        weight = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        fold = rng.child("folds").numpy.permutation(len(y)) % FOLDS
        logit, trees = np.zeros((len(STAGES), len(y))), []
        for k in range(FOLDS):
            rest = fold != k
            alive = _varied(x[rest])
            if not len(alive):
                return None
            model = _boosting(rng.integer("fold", k), len(y))
            trees.append(_fitted(model, x[rest][:, alive], y[rest], weight[rest], alive))
            logit[:, ~rest] = np.cumsum(trees[-1].each(x[~rest]), axis=1)[:, np.array(STAGES) - 1].T
        stages = [(*_calibrated(line, y, weight), line, n) for line, n in zip(logit, STAGES, strict=True)]
        slope, gain, logit, n_trees = max(stages, key=lambda s: np.average(s[1], weights=weight))
        error = np.sqrt(sum(gain[y == side].var() / max((y == side).sum(), 1) for side in (0, 1)) / 4)
        told = _auc(logit, y)
        if slope <= 0 or told < WORTH or np.average(gain, weights=weight) < 2 * error:
            return None
        trees = [t.first(n_trees) for t in trees]
        rows = [_log_rows(cohort) for cohort in (real, drawn)]
        share, sizes, terms = _scale(x, y, -slope * logit[y == 1], rows)
        slope *= share
        if not slope:
            return None
        kept, whole = np.unique(np.concatenate([t.feature.ravel() for t in trees])), _joined(trees)
        odds = np.exp(-slope * logit[y == 1] + np.interp(rows[1], sizes, terms))
        bound = _bound(odds)
        return cls(
            replace(whole, feature=np.searchsorted(kept, whole.feature)),
            tuple(parts[0].names[i] for i in kept),
            vocabulary,
            slope / FOLDS,
            float(np.log(bound)),
            candidates or int(np.clip(np.ceil(3 * bound / np.minimum(odds, bound).mean()), 2, CANDIDATES)),
            told,
            tuple(sizes.tolist()),
            tuple(terms.tolist()),
        )

    def log_ratio(self, cohort: Cohort) -> np.ndarray:
        """Of each patient, in the order of `cohort.subjects`, up to a constant [nat]."""
        found = patient_features(cohort, self.vocabulary)
        place = {name: i for i, name in enumerate(found.names)}
        said = self.trees(found.values[:, [place[name] for name in self.names]])
        return np.interp(_log_rows(cohort), self.sizes, self.terms) - self.slope * said

    def facts(self) -> dict[str, Any]:
        """All but the trees, as plain JSON."""
        levels = {path: list(values) for path, values in self.vocabulary.levels.items()}
        plain = {name: getattr(self, name) for name in ("slope", "bound", "candidates", "auc")}
        by_size = {name: list(getattr(self, name)) for name in ("sizes", "terms")}
        return {"names": list(self.names), "levels": levels, **plain, **by_size}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> DensityRatio:
        """The reverse of `facts` and `Trees.tensors`.

        Raises:
            TypeError, ValueError: arrays that are no trees on these summaries.
        """
        trees, n = Trees(**tensors), len(facts["names"])
        node = np.arange(trees.value.shape[1])
        for child in (trees.left, trees.right):  # children come after their parent, so every path ends
            if ((child < node) | (child >= len(node))).any():
                raise ValueError("a node below itself")
        if ((trees.feature < 0) | (trees.feature >= n)).any():
            raise ValueError("no such summary")
        levels = {path: tuple(values) for path, values in facts["levels"].items()}
        plain = {name: facts[name] for name in ("slope", "bound", "candidates", "auc")}
        plain |= {name: tuple(facts[name]) for name in ("sizes", "terms") if name in facts}
        if len(plain.get("sizes", (0.0,))) != len(plain.get("terms", (0.0,))):
            raise ValueError("sizes without terms")
        return cls(trees=trees, names=tuple(facts["names"]), vocabulary=Vocabulary(levels), **plain)


def chosen(ratio: DensityRatio, ids: np.ndarray, draw: Callable[[int, np.ndarray], Cohort], rng: Rng) -> Cohort:
    """The first draw of each patient that is accepted, or else one of all, with odds as the ratio says.

    Args:
        ratio: Of whom there is too little among drawn patients.
        ids: Patients, ascending.
        draw: Draws the patients at some places of `ids` for the k-th time.
        rng: Stream of the choice.
    """
    best, pick, parts, left = np.full(len(ids), -np.inf), np.full(len(ids), -1), [], np.arange(len(ids))
    for k in range(ratio.candidates):
        part = draw(k, left)
        place = np.searchsorted(ids, part.subjects.to_numpy())
        weight, stream = ratio.log_ratio(part) - ratio.bound, rng.child(k)
        # the largest of log weights plus Gumbel noise is a draw in proportion to the weights
        value = weight + stream.child("least").numpy.gumbel(size=len(ids))[place]
        accepted = np.log1p(-stream.child("accept").numpy.random(len(ids)))[place] < weight
        value[accepted] = np.inf
        better = value > best[place]
        best[place[better]], pick[place[better]] = value[better], k
        parts.append(part.select(part.subjects.filter(pl.Series(better))))
        left = np.flatnonzero(best < np.inf)
        if not len(left):
            break
    kept = [part.select(ids[pick == k].tolist()) for k, part in enumerate(parts)]
    return merge(kept[0].schema, kept)


def _bound(odds: np.ndarray) -> float:
    """The least bound below which lies `MASS` of the weight (mean of min(odds, bound) against mean of odds), or the one
    with which a patient takes `DRAWS` draws."""
    odds = np.sort(odds)
    below = (np.cumsum(odds) + odds * np.arange(len(odds) - 1, -1, -1)) / len(odds)
    return float(min(np.interp(MASS, below / odds.mean(), odds), np.interp(DRAWS, odds / below, odds)))


def _log_rows(cohort: Cohort) -> np.ndarray:
    """Log of the number of rows of each patient, statics left out."""
    frames = [f.select("subject_id") for n, f in cohort.tables.items() if cohort.schema.tables[n].role != "static"]
    if not frames:
        return np.zeros(cohort.n_subjects)
    rows = pl.concat(frames).group_by("subject_id").len()
    counted = (
        cohort.subjects.alias("subject_id").to_frame().join(rows, on="subject_id", how="left", maintain_order="left")
    )
    return np.log1p(counted["len"].fill_null(0).to_numpy().astype(float))


def _by_size(real: np.ndarray, drawn: np.ndarray, log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log numbers of rows, and what to add to the log odds at each so that drawn ones get the law of real ones;
    nothing where they are hardly off."""
    n = int(np.clip(len(real) // PER_SIZE, 1, SIZES))
    edges = np.unique(np.quantile(real, np.arange(1, n) / n))
    place = [np.searchsorted(edges, x, side="left") for x in (real, drawn)]
    wanted, there = (np.bincount(p, minlength=len(edges) + 1) for p in place)
    held = np.flatnonzero((wanted > 0) & (there > 0))
    sizes = np.array([np.median(real[place[0] == k]) for k in held])
    terms = np.zeros(len(held))
    if len(held) < 2:
        return np.zeros(1), np.zeros(1)
    for turn in range(5):  # a term moves the bound, and the bound the weights
        odds = log_odds + np.interp(drawn, sizes, terms)
        odds = np.exp(odds - odds.max())
        weight = np.bincount(place[1], np.minimum(odds, _bound(odds)), minlength=len(edges) + 1)[held]
        shares = [n_in / n_in.sum() for n_in in (wanted[held], weight)]
        if not turn and np.abs(shares[0] - shares[1]).sum() / 2 < OFF:
            return np.zeros(1), np.zeros(1)
        step = np.log(shares[0]) - np.log(shares[1])
        terms = terms + np.clip(step, -MOST_TERM, MOST_TERM)
    return sizes, terms - terms.mean()


def _scale(
    x: np.ndarray, y: np.ndarray, log_odds: np.ndarray, rows: list[np.ndarray]
) -> tuple[float, np.ndarray, np.ndarray]:
    """The share of the log odds of draws [nat] whose weights, terms by size added, bring their summaries nearest to
    those of patients: the mean over summaries of the squared difference of mean ranks, less what chance makes of it.
    The greatest of those that are as good up to 2 % of the difference without weights; and its sizes and terms."""
    from scipy.stats import rankdata  # heavy

    known = np.isfinite(x)
    usual = np.flatnonzero((known[y == 0].mean(0) > 0.3) & (known[y == 1].mean(0) > 0.3))
    tried = [(scale, *_by_size(*rows, scale * log_odds)) for scale in SCALES]
    if not len(usual):
        return tried[-1]
    known = known[:, usual]
    rank = rankdata(x[:, usual], axis=0, nan_policy="omit") / known.sum(0)
    rank = np.where(known, rank, 0.0)

    def moments(side: float, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = known[y == side] * weight[:, None]
        total = held.sum(0)
        mean = (held * rank[y == side]).sum(0) / total
        spread = (held * (rank[y == side] - mean) ** 2).sum(0) / total
        return mean, spread * (held**2).sum(0) / total**2

    target, error = moments(0.0, np.ones(int((y == 0).sum())))
    far = []
    for scale, sizes, terms in tried:
        weight = scale * log_odds + (np.interp(rows[1], sizes, terms) if scale else 0.0)
        odds = np.exp(weight - weight.max())
        mean, chance = moments(1.0, np.minimum(odds, _bound(odds)))
        far.append(float(((mean - target) ** 2 - chance - error).mean()))
    return max((one for one, off in zip(tried, far) if off <= min(far) + 0.02 * max(far[0], 0.0)), key=lambda t: t[0])


def _boosting(seed: int, n: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier  # heavy

    many = n >= 4500
    return HistGradientBoostingClassifier(
        max_iter=STAGES[-1],
        learning_rate=0.1 if many else 0.05,
        max_leaf_nodes=16 if many else 8,
        max_features=0.2 if many else 0.3,
        min_samples_leaf=20,
        l2_regularization=5.0,
        max_bins=int(np.clip(n // 10, 8, 63)),  # no threshold lies between two single patients
        early_stopping=False,
        random_state=seed % 2**31,
    )


def _fitted(model: Any, x: np.ndarray, y: np.ndarray, weight: np.ndarray, features: np.ndarray) -> Trees:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    with threadpool_limits(1):
        return Trees.of(model.fit(x, y, sample_weight=weight), features)


def _varied(x: np.ndarray) -> np.ndarray:
    """Columns with two values or more."""
    known = np.isfinite(x)
    return np.flatnonzero(np.where(known, x, -np.inf).max(0) > np.where(known, x, np.inf).min(0))


def _joined(trees: list[Trees]) -> Trees:
    return Trees(**{name: np.concatenate([getattr(t, name) for t in trees]) for name in vars(trees[0])})


def _calibrated(logit: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """Slope of a logistic regression on log odds of patients left out, and their gain in log loss [nat]."""
    from sklearn.linear_model import LogisticRegression  # heavy

    line = LogisticRegression(C=1e6).fit(logit[:, None], y, sample_weight=weight)
    log_p = -np.logaddexp(0.0, np.where(y == 1, -1.0, 1.0) * line.decision_function(logit[:, None]))
    return float(line.coef_[0, 0]), log_p + np.log(2.0)


def _auc(score: np.ndarray, y: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score  # heavy

    return float(roc_auc_score(y, score))
