"""How near generators come to real cohorts, as judged by `cohortloom.evaluate` against patients they have not seen.

    python -m benchmarks.fidelity --cohorts pbc icu_48h diabetes_encounters mimic_iv_demo heart_failure \\
        --generators columnar-ar temporal-vae bootstrap independent --minutes 2 --seeds 0

Each cohort is split by patient (.6 to learn from, .4 held out; the split follows the seed). Each generator is fitted in
a process of its own, draws as many patients as it was fitted on, and is judged. A row holds the headline scores with
the floor (real training patients in place of synthetic ones) and both anchors, what the judges see first, CPU seconds
and peak memory of fitting and drawing. One draw of a small cohort is judged .05 above or below the next: `--draws` lets
the patient judge see several, and the table shows their mean. `heart_failure` is simulated from the priors of its
schema: a cohort of known laws, not a real one. `nafld`, `cgd` and `pbc_baseline` are read by the schema that
`schema infer` drafts, untouched: what somebody with other data may expect. `--patients` takes a random part of a cohort
(diabetes_encounters=20000).
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, apart, commit, kept, parser, renewed, save, show

FOLDERS = {
    "pbc": "rare-disease-cohorts",
    "icu_48h": "physionet2012-set-a",
    "diabetes_encounters": "diabetes-130-hospitals",
    "mimic_iv_demo": "mimic-iv-demo",
}
#: Cohorts whose schema is drafted: folder and files.
DRAFTED = {
    "nafld": ("nafld-events", "*.csv.gz"),
    "cgd": ("rare-disease-cohorts", "cgd.csv.gz"),
    "pbc_baseline": ("rare-disease-cohorts", "pbc.csv.gz"),
}
SIMULATED = {"heart_failure": ("heart_failure_clinic", 1_000)}
GROUPS = ("marginal", "missingness", "association", "temporal", "detection", "utility", "copies")
HEADLINES = (
    "detection.patients", "detection.visits", "detection.worst", "association.static_static",
    "association.static_temporal", "association.temporal_temporal", "temporal.autocorrelation", "temporal.counts",
    "marginal.values", "missingness.rates", "missingness.runs", "copies.patients",
)  # fmt: skip


def cohort_of(name: str, data: Path, patients: int | None, seed: int):
    """A real cohort, or one simulated; a random part of it if asked."""
    from cohortloom.formats import read
    from cohortloom.schema.infer import infer_schema
    from cohortloom.schema.text import read_schema
    from cohortloom.simulation import simulate

    if name in SIMULATED:
        schema, n = SIMULATED[name]
        return simulate(read_schema(ROOT / "schemas" / f"{schema}.toml"), patients or n, seed=seed)
    if name in DRAFTED:
        folder = data / DRAFTED[name][0]
        schema = infer_schema(sorted(folder.glob(DRAFTED[name][1])), name=name).schema
    else:
        folder, schema = data / FOLDERS[name], read_schema(ROOT / "schemas" / f"{name}.toml")
    cohort = read(folder, format="tabular", schema=schema, on_error="drop")
    if patients is None or patients >= cohort.n_subjects:
        return cohort
    picks = np.random.default_rng(seed).permutation(cohort.n_subjects)[:patients]
    return cohort.select(cohort.subjects.gather(np.sort(picks)))


def measure(
    name: str,
    generator: str,
    seed: int,
    data: Path,
    patients: int | None,
    minutes: float | None,
    fast: bool,
    draws: int,
) -> dict[str, Any]:
    """One row: fit, draw, judge; of further draws the patient judge alone."""
    from cohortloom.evaluation import evaluate
    from cohortloom.generators import create

    parts = cohort_of(name, data, patients, seed).split(seed=seed, train=0.6, held_out=0.4)
    start, cpu = time.perf_counter(), time.process_time()
    model = create(generator).fit(parts.train, seed=seed, minutes=minutes)
    fit_cpu, fit_wall = time.process_time() - cpu, time.perf_counter() - start
    fit_peak, cpu = _peak(), time.process_time()
    drawn = model.sample(parts.train.n_subjects, seed=seed)
    sample_cpu, peak, cpu = time.process_time() - cpu, _peak(), time.process_time()
    report = evaluate(drawn, train=parts.train, held_out=parts.held_out, seed=seed, only=GROUPS, fast=fast)
    passed = [s.passed for s in report.scores if s.passed is not None]
    shown = [s for s in report.scores if s.key in HEADLINES or s.key.startswith("utility.")]
    row: dict[str, Any] = {
        "cohort": name,
        "generator": generator,
        "seed": seed,
        "patients": parts.train.n_subjects,
        "rows": sum(frame.height for frame in parts.train.tables.values()),
        "failed": sum(not p for p in passed),
        "judged": len(passed),
        "fit_cpu_s": round(fit_cpu, 1),
        "fit_wall_s": round(fit_wall, 1),
        "sample_cpu_s": round(sample_cpu, 2),
        "fit_peak_mb": fit_peak,
        "sample_peak_mb": peak,
        "evaluate_cpu_s": round(time.process_time() - cpu, 1),
    }
    by_key = {s.key: s for s in report.scores}
    for key in ("detection.patients", "detection.visits"):
        row[key] = _rounded(by_key[key].value) if key in by_key else None
        row[f"{key} floor"] = _rounded(by_key[key].floor) if key in by_key else None
    row["scores"] = {
        s.key: {
            "value": _rounded(s.value),
            "limit": _rounded(s.limit),
            "floor": _rounded(s.floor),
            "bootstrap": _rounded(s.anchors.get("bootstrap")),
            "independent": _rounded(s.anchors.get("independent")),
            "passed": None if s.passed is None else bool(s.passed),
        }
        for s in shown
    }
    row["detection.patients draws"] = [row["detection.patients"]]
    for draw in range(1, draws):
        more = model.sample(parts.train.n_subjects, seed=seed + 1000 * draw)
        again = evaluate(more, train=parts.train, held_out=parts.held_out, seed=seed, only=["detection"], fast=fast)
        found = next(s.value for s in again.scores if s.key == "detection.patients")
        row["detection.patients draws"].append(_rounded(found))
    row["failed_scores"] = [s.key for s in report.scores if s.passed is not None and not s.passed]
    row["gives_away"] = {
        key: by_key[key].details.get("gives_away", [])[:6]
        for key in ("detection.patients", "detection.visits")
        if key in by_key
    }
    return row


def _peak() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohorts", nargs="+", default=[*FOLDERS, *DRAFTED, *SIMULATED], help="cohorts")
    options.add_argument("--generators", nargs="+", default=["columnar-ar", "bootstrap", "independent"])
    options.add_argument("--minutes", nargs="+", default=[], help="budget of a fit, 2 or pbc=2 icu_48h=10")
    options.add_argument("--patients", nargs="+", default=[], help="part of a cohort, diabetes_encounters=20000")
    options.add_argument("--draws", type=int, default=3, help="draws that the patient judge sees, one after the other")
    options.add_argument("--fast", action="store_true", help="smaller judges")
    options.add_argument("--more", action="store_true", help="add to the result file instead of starting anew")
    options.add_argument("--table", action="store_true", help="print the result file as Markdown, run nothing")
    given = options.parse_args()
    if given.table:
        print(table_of(given.out or RESULTS / "fidelity.json"))
        return
    minutes, patients = _by_cohort(given.minutes, float), _by_cohort(given.patients, int)
    rows = kept(given.out or RESULTS / "fidelity.json", given.more)
    for cohort in given.cohorts:
        for seed in given.seeds:
            for generator in given.generators:
                budget, part = (table.get(cohort, table.get("")) for table in (minutes, patients))
                row = apart(measure, cohort, generator, seed, given.data, part, budget, given.fast, given.draws)
                rows = renewed(rows, row | {"commit": commit()}, ("cohort", "generator", "seed"))
                show(rows[-1:])
                save("fidelity", rows, out=given.out)  # a run that is stopped keeps what it has


def table_of(path: Path) -> str:
    """The README's table: value (floor of real patients; columns drawn apart)."""
    found = json.loads(path.read_text())
    head = [
        "cohort", "seed", "fitted on", "fit CPU s", "patient judge AUC", "visit judge AUC", "autocorrelation error",
        "static-temporal error", "marginal error", "failed of judged",
    ]  # fmt: skip
    keys = (
        "detection.patients", "detection.visits", "temporal.autocorrelation", "association.static_temporal",
        "marginal.values",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in found["rows"]:
        cells = [row["cohort"], row["seed"], f"{row['patients']:,}", f"{row['fit_cpu_s']:.0f}"]
        for key in keys:
            score = row["scores"].get(key) or {}
            parts = [score.get(k) for k in ("value", "floor", "independent")]
            if key == "detection.patients" and row.get(f"{key} draws"):
                parts[0] = float(np.mean(row[f"{key} draws"]))
            text = [f"{v:.2f}".replace("0.", ".") if v is not None else "-" for v in parts]
            cells.append(f"{text[0]} ({text[1]}; {text[2]})")
        failed = f"{row['failed']} of {row['judged']}"
        lines.append(f"| {' | '.join(map(str, [*cells, failed]))} |")
    return "\n".join(
        [f"Command: `{found['command']}` ({found['date']}, {found['machine']['processor']}, one thread)", "", *lines]
    )


def _by_cohort(words: list[str], kind: type) -> dict[str, Any]:
    """{"": 2, "icu_48h": 10} of ["2", "icu_48h=10"]."""
    return {name: kind(value) for name, _, value in (w.rpartition("=") for w in words)}


if __name__ == "__main__":
    main()
