"""Our generators beside SDV's PAR and mostlyai-engine (TabularARGN) at equal CPU time, judged by `cohortloom.evaluate`.

    python -m benchmarks.peers --cohorts pbc --generators columnar-ar temporal-vae sdv-par mostlyai-engine \\
        --seconds 25 120 --seeds 1 2 --mostlyai PYTHON

NAME:SETTING=VALUE,... is a generator of ours with settings of its own (columnar-ar:members=1). The peers run with
their defaults. SDV comes with the extra `[sdv]`; mostlyai-engine needs an environment of its own (`python -m venv
PLACE; PLACE/bin/pip install mostlyai-engine`), whose Python is given. Both get patients as arrays of our codec
(statics; gap and columns of each step; categories as text, missing as missing), so linked tables and rules reach them
too. A budget counts CPU seconds of one process, not time on the clock; a peer without a budget of its own (PAR) takes
what its default number of epochs takes, which the table shows.

A row: the worst judge and the patient judge (AUROC; real patients: floor), errors of static-temporal association,
autocorrelation and marginals, the gap of TSTR to TRTR (mean over tasks), CPU seconds of fitting, visits drawn per CPU
second, peak memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, apart, commit, kept, parser, renewed, save, show
from benchmarks.fidelity import cohort_of

GROUPS = ("marginal", "association", "temporal", "detection", "utility", "copies")
SHOWN = {
    "worst judge": "detection.worst",
    "patient judge": "detection.patients",
    "static-temporal": "association.static_temporal",
    "autocorrelation": "temporal.autocorrelation",
    "marginal": "marginal.values",
    "copied patients": "copies.patients",
}
#: Draws this many patients to measure speed, unless the cohort's own number takes so long [CPU s].
MANY, LONG = 10_000, 1
OUR_WHOLE_TIME = {"bootstrap", "independent"}  # no budget
#: What makes two rows the same measurement: with --more the later one stays.
KEY = ("cohort", "generator", "budget_s", "seed", "patients")


def measure(
    name: str, generator: str, seconds: float, seed: int, data: Path, patients: int | None, python: str, fast: bool
) -> dict[str, Any]:
    """One row: fit, draw, judge."""
    time.monotonic = time.process_time  # budgets count CPU seconds: must stand before the training loop is imported
    from cohortloom.evaluation import evaluate

    parts = cohort_of(name, data, patients, seed).split(seed=seed, train=0.6, held_out=0.4)
    row: dict[str, Any] = {"cohort": name, "generator": generator, "budget_s": seconds, "seed": seed}
    row["patients"] = parts.train.n_subjects
    if generator == "mostlyai-engine":
        drawn, facts = _mostlyai(parts.train, seconds, seed, python)
    else:
        drawn, facts = _ours(parts.train, generator, seconds, seed)
    row |= facts
    report = evaluate(drawn, train=parts.train, held_out=parts.held_out, seed=seed, only=GROUPS, fast=fast)
    by_key = {score.key: score for score in report.scores}
    for label, key in SHOWN.items():
        score = by_key.get(key)
        for part in ("value", "floor"):
            found = getattr(score, part, None)
            row[label if part == "value" else f"{label} floor"] = None if found is None else round(float(found), 4)
    gaps = [s for s in report.scores if f"{s.key}_trts" in by_key and s.value is not None]  # one per task
    row["TSTR gap"] = round(float(np.mean([s.value for s in gaps])), 4) if gaps else None
    row["scores"] = {s.key: [s.value, s.floor, s.limit] for s in report.scores if s.value is not None}
    return row


def _ours(train: Any, generator: str, seconds: float, seed: int) -> tuple[Any, dict[str, Any]]:
    from cohortloom.generators import create

    generator, _, told = generator.partition(":")
    settings = {key: json.loads(value) for key, _, value in (part.partition("=") for part in told.split(",") if part)}
    model = create(generator, **settings)  # imports on no one's clock
    minutes = None if generator in OUR_WHOLE_TIME | {"sdv-par"} else seconds / 60
    cpu = time.process_time()
    model = model.fit(train, seed=seed, minutes=minutes)
    facts: dict[str, Any] = {"fit CPU s": round(time.process_time() - cpu, 1)}
    cpu = time.process_time()
    drawn = model.sample(train.n_subjects, seed=seed)
    spent = time.process_time() - cpu
    facts["peak MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    many = drawn
    if spent < LONG:
        cpu = time.process_time()
        many = model.sample(MANY, seed=seed + 1)
        spent = time.process_time() - cpu
    return drawn, facts | {"visits per CPU s": round(_n_steps(many) / max(spent, 1e-9))}


def _mostlyai(train: Any, seconds: float, seed: int, python: str) -> tuple[Any, dict[str, Any]]:
    import pandas as pd

    from cohortloom.codec import Codec
    from cohortloom.codec.tensors import Encoded, Layout, SequenceArrays, StaticArrays
    from cohortloom.rng import Rng

    rng = Rng(seed)
    codec = Codec.fit(train, Layout(static=True, sequence=True, scale="raw"))
    encoded = codec.encode(train, rng=rng.child("encode"))
    static, steps = encoded.static, encoded.sequence
    with TemporaryDirectory() as place:
        folder = Path(place)
        people = _frame(static.features, static.values, static.observed)
        people.insert(0, "patient", np.arange(len(people)))
        rows = _frame(steps.features, steps.values, steps.observed)
        rows.insert(0, "gap", steps.gap)
        rows.insert(0, "patient", steps.subject)
        people.to_parquet(folder / "statics.parquet")
        rows.to_parquet(folder / "steps.parquet")
        n = train.n_subjects
        script = ROOT / "benchmarks" / "mostlyai_peer.py"
        subprocess.run(
            [python, str(script), str(folder), str(n), str(MANY), str(seconds / 60), str(seed)],
            check=True, capture_output=True,
        )  # fmt: skip
        facts = json.loads((folder / "facts.json").read_text())
        people, rows = (pd.read_parquet(folder / f"drawn_{x}.parquet") for x in ("statics", "steps"))
    people = people.reset_index(drop=True)
    rows = rows[rows["gap"].notna() | (rows.drop(columns=["patient", "gap"]).notna().any(axis=1))]
    place_of = pd.Series(np.arange(len(people)), index=people["patient"])
    owner = place_of.loc[rows["patient"]].to_numpy()
    order = np.argsort(owner, kind="stable")
    rows, owner = rows.iloc[order], owner[order]
    drawn = Encoded(
        StaticArrays(static.features, *_arrays(static.features, people)),
        SequenceArrays(
            steps.features,
            *_arrays(steps.features, rows),
            np.clip(np.nan_to_num(rows["gap"].to_numpy(float)), 0, None),
            np.bincount(owner, minlength=len(people)),
        ),
    )
    cohort = codec.decode(drawn, rng.child("decode"), ids=np.arange(1, len(people) + 1))
    rate = round(facts["many_steps"] / max(facts["many_cpu_s"], 1e-9))
    return cohort, {
        "fit CPU s": round(facts["fit_cpu_s"], 1), "peak MB": facts["peak_mb"], "visits per CPU s": rate,
    }  # fmt: skip


def _frame(features: tuple, values: np.ndarray, observed: np.ndarray) -> Any:
    """Numbers with NaN for missing, categories as their level (the rare one as a level of its own)."""
    import pandas as pd

    columns = {}
    for j, feature in enumerate(features):
        if feature.kind == "number":
            columns[f"c{j}"] = np.where(observed[:, j], values[:, j], np.nan)
        else:
            names = np.array(feature.levels, dtype=object)
            ids = np.where(observed[:, j], values[:, j], 0).astype(int)
            columns[f"c{j}"] = np.where(ids == 0, None, names[ids])
    return pd.DataFrame(columns)


def _arrays(features: tuple, frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """The reverse of `_frame`; what the engine calls rare or has never seen is our rare level."""
    values, observed = np.zeros((len(frame), len(features))), np.zeros((len(frame), len(features)), bool)
    for j, feature in enumerate(features):
        column = frame[f"c{j}"]
        if feature.kind == "number":
            numbers = column.astype(float).to_numpy()
            observed[:, j], values[:, j] = np.isfinite(numbers), np.nan_to_num(numbers)
        else:
            ids = column.map({level: i for i, level in enumerate(feature.levels)})
            values[:, j] = np.where(column.isna(), 0, ids.astype(float).fillna(1.0))
            observed[:, j] = values[:, j] > 0
    return values, observed


def _n_steps(cohort: Any) -> int:
    visits = cohort.schema.visit_table
    return cohort.tables[visits].height if visits else sum(f.height for f in cohort.tables.values())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohorts", nargs="+", default=["pbc"], help="cohorts")
    options.add_argument("--generators", nargs="+", default=["columnar-ar", "sdv-par", "mostlyai-engine"])
    options.add_argument("--seconds", nargs="+", type=float, default=[25, 120], help="CPU seconds of a fit")
    options.add_argument("--patients", type=int, default=None, help="a random part of the cohort")
    options.add_argument("--mostlyai", default="", help="Python of the environment with mostlyai-engine")
    options.add_argument("--fast", action="store_true", help="smaller judges")
    options.add_argument("--more", action="store_true", help="add to the result file instead of starting anew")
    given = options.parse_args()
    path = given.out or RESULTS / "peers.json"
    rows = kept(path, given.more)
    for cohort in given.cohorts:
        for seconds in given.seconds:
            for seed in given.seeds:
                for generator in given.generators:
                    if generator == "sdv-par" and seconds != min(given.seconds):
                        continue  # has no budget: once is enough
                    try:
                        row = apart(measure, cohort, generator, seconds, seed, given.data, given.patients,
                                    given.mostlyai, given.fast)  # fmt: skip
                    except Exception as error:  # a peer that fails is a row, not the end of the run
                        row = {"cohort": cohort, "generator": generator, "budget_s": seconds, "seed": seed,
                               "failed": f"{type(error).__name__}: {str(error)[:300]}"}  # fmt: skip
                    row["commit"] = commit()
                    rows = renewed(rows, row, KEY)
                    show([{k: v for k, v in row.items() if k != "scores"}])
                    save("peers", rows, out=path)


if __name__ == "__main__":
    main()
