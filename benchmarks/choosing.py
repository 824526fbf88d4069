"""What choosing among draws is worth: one fitted model, judged with and without it.

    python -m benchmarks.choosing --cohorts icu_48h heart_failure mimic_iv_demo --seeds 1 --draws 2

A row has the means over draws of the judges' AUC (fast judges), the failed scores of the first draw, the floor, and CPU
seconds of drawing.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, apart, commit, kept, parser, renewed, save, show
from benchmarks.fidelity import GROUPS, cohort_of

JUDGES = ("detection.patients", "detection.visits", "detection.convolutions", "detection.recurrent")


def measure(name: str, generator: str, seed: int, data: Path, draws: int) -> dict[str, Any]:
    """{"rows": without and with the choice, of one fit}."""
    from cohortloom.evaluation import evaluate
    from cohortloom.generators import create

    parts = cohort_of(name, data, None, seed).split(seed=seed, train=0.6, held_out=0.4)
    cpu = time.process_time()
    model: Any = create(generator).fit(parts.train, seed=seed)
    fit, rows = time.process_time() - cpu, []
    ratio = model.ratio_
    for number in (1, 1 if ratio is None else ratio.candidates):
        model.ratio_ = None if number == 1 else replace(ratio, candidates=number)
        found, spent, failed = [], 0.0, 0
        for draw in range(draws):
            cpu = time.process_time()
            drawn = model.sample(parts.train.n_subjects, seed=seed + 1000 * draw)
            spent += (time.process_time() - cpu) / draws
            groups = GROUPS if not draw else ("detection",)
            report = evaluate(drawn, train=parts.train, held_out=parts.held_out, seed=seed, only=groups, fast=True)
            scores = {s.key: s for s in report.scores}
            found.append([s.value if (s := scores.get(key)) and s.value is not None else np.nan for key in JUDGES])
            failed = failed if draw else sum(s.passed is False for s in report.scores)
        row = {"cohort": name, "generator": generator, "seed": seed, "candidates": number, "failed": failed}
        row |= {k: round(float(v), 3) for k, v in zip(JUDGES, np.mean(found, axis=0), strict=True) if np.isfinite(v)}
        row |= {"patients draws": [round(float(f[0]), 3) for f in found], "floor": scores[JUDGES[0]].floor}
        row |= {"told apart": None if ratio is None else round(ratio.auc, 3)}
        rows.append(row | {"fit_cpu_s": round(fit, 1), "draw_cpu_s": round(spent, 1)})
        if ratio is None:
            break
    return {"rows": rows}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohorts", nargs="+", default=["icu_48h", "heart_failure", "mimic_iv_demo"], help="cohorts")
    options.add_argument("--generators", nargs="+", default=["columnar-ar"], help="generators")
    options.add_argument("--draws", type=int, default=2, help="draws that are judged")
    options.add_argument("--more", action="store_true", help="add to the result file instead of starting anew")
    given = options.parse_args()
    rows = kept(given.out or RESULTS / "choosing.json", given.more)
    for cohort in given.cohorts:
        for seed in given.seeds:
            for generator in given.generators:
                for row in apart(measure, cohort, generator, seed, given.data, given.draws)["rows"]:
                    rows = renewed(rows, row | {"commit": commit()}, ("cohort", "generator", "seed", "candidates"))
                    show(rows[-1:])
                save("choosing", rows, out=given.out)


if __name__ == "__main__":
    main()
