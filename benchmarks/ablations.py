"""What each part of a generator is worth: one change from its defaults per row, on one cohort.

    python -m benchmarks.ablations --generators timegan --steps 200 --seeds 1 2
    python -m benchmarks.ablations --generators temporal-vae record-diffusion --seeds 1 2 --more

`--steps` trains every phase of every variant for as many steps, so that rows differ in the part named and in nothing
else; without it a fit ends by its own rule. A change is a setting, or a constant or function of a module that is
replaced (what is no option for users). Each fit has a process of its own. Scores as in `benchmarks.fidelity`, with
smaller judges; one seed's judges differ by some .05 from draw to draw, so `--draws` lets them see several.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, apart, commit, kept, parser, renewed, save, show
from benchmarks.fidelity import cohort_of


@dataclass(frozen=True)
class Variant:
    """Settings of the generator, and what is replaced in modules of the package (dotted name -> value)."""

    settings: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, Any] = field(default_factory=dict)


def _nothing(*_: Any, **__: Any) -> None:
    """In place of what prepares a start."""


_RECORDS = "cohortloom.generators.record_training"
VARIANTS: dict[str, dict[str, Variant]] = {
    "timegan": {
        "default": Variant(),
        "no critic": Variant({"adversarial": False}),
        "autoencoder not frozen": Variant({"freeze": False}),
        "no global noise": Variant({"global_noise": False}),
        "wasserstein": Variant({"objective": "wasserstein"}),
        "normalised per patient": Variant({"normalise": True}),
        "original objective": Variant({"objective": "original"}),
        "course without statics": Variant({"static_embedding": False}),
        "no sampled noise": Variant({"noise": False}),
        "critic alone": Variant({"supervision": 0.0}),
    },
    "temporal-vae": {
        "default": Variant(),
        "z from N(0, I)": Variant({"prior": "normal"}),
        "no autoregression of residuals": Variant({"residual": False}),
        "no latent of segments": Variant({"local_size": 0}),
        "latents left empty": Variant({"beta": 1e3, "free_nats": 0.0}),
        "level, trend, season": Variant({"decomposed": True}),
    },
    "record-diffusion": {
        "default": Variant(),
        "one clock": Variant(replaced={f"{_RECORDS}.ALONE": 1.0}),
        "nothing given in training": Variant({"given": 0.0}),
        "10 sampling steps": Variant({"sampling_steps": 10}),
        "no processes": Variant(replaced={f"{_RECORDS}._fit_processes": _nothing}),
    },
}
KEYS = (
    "detection.worst", "detection.patients", "detection.visits", "association.static_temporal",
    "temporal.autocorrelation", "marginal.values", "missingness.rates",
)  # fmt: skip
GROUPS = ("marginal", "missingness", "association", "temporal", "detection")


def measure(cohort: str, generator: str, variant: str, seed: int, steps: int | None, draws: int, data: Path
            ) -> dict[str, Any]:  # fmt: skip
    """Fit, draw, judge; scores are means over the draws."""
    from cohortloom.evaluation import evaluate
    from cohortloom.generators import create

    change = VARIANTS[generator][variant]
    for path, value in change.replaced.items():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
        setattr(importlib.import_module(module), name, value)
    parts = cohort_of(cohort, data, None, seed).split(seed=seed, train=0.6, held_out=0.4)
    training = {"training": {"steps": steps}} if steps else {}
    cpu = time.process_time()
    model = create(generator, **training, **change.settings).fit(parts.train, seed=seed)
    row: dict[str, Any] = {"cohort": cohort, "generator": generator, "variant": variant, "seed": seed, "steps": steps}
    row["fit_cpu_s"] = round(time.process_time() - cpu, 1)
    found: dict[str, list[float]] = {key: [] for key in KEYS}
    failed, floors = [], {}
    for draw in range(draws):
        drawn = model.sample(parts.train.n_subjects, seed=seed + 1000 * draw)
        report = evaluate(drawn, train=parts.train, held_out=parts.held_out, seed=seed, only=GROUPS, fast=True)
        failed.append(sum(s.passed is False for s in report.scores))
        for score in report.scores:
            if score.key in found and score.value is not None:
                found[score.key].append(float(score.value))
                floors[f"{score.key} floor"] = None if score.floor is None else round(float(score.floor), 4)
    row |= {key: round(float(np.mean(values)), 4) for key, values in found.items() if values}
    return row | floors | {"failed": round(float(np.mean(failed)), 1)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohort", default="pbc", help="cohort of benchmarks.fidelity")
    options.add_argument("--generators", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="families")
    options.add_argument("--variants", nargs="+", default=None, help="rows (default: all of a family)")
    options.add_argument("--steps", type=int, default=None, help="steps of every phase")
    options.add_argument("--draws", type=int, default=2, help="draws that are judged")
    options.add_argument("--more", action="store_true", help="add to the result file instead of starting anew")
    given = options.parse_args()
    path = given.out or RESULTS / "ablations.json"
    rows = kept(path, given.more)
    for generator in given.generators:
        for seed in given.seeds:
            for variant in given.variants or VARIANTS[generator]:
                row = apart(measure, given.cohort, generator, variant, seed, given.steps, given.draws, given.data)
                names = ("cohort", "generator", "variant", "seed")
                rows = renewed(rows, row | {"commit": commit()}, names)
                show([rows[-1]])
                save("ablations", rows, out=path)


if __name__ == "__main__":
    main()
