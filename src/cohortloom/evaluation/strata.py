"""Patient stratification: are the clusters of real courses populated in the right shares?

Courses of held-out and training patients (values of the busiest table by row number, missing values carried forward)
are clustered by k-means under dynamic time warping, on a random subsample; every patient is then given the nearest
centre. The score is the total variation between the shares of clusters of synthetic and held-out patients.

    DTW(a, b) = min over monotone alignments of the root of the summed squared distances

References:
    Petitjean, Ketterlin, Gançarski (2011). A global averaging method for dynamic time warping.
    Tavenard et al. (2020). Tslearn.
"""

from __future__ import annotations

import warnings

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import one_thread
from cohortloom.evaluation.grid import Grid, gridded
from cohortloom.evaluation.intervals import Measure, assess, not_computed
from cohortloom.evaluation.views import View, tally
from cohortloom.report import Figure, Score

__all__ = ["assigned", "figures", "scores"]

MOST_TO_FIT = 200
MOST_TO_ASSIGN = 1500
MOST_STEPS = 16
MOST_CHANNELS = 6
CLUSTERS = 5
FEWEST = 10 * CLUSTERS
KEY, NAME = "realism.strata", "clusters of courses (DTW k-means), difference of shares"


def scores(ctx: Context) -> list[Score]:
    """Difference of the shares of clusters."""
    found = assigned(ctx)
    if isinstance(found, str):
        return [not_computed(ctx, KEY, NAME, found)]
    _, clusters = found

    def count(view: View, of: np.ndarray) -> np.ndarray:
        return tally(view, np.arange(view.n), of, CLUSTERS)

    sums = {k: count(ctx.views[k], of) for k, of in clusters.items()}

    def curve(s: np.ndarray) -> np.ndarray:
        return s / np.maximum(s.sum(-1, keepdims=True), 1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a - b).sum(-1, keepdims=True) / 2

    measure = Measure(KEY, NAME, ("all",), sums, curve, distance, np.array([True]), (0.05, 0.08))
    made = assess(ctx, measure)
    shares = {k: [round(float(v), 4) for v in curve(s.sum(0))] for k, s in sums.items()}
    table = [
        {"cluster": i + 1, **{k: shares[k][i] for k in ("held_out", "synthetic", "train")}} for i in range(CLUSTERS)
    ]
    made[0].details["clusters"] = table
    return made


def assigned(ctx: Context) -> tuple[np.ndarray, dict[str, np.ndarray]] | str:
    """Centres (cluster x step x channel) and the cluster of each patient of each cohort (-1: none), or why not."""
    if "strata" not in ctx.cache:
        ctx.cache["strata"] = _assigned(ctx)
    return ctx.cache["strata"]


def _assigned(ctx: Context) -> tuple[np.ndarray, dict[str, np.ndarray]] | str:
    grids = gridded(ctx)
    if grids is None:
        return "no table over time"
    series = {k: _courses(g) for k, g in grids.items()}
    real = np.concatenate([series["train"], series["held_out"]])
    if len(real) < FEWEST or min(len(s) for s in series.values()) == 0:
        return f"fewer than {FEWEST} real patients with rows"
    rng = ctx.rng.child("strata")
    some = real[rng.numpy.permutation(len(real))[:MOST_TO_FIT]]
    if np.nanmax(some) == np.nanmin(some):
        return "courses do not differ"
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")  # tslearn speaks of the HDF5 files it could write
        from tslearn.clustering import TimeSeriesKMeans  # heavy

        model = TimeSeriesKMeans(
            CLUSTERS, metric="dtw", max_iter=8, max_iter_barycenter=5, n_init=1, n_jobs=1,
            random_state=rng.integer("start") % 2**31,
        ).fit(some)  # fmt: skip
        clusters = {}
        for k, x in series.items():
            most = MOST_TO_ASSIGN // (3 if ctx.fast else 1)
            of = np.full(ctx.views[k].n, -1)
            of[grids[k].patient[:most]] = model.predict(x[:most])
            clusters[k] = of
    return np.asarray(model.cluster_centers_), clusters


def _courses(grid: Grid) -> np.ndarray:
    """Values as patient x step x channel, NaN after the last row (tslearn's way to say unequal lengths)."""
    x = grid.x[:, : min(grid.values, MOST_CHANNELS), :MOST_STEPS].transpose(0, 2, 1).astype(float)
    after = np.arange(x.shape[1]) >= grid.length[:, None]
    x[after] = np.nan
    return x


def figures(ctx: Context) -> list[Figure]:
    """Shares of clusters."""
    found = assigned(ctx)
    if isinstance(found, str):
        return []
    series = []
    for label, k in (("real held-out", "held_out"), ("synthetic", "synthetic"), ("independent", "independent")):
        of = found[1][k]
        share = np.bincount(of[of >= 0], minlength=CLUSTERS) / max(1, (of >= 0).sum())
        series.append({"name": label, "values": [round(float(v), 4) for v in share]})
    labels = [f"cluster {i + 1}" for i in range(CLUSTERS)]
    content = {"y_label": "share of patients", "panels": [{"title": "Courses", "labels": labels, "series": series}]}
    note = "Clusters were found in real patients; every patient belongs to the nearest one."
    return [Figure("bars", "Kinds of courses", content, note, "realism")]
