"""Waveforms: families x data sets x (does a record hold together, spectra, a judge's AUC, cost).

    python -m benchmarks.signals [--only mitdb ...] [--families ...] [--steps 600] [--records 200] [--table]

Every number of a family stands beside the floor, the same number for real training records against held-out ones
(split by patient). Anchors: `bootstrap` (training records again), `gaussian` (functional PCA with Gaussian scores),
`barycentre` (soft-DTW averages of five training records of a label, at most 300 samples long), `simulator` and
`neurokit2` (simulators without data, at the collection's rate). Where records have labels, `label accuracy` is that
of a classifier trained on the family's records and asked about held-out real ones; the floor's learned from real ones.
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
    return {"samples": np.asarray(waves.samples[rows]), "labels": waves.records["label"].gather(rows).to_list()}


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


def barycentre(train: Cohort, held: Cohort, n: int, seed: int, steps: int) -> dict[str, Any] | None:
    """Soft-DTW averages of five records of one label with random weights; None where records are long."""
    waves = next(iter(train.signals.values()))
    x = np.nan_to_num(np.asarray(waves.samples))
    if x.shape[2] > 300:
        return None
    from tslearn.barycenters import softdtw_barycenter  # heavy

    draw, began = np.random.default_rng(seed), time.process_time()
    labels = waves.records["label"].fill_null("").to_numpy()
    out, told = np.empty((n, *x.shape[1:]), np.float32), []
    for k in range(n):
        first = draw.integers(len(x))
        near = np.flatnonzero(labels == labels[first])
        rows = draw.choice(near, min(5, len(near)), replace=False)
        weight = draw.dirichlet(np.ones(len(rows)))
        out[k] = softdtw_barycenter(x[rows].transpose(0, 2, 1), gamma=0.1, weights=weight, max_iter=5).T
        told.append(str(labels[first]))
    spent = time.process_time() - began
    return {"samples": out, "labels": told, "samples_per_cpu_s": round(n / max(spent, 1e-9), 1)}


def neurokit(train: Cohort, held: Cohort, n: int, seed: int, steps: int) -> dict[str, Any] | None:
    """neurokit2's ECG simulator, one lead, heart rates of the training records."""
    waves = next(iter(train.signals.values()))
    spec, length = waves.spec, waves.samples.shape[2]
    if spec.kind != "ecg" or length < 3 * spec.fs or len(spec.channels) > 1:
        return None
    import neurokit2 as nk  # heavy

    rates = per_record(waves)["heart_rate"]
    rates = np.random.default_rng(seed).choice(rates[np.isfinite(rates)], n)
    seconds = int(np.ceil(length / spec.fs)) + 1
    made = [nk.ecg_simulate(duration=seconds, sampling_rate=round(spec.fs), heart_rate=float(r), random_state=seed + k)
            for k, r in enumerate(rates)]  # fmt: skip
    return {"samples": np.stack(made)[:, None, :length].astype(np.float32)}


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
        labels = waves.records["label"].to_list()
        return {"samples": waves.samples, "labels": labels, "fit_cpu_s": round(fitted, 1), "validation": last["best"],
                "samples_per_cpu_s": round(len(waves.samples) / spent, 1), "nfe": model.sampling_steps}  # fmt: skip

    return make


FAMILIES: dict[str, Callable[..., dict[str, Any] | None]] = {
    "bootstrap": bootstrap,
    "gaussian": gaussian,
    "barycentre": barycentre,
    "simulator": simulator,
    "neurokit2": neurokit,
    "signal-diffusion": diffusion(),
    "signal-diffusion plain": diffusion(top_down=False),
}


def label_accuracy(real: SignalSet, samples: np.ndarray, labels: list | None) -> float | None:
    """Share of held-out real records whose label a logistic regression on the samples tells, trained on these."""
    truth = real.records["label"]
    if labels is None or truth.null_count() or samples.shape[2] > 1000 or len(set(labels)) < 2:
        return None
    from sklearn.linear_model import LogisticRegression  # heavy
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(np.nan_to_num(samples).reshape(len(samples), -1), [str(v) for v in labels])
    asked = np.nan_to_num(np.asarray(real.samples)).reshape(len(real.samples), -1)
    return round(float(np.mean(model.predict(asked) == truth.to_numpy().astype(str))), 3)


def scores(
    real: SignalSet, samples: np.ndarray, modelled: tuple[int, ...], labels: list | None = None
) -> dict[str, Any]:
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
    accuracy = label_accuracy(real, samples, labels)
    if accuracy is not None:
        found["label_accuracy"] = accuracy
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
    options.add_argument("--table", action="store_true", help="print a Markdown table at the end")
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    for name in chosen.only:
        for seed in chosen.seeds:
            train, held = DATA_SETS[name](chosen.data, chosen.records, seed)
            real, own = (next(iter(c.signals.values())) for c in (held, train))
            modelled = SignalCodec.fit(own).modelled
            floor = {"data": name, "family": "real train (floor)", "seed": seed, 
                     **scores(real, own.samples, modelled, own.records["label"].to_list())}  # fmt: skip
            if "coherence" in floor:
                floor["held_out"] = coherence(SignalSet(real.spec, real.records, real.samples), modelled)
            rows.append(floor)
            print(floor, flush=True)
            for family in chosen.families:
                made = FAMILIES[family](train, held, len(real.samples), seed, chosen.steps)
                if made is None:
                    continue
                samples, labels = made.pop("samples"), made.pop("labels", None)
                found = scores(real, samples, modelled, labels)
                rows.append({"data": name, "family": family, "seed": seed, **made, **found})
                print(rows[-1], flush=True)
    save("signals", rows, out=chosen.out, steps=chosen.steps, records=chosen.records)
    if chosen.table:
        print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a row per data set and family; what was not measured is left empty."""
    columns = ("data", "family", "seed", "judge", "spectrum", "label_accuracy", "rr_variation", "beat_correlation",
               "r_ratio", "fit_cpu_s", "samples_per_cpu_s")  # fmt: skip
    flat = [{**r, **r.get("coherence", {})} for r in rows]
    lines = [f"| {' | '.join(c.replace('_', ' ') for c in columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(r.get(c)) for c in columns)} |" for r in flat]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):  # 10 %, median, 90 %
        value = value[1] if value else None
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
