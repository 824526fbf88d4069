"""A report as large as `evaluate` makes it: 120 scores, some 40 figures, every kind of drawing. Made-up numbers."""

import numpy as np

from cohortloom.report import Figure, Goal, Report, Score

GROUPS = (
    "marginal",
    "missingness",
    "association",
    "temporal",
    "survival",
    "detection",
    "utility",
    "copies",
    "fairness",
)
COLUMNS = (
    "creatinine",
    "potassium",
    "heart rate",
    "systolic pressure",
    "NT-proBNP",
    "haemoglobin",
    "ejection fraction",
)
COHORTS = ("real held-out", "synthetic", "bootstrap", "independent")


def sample_report(n_scores: int = 120, seed: int = 3) -> Report:
    rng = np.random.default_rng(seed)
    scores = [_score(rng, i, GROUPS[i * len(GROUPS) // n_scores]) for i in range(n_scores)]
    scores[-1] = Score(
        "rarest group", "fairness", None, n=0, limit=0.1, reason="no patient of the group in held-out data"
    )
    return Report(
        title="Evaluation of heart_failure_clinic (synthetic, columnar-ar, seed 1)",
        scores=tuple(scores),
        figures=tuple(_figures(rng)),
        provenance={
            "synthetic": {"subjects": 1000, "rows": {"visits": 8123, "labs": 51022}, "digest": "9f86d081884c7d65"},
            "train": {"subjects": 600},
            "held_out": {"subjects": 400},
            "settings": {"seed": 0, "fast": False, "only": None, "replicates": 200},
            "version": "0.1.0",
        },
        verdict=(
            "The synthetic patients resemble the real ones in single columns and in how values move over time.",
            "They can be told from real ones more often than chance: a classifier reaches an AUC of 0.71 (floor 0.52), "
            "mostly through the gap between visits.",
            "A model trained on them predicts one-year death nearly as well as one trained on real patients.",
        ),
        not_tested=(
            "Privacy: run an audit before anyone outside gets the data.",
            "Waveforms: the cohort has none.",
            "Whether rare diagnoses (fewer than 10 patients) are right: too few to judge.",
        ),
    )


def _score(rng: np.random.Generator, i: int, group: str) -> Score:
    high = group in ("utility", "detection") and i % 2 == 0
    floor = float(rng.uniform(0.01, 0.05)) if not high else float(rng.uniform(0.78, 0.86))
    value = floor * float(rng.uniform(0.8, 2.3)) if not high else floor - float(rng.uniform(0, 0.06))
    half = float(rng.uniform(0.1, 0.3)) * (floor if not high else 0.1)
    far = {"bootstrap": floor * 0.9, "independent": floor * float(rng.uniform(2, 14)) if not high else 0.51}
    measurable = i % 11 != 5
    details = {}
    if i % 3 == 0:
        details = {
            "columns": {c: {"distance": float(rng.uniform(0, 0.1)), "n": int(rng.integers(50, 900))} for c in COLUMNS},
            "worst": "creatinine",
        }
    return Score(
        name=f"{COLUMNS[i % len(COLUMNS)]}, {['KS distance', 'gap between visits', 'lag-1 correlation'][i % 3]}",
        group=group,
        value=value,
        interval=(value - half, value + half),
        n=int(rng.integers(60, 1000)),
        goal=Goal.HIGH if high else Goal.LOW,
        limit=(floor - 0.05) if high else floor * 2,
        floor=floor,
        anchors=far,
        measurable=measurable,
        reason="" if measurable else "floor and independent anchor overlap: not measurable with 60 patients",
        key=f"{group}.{i}",
        details=details,
        unit="d" if i % 17 == 3 else "1",
    )


def _figures(rng: np.random.Generator) -> list[Figure]:
    x = np.linspace(0, 1, 80)
    figures = [
        Figure(
            "curves",
            "Distribution of four columns",
            {
                "x_label": "value",
                "y_label": "share below",
                "panels": [
                    {
                        "title": c,
                        "x_label": f"{c} [mg/dL]",
                        "series": [
                            {"name": n, "x": (x * 10).tolist(), "y": (x ** (1 + 0.15 * k)).tolist()}
                            for k, n in enumerate(COHORTS)
                        ],
                    }
                    for c in COLUMNS[:4]
                ],
            },
            "Curves on top of each other are good.",
            "marginal",
        ),
        Figure(
            "bars",
            "Sex <and> other $categories$",
            {
                "y_label": "share of patients",
                "panels": [
                    {
                        "title": "sex",
                        "labels": ["F", "M", "missing"],
                        "series": [{"name": n, "values": rng.uniform(0.1, 0.5, 3).tolist()} for n in COHORTS[:2]],
                    }
                ],
            },
            "",
            "marginal",
        ),
        Figure(
            "bars",
            "Discharge diagnoses",
            {
                "y_label": "share of visits",
                "panels": [
                    {
                        "title": "ICD-10 chapter",
                        "labels": [f"{c}00-{c}99 diseases of something long" for c in "ABCDEFGHIJKL"],
                        "series": [{"name": n, "values": rng.uniform(0, 0.2, 12).tolist()} for n in COHORTS[:2]],
                    }
                ],
            },
            "",
            "marginal",
        ),
    ]
    big = np.clip(np.cumsum(rng.normal(0, 0.2, (37, 37)), axis=1), -1, 1)
    names = [f"{COLUMNS[i % 7]} {i}" for i in range(37)]
    for size, group in ((37, "association"), (6, "association"), (6, "temporal")):
        values = big[:size, :size].copy()
        cells = values.tolist()
        cells[2][3] = None
        panels = [
            {
                "title": t,
                "rows": names[:size],
                "columns": names[:size],
                "values": v,
                "low": -1,
                "high": 1,
                "diverging": True,
            }
            for t, v in (
                ("real held-out", cells),
                ("synthetic", (values * 0.8).tolist()),
                ("difference", (values * 0.2).tolist()),
            )
        ]
        figures.append(
            Figure("matrix", f"Correlation of {size} columns", {"panels": panels}, "Rank correlation.", group)
        )
    lag = np.arange(1, 11)
    figures.append(
        Figure(
            "curves",
            "Autocorrelation",
            {
                "x_label": "lag [visits]",
                "y_label": "correlation",
                "panels": [
                    {
                        "title": c,
                        "series": [
                            {
                                "name": n,
                                "x": lag.tolist(),
                                "y": (0.9 ** (lag * (1 + k))).tolist(),
                                **(
                                    {
                                        "low": (0.9 ** (lag * (1 + k)) - 0.06).tolist(),
                                        "high": (0.9 ** (lag * (1 + k)) + 0.06).tolist(),
                                    }
                                    if k < 2
                                    else {}
                                ),
                            }
                            for k, n in enumerate(COHORTS)
                        ],
                    }
                    for c in COLUMNS
                ],
            },
            "The band is the 95 % interval over patients.",
            "temporal",
        )
    )
    p = rng.dirichlet(np.ones(4) * 0.6, 4)
    states = ["I", "II", "III", "IV"]
    figures.append(
        Figure(
            "graph",
            "Transitions between NYHA classes",
            {
                "panels": [
                    {"title": t, "states": states, "probability": p.tolist()} for t in ("real held-out", "synthetic")
                ]
            },
            "Arrows are as wide as the probability of the next class; the number in a circle is the chance to stay.",
            "temporal",
        )
    )
    t = np.linspace(0, 5, 50)
    figures.append(
        Figure(
            "curves",
            "Survival",
            {
                "x_label": "time [a]",
                "y_label": "alive",
                "panels": [
                    {
                        "title": "all patients",
                        "series": [
                            {
                                "name": n,
                                "x": t.tolist(),
                                "y": np.exp(-t * (0.2 + 0.03 * k)).tolist(),
                                "low": (np.exp(-t * (0.2 + 0.03 * k)) * 0.93).tolist(),
                                "high": (np.exp(-t * (0.2 + 0.03 * k)) * 1.05).tolist(),
                                "step": True,
                            }
                            for k, n in enumerate(COHORTS[:2])
                        ],
                    }
                ],
            },
            "",
            "survival",
        )
    )
    figures.append(
        Figure(
            "scatter",
            "Agreement of feature importance",
            {
                "x_label": "trained on real",
                "y_label": "trained on synthetic",
                "panels": [
                    {
                        "title": "",
                        "series": [
                            {"name": "gradient boosting", "x": rng.random(30).tolist(), "y": rng.random(30).tolist()},
                            {"name": "logistic", "x": rng.random(30).tolist(), "y": rng.random(30).tolist()},
                        ],
                    }
                ],
            },
            "",
            "utility",
        )
    )
    figures.append(
        Figure(
            "table",
            "Utility by task",
            {
                "columns": ["task", "TRTR", "TSTR", "n"],
                "rows": [["death in a year", 0.81, 0.79, 400], ["readmission <30 d", 0.66, None, 400]],
            },
            "AUC on held-out patients.",
            "utility",
        )
    )
    figures.append(
        Figure(
            "table",
            "Scores by subgroup",
            {
                "columns": ["subgroup", "n", "detection AUC", "KS, worst column"],
                "rows": [["F", 410, 0.61, 0.04], ["M", 560, 0.63, 0.05], ["age >= 80", 88, 0.74, 0.12]],
            },
            "",
            "fairness",
        )
    )
    patients = []
    for k in range(4):
        time = np.sort(rng.uniform(0, 700, 14 - 3 * k))
        patients.append(
            {
                "title": f"Synthetic patient {k + 1}",
                "origin": "synthetic",
                "facts": ["F, 71 a", "NYHA II at first visit", f"{len(time)} visits", "alive at the end"],
                "series": [
                    {
                        "name": c,
                        "unit": "mg/dL",
                        "time": time.tolist(),
                        "value": [
                            None if rng.random() < 0.2 else float(v) for v in np.cumsum(rng.normal(0, 1, len(time)))
                        ],
                    }
                    for c in COLUMNS[: 3 + k % 2]
                ],
                "events": [
                    {"time": float(v), "label": ["ICD10:I50.0", "ATC:C07AB02", "admission"][int(rng.integers(3))]}
                    for v in rng.uniform(0, 700, 12)
                ],
            }
        )
    figures.append(
        Figure(
            "timeline",
            "Synthetic patients",
            {"time_unit": "d", "patients": patients},
            "Drawn at random; no real patient is ever shown.",
            "temporal",
        )
    )
    for k in range(24):
        figures.append(
            Figure(
                "curves",
                f"{COLUMNS[k % 7]} by visit index",
                {**figures[0].content, "panels": figures[0].content["panels"][:1]},
                "",
                GROUPS[k % len(GROUPS)],
            )
        )
    return figures
