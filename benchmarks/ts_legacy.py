"""The scores of the TimeGAN paper on its Stocks windows, beside what chance, real windows and copies get.

    python -m benchmarks.ts_legacy --generators timegan columnar-ar

Windows of 24 days x 6 columns of `stock_data.csv`, one window a "patient", time by order. A random half of the windows
is learned from, the other half is compared with (papers learn from all windows and compare with the same ones; windows
overlap, so the halves know each other either way). Values lie between 0 and 1 for the judges, as in the paper.

    discriminative   |accuracy - .5| of a one-layer GRU; what guessing gets is `chance`, 95 % of guesses lie below `tie`
    predictive       error of a GRU that learns on drawn windows to tell the last column one day ahead

Rows: generators, real windows in place of drawn ones (the floor), a bootstrap of the training windows (copies), and the
published numbers. The judge's own spread is told by `--repeats`. A low score proves little: a judge of three hidden
units that says "real" to everything gets 0, and copies do best of all.

References:
    Yoon, Jarrett, van der Schaar (2019). Time-series generative adversarial networks. NeurIPS, table 2.
    Yuan, Qiao (2024). Diffusion-TS. arXiv:2403.01742, table 1.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import apart, parser, save, show

STEPS, JUDGE_STEPS = 24, 2000
COLUMNS = ("Open", "High", "Low", "Close", "Adj_Close", "Volume")
#: (discriminative, predictive) on Stocks as the papers give them.
PUBLISHED = {
    "TimeGAN (2019)": (0.102, 0.038),
    "RCGAN, by the TimeGAN paper": (0.196, 0.040),
    "C-RNN-GAN, by the TimeGAN paper": (0.399, 0.038),
    "TimeVAE, by the Diffusion-TS paper": (0.145, 0.039),
    "Diffusion-TS (2024)": (0.067, 0.036),
    "real windows, by the TimeGAN paper": (None, 0.036),
}


def windows(data: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of all windows [window step column]."""
    file = data / "ts-benchmarks" / "stock_data.csv"
    table = np.genfromtxt(file, delimiter=",", skip_header=1)
    whole = np.lib.stride_tricks.sliding_window_view(table, STEPS, axis=0).transpose(0, 2, 1)
    order = np.random.default_rng(seed).permutation(len(whole))
    return whole[order[::2]], whole[order[1::2]]


def cohort_of(x: np.ndarray):
    """Windows as patients, days as visits."""
    import polars as pl

    from cohortloom.cohort import Cohort
    from cohortloom.schema import Schema

    columns = {name.lower(): {"kind": "number", "unit": "1", "missing": False} for name in COLUMNS}
    tables = {"days": {"role": "visit", "columns": columns}}
    schema = Schema.model_validate({"name": "stocks", "clock": "order", "tables": tables})
    n = len(x)
    frame = {"subject_id": np.repeat(np.arange(n), STEPS), "visit_id": np.arange(n * STEPS)}
    frame |= {"time": np.tile(np.arange(STEPS), n)}
    frame |= {name.lower(): x[:, :, j].ravel() for j, name in enumerate(COLUMNS)}
    return Cohort.build(schema, {"days": pl.DataFrame(frame)})


def array_of(cohort) -> np.ndarray:
    """Windows of a drawn cohort; a course that ended early repeats its last day."""
    frame = cohort.tables["days"].sort("subject_id", "time")
    values = frame.select([name.lower() for name in COLUMNS]).to_numpy()
    length = frame.group_by("subject_id", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    start = np.cumsum(length) - length
    rows = start[:, None] + np.minimum(np.arange(STEPS), length[:, None] - 1)
    return values[rows]


def measure(generator: str, seed: int, repeats: int, steps: int | None, data: Path) -> dict[str, Any]:
    """One row: fit, draw, both scores."""
    import torch

    from cohortloom.evaluation.legacy import _discriminative, _predictive
    from cohortloom.generators import create
    from cohortloom.rng import Rng

    train, held_out = windows(data, seed)
    cpu, fit = time.process_time(), 0.0
    if generator == "real windows":
        made = train
    elif generator == "copies":
        made = train[np.random.default_rng(seed).integers(0, len(train), len(train))]
    else:
        name, _, objective = generator.partition(":")
        settings: dict[str, Any] = {"objective": objective} if objective else {}
        settings |= {"training": {"steps": steps}} if steps and name == "timegan" else {}
        model = create(name, **settings).fit(cohort_of(train), seed=seed)
        fit = time.process_time() - cpu
        made = array_of(model.sample(len(train), seed=seed))
    low, high = train.min((0, 1)), train.max((0, 1))
    made, real = ((x - low) / (high - low) for x in (made, held_out))
    torch.set_num_threads(1)
    found = [[f(made, real, Rng(seed).child(k, r), JUDGE_STEPS) for r in range(repeats)]
             for k, f in (("d", _discriminative), ("p", _predictive))]  # fmt: skip
    test = 2 * (len(real) - int(0.8 * len(real)))
    return {
        "generator": generator,
        "seed": seed,
        "windows": len(train),
        "fit_cpu_s": round(fit, 1),
        "discriminative": round(float(np.mean(found[0])), 4),
        "discriminative_sd": round(float(np.std(found[0])), 4),
        "predictive": round(float(np.mean(found[1])), 4),
        "predictive_sd": round(float(np.std(found[1])), 4),
        "chance": round(float(np.sqrt(2 / np.pi) * 0.5 / np.sqrt(test)), 4),
        "tie": round(float(1.96 * 0.5 / np.sqrt(test)), 4),
        "error_of_persistence": round(float(np.abs(np.diff(real[:, :, -1], axis=1)).mean()), 4),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--generators", nargs="+", default=["timegan", "columnar-ar"], help="rows; timegan:original")
    options.add_argument("--repeats", type=int, default=3, help="judges per score")
    options.add_argument("--steps", type=int, default=400, help="of every phase of timegan")
    given = options.parse_args()
    rows: list[dict[str, Any]] = [
        {"generator": f"published: {name}", "discriminative": d, "predictive": p} for name, (d, p) in PUBLISHED.items()
    ]
    for seed in given.seeds:
        for generator in ("real windows", "copies", *given.generators):
            rows.append(apart(measure, generator, seed, given.repeats, given.steps, given.data))
            show([rows[-1]])
            save("ts_legacy", rows, out=given.out)
    show(rows)


if __name__ == "__main__":
    main()
