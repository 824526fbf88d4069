"""The scores of the TimeGAN paper on windows of time series, beside what chance, real windows and copies get.

    python -m benchmarks.ts_legacy --generators timegan columnar-ar
    python -m benchmarks.ts_legacy --sets etth fmri --windows 1500 --minutes 2 --more

Windows of 24 steps: Stocks (6 columns, days), ETTh (7, hours), fMRI (50 nodes of simulated BOLD; no window runs over
from one subject to the next). One window is a "patient", time by order. A random half of the windows is learned from,
the other half is compared with (papers learn from all windows and compare with the same ones; windows overlap, so the
halves know each other either way). `--windows` takes fewer of each half. Values lie between 0 and 1 for the judges, as
in the paper.

    discriminative   |accuracy - .5| of a one-layer GRU; what guessing gets is `chance`, 95 % of guesses lie below `tie`
    spectrum         mean |log ratio| of the power of drawn and of real windows
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

from benchmarks.common import RESULTS, apart, commit, kept, parser, save, show

STEPS, JUDGE_STEPS = 24, 2000
#: (discriminative, predictive) as the papers give them: TimeGAN's table 2 (Stocks) and Diffusion-TS's table 1.
PUBLISHED = {
    "stocks": {
        "TimeGAN (2019)": (0.102, 0.038),
        "RCGAN, by the TimeGAN paper": (0.196, 0.040),
        "C-RNN-GAN, by the TimeGAN paper": (0.399, 0.038),
        "TimeVAE, by the Diffusion-TS paper": (0.145, 0.039),
        "Diffusion-TS (2024)": (0.067, 0.036),
        "real windows, by the TimeGAN paper": (None, 0.036),
    },
    "etth": {
        "TimeGAN, by the Diffusion-TS paper": (0.114, 0.124),
        "TimeVAE, by the Diffusion-TS paper": (0.209, 0.126),
        "Diffusion-TS (2024)": (0.061, 0.119),
        "real windows, by the Diffusion-TS paper": (None, 0.121),
    },
    "fmri": {
        "TimeGAN, by the Diffusion-TS paper": (0.484, 0.126),
        "TimeVAE, by the Diffusion-TS paper": (0.476, 0.113),
        "Diffusion-TS (2024)": (0.167, 0.099),
        "real windows, by the Diffusion-TS paper": (None, 0.090),
    },
}


def series(name: str, data: Path) -> list[np.ndarray]:
    """Stretches of [step column] that windows are cut from."""
    folder = data / "ts-benchmarks"
    if name == "stocks":
        return [np.genfromtxt(folder / "stock_data.csv", delimiter=",", skip_header=1)]
    if name == "etth":
        return [np.genfromtxt(folder / "ETTh.csv", delimiter=",", skip_header=1)[:, 1:]]  # without the date
    from scipy.io import loadmat

    return np.split(loadmat(folder / "fmri_sim4.mat")["ts"], 50)


def windows(name: str, data: Path, seed: int, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of all windows [window step column]."""
    cut = np.lib.stride_tricks.sliding_window_view
    whole = np.concatenate([cut(x, STEPS, axis=0).transpose(0, 2, 1) for x in series(name, data)])
    order = np.random.default_rng(seed).permutation(len(whole))
    return whole[order[::2][:most]], whole[order[1::2][:most]]


def cohort_of(x: np.ndarray):
    """Windows as patients, steps as visits, columns c0, c1, ..."""
    import polars as pl

    from cohortloom.cohort import Cohort
    from cohortloom.schema import Schema

    names = [f"c{j}" for j in range(x.shape[2])]
    tables = {"steps": {"role": "visit", "columns": {c: {"kind": "number", "missing": False} for c in names}}}
    schema = Schema.model_validate({"name": "windows", "clock": "order", "tables": tables})
    n = len(x)
    frame = {"subject_id": np.repeat(np.arange(n), STEPS), "visit_id": np.arange(n * STEPS)}
    frame |= {"time": np.tile(np.arange(STEPS), n), **{c: x[:, :, j].ravel() for j, c in enumerate(names)}}
    return Cohort.build(schema, {"steps": pl.DataFrame(frame)})


def array_of(cohort) -> np.ndarray:
    """Windows of a drawn cohort; a course that ended early repeats its last step."""
    frame = cohort.tables["steps"].sort("subject_id", "time")
    values = frame.drop("subject_id", "visit_id", "time").to_numpy()
    length = frame.group_by("subject_id", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    start = np.cumsum(length) - length
    rows = start[:, None] + np.minimum(np.arange(STEPS), length[:, None] - 1)
    return values[rows]


def spectrum_error(made: np.ndarray, real: np.ndarray) -> float:
    """Mean |log ratio| of the windows' mean power, over columns and frequencies above 0."""
    power = [np.square(np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), axis=1))).mean(0)[1:] for x in (made, real)]
    return float(np.abs(np.log(power[0] / power[1])).mean())


def measure(
    name: str, generator: str, seed: int, repeats: int, steps: int | None, most: int | None, minutes: float | None,
    data: Path,
) -> dict[str, Any]:  # fmt: skip
    """One row: fit, draw, both scores."""
    time.monotonic = time.process_time  # budgets count CPU seconds: must stand before the training loop is imported
    import torch

    from cohortloom.evaluation.legacy import _discriminative, _predictive
    from cohortloom.generators import create
    from cohortloom.rng import Rng

    train, held_out = windows(name, data, seed, most)
    cpu, fit = time.process_time(), 0.0
    if generator == "real windows":
        made = train
    elif generator == "copies":
        made = train[np.random.default_rng(seed).integers(0, len(train), len(train))]
    else:
        family, _, option = generator.partition(":")
        setting, _, value = option.rpartition("=")
        settings: dict[str, Any] = {setting: float(value)} if setting else {"objective": value} if value else {}
        settings |= {"training": {"steps": steps}} if steps and family == "timegan" else {}
        model = create(family, **settings).fit(cohort_of(train), seed=seed, minutes=minutes)
        fit = time.process_time() - cpu
        made = array_of(model.sample(len(train), seed=seed))
    low, high = train.min((0, 1)), train.max((0, 1))
    made, real = ((x - low) / (high - low) for x in (made, held_out))
    torch.set_num_threads(1)
    found = [[f(made, real, Rng(seed).child(k, r), JUDGE_STEPS) for r in range(repeats)]
             for k, f in (("d", _discriminative), ("p", _predictive))]  # fmt: skip
    test = 2 * (len(real) - int(0.8 * len(real)))
    return {
        "set": name,
        "generator": generator,
        "seed": seed,
        "windows": len(train),
        "fit_cpu_s": round(fit, 1),
        "discriminative": round(float(np.mean(found[0])), 4),
        "discriminative_sd": round(float(np.std(found[0])), 4),
        "spectrum": round(spectrum_error(made, real), 4),
        "predictive": round(float(np.mean(found[1])), 4),
        "predictive_sd": round(float(np.std(found[1])), 4),
        "chance": round(float(np.sqrt(2 / np.pi) * 0.5 / np.sqrt(test)), 4),
        "tie": round(float(1.96 * 0.5 / np.sqrt(test)), 4),
        "error_of_persistence": round(float(np.abs(np.diff(real[:, :, -1], axis=1)).mean()), 4),
    }


def main() -> None:
    options = parser(__doc__)
    each = "rows; timegan:original, temporal-vae:spectral=0.1"
    options.add_argument("--generators", nargs="+", default=["timegan", "columnar-ar"], help=each)
    options.add_argument("--repeats", type=int, default=3, help="judges per score")
    options.add_argument("--steps", type=int, default=400, help="of every phase of timegan")
    options.add_argument("--sets", nargs="+", default=["stocks"], choices=sorted(PUBLISHED), help="time series")
    options.add_argument("--windows", type=int, default=None, help="at most this many in each half")
    options.add_argument("--minutes", type=float, default=None, help="CPU minutes of a fit")
    options.add_argument("--more", action="store_true", help="add to the result file instead of starting anew")
    given = options.parse_args()
    path = given.out or RESULTS / "ts_legacy.json"
    rows = kept(path, given.more)
    for name in given.sets:
        rows = [row for row in rows if row.get("set") != name]
        for paper, (d, p) in PUBLISHED[name].items():
            rows.append({"set": name, "generator": f"published: {paper}", "discriminative": d, "predictive": p})
        for seed in given.seeds:
            for generator in ("real windows", "copies", *given.generators):
                row = apart(measure, name, generator, seed, given.repeats, given.steps, given.windows, given.minutes,
                            given.data)  # fmt: skip
                rows.append(row | {"commit": commit()})
                show([rows[-1]])
                save("ts_legacy", rows, out=path)
    show(rows)


if __name__ == "__main__":
    main()
