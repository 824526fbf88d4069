"""How often a second sample of real patients fails a report: at most one report in twenty should.

    python -m benchmarks.false_alarms --cohorts clinic=100 pbc=20 diabetes_encounters=20 icu_48h=20 --seeds 1000

Three samples of one population play training, held-out and synthetic patients; a report with any failed score is an
alarm, and the JSON names each score that gave one. `clinic` is the simulated population of the evaluation tests (250
patients a sample, new ones for every split). Real cohorts are split by patient into three at random: all of pbc (104 a
sample), random parts of 750 of the others (250 a sample). Splits of one cohort share patients, so that its reports are
not independent.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from benchmarks.common import ROOT, parser, save

PATIENTS = 250


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohorts", nargs="+", default=["clinic=100"], help="splits of each cohort")
    chosen = options.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
    from cohortloom.evaluation import evaluate

    rows: list[dict[str, Any]] = []
    for name, _, splits in (word.partition("=") for word in chosen.cohorts):
        for k in range(chosen.seeds[0], chosen.seeds[0] + int(splits or 20)):
            train, held_out, good = _samples(name, k, chosen.data)
            report = evaluate(good, train=train, held_out=held_out, seed=k, fast=True)
            judged = sum(s.passed is not None for s in report.scores)
            rows.append({"cohort": name, "split": k, "judged": judged, "failed": [s.key for s in report.failed]})
            print(name, k, rows[-1]["failed"], flush=True)
            save("false_alarms", rows, out=chosen.out, summary=_summary(rows))


def _samples(name: str, seed: int, data):
    if name == "clinic":
        from clinic import clinic

        return tuple(clinic(PATIENTS, 3 * seed + i) for i in (1, 2, 3))
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


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name in dict.fromkeys(r["cohort"] for r in rows):
        mine = [r for r in rows if r["cohort"] == name]
        found.append(
            {"cohort": name, "splits": len(mine), "reports_with_an_alarm": sum(bool(r["failed"]) for r in mine)}
        )
    return found


if __name__ == "__main__":
    main()
