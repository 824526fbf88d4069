"""How often a second sample of real patients fails a report: at most one report in twenty should.

    python -m benchmarks.false_alarms --cohorts ward=100 pbc=20 registry=20 --seeds 5000

Three samples of one population play training, held-out and synthetic patients. A score that fails then is a false alarm
of that score, a report with any failed score a false alarm of the report; the JSON names each score that gave one.
`clinic` is the simulated population of the evaluation tests (250 patients a sample, new ones for every split), `ward`
the same with tasks, survival, subgroups and sites, so that every group of scores has something to measure, `registry`
one row per patient and three columns. Real cohorts are split by patient into three at random: all of pbc (104 a
sample), random parts of 750 of the others (250 a sample). Splits of one cohort share patients, so that its reports are
not independent. `--only` measures some groups; scores do not depend on what else is measured, so that the failed scores
of two runs over the same splits add up (`--add` keeps the rows of the result file).
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, parser, save

PATIENTS = 250


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohorts", nargs="+", default=["ward=100"], help="splits of each cohort")
    options.add_argument("--only", nargs="+", default=None, help="groups of scores")
    options.add_argument("--add", action="store_true", help="add to the rows of the result file")
    chosen = options.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
    from cohortloom.evaluation import evaluate

    path = chosen.out or RESULTS / "false_alarms.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if chosen.add else []
    for name, _, splits in (word.partition("=") for word in chosen.cohorts):
        for k in range(chosen.seeds[0], chosen.seeds[0] + int(splits or 20)):
            train, held_out, good = _samples(name, k, chosen.data)
            report = evaluate(good, train=train, held_out=held_out, seed=k, only=chosen.only, fast=True)
            _enter(rows, name, k, report)
            save("false_alarms", rows, out=chosen.out, summary=_summary(rows))


def _samples(name: str, seed: int, data):
    if name in ("clinic", "ward", "registry"):
        from importlib import import_module

        make = getattr(import_module(name), name)  # beside the tests of the evaluation
        return tuple(make(PATIENTS, 3 * seed + i) for i in (1, 2, 3))
    cohort = _whole(name, data)
    if cohort.n_subjects > 3 * PATIENTS:
        some = np.random.default_rng(seed).permutation(cohort.n_subjects)[: 3 * PATIENTS]
        cohort = cohort.select(cohort.subjects.gather(np.sort(some)))
    parts = cohort.split(seed=seed, train=0.34, held_out=0.33, other=0.33)
    return parts.train, parts.held_out, parts.other


@cache
def _whole(name: str, data):
    from benchmarks.fidelity import cohort_of

    return cohort_of(name, data, None, 0)


def _enter(rows: list[dict[str, Any]], name: str, split: int, report) -> None:
    """Put a report into the row of its split."""
    row = next((r for r in rows if (r["cohort"], r["split"]) == (name, split)), None)
    if row is None:
        rows.append(row := {"cohort": name, "split": split, "groups": [], "judged": 0, "failed": []})
    new = [s for s in report.scores if s.group not in row["groups"]]
    row["judged"] += sum(s.passed is not None for s in new)
    row["failed"] += [s.key for s in new if s.passed is False]
    row["groups"] += [g for g in report.provenance["groups"] if g not in row["groups"]]
    print(name, split, row["failed"], flush=True)


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Alarms per report and per score, of each cohort and of all; groups that some split lacks are left out."""
    found = []
    names = list(dict.fromkeys(r["cohort"] for r in rows))
    for name in [*names, *(["all"] if len(names) > 1 else [])]:
        mine = [r for r in rows if name in (r["cohort"], "all")]
        shared = set.intersection(*(set(r["groups"]) for r in mine))
        failed = [[key for key in r["failed"] if key.split(".")[0] in shared] for r in mine]
        reports = sum(bool(keys) for keys in failed)
        found.append(
            {
                "cohort": name, "groups": len(shared), "reports": len(mine), "reports_with_an_alarm": reports,
                "share_of_reports": round(reports / len(mine), 4), "judged_scores": sum(r["judged"] for r in mine),
                "failed_scores": sum(map(len, failed)),
            }
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
