"""Waveforms: families x data sets x (does a record hold together, spectra, a judge's AUC, cost).

    python -m benchmarks.signals [--only mitdb ...] [--families ...] [--steps 600] [--records 200]

Every number of a family stands beside the floor, the same number for real training records against held-out ones
(split by patient). Anchors: `bootstrap` (training records again), `gaussian` (functional PCA with Gaussian scores),
`simulator` (our ECG and EEG simulators without data, at the collection's channels and rate).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.common import parser, save
from benchmarks.signal_scores import coherence, judge, per_record, quantile_distance, spectrum_gap
from cohortloom.codec.signals import SignalCodec
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.rng import Rng
from cohortloom.schema import Schema

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
Part = tuple[Cohort, Cohort]


def simulated(data: Path, n: int, seed: int) -> Part:
    """Twelve leads, 10 s at 100 Hz, driven by the patient's record."""
    from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg

    size = n + n // 2
    rng = Rng(seed).child("simulated")
    draw = rng.child("patients").numpy
    age, female, potassium = draw.uniform(25, 85, size), draw.random(size) < 0.5, draw.normal(4.4, 0.7, size)
    af = draw.random(size) < 0.15
    rate = np.clip(np.where(af, draw.normal(90, 15, size), draw.normal(72, 12, size)), 45, 150)
    traits = draw_traits(
        size, rng.child("traits"), age=age, female=female, heart_rate=rate, potassium=potassium, atrial_fibrillation=af
    )
    samples, _ = simulate_ecg(traits, fs=100, duration=10, rng=rng.child("waves"), leads=LEADS)
    schema = Schema.model_validate(
        {
            "name": "simulated", "clock": "offset",
            "tables": {"patients": {"role": "static", "columns": {
                "age": {"kind": "number", "unit": "a"}, "sex": {"kind": "category", "levels": ["F", "M"]},
                "potassium": {"kind": "number", "unit": "mmol/L"}, "heart_rate": {"kind": "number", "unit": "/min"}}}},
            "signals": {"ecg": {"kind": "ecg", "channels": list(LEADS), "fs": 100, "duration": 10, "labels": ["af"]}},
        }
    )  # fmt: skip
    ids = np.arange(size)
    patients = pl.DataFrame({"subject_id": ids, "age": age, "sex": np.where(female, "F", "M"), "potassium": potassium,
                             "heart_rate": rate})  # fmt: skip
    waves = SignalSet(schema.signals["ecg"], _records(ids, 1000, np.where(af, "af", "sinus").tolist()), samples)
    whole = Cohort.build(schema, {"patients": patients}, signals={"ecg": waves})
    return whole.select(ids[:n].tolist()), whole.select(ids[n:].tolist())


def collection(folder: str, schema: str, fs: float | None, window: float | None) -> Callable[[Path, int, int], Part]:
    """A real collection, resampled and cut into windows, split by patient."""

    def make(data: Path, n: int, seed: int) -> Part:
        from cohortloom.formats import read
        from cohortloom.schema.text import read_schema

        spec = read_schema(SCHEMAS / f"{schema}.toml")
        name, signal = next(iter(spec.signals.items()))
        source = signal.source
        if fs is not None:
            source = source.model_copy(
                update={"resample": True, "window": window, "step": None, "fs": source.fs or signal.fs}
            )
            signal = signal.model_copy(update={"fs": fs, "duration": window, "source": source})
            spec = spec.model_copy(update={"signals": {name: signal}})
        cohort = read(data / folder, format=source.format, schema=spec, on_error="drop")
        part = cohort.split(seed=seed, train=0.67, held_out=0.33)
        return _thinned(part.train, name, n), _thinned(part.held_out, name, n)

    return make


def _thinned(cohort: Cohort, name: str, n: int) -> Cohort:
    """About n records, evenly over all."""
    waves = cohort.signals[name]
    rows = np.unique(np.linspace(0, waves.records.height - 1, min(n, waves.records.height)).astype(int))
    notes = waves.annotations
    records = waves.records[rows]
    if notes is not None:
        notes = notes.join(records.select("record_id"), on="record_id", how="semi")
    return replace(cohort, signals={name: SignalSet(waves.spec, records, np.asarray(waves.samples[rows]), notes)})


def _records(ids: np.ndarray, length: int, labels: list) -> pl.DataFrame:
    n = len(ids)
    return pl.DataFrame(
        {
            "record_id": np.arange(n), "subject_id": ids, "visit_id": pl.Series([None] * n, dtype=pl.Int64),
            "time": pl.Series([None] * n, dtype=pl.Duration("us")), "n_samples": np.full(n, length),
            "label": pl.Series(labels, dtype=pl.String),
        }
    )  # fmt: skip


DATA_SETS: dict[str, Callable[[Path, int, int], Part]] = {
    "simulated-12-lead": simulated,
    "mitdb": collection("mitdb", "ecg_ambulatory", 100.0, 10.0),
    "af2017": collection("af2017", "ecg_single_lead", 100.0, 9.0),
    "ecg5000": collection("ucr-ecg5000", "ecg_beat", None, None),
    "bonn-eeg": collection("bonn-eeg", "eeg_segment", 64.0, 8.0),
}


# -- families --------------------------------------------------------------------------------------------------------


def bootstrap(train: Cohort, held: Cohort, n: int, seed: int, steps: int) -> dict[str, Any]:
    waves = next(iter(train.signals.values()))
    rows = np.random.default_rng(seed).integers(0, waves.records.height, n)
    return {"samples": np.asarray(waves.samples[rows])}


def gaussian(train: Cohort, held: Cohort, n: int, seed: int, steps: int) -> dict[str, Any]:
    """Functional PCA: 99 % of the variance, independent Gaussian scores."""
    waves = next(iter(train.signals.values()))
    x = np.nan_to_num(np.asarray(waves.samples))
    flat = x.reshape(len(x), -1)
    mean = flat.mean(axis=0)
    _, size, axes = np.linalg.svd(flat - mean, full_matrices=False)
    keep = int(np.searchsorted(np.cumsum(size**2) / np.sum(size**2), 0.99)) + 1
    score = np.random.default_rng(seed).standard_normal((n, keep)) * size[:keep] / np.sqrt(len(x))
    return {"samples": (mean + score @ axes[:keep]).reshape(n, *x.shape[1:]).astype(np.float32)}


def simulator(train: Cohort, held: Cohort, n: int, seed: int, steps: int) -> dict[str, Any] | None:
    """Our simulators, without looking at the data; None where they have no such channel."""
    from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg

    waves = next(iter(train.signals.values()))
    spec, length = waves.spec, waves.samples.shape[2]
    if spec.kind != "ecg" or length < 3 * spec.fs:
        return None
    leads = spec.channels if set(spec.channels) <= set(LEADS) else ("II",) * len(spec.channels)
    samples, _ = simulate_ecg(
        draw_traits(n, Rng(seed)), fs=spec.fs, duration=length / spec.fs, rng=Rng(seed).child("waves"), leads=leads
    )
    return {"samples": samples}


def diffusion(**settings: Any) -> Callable[..., dict[str, Any]]:
    def make(train: Cohort, held: Cohort, n: int, seed: int, steps: int) -> dict[str, Any]:
        from cohortloom.generators.signal_diffusion import SignalDiffusion

        model = SignalDiffusion(levels=(1, 2), records_per_patient=1, **settings)
        model.training = replace(model.training, steps=steps, batch_size=16, evaluate_every=max(steps // 4, 1))
        began = time.process_time()
        model.fit(train, seed=seed)
        fitted = time.process_time() - began
        began = time.process_time()
        given = held.select(held.subjects.head(n)) if train.schema.statics else None
        drawn = model.sample(None if given is not None else n, given=given, seed=seed + 1)
        waves = next(iter(drawn.signals.values()))
        spent = time.process_time() - began
        last = next(r for r in model.history_.records if r["kind"] == "end" and r["phase"] == "diffusion")
        return {"samples": waves.samples, "fit_cpu_s": round(fitted, 1), "validation": last["best"],
                "samples_per_cpu_s": round(len(waves.samples) / spent, 1), "nfe": model.sampling_steps}  # fmt: skip

    return make


FAMILIES: dict[str, Callable[..., dict[str, Any] | None]] = {
    "bootstrap": bootstrap,
    "gaussian": gaussian,
    "simulator": simulator,
    "signal-diffusion": diffusion(),
    "signal-diffusion plain": diffusion(top_down=False),
}


def scores(real: SignalSet, samples: np.ndarray, modelled: tuple[int, ...]) -> dict[str, Any]:
    """All numbers of one set of records against held-out real ones."""
    n, length = len(samples), samples.shape[2]
    other = SignalSet(real.spec, _records(np.arange(n), length, [None] * n), samples)
    held = np.nan_to_num(np.asarray(real.samples))[:, modelled]
    mine = np.nan_to_num(samples)[:, modelled]
    common = min(held.shape[2], mine.shape[2])
    found: dict[str, Any] = {
        "spectrum": round(spectrum_gap(held[..., :common], mine[..., :common], real.spec.fs), 3),
        "judge": round(judge(held[..., :common], mine[..., :common], length=common), 3),
    }
    if real.spec.kind == "ecg" and common >= 3 * real.spec.fs:
        found["coherence"] = coherence(other, modelled)
        a, b = per_record(real, modelled), per_record(other, modelled)
        found["distance"] = {k: round(quantile_distance(a[k], b[k]), 3) for k in a}
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    options.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--records", type=int, default=200)
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    for name in chosen.only:
        for seed in chosen.seeds:
            train, held = DATA_SETS[name](chosen.data, chosen.records, seed)
            real, own = (next(iter(c.signals.values())) for c in (held, train))
            modelled = SignalCodec.fit(own).modelled
            floor = {"data": name, "family": "real train (floor)", "seed": seed, **scores(real, own.samples, modelled)}
            if "coherence" in floor:
                floor["held_out"] = coherence(SignalSet(real.spec, real.records, real.samples), modelled)
            rows.append(floor)
            print(floor, flush=True)
            for family in chosen.families:
                made = FAMILIES[family](train, held, len(real.samples), seed, chosen.steps)
                if made is None:
                    continue
                samples = made.pop("samples")
                rows.append({"data": name, "family": family, "seed": seed, **made, **scores(real, samples, modelled)})
                print(rows[-1], flush=True)
    save("signals", rows, out=chosen.out, steps=chosen.steps, records=chosen.records)


if __name__ == "__main__":
    main()
