"""A record in a few numbers, and the law of those numbers given the patient's record. All in closed form.

`LinearCode` is a linear variational autoencoder: x = W z + mu + noise, z ~ Normal(0, I). The optimum of its evidence
bound is known, probabilistic PCA, so nothing is trained:

    W = U_k (Lambda_k - s2 I)^(1/2),   z | x ~ Normal(M^-1 W' (x - mu), s2 M^-1),   M = W'W + s2 I

and with only some coordinates of x seen (a lead is missing) the same formula holds with the rows of W that are seen.

`RecordPrior` draws y (code, rhythm, texture) given the context c: y = A c + b + s(c) e, ridge regression with residuals
e from a Gaussian mixture; its parts are found (how many, by BIC) in the few coordinates that records differ most in, as
inverted leads or wide beats are kinds of records. Each residual is then brought to its own quantiles in training (the
parts seldom catch the skew of one of them). Their size depends on c too, log s = B c / 2 from a ridge regression of the
log squares: in fibrillation the mean rate strays from the pulse, in sinus rhythm it does not.
Of one patient's records the standard normal draws behind e are correlated, by the intraclass correlation found in
training: the same heart, another day. Context that is unknown is drawn given what is known, so a missing condition
widens the law instead of shifting it.

`LabelLaw` draws a record's set of labels given the rest of the context (linear discriminant), with one uniform number
from each n-th of (0, 1): a small cohort has as many records of a label as its law says, not by chance a third fewer.

References:
    Tipping, Bishop (1999). Probabilistic principal component analysis. J R Stat Soc B 61:611. Lucas et al. (2019).
    Don't blame the ELBO! A linear VAE perspective on posterior collapse. arXiv:1911.02469. Ledoit, Wolf (2004).
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from cohortloom.rng import Rng

__all__ = ["LabelLaw", "LinearCode", "RecordPrior"]

PARTS = 4
#: Coordinates that kinds of records are looked for in, the fewest records of a kind, and how many records' worth of the
#: covariance around the means of all kinds each kind borrows.
LEADING, FEWEST, BORROWED = 3, 10, 2
#: Quantiles that a residual's own distribution is kept by, and the records each needs.
LEVELS, PER_LEVEL = 21, 8


class _Fitted(nn.Module):
    """A module of float64 buffers."""

    def _room(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def _keep(self, **values: np.ndarray) -> None:
        for name, value in values.items():
            getattr(self, name).copy_(torch.as_tensor(np.ascontiguousarray(value)))

    def _get(self, name: str) -> np.ndarray:
        return getattr(self, name).numpy()


class LinearCode(_Fitted):
    """Probabilistic PCA.

    Args:
        n_inputs: Coordinates of x.
        n_code: Coordinates of z.
    """

    def __init__(self, n_inputs: int, n_code: int) -> None:
        super().__init__()
        self._room(centre=(n_inputs,), loading=(n_inputs, n_code), noise=(1,))

    @property
    def n_code(self) -> int:
        return self.loading.shape[1]

    def fit(self, x: Float[np.ndarray, "record input"]) -> None:
        x = np.asarray(x, dtype=np.float64)
        centre = x.mean(axis=0)
        _, size, axes = np.linalg.svd(x - centre, full_matrices=False)
        power, k = np.square(size) / max(len(x), 1), self.loading.shape[1]
        rest = power[k:].sum() / max(min(x.shape[1], len(x)) - k, 1)
        noise = max(rest, 1e-4 * power.sum() / x.shape[1], 1e-9)
        loading = np.zeros((x.shape[1], k))
        m = min(k, len(power))
        loading[:, :m] = axes[:m].T * np.sqrt(np.maximum(power[:m] - noise, 0.0))
        self._keep(centre=centre, loading=loading, noise=np.array([noise]))

    def encode(
        self, x: Float[np.ndarray, "record input"], seen: Bool[np.ndarray, "record input"] | None = None
    ) -> tuple[Float[np.ndarray, "record code"], Float[np.ndarray, "record code"]]:
        """Mean and standard deviation of z given x (its coordinates that are seen)."""
        w, centre, noise = self._get("loading"), self._get("centre"), float(self.noise[0])
        if seen is None or seen.all():
            inverse = np.linalg.inv(w.T @ w + noise * np.eye(w.shape[1]))
            sd = np.sqrt(noise * np.diag(inverse))
            return (x - centre) @ w @ inverse, np.broadcast_to(sd, (len(x), len(sd))).copy()
        mean, sd = np.zeros((len(x), w.shape[1])), np.ones((len(x), w.shape[1]))
        patterns, which = np.unique(seen, axis=0, return_inverse=True)
        for p, pattern in enumerate(patterns):
            rows, v = np.flatnonzero(which.reshape(-1) == p), w[pattern]
            inverse = np.linalg.inv(v.T @ v + noise * np.eye(w.shape[1]))
            mean[rows] = (x[np.ix_(rows, pattern)] - centre[pattern]) @ v @ inverse
            sd[rows] = np.sqrt(noise * np.diag(inverse))
        return mean, sd

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """x at z."""
        return z @ self.loading.T.float() + self.centre.float()


class RecordPrior(_Fitted):
    """p(y | context).

    Args:
        n_context: Features of the context.
        n_facts: Coordinates of y.
        n_plain: The last of them, uncorrelated and many (what averaged beats have beyond their code): no mixture.
    """

    def __init__(self, n_context: int, n_facts: int, *, n_plain: int = 0) -> None:
        super().__init__()
        d, self.n_plain = n_facts, n_plain
        self._room(
            middle=(n_context,), spread=(n_context, n_context), slope=(n_context, d), offset=(d,), weight=(PARTS,),
            mean=(PARTS, d), factor=(PARTS, d, d), low=(d,), high=(d,), alike=(d,), scale=(n_context, d),
            drawn=(LEVELS, d), found=(LEVELS, d),
        )  # fmt: skip

    def fit(
        self,
        context: Float[np.ndarray, "record context"],
        observed: Bool[np.ndarray, "record context"],
        y: Float[np.ndarray, "record fact"],
        subject: Int[np.ndarray, "record"],
        rng: Rng,
        telling: Float[np.ndarray, "fact"] | None = None,
    ) -> None:
        """Fit to training records.

        Args:
            context, observed: What the patients' records say, and which of it is known.
            y: Facts of the records.
            subject: Number of each record's patient.
            rng: Random stream.
            telling: How much of a record a unit of each fact moves; None: all alike.
        """
        n, d = y.shape
        telling = np.ones(d) if telling is None else telling
        middle, spread = _moments(context, observed)
        self._keep(middle=middle, spread=spread)
        # what is unknown is drawn given the facts too, else their tie to it would be weakened
        joint, known = np.concatenate([context, y], axis=1), np.concatenate([observed, np.ones(y.shape, bool)], axis=1)
        c = _filled(joint, known, *_moments(joint, known), rng.child("fill"))[:, : context.shape[1]]
        slope, offset = _ridge(c, y)
        scale = np.zeros_like(slope)
        for _ in range(2):  # records of little scatter count more, stray ones less
            e = y - c @ slope - offset
            scale = _ridge(c, np.log(np.square(e) + 1e-4))[0]
            e = e / _size(c, scale)
            usual = np.maximum(1.5 * np.median(np.abs(e), axis=0), 1e-3)
            slope, offset = _ridge(c, y, 1 / (np.square(_size(c, scale)) * (1 + np.square(e / usual) / 4)))
        e = (y - c @ slope - offset) / _size(c, scale)
        own = d - self.n_plain
        weight, mean, factor, whole = _with_plain(_mixture(e[:, :own], telling[:own], rng), e[:, own:])
        drawn, found = _marginals(e, weight, mean, factor, rng.child("marginals"))
        white = np.linalg.solve(whole, (e - e.mean(axis=0)).T).T if n > 1 else np.zeros((n, d))
        low, high = (np.quantile(y, q, axis=0) for q in (0.0, 1.0))
        margin = 0.15 * (high - low)
        self._keep(
            slope=slope, offset=offset, weight=weight, mean=mean, factor=factor, low=low - margin, high=high + margin,
            alike=_intraclass(white, subject), scale=scale, drawn=drawn, found=found,
        )  # fmt: skip

    def filled(self, context: np.ndarray, observed: np.ndarray, rng: Rng) -> np.ndarray:
        """The context with what is unknown drawn given what is known."""
        return _filled(context, observed, self._get("middle"), self._get("spread"), rng)

    def draw(
        self,
        context: Float[np.ndarray, "record context"],
        observed: Bool[np.ndarray, "record context"],
        subject: Int[np.ndarray, "record"],
        rng: Rng,
    ) -> Float[np.ndarray, "record fact"]:
        """y of each record; records of one patient share what they share in training."""
        c = self.filled(context, observed, rng.child("fill"))
        n, d = len(c), self.offset.shape[0]
        patients, place = np.unique(subject, return_inverse=True)
        part = np.searchsorted(np.cumsum(self._get("weight"))[:-1], rng.child("part").numpy.random(len(patients)))
        shared = rng.child("patient").numpy.standard_normal((len(patients), d))[place]
        own = rng.child("record").numpy.standard_normal((n, d))
        alike, part = self._get("alike"), part[place]
        u = np.sqrt(alike) * shared + np.sqrt(1 - alike) * own
        e = self._get("mean")[part] + np.einsum("rij,rj->ri", self._get("factor")[part], u)
        for k, (drawn, found) in enumerate(zip(self._get("drawn").T, self._get("found").T)):
            e[:, k] += np.interp(e[:, k], drawn, found - drawn)
        y = c @ self._get("slope") + self._get("offset") + _size(c, self._get("scale")) * e
        return np.clip(y, self._get("low"), self._get("high"))


class LabelLaw(_Fitted):
    """p(label set | context) by linear discriminant analysis."""

    def __init__(self, n_sets: int, n_context: int) -> None:
        super().__init__()
        self._room(share=(n_sets,), centre=(n_sets, n_context), precision=(n_context, n_context))

    def fit(self, which: Int[np.ndarray, "record"], context: Float[np.ndarray, "record context"]) -> None:
        k = self.share.shape[0]
        count = np.bincount(which, minlength=k).astype(float)
        grand = context.mean(axis=0)
        total = np.zeros((k, context.shape[1]))
        np.add.at(total, which, context - grand)
        centre = total / (count + 5)[:, None]  # small classes stay near the middle
        within = context - grand - centre[which]
        m = context.shape[1]
        spread = within.T @ within / max(len(context), 1)
        share = min(1.0, (m + 2) / max(len(context), 1))
        spread = (1 - share) * spread + (share + 1e-3) * np.diag(np.diag(spread) + 1e-6)
        self._keep(share=count / count.sum(), centre=centre + grand, precision=np.linalg.inv(spread))

    def draw(self, context: Float[np.ndarray, "record context"], rng: Rng) -> Int[np.ndarray, "record"]:
        centre, precision = self._get("centre"), self._get("precision")
        score = context @ precision @ centre.T - 0.5 * np.einsum("ki,ij,kj->k", centre, precision, centre)
        score = score + np.log(np.maximum(self._get("share"), 1e-12))
        law = np.exp(score - score.max(axis=1, keepdims=True)).cumsum(axis=1)
        place = (rng.numpy.permutation(len(law)) + rng.numpy.random(len(law))) / max(len(law), 1)
        return (place[:, None] * law[:, -1:] >= law[:, :-1]).sum(axis=1)


def _moments(x: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of columns with unknown values, pair by pair, shrunk towards its diagonal."""
    n, m = x.shape
    seen = np.maximum(observed.sum(axis=0), 1)
    middle = np.where(observed, x, 0.0).sum(axis=0) / seen
    centred = np.where(observed, x - middle, 0.0)
    pairs = np.maximum(observed.T.astype(float) @ observed, 1.0)
    covariance = centred.T @ centred / pairs
    share = min(1.0, (m + 2) / max(n, 1))
    covariance = (1 - share) * covariance + share * np.diag(np.diag(covariance)) + 1e-6 * np.eye(m)
    value, axes = np.linalg.eigh(covariance)  # pairwise moments need not be positive definite
    return middle, (axes * np.maximum(value, 1e-6)) @ axes.T


def _filled(x: np.ndarray, observed: np.ndarray, middle: np.ndarray, spread: np.ndarray, rng: Rng) -> np.ndarray:
    """Unknown values drawn given the known ones of their row."""
    out, draw = x.copy(), rng.numpy.standard_normal(x.shape)
    if observed.all() or not x.size:
        return out
    patterns, which = np.unique(observed, axis=0, return_inverse=True)
    for p, known in enumerate(patterns):
        if known.all():
            continue
        rows, gone = np.flatnonzero(which.reshape(-1) == p), ~known
        gain = np.linalg.solve(spread[np.ix_(known, known)], spread[np.ix_(known, gone)])
        left = spread[np.ix_(gone, gone)] - spread[np.ix_(gone, known)] @ gain
        root = np.linalg.cholesky(left + 1e-6 * np.eye(len(left)))
        centre = middle[gone] + (x[np.ix_(rows, known)] - middle[known]) @ gain
        out[np.ix_(rows, gone)] = centre + draw[np.ix_(rows, gone)] @ root.T
    return out


def _ridge(c: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset; each output has its own penalty, chosen by generalised cross-validation.

    One penalty for all would let the many outputs that hardly depend on the context take away the few that do.
    Weights are by record and output; their mean is brought to 1.
    """
    if not c.shape[1] or len(c) < 3:
        return np.zeros((c.shape[1], y.shape[1])), y.mean(axis=0)
    if weight is not None:
        parts = [_weighted(c, y[:, [k]], weight[:, k] / weight[:, k].mean()) for k in range(y.shape[1])]
        return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts])
    return _weighted(c, y, np.ones(len(c)))


def _weighted(c: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression with one weight per record."""
    share, root = weight / weight.sum(), np.sqrt(weight)[:, None]
    centre, level = share @ c, share @ y
    u, size, v = np.linalg.svd(root * (c - centre), full_matrices=False)
    aim = root * (y - level)
    target, total = u.T @ aim, np.square(aim).sum(axis=0)
    penalties = np.geomspace(1e-2, 1e5, 22)
    score = np.full((len(penalties), y.shape[1]), np.inf)
    for i, penalty in enumerate(penalties):
        keep = np.square(size) / (np.square(size) + penalty)
        used = (keep.sum() + 1) / len(c)
        if used < 0.9 or i == len(penalties) - 1:
            left = total - ((2 * keep - np.square(keep))[:, None] * np.square(target)).sum(axis=0)
            score[i] = left / (1 - min(used, 0.99)) ** 2
    best = penalties[score.argmin(axis=0)]
    slope = v.T @ (size[:, None] / (np.square(size)[:, None] + best) * target)
    return slope, level - centre @ slope


def _size(c: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Relative standard deviation of the residuals given the context, within a factor of e^1.5."""
    return np.exp(np.clip(0.5 * (c @ scale), -1.5, 1.5))


def _mixture(e: np.ndarray, telling: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and factors of the residuals' mixture (room for `PARTS`), and the factor of the whole.

    Kinds of records are looked for in the few coordinates that tell most and in the size of the other ones that tell
    anything; in all of them a mixture would need hundreds of records for its second part. Each part then has a mean and
    covariance of its own in all coordinates.
    """
    from sklearn.mixture import GaussianMixture  # heavy

    n, d = e.shape
    weight, mean, factor = np.zeros(PARTS), np.zeros((PARTS, d)), np.zeros((PARTS, d, d))
    covariance = _shrunk(e - e.mean(axis=0)) + 1e-6 * np.eye(d)
    whole = np.linalg.cholesky(covariance)
    weight[0], mean[0], factor[0] = 1.0, e.mean(axis=0), whole
    size = telling * e.std(axis=0)
    lead, others = np.split(np.argsort(-size, kind="stable"), [LEADING])
    x = e[:, lead] * telling[lead] / max(size.max(initial=0.0), 1e-9)
    if len(others := others[size[others] > 0]):
        x = np.column_stack([x, 0.5 * np.log(np.square(e[:, others]).mean(axis=1) + 1e-6)])
    best, found = np.inf, None
    for k in range(1, PARTS + 1):
        if n < 5 * k * (x.shape[1] + 1):
            break
        draw = rng.integer("mixture", k) % 2**31
        law = GaussianMixture(k, reg_covar=1e-3, n_init=8, random_state=draw).fit(x)
        share = law.predict_proba(x)
        if (score := law.bic(x)) < best and share.sum(axis=0).min() >= FEWEST:
            best, found = score, share
    if found is None or found.shape[1] == 1:
        return weight, mean, factor, whole
    k, count = found.shape[1], found.sum(axis=0)
    weight[:k], mean[:k] = count / n, (found.T @ e) / count[:, None]
    within = _shrunk(e - mean[found.argmax(axis=1)])
    for part, share in enumerate(found.T):
        away = e - mean[part]
        own = ((share[:, None] * away).T @ away + BORROWED * within) / (count[part] + BORROWED)
        factor[part] = np.linalg.cholesky(own + 1e-6 * np.eye(d))
    return weight, mean, factor, whole


def _shrunk(away: np.ndarray) -> np.ndarray:
    """Covariance of centred rows, shrunk as a correlation.

    A fact the context settles must not get the noise of one it says nothing about.
    """
    from sklearn.covariance import ledoit_wolf  # heavy

    if len(away) < 2:
        return np.eye(away.shape[1])
    size = np.maximum(away.std(axis=0), 1e-6)
    return ledoit_wolf(away / size)[0] * np.outer(size, size)


def _marginals(
    e: np.ndarray, weight: np.ndarray, mean: np.ndarray, factor: np.ndarray, rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of each residual under the mixture and in training; the same where there are few records."""
    part = np.searchsorted(np.cumsum(weight)[:-1], rng.child("part").numpy.random(4000))
    normal = rng.child("normal").numpy.standard_normal((4000, e.shape[1]))
    draws = mean[part] + np.einsum("rij,rj->ri", factor[part], normal)
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    drawn = np.quantile(draws, levels, axis=0)
    if len(e) < PER_LEVEL * LEVELS:
        return drawn, drawn
    return drawn, np.quantile(e, levels, axis=0)


def _with_plain(found: tuple[np.ndarray, ...], e: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mixture with further coordinates, each independent of all."""
    weight, mean, factor, whole = found
    size, own = np.maximum(e.std(axis=0), 1e-6), whole.shape[0]
    wide = ((0, e.shape[1]), (0, e.shape[1]))
    mean, factor, whole = np.pad(mean, ((0, 0), wide[0])), np.pad(factor, ((0, 0), *wide)), np.pad(whole, wide)
    mean[:, own:] = e.mean(axis=0)
    for root in (whole, *factor):
        root[range(own, len(root)), range(own, len(root))] = size
    return weight, mean, factor, whole


def _intraclass(white: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Share of each coordinate's variance that lies between patients (0 where nobody has two records)."""
    patients, place, count = np.unique(subject, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    n, k = len(white), len(patients)
    if n <= k or k < 2:
        return np.zeros(white.shape[1])
    total = np.zeros((k, white.shape[1]))
    np.add.at(total, place, white)
    mean = total / count[:, None]
    within = np.square(white - mean[place]).sum(axis=0) / (n - k)
    between = (count[:, None] * np.square(mean - white.mean(axis=0))).sum(axis=0) / (k - 1)
    size = (n - np.square(count).sum() / n) / (k - 1)
    return np.clip((between - within) / np.maximum(between + (size - 1) * within, 1e-12), 0.0, 1.0)
