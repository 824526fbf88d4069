"""What each part of `timegan` is worth, on one cohort: one change from the defaults per row.

    python -m benchmarks.timegan --seeds 1 2

Every variant trains each of its phases for the same number of steps, so that rows differ in the part named and in
nothing else ("no sampled noise" is the default's model, its recoveries handing out their most likely rows). Scores as
in `benchmarks.fidelity`, with smaller judges.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import parser, save, show
from benchmarks.fidelity import cohort_of

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no sampled noise": {"noise": False},
    "no static embedding": {"static_embedding": False},
    "no global noise": {"global_noise": False},
    "no freezing": {"freeze": False},
    "no critic": {"adversarial": False},
    "critic alone": {"supervision": 0.0},
    "wasserstein": {"objective": "wasserstein"},
    "auto-normalisation": {"normalise": True},
    "original objective": {"objective": "original"},
}
KEYS = (
    "detection.patients", "detection.visits", "association.static_temporal", "temporal.autocorrelation",
    "marginal.values", "missingness.rates",
)  # fmt: skip


GROUPS = ("marginal", "missingness", "association", "temporal", "detection")


@cache
def fitted(cohort: str, settings: tuple, seed: int, steps: int, data: Path) -> tuple[Any, Any, float]:
    """(model, parts of the cohort, CPU seconds of the fit)."""
    from cohortloom.generators import create

    parts = cohort_of(cohort, data, None, seed).split(seed=seed, train=0.6, held_out=0.4)
    cpu = time.process_time()
    model = create("timegan", training={"steps": steps}, **dict(settings)).fit(parts.train, seed=seed)
    return model, parts, time.process_time() - cpu


def measure(cohort: str, variant: str, seed: int, steps: int, data: Path) -> dict[str, Any]:
    """Fit (unless another variant has the same model), draw, judge."""
    from cohortloom.evaluation import evaluate

    settings = dict(VARIANTS[variant])
    noise = settings.pop("noise", True)
    model, parts, fit = fitted(cohort, tuple(settings.items()), seed, steps, data)
    model.noise = noise
    drawn = model.sample(parts.train.n_subjects, seed=seed)
    report = evaluate(drawn, train=parts.train, held_out=parts.held_out, seed=seed, only=GROUPS, fast=True)
    found = {s.key: s for s in report.scores}
    row = {"cohort": cohort, "variant": variant, "seed": seed, "fit_cpu_s": round(fit, 1)}
    row |= {key: round(float(found[key].value), 4) for key in KEYS if key in found and found[key].value is not None}
    row["rollbacks"] = len(model.history_.of("rollback"))
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohort", default="pbc", help="cohort of benchmarks.fidelity")
    options.add_argument("--variants", nargs="+", default=list(VARIANTS), help="rows")
    options.add_argument("--steps", type=int, default=200, help="steps of every phase")
    given = options.parse_args()
    rows = []
    for seed in given.seeds:
        for variant in given.variants:
            rows.append(measure(given.cohort, variant, seed, given.steps, given.data))
            show([rows[-1]])
            save("timegan", rows, out=given.out)


if __name__ == "__main__":
    main()
