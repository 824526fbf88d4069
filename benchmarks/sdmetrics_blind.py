"""The quality score of sdmetrics beside ours, on good cohorts and on cohorts with one planted fault.

    python -m benchmarks.sdmetrics_blind [--patients 600]

Patients are simulated from `schemas/pbc.toml` (three samples: training, held-out, a second real one that plays the
synthetic cohort), so anybody can run it. sdmetrics compares columns and pairs of columns within tables, and the number
of rows per patient; it has no held-out patients, no order of rows and no identity of patients. Each fault keeps what it
looks at and breaks something else.

    python -m benchmarks.sdmetrics_blind --cohorts pbc mimic_iv_demo diabetes_encounters=3000 icu_48h=600 \\
        --seeds 1 --generators columnar-ar --minutes 1 --out benchmarks/results/sdmetrics_real.json

gives both on real cohorts: held-out patients (a second real sample; sdmetrics only, as ours would compare them with
themselves), both anchors, and what generators make of the training patients. Ours with `fast`. `--add` keeps the rows
that the result file holds of other cohorts.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from benchmarks.common import RESULTS, ROOT, parser, save, show
from benchmarks.fidelity import cohort_of
from cohortloom.cohort import Cohort
from cohortloom.cohort.resample import bootstrap, independent
from cohortloom.evaluation import evaluate
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.simulation import simulate

GROUPS = (
    "marginal", "missingness", "association", "temporal", "codes", "detection", "utility", "survival", "realism",
    "fairness", "copies",
)  # fmt: skip
SDTYPES = {"number": "numerical", "count": "numerical", "flag": "boolean", "timestamp": "numerical"}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--patients", type=int, default=600)
    options.add_argument("--cohorts", nargs="+", default=[], help="real cohorts, NAME or NAME=PATIENTS")
    options.add_argument("--generators", nargs="+", default=[], help="generators to fit on real cohorts")
    options.add_argument("--minutes", type=float, default=1.0, help="budget of a fit")
    options.add_argument("--add", action="store_true", help="keep the rows of other cohorts")
    given = options.parse_args()
    if given.cohorts:
        on_real(given.cohorts, given.seeds[0], given)
        return
    schema = Schema.from_file(ROOT / "schemas" / "pbc.toml")
    n, rows = given.patients, []
    for seed in given.seeds:
        train, held_out, good = (simulate(schema, n, seed=10 * seed + k) for k in (1, 2, 3))
        for name, cohort in _cohorts(train, good, np.random.default_rng(seed)).items():
            row = {"cohort": name, "seed": seed, **_sdmetrics(train, cohort), **_ours(cohort, train, held_out, seed)}
            rows.append(row)
            show(rows[-1:])
    save("sdmetrics_blind", rows, out=given.out, schema="pbc, simulated", patients=n)


def on_real(names: list[str], seed: int, given) -> None:
    """Both on real cohorts: held-out patients, copied patients, columns drawn apart, generators."""
    path = given.out or RESULTS / "sdmetrics_blind.json"
    names = [name.partition("=")[::2] for name in names]
    rows = json.loads(path.read_text())["rows"] if given.add else []
    rows = [r for r in rows if r["cohort"] not in dict(names)]
    command = " ".join(["python -m benchmarks.sdmetrics_blind", *sys.argv[1:]])
    for name, patients in names:
        cohort = cohort_of(name, given.data, int(patients) if patients else None, seed)
        parts = cohort.split(seed=seed, train=0.6, held_out=0.4)
        n = parts.train.n_subjects
        made = {
            "held-out patients": lambda p=parts: p.held_out,
            "bootstrap": lambda p=parts, n=n: bootstrap(p.train, n, Rng(seed)),
            "independent": lambda p=parts, n=n: independent(p.train, n, Rng(seed)),
        }
        made |= {g: lambda g=g, p=parts: _fitted(g, p.train, given.minutes, seed) for g in given.generators}
        for words, make in made.items():
            other = make()
            row: dict[str, Any] = {"cohort": name, "judged": words, "seed": seed, "patients": n}
            row |= _sdmetrics(parts.train, other)
            if words != "held-out patients":
                row |= _ours(other, parts.train, parts.held_out, seed)
            rows.append(row | {"command": command})
            show(rows[-1:])
            save("sdmetrics_blind", rows, out=given.out)


def _fitted(generator: str, train: Cohort, minutes: float | None, seed: int) -> Cohort:
    from cohortloom.generators import create

    return create(generator).fit(train, seed=seed, minutes=minutes).sample(train.n_subjects, seed=seed)


def _ours(cohort: Cohort, train: Cohort, held_out: Cohort, seed: int) -> dict[str, Any]:
    """What `evaluate` says, in a few numbers."""
    report = evaluate(cohort, train=train, held_out=held_out, seed=seed, only=GROUPS, fast=True)
    worst = sorted(report.failed, key=lambda s: -(s.value or 0) / max(s.limit or 1, 1e-9))
    return {
        "ours_failed": len(report.failed),
        "ours_judged": sum(s.passed is not None for s in report.scores),
        "worst_judge_auc": round(report.score("detection.worst").value or 0, 3),
        "failed_groups": ", ".join(dict.fromkeys(s.group for s in report.failed)) or "-",
        "failed": [s.key for s in worst],
    }


def _cohorts(train: Cohort, good: Cohort, draw: np.random.Generator) -> dict[str, Cohort]:
    frame = good.tables["visits"]
    values = list(good.schema.tables["visits"].columns)
    mixed = frame.with_columns(_u=pl.Series(draw.random(frame.height)))
    mixed = mixed.with_columns(pl.col(c).sort_by("_u").over("subject_id") for c in values).drop("_u")
    ids = good.tables["patients"]["subject_id"]
    strangers = good.tables["patients"].with_columns(subject_id=ids.gather(draw.permutation(ids.len())))
    few = bootstrap(good.select(good.subjects.head(10)), good.n_subjects, Rng(1))
    return {
        "a second real sample": good,
        "visits shuffled within patients": _with(good, visits=mixed),
        "statics of another patient": _with(good, patients=strangers),
        "rows dealt to random patients": _with(good, visits=_dealt(frame, values, draw)),
        "training patients copied": bootstrap(train, good.n_subjects, Rng(2)),
        "ten patients, over and over": few,
        "columns drawn apart": independent(train, good.n_subjects, Rng(3)),
    }


def _dealt(frame: pl.DataFrame, values: list[str], draw: np.random.Generator) -> pl.DataFrame:
    """Whole rows of values change places over all visits: every pair of columns is kept, every course is lost."""
    order = draw.permutation(frame.height)
    return frame.with_columns(frame[c].gather(order) for c in values)


def _with(cohort: Cohort, **tables: pl.DataFrame) -> Cohort:
    origin = replace(cohort.origin, kind="synthetic")
    return Cohort.build(cohort.schema, {**cohort.tables, **tables}, origin=origin)


def _sdmetrics(real: Cohort, made: Cohort) -> dict[str, Any]:
    from sdmetrics.reports.multi_table import QualityReport

    report = QualityReport()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report.generate(_pandas(real), _pandas(made), _metadata(real.schema), verbose=False)
    parts = report.get_properties().set_index("Property")["Score"].to_dict()
    found = {"sdmetrics_quality": round(float(report.get_score()), 3)}
    return found | {f"sdmetrics_{k.lower().replace(' ', '_')}": round(float(v), 3) for k, v in parts.items()}


def _pandas(cohort: Cohort) -> dict[str, Any]:
    out = {}
    for name, frame in cohort.tables.items():
        kinds = [c for c, t in frame.schema.items() if t in (pl.Datetime("us"), pl.Duration("us"))]
        out[name] = frame.with_columns((pl.col(c).cast(pl.Int64) / 86_400e6).alias(c) for c in kinds).to_pandas()
    return out


def _metadata(schema: Schema) -> dict[str, Any]:
    tables, relations = {}, []
    for name, table in schema.tables.items():
        columns: dict[str, Any] = {c: {"sdtype": "id"} for c in schema.keys(name)}
        if "time" in columns:
            columns["time"] = {"sdtype": "numerical"}
        columns |= {c: {"sdtype": SDTYPES.get(spec.kind, "categorical")} for c, spec in table.columns.items()}
        tables[name] = {"columns": columns}
        if table.role == "static":
            tables[name]["primary_key"] = "subject_id"
            continue
        relations.append(
            {
                "parent_table_name": next(iter(schema.statics)),
                "parent_primary_key": "subject_id",
                "child_table_name": name,
                "child_foreign_key": "subject_id",
            }
        )
    return {"tables": tables, "relationships": relations}


if __name__ == "__main__":
    main()
