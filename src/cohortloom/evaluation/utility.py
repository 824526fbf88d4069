"""Is the synthetic cohort as useful as the real one? Train models on either, test on held-out patients.

    TRTR      trained on n real training patients, tested on held-out ones
    TSTR      trained on n synthetic patients, tested on the same held-out ones       loss  = TRTR - TSTR
    TRTS      trained on real, tested on synthetic patients                           shift = |TRTS - TRTR|
    added     trained on real and synthetic patients together                         loss  = TRTR - added

by AUROC (classification, next visit), skill against the median (regression) or concordance (survival; the integrated
Brier score beside it). Two families of models see the same rows (`tasks.py`, `models.py`); scores are those of the
family that does best on real data. Also: calibration on held-out patients; do the same columns matter (Spearman
correlation of permutation importances); and would somebody who compares models on synthetic data alone pick the model
that is best on real data (pairs of models that really differ, in the same order).

Limits. A loss has to exceed what another real sample of n patients might cost: z times the root of (variance of the
paired difference over bootstraps of held-out patients + variance of refits on bootstraps of training patients), not
less than 0.05.

References:
    Esteban, Hyland, Rätsch (2017). Real-valued medical time series generation with recurrent conditional GANs.
    Jordon, Yoon, van der Schaar (2018). Measuring the quality of synthetic data for use in competitions.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohortloom.evaluation import metrics, models
from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import one_thread
from cohortloom.evaluation.intervals import ALPHA, not_computed, not_measurable
from cohortloom.evaluation.tasks import TaskData, slug, task_data
from cohortloom.report import Figure, Goal, Score
from cohortloom.schema import Task

__all__ = ["Fitted", "figures", "fitted", "scores"]

TOLERANCE = 0.05
MOST_PATIENTS = 1500
MOST_HELD_OUT = 2000
REFITS = 3
FEWEST = 8
KINDS = {
    "classification": "classification",
    "next_visit": "classification",
    "regression": "regression",
    "survival": "survival",
}
METRIC = {"classification": "AUROC", "regression": "skill", "survival": "concordance"}
BLANK = {"classification": 0.5, "regression": 0.0, "survival": 0.5}


@dataclass
class Fitted:
    """Models of one task.

    Args:
        kind: classification, regression or survival.
        family: The family that does best on real data.
        data: Rows of "synthetic", "train", "held_out", "independent" and "bootstrap".
        models: family -> what it was trained on -> model.
        predicted: family -> what it was trained on -> predictions for held-out rows.
        weight: Patient bootstraps of held-out rows, draw x row; the first is the data themselves.
        marks: family -> what it was trained on -> metric per draw.
    """

    kind: str
    grid: np.ndarray | None
    family: str = ""
    data: dict[str, TaskData] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    predicted: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    weight: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    marks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def metric(self, predicted: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The task's metric per weighting; worthless where it is undefined."""
        if self.kind == "survival":
            found = metrics.concordance(-predicted.mean(axis=1), y[:, 0], y[:, 1], weight)
        elif self.kind == "regression":
            found = metrics.skill(predicted, y, weight)
        else:
            found = metrics.auroc(predicted, y, weight)
        return np.where(np.isfinite(found), found, BLANK[self.kind])

    def gap(self, k: str) -> np.ndarray:
        """Metric lost per draw by training on `k` instead of real patients."""
        return self.marks[self.family]["train"] - self.marks[self.family][k]

    @property
    def refit_noise(self) -> float:
        """Standard deviation of the difference of two models trained on two samples of real patients."""
        m = [self.marks[self.family][f"refit {i}"][0] for i in range(REFITS)]
        return float(np.std(m, ddof=1) * np.sqrt(2) / 0.886)  # c4(3)


def scores(ctx: Context) -> list[Score]:
    """Scores of every declared task."""
    if not ctx.schema.tasks:
        return [not_computed(ctx, "utility.tstr", "train on synthetic, test on real", "the schema declares no task")]
    found = []
    for task in ctx.schema.tasks:
        ctx.tell(f"measuring utility: {task.name}")
        fit = fitted(ctx, task)
        if isinstance(fit, str):
            key = f"utility.{slug(task.name)}"
            name = f"{task.name}: {METRIC[KINDS[task.kind]]} lost by training on synthetic patients"
            found.append(not_computed(ctx, key, name, fit))
            continue
        found += [_loss(ctx, task, fit), *_fit_of_predictions(ctx, task, fit), _tested_on_synthetic(ctx, task, fit)]
        found += [_added(ctx, task, fit), _importance(ctx, task, fit), _ranking(ctx, task, fit)]
    return found


def fitted(ctx: Context, task: Task) -> Fitted | str:
    """Models of a task (made once), or why there are none."""
    key = ("fitted", task.name)
    if key not in ctx.cache:
        with one_thread():
            ctx.cache[key] = _fit(ctx, task)
    return ctx.cache[key]


def _fit(ctx: Context, task: Task) -> Fitted | str:
    if not any(f.name == task.target for f in ctx.fields):
        return "the target is an identifier or the value of a long table"
    kind = KINDS[task.kind]
    target = next(f for f in ctx.fields if f.name == task.target)
    if task.kind == "next_visit" and target.is_number:
        kind = "regression"
    if kind == "classification" and (target.is_number or not (task.event or target.levels[:2] == ("false", "true"))):
        return "the target is a number" if target.is_number else "the task names no event levels"
    if kind == "regression" and not target.is_number:
        return "the target is not a number"
    timed = any(f.name == task.time and f.axis is None and f.is_number for f in ctx.fields)
    if kind == "survival" and (target.axis is not None or not timed):
        return "survival needs a follow-up time and an event that are static columns"
    most = MOST_PATIENTS // (2 if ctx.fast else 1)
    held = MOST_PATIENTS if kind == "survival" else MOST_HELD_OUT
    data = {k: task_data(ctx, task, k, most) for k in ("synthetic", "train", "independent")}
    data["held_out"] = task_data(ctx, task, "held_out", held // (2 if ctx.fast else 1))
    if reason := _too_few(kind, data):
        return reason
    draw = ctx.rng.child("utility", task.name).numpy
    people = {k: np.unique(data[k].patient) for k in data}
    n = min(len(people[k]) for k in ("synthetic", "train"))
    for k in ("synthetic", "train", "independent"):
        data[k] = data[k].of_patients(people[k][:n])
    if reason := _too_few(kind, {k: data[k] for k in ("train", "held_out")}):
        return f"{reason} at equal n"
    real = np.unique(data["train"].patient)
    for i in range(REFITS):
        data[f"refit {i}"] = data["train"].of_patients(real[draw.integers(0, len(real), len(real))])
    data["bootstrap"] = data["refit 0"]
    shift = data["train"].patient.max(initial=0) + 1
    data["added"] = _join(data["train"], data["synthetic"], shift)
    data["added copies"] = _join(data["train"], data["bootstrap"], shift)
    data["added independent"] = _join(data["train"], data["independent"], shift)
    fit = Fitted(kind, _grid(data["train"]) if kind == "survival" else None, data=data)
    fit.weight = metrics.patient_weights(data["held_out"].patient, 60 if ctx.fast else 200, draw)
    seed = ctx.rng.integer("utility", task.name)
    for family in models.FAMILIES:
        fit.models[family], fit.predicted[family], fit.marks[family] = {}, {}, {}
        for k in ("train", "synthetic", "bootstrap", "independent"):
            _train(fit, family, k, seed)
    fit.family = max(models.FAMILIES, key=lambda f: fit.marks[f]["train"][0])
    for k in (*(f"refit {i}" for i in range(1, REFITS)), "added", "added copies", "added independent"):
        _train(fit, fit.family, k, seed)
    for kept in (fit.models, fit.predicted, fit.marks):
        kept[fit.family]["refit 0"] = kept[fit.family]["bootstrap"]
    return fit


def _train(fit: Fitted, family: str, k: str, seed: int) -> None:
    d, held = fit.data[k], fit.data["held_out"]
    if len(d.y):
        model = models.fit(fit.kind, family, d.x, d.y, seed=seed, grid=fit.grid)
        predicted = model.predict(held.x)
    else:
        model, predicted = None, np.full((len(held.y), len(fit.grid)) if fit.grid is not None else len(held.y), 0.5)
    fit.models[family][k], fit.predicted[family][k] = model, predicted
    fit.marks[family][k] = fit.metric(predicted, held.y, fit.weight)


def _too_few(kind: str, data: dict[str, TaskData]) -> str:
    for k in ("train", "held_out"):
        d = data[k]
        if kind == "regression":
            if len(np.unique(d.patient)) < 4 * FEWEST or np.ptp(d.y) == 0:
                return (
                    f"fewer than {4 * FEWEST} patients with a known target, or a constant one, in {k.replace('_', '-')}"
                )
            continue
        with_event = len(np.unique(d.patient[d.event == 1]))
        without = len(np.unique(d.patient[d.event == 0]))
        if min(with_event, without) < FEWEST:
            return f"fewer than {FEWEST} patients with or without the event in {k.replace('_', '-')}"
    return "no synthetic patient has a known target" if "synthetic" in data and not len(data["synthetic"].y) else ""


def _grid(data: TaskData) -> np.ndarray:
    """Times at which survival is predicted: 20 equal steps up to the 90th percentile of real follow-up."""
    return np.linspace(0, float(np.quantile(data.y[:, 0], 0.9)), 21)[1:]


def _join(a: TaskData, b: TaskData, shift: int) -> TaskData:
    return TaskData(
        np.concatenate([a.x, b.x]),
        np.concatenate([a.y, b.y]),
        np.concatenate([a.patient, b.patient + shift]),
        a.columns,
    )


# -- scores ------------------------------------------------------------------------------------------------------------


def _z() -> float:
    from scipy.stats import norm  # heavy

    return float(norm.ppf(1 - ALPHA))


def _paired(draws: np.ndarray, copies: np.ndarray, refit: float) -> float:
    """What a loss may be between two real samples: z standard deviations of test and of training patients."""
    return _z() * float(np.hypot(max(draws[1:].std(), copies[1:].std()), refit))


def _spread(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(low), float(high)


def _loss(ctx: Context, task: Task, fit: Fitted) -> Score:
    gap, copies = fit.gap("synthetic"), fit.gap("bootstrap")
    limit = max(TOLERANCE, _paired(gap, copies, fit.refit_noise))
    value, real = float(gap[0]), fit.marks[fit.family]["train"][0]
    table = [
        {
            "model": f,
            "trained on": k,
            METRIC[fit.kind]: _plain(m[0]),
            "low": _plain(_spread(m)[0]),
            "high": _plain(_spread(m)[1]),
        }
        for f, marks in fit.marks.items()
        for k, m in marks.items()
        if k in ("train", "synthetic", "bootstrap", "independent", "added")
    ]
    details = {"metrics": table, "family": fit.family, **_sizes(fit)}
    name = f"{METRIC[fit.kind]} lost by training on synthetic patients"
    return _score(ctx, task, fit, "", name, value, _spread(gap), limit, 0.0,
                  {k: float(fit.gap(k)[0]) for k in ("bootstrap", "independent")},
                  useless=float(real - BLANK[fit.kind]), details=details)  # fmt: skip


def _added(ctx: Context, task: Task, fit: Fitted) -> Score:
    gap = fit.gap("added")
    limit = max(TOLERANCE, _paired(gap, fit.gap("added copies"), fit.refit_noise))
    useless = float(fit.gap("added independent")[0])
    name = f"{METRIC[fit.kind]} lost by adding synthetic to real training patients (negative: gained)"
    anchors = {"bootstrap": float(fit.gap("added copies")[0]), "independent": useless}
    return _score(ctx, task, fit, "added", name, float(gap[0]), _spread(gap), limit, 0.0, anchors, useless)


def _tested_on_synthetic(ctx: Context, task: Task, fit: Fitted) -> Score:
    """|TRTS - TRTR|: synthetic patients that are too easy or too hard to predict (or the training patients themselves,
    as the bootstrap anchor shows)."""
    model, held = fit.models[fit.family]["train"], fit.data["held_out"]
    draw = ctx.rng.child("utility", task.name, "trts").numpy
    real = fit.marks[fit.family]["train"]
    found = {}
    for k in ("synthetic", "bootstrap", "independent"):
        d = fit.data[k]
        if len(d.y) < 10 or (fit.kind != "regression" and min(d.event.sum(), (1 - d.event).sum()) < 4):
            found[k] = np.full(len(real), BLANK[fit.kind])
            continue
        found[k] = fit.metric(model.predict(d.x), d.y, metrics.patient_weights(d.patient, len(real) - 1, draw))
    who = draw.permutation(np.unique(held.patient))
    halves = [np.isin(held.patient, part) for part in np.array_split(who, 2)]
    alone = [fit.metric(fit.predicted[fit.family]["train"], held.y, half[None].astype(float))[0] for half in halves]
    noise = np.hypot(real[1:].std(), max(found["synthetic"][1:].std(), real[1:].std()))
    limit = max(1.5 * TOLERANCE, _z() * float(noise))
    value = float(abs(found["synthetic"][0] - real[0]))
    spread = np.abs(found["synthetic"] - real[0])
    low, high = np.percentile(spread[1:], [2.5, 97.5])
    details = {"TRTR": _plain(real[0]), "TRTS": _plain(found["synthetic"][0])}
    name = f"{METRIC[fit.kind]} of real-trained models on synthetic against real patients, difference"
    interval, floor = (float(low), float(high)), float(abs(alone[0] - alone[1]))
    return _score(ctx, task, fit, "trts", name, value, interval, limit, floor,
                  {k: float(abs(found[k][0] - real[0])) for k in ("bootstrap", "independent")},
                  useless=float(real[0] - BLANK[fit.kind]), details=details)  # fmt: skip


def _fit_of_predictions(ctx: Context, task: Task, fit: Fitted) -> list[Score]:
    """Calibration (classification, regression) or the integrated Brier score (survival)."""
    held, p = fit.data["held_out"], fit.predicted[fit.family]
    ks = ("train", "synthetic", "bootstrap", "independent", *(f"refit {i}" for i in range(REFITS)))
    details: dict[str, Any] = {}
    if fit.kind == "survival":
        assert fit.grid is not None
        part = {k: metrics.brier_rows(p[k], fit.grid, held.y[:, 0], held.y[:, 1]) for k in ks}
        error = {k: fit.weight @ part[k] / fit.weight.sum(1) for k in ks}
        name, key, tolerance, top = "integrated Brier score when trained on synthetic patients", "brier", 0.02, 0.25
    else:
        scale = float(held.y.std()) if fit.kind == "regression" else 1.0
        error = {k: metrics.calibration_error(p[k], held.y, fit.weight) / scale for k in ks}
        name, key, tolerance = "calibration error when trained on synthetic patients", "calibration", 0.05
        tolerance, top = (0.1, 0.5) if fit.kind == "regression" else (0.05, 0.2)
        if fit.kind == "classification":
            for k in ("train", "synthetic"):
                slope, intercept = metrics.calibration_line(p[k], held.y)
                details[k] = {"slope": _plain(slope), "intercept": _plain(intercept)}
    base = error["train"]
    refit = float(np.std([error[f"refit {i}"][0] for i in range(REFITS)], ddof=1) * np.sqrt(2) / 0.886)
    more = _paired(error["synthetic"] - base, error["bootstrap"] - base, refit)
    limit = float(max(base[0], error["bootstrap"][0])) + max(tolerance, more)
    low, high = _spread(error["synthetic"] - error["synthetic"][1:].mean() + error["synthetic"][0])
    anchors = {k: float(error[k][0]) for k in ("bootstrap", "independent")}
    interval = (max(0.0, low), high)
    return [
        _score(ctx, task, fit, key, name, float(error["synthetic"][0]), interval, limit, float(base[0]), anchors,
               useless=top, details=details)
    ]  # fmt: skip


def _importance(ctx: Context, task: Task, fit: Fitted) -> Score:
    """Do the same columns matter? Rank correlation of permutation importances, real- against synthetic-trained."""
    from scipy.stats import spearmanr  # heavy

    held, made = fit.data["held_out"], fit.models[fit.family]
    columns = [c for c in dict.fromkeys(held.columns) if " x " not in c and np.isfinite(held.x[:, _at(held, c)]).any()]
    key, name = "importance", "agreement on which columns matter, rank correlation"
    if len(columns) < 6 or made["synthetic"] is None:
        return not_computed(ctx, _key(task, key), f"{task.name}: {name}", "fewer than 6 columns to rank")
    draw = ctx.rng.child("utility", task.name, "importance").numpy
    some = held.take(draw.permutation(len(held.y))[: 300 if ctx.fast or fit.kind == "survival" else 600])
    orders = [draw.permutation(len(some.y)) for _ in range(2)]
    fall = {}
    with one_thread():
        for k in ("train", "synthetic", "refit 1", "refit 2", "independent"):
            fall[k] = np.array([_fall(fit, made[k], some, _at(some, c), orders) for c in columns])

    def agree(a: str, b: str) -> float:
        if np.ptp(fall[a]) == 0 or np.ptp(fall[b]) == 0:
            return 0.0
        return float(spearmanr(fall[a], fall[b]).statistic)

    value, floor = agree("train", "synthetic"), agree("refit 1", "refit 2")
    se = np.sqrt(1.06 / (len(columns) - 3))
    center = np.arctanh(np.clip(min(floor, agree("train", "refit 1")), -0.95, 0.95))
    limit = float(np.tanh(center - _z() * se))
    own = np.arctanh(np.clip(value, -0.999, 0.999))
    order = np.argsort(-fall["train"], kind="stable")[:15]
    table = [
        {"column": columns[i], "real": _plain(fall["train"][i]), "synthetic": _plain(fall["synthetic"][i])}
        for i in order
    ]
    measurable = value < limit or limit > 0
    return Score(
        name=f"{task.name}: {name}", group="utility", key=_key(task, key), value=value, n=ctx.n, goal=Goal.HIGH,
        interval=(float(np.tanh(own - 1.96 * se)), float(np.tanh(own + 1.96 * se))), limit=limit,
        floor=floor, anchors={"bootstrap": agree("train", "refit 1"), "independent": agree("train", "independent")},
        measurable=measurable, reason="" if measurable else not_measurable(ctx.n), details={"importance": table},
    )  # fmt: skip


def _at(data: TaskData, column: str) -> np.ndarray:
    return np.array([c == column for c in data.columns])


def _fall(fit: Fitted, model: Any, data: TaskData, which: np.ndarray, orders: list[np.ndarray]) -> float:
    """Fall of the metric when the features of one column are shuffled together."""
    one = np.ones((1, len(data.y)))
    whole = fit.metric(model.predict(data.x), data.y, one)[0]
    falls = []
    for order in orders:
        x = data.x.copy()
        x[:, which] = x[order][:, which]
        falls.append(whole - fit.metric(model.predict(x), data.y, one)[0])
    return float(np.mean(falls))


def _ranking(ctx: Context, task: Task, fit: Fitted) -> Score:
    """Pairs of models that differ on real data: the share that keeps its order when all is done on synthetic data."""
    from scipy.stats import spearmanr  # heavy

    key, name = "ranking", "models ranked alike on synthetic data alone, share of pairs"
    full = f"{task.name}: {name}"
    draw = ctx.rng.child("utility", task.name, "ranking").numpy
    d = fit.data
    cut = draw.permutation(np.unique(d["synthetic"].patient))
    half = draw.permutation(np.unique(d["train"].patient))[: len(cut) // 2]
    sides = {
        "real": (d["train"].of_patients(half), d["held_out"]),
        "synthetic": tuple(d["synthetic"].of_patients(part) for part in np.array_split(cut, 2)),
    }
    if fit.kind != "regression":
        poor = [k for k, s in sides.items() for part in s if min(part.event.sum(), (1 - part.event).sum()) < FEWEST]
        if poor:
            return not_computed(ctx, _key(task, key), full, f"too few events in half of the {poor[0]} patients")
    elif min(len(part.y) for part in sides["synthetic"]) < 4 * FEWEST:
        return not_computed(ctx, _key(task, key), full, "too few rows in half of the synthetic patients")
    seed = ctx.rng.integer("ranking", task.name)
    for k in ("train", "bootstrap", "independent"):
        people = draw.permutation(np.unique(d[k].patient))
        sides[k] = tuple(d[k].of_patients(part) for part in np.array_split(people, 2))
    table = _candidates(fit, seed)
    marks = {}
    with one_thread():
        for side, (a, b) in sides.items():
            w = metrics.patient_weights(b.patient, 60 if side in ("real", "synthetic") else 0, draw)
            trained = [deepcopy(model).fit(a.x, a.y) for model in table.values()]
            marks[side] = np.stack([fit.metric(m.predict(b.x), b.y, w) for m in trained])
    real, made = marks["real"], marks["synthetic"][:, 0]
    i, j = np.triu_indices(len(real), 1)
    differs = np.abs(real[i, 0] - real[j, 0]) > 3 * (real[i] - real[j])[:, 1:].std(axis=1) + 0.01
    rank = float(spearmanr(real[:, 0], made).statistic) if np.ptp(made) > 0 and np.ptp(real[:, 0]) > 0 else 0.0
    details = {
        "spearman": _plain(rank),
        "models": [
            {"model": m, "real": _plain(a), "synthetic": _plain(b)}
            for m, a, b in zip(table, real[:, 0], made, strict=True)
        ],
    }
    if not differs.any():
        return not_computed(ctx, _key(task, key), full, "no two models differ on real data by more than chance")
    order = np.sign(real[i, 0] - real[j, 0])[differs, None]
    same = {k: (order == np.sign(m[i] - m[j])[differs]).mean(axis=0) for k, m in marks.items() if k != "real"}
    value, n = float(same["synthetic"][0]), int(differs.sum())
    low, high = (float(x) for x in np.percentile(same["synthetic"][1:], [2.5, 97.5]))
    anchors = {k: float(same[k][0]) for k in ("bootstrap", "independent")}
    few = not_measurable(ctx.n)
    if n < 3:
        few = f"only {n} pairs of models differ on real data"
    elif value < 0.5:
        few = "half of the pairs lie within the interval"
    measurable = n >= 3 and (high < 0.5 if value < 0.5 else anchors["independent"] < 0.5)
    return Score(
        name=full, group="utility", key=_key(task, key), value=value, interval=(low, high), n=ctx.n, goal=Goal.HIGH,
        limit=0.5, floor=float(same["train"][0]), anchors=anchors, measurable=measurable,
        reason="" if measurable else few, details=details,
    )  # fmt: skip


@dataclass
class _Wrapped:
    """A scikit-learn model on normal scores."""

    model: Any
    kind: str

    def fit(self, x: np.ndarray, y: np.ndarray) -> _Wrapped:
        self.scale = models.Normaliser().fit(x)
        self.z = self.scale.transform(x)
        if self.z.shape[1]:
            self.model.fit(self.z, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        z = self.scale.transform(x)
        if not z.shape[1]:
            return np.zeros(len(x))
        return self.model.predict_proba(z)[:, 1] if self.kind == "classification" else self.model.predict(z)


@dataclass
class _RidgedCox:
    ridge: float
    grid: np.ndarray

    def fit(self, x: np.ndarray, y: np.ndarray) -> _RidgedCox:
        self.scale = models.Normaliser().fit(x)
        self.model = models.cox(self.scale.transform(x), y[:, 0], y[:, 1], ridge=self.ridge, steps=10)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.survival(self.scale.transform(x), self.grid)


def _candidates(fit: Fitted, seed: int) -> dict[str, Any]:
    """Models to be ranked, from crude to fine, not yet trained."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor  # heavy
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind, state = fit.kind, seed % 2**31
    if kind == "survival":
        assert fit.grid is not None
        found: dict[str, Any] = {f"Cox, ridge {r}": _RidgedCox(r, fit.grid) for r in (5, 100, 2000)}
        found["boosting"] = models.Hazards(seed, fit.grid)
    elif kind == "regression":
        found = {f"ridge {r}": models.Linear(kind, r) for r in (5, 500)}
        found["one split"] = _Wrapped(DecisionTreeRegressor(max_depth=1, random_state=state), kind)
        found["tree"] = _Wrapped(DecisionTreeRegressor(max_depth=4, min_samples_leaf=10, random_state=state), kind)
        found["neighbours"] = _Wrapped(KNeighborsRegressor(15), kind)
        found["boosting"] = models.Boosted(kind, seed)
    else:
        found = {f"logistic, C {c}": models.Linear(kind, c) for c in (0.05, 0.001)}
        found["one split"] = _Wrapped(DecisionTreeClassifier(max_depth=1, random_state=state), kind)
        found["tree"] = _Wrapped(DecisionTreeClassifier(max_depth=4, min_samples_leaf=10, random_state=state), kind)
        found["neighbours"] = _Wrapped(KNeighborsClassifier(15), kind)
        found["boosting"] = models.Boosted(kind, seed)
    return found


def _score(ctx, task, fit, key, name, value, interval, limit, floor, anchors, useless, details=None) -> Score:
    measurable = bool(value > limit or useless > limit)
    return Score(
        name=f"{task.name}: {name}", group="utility", key=_key(task, key), value=float(value), interval=interval,
        n=ctx.n, goal=Goal.LOW, limit=float(limit), floor=floor, anchors=anchors, measurable=measurable,
        reason="" if measurable else not_measurable(ctx.n), details=details or {},
    )  # fmt: skip


def _key(task: Task, part: str) -> str:
    return f"utility.{slug(task.name)}" + (f"_{part}" if part else "")


def _sizes(fit: Fitted) -> dict[str, int]:
    held = fit.data["held_out"]
    out = {
        "n_train": len(np.unique(fit.data["train"].patient)),
        "n_held_out": len(np.unique(held.patient)),
        "rows_held_out": len(held.y),
    }
    return out if fit.kind == "regression" else {**out, "events_held_out": int(held.event.sum())}


def _plain(x: float) -> float:
    return round(float(x), 5)


def figures(ctx: Context) -> list[Figure]:
    """Metrics by what the models were trained on, and calibration curves."""
    fits = [(t, f) for t in ctx.schema.tasks if isinstance(f := fitted(ctx, t), Fitted)]
    if not fits:
        return []
    ks = ("train", "synthetic", "added", "bootstrap", "independent")
    words = ["real", "synthetic", "real + synthetic", "bootstrap", "independent"]
    panels, curves = [], []
    for task, fit in fits:
        values = [_plain(fit.marks[fit.family][k][0]) for k in ks]
        panels.append(
            {
                "title": f"{task.name} ({METRIC[fit.kind]})",
                "labels": words,
                "series": [{"name": fit.family, "values": values}],
            }
        )
        if fit.kind == "classification":
            series = []
            y = fit.data["held_out"].y
            for k, label in (("train", "real train"), ("synthetic", "synthetic")):
                p = fit.predicted[fit.family][k]
                parts = np.array_split(np.argsort(p, kind="stable"), max(2, min(10, len(y) // 10)))
                series.append(
                    {
                        "name": label,
                        "x": [_plain(p[r].mean()) for r in parts],
                        "y": [_plain(y[r].mean()) for r in parts],
                    }
                )
            curves.append({"title": task.name, "series": series})
    note = "Metric on held-out real patients by what the model was trained on; the better of two model families."
    found = [
        Figure("bars", "Usefulness for the declared tasks", {"y_label": "metric", "panels": panels}, note, "utility")
    ]
    if curves:
        note = (
            "Observed share against predicted probability in tenths of held-out patients; the diagonal is calibrated."
        )
        content = {"x_label": "predicted probability", "y_label": "observed share", "panels": curves}
        found.append(Figure("curves", "Calibration", content, note, "utility"))
    return found
