"""Waveforms: families x data sets x (does a record hold together, spectra, judges, labels, cost).

    python -m benchmarks.signals --only ecg5000 [--families ...] [--steps 600] [--batch 16] [--records 200]
    python -m benchmarks.signals --table            # the committed results as Markdown

Every number of a family stands beside the floor, the same number for real training records against held-out ones
(split by patient). Anchors: `bootstrap` (training records again), `gaussian` (functional PCA with Gaussian scores, by
label where there are labels), `barycentre` (soft-DTW averages of five training records of a label, at most 300 samples
long), `coded, latent 4` (training records through the latents of signal-diffusion, no network: what coding alone
costs), `simulator` and `neurokit2` (simulators without data, at the collection's rate; of the slow neurokit2 100 at
most). `ddpm` is the 1D model of denoising-diffusion-pytorch, trained for --seconds of CPU time in an environment of
its own (`python -m venv PLACE; PLACE/bin/pip install denoising-diffusion-pytorch`) whose Python is given by --ddpm; it
takes labels as further channels. `judge` asks held-out records, `judge train` training records: where a few patients
make up a collection the first tells patients apart, real or not, and only the second says something about texture.
Where records have labels, `tstr` is the accuracy of a classifier trained on the family's records and asked about real
held-out ones (floor: trained on real ones), `kept` that of one trained on real records and asked whether the family's
carry the label they were asked for. Rows of other data sets, families and seeds in the result file stay. Each row ran
in a process of its own: its CPU seconds, its peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import ITIMER_VIRTUAL, SIGVTALRM, setitimer
from signal import signal as on_signal
from typing import Any

import numpy as np
import polars as pl

from benchmarks.common import RESULTS, apart, parser, save
from benchmarks.pulse_records import PULSES, pulse_coherence
from benchmarks.signal_scores import coherence, features, judge, per_record, quantile_distance, spectrum_gap
from cohortloom.codec.pulses import pulse_of
from cohortloom.codec.signals import SignalCodec
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.rng import Rng
from cohortloom.schema import Schema

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
Part = tuple[Cohort, Cohort]


def simulated(data: Path, n: int, seed: int, fs: int = 100) -> Part:
    """Twelve leads, 10 s, driven by the patient's record."""
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
    samples, _ = simulate_ecg(traits, fs=fs, duration=10, rng=rng.child("waves"), leads=LEADS)
    schema = Schema.model_validate(
        {
            "name": "simulated", "clock": "offset",
            "tables": {"patients": {"role": "static", "columns": {
                "age": {"kind": "number", "unit": "a"}, "sex": {"kind": "category", "levels": ["F", "M"]},
                "potassium": {"kind": "number", "unit": "mmol/L"}, "heart_rate": {"kind": "number", "unit": "/min"}}}},
            "signals": {"ecg": {"kind": "ecg", "channels": list(LEADS), "fs": fs, "duration": 10, "labels": ["af"]}},
        }
    )  # fmt: skip
    ids = np.arange(size)
    patients = pl.DataFrame({"subject_id": ids, "age": age, "sex": np.where(female, "F", "M"), "potassium": potassium,
                             "heart_rate": rate})  # fmt: skip
    waves = SignalSet(schema.signals["ecg"], _records(ids, 10 * fs, np.where(af, "af", "sinus").tolist()), samples)
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


def all_electrodes(data: Path, n: int, seed: int) -> Part:
    """Windows of 4 s of all 64 channels of eegmmidb, one subject; each of six runs counts as a patient."""
    from pyedflib import EdfReader  # heavy

    from cohortloom.formats import read
    from cohortloom.schema.text import read_schema

    spec, folder = read_schema(SCHEMAS / "eeg_motor.toml"), data / "eegmmidb-s001"
    name, signal = next(iter(spec.signals.items()))
    with EdfReader(str(next(iter(sorted(folder.glob("*.edf")))))) as file:
        channels = tuple(c.strip(". ") for c in file.getSignalLabels() if "annotation" not in c.lower())
    source = signal.source.model_copy(update={"subject": r"(?P<subject>S\d+R\d+)"})
    spec = spec.model_copy(
        update={"signals": {name: signal.model_copy(update={"channels": channels, "source": source})}}
    )
    part = read(folder, format=source.format, schema=spec, on_error="drop").split(seed=seed, train=0.67, held_out=0.33)
    return _thinned(part.train, name, n), _thinned(part.held_out, name, n)


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


#: Classes of beats (AAMI) by annotation symbol.
_KINDS = {**dict.fromkeys("NLRej", "normal"), **dict.fromkeys("AaJS", "supraventricular"),
          **dict.fromkeys("VE", "ventricular")}  # fmt: skip


def single_beats(data: Path, n: int, seed: int) -> Part:
    """Annotated beats of mitdb, .3 s before to .5 s after the R peak at 100 Hz, at most n a side, split by record."""
    whole = collection("mitdb", "ecg_ambulatory", 100.0, 10.0)(data, 10**9, seed)
    return tuple(_beats(part, n, seed) for part in whole)  # type: ignore[return-value]


def _beats(cohort: Cohort, n: int, seed: int) -> Cohort:
    waves = next(iter(cohort.signals.values()))
    notes = waves.annotations.filter(pl.col("symbol").is_in(list(_KINDS)))  # type: ignore[union-attr]
    before, after = 30, 50
    notes = notes.filter((pl.col("sample") >= before) & (pl.col("sample") < waves.samples.shape[2] - after))
    row = {r: i for i, r in enumerate(waves.records["record_id"])}
    some = np.sort(np.random.default_rng(seed).permutation(notes.height)[:n])
    notes = notes[some]
    rows = np.array([row[r] for r in notes["record_id"]])
    at = notes["sample"].to_numpy()[:, None] + np.arange(-before, after)
    x = np.asarray(waves.samples)[rows[:, None], :, at].transpose(0, 2, 1)
    fine = np.isfinite(x).all(axis=(1, 2))
    schema = Schema.model_validate(
        {"name": "beats", "clock": "offset", "signals": {"ecg": {
            "kind": "ecg", "channels": list(waves.spec.channels), "fs": 100, "duration": 0.8, "unit": waves.spec.unit,
            "labels": sorted(set(_KINDS.values()))}}}
    )  # fmt: skip
    ids = waves.records["subject_id"].gather(rows).to_numpy()
    labels = [_KINDS[v] for v in notes["symbol"].to_list()]
    records = _records(ids, before + after, labels).filter(pl.Series(fine))
    return Cohort.build(schema, {}, signals={"ecg": SignalSet(schema.signals["ecg"], records, x[fine])})


def twelve_leads(data: Path, n: int, seed: int) -> Part:
    """The records of two collections of 12 leads, 10 s, at 100 Hz: 52 patients, no labels."""
    from cohortloom.formats import read
    from cohortloom.schema.text import read_schema

    parts, lead_order = [], ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    for folder, name in (("ecg12-challenge2021", "ecg_12_lead"), ("ptbxl-22", "ecg_12_lead_100hz")):
        spec = read_schema(SCHEMAS / f"{name}.toml")
        key, signal = next(iter(spec.signals.items()))
        if signal.fs != 100:
            source = signal.source.model_copy(update={"resample": True, "fs": signal.source.fs or signal.fs})
            signal = signal.model_copy(update={"fs": 100.0, "source": source})
            spec = spec.model_copy(update={"signals": {key: signal}})
        waves = read(data / folder, format=signal.source.format, schema=spec, on_error="drop").signals[key]
        order = [list(waves.spec.channels).index(c) for c in lead_order]
        parts.append(np.nan_to_num(np.asarray(waves.samples)[:, order, :1000]))
    x = np.concatenate(parts).astype(np.float32)
    schema = Schema.model_validate(
        {"name": "leads", "clock": "offset",
         "signals": {"ecg": {"kind": "ecg", "channels": list(lead_order), "fs": 100, "duration": 10}}}
    )  # fmt: skip
    records = _records(np.arange(len(x)), 1000, [None] * len(x))
    whole = Cohort.build(schema, {}, signals={"ecg": SignalSet(schema.signals["ecg"], records, x)})
    part = whole.split(seed=seed, train=0.67, held_out=0.33)
    return part.train, part.held_out


DATA_SETS: dict[str, Callable[[Path, int, int], Part]] = {
    "simulated-12-lead": simulated,
    "simulated-12-lead-500hz": partial(simulated, fs=500),
    "12-lead": twelve_leads,
    "mitdb": collection("mitdb", "ecg_ambulatory", 100.0, 10.0),
    "mitdb-beats": single_beats,
    "af2017": collection("af2017", "ecg_single_lead", 100.0, 9.0),
    "ecg5000": collection("ucr-ecg5000", "ecg_beat", None, None),
    "bonn-eeg": collection("bonn-eeg", "eeg_segment", 64.0, 8.0),
    "eeg-64": all_electrodes,
    **PULSES,
}


# -- families --------------------------------------------------------------------------------------------------------


def bootstrap(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any]:
    waves = next(iter(train.signals.values()))
    rows = np.random.default_rng(seed).integers(0, waves.records.height, n)
    return {"samples": np.asarray(waves.samples[rows]), "labels": waves.records["label"].gather(rows).to_list()}


def gaussian(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any]:
    """Functional PCA: 99 % of the variance, independent Gaussian scores; one of each label with ten records."""
    waves = next(iter(train.signals.values()))
    x = np.nan_to_num(np.asarray(waves.samples))
    draw, labels = np.random.default_rng(seed), waves.records["label"].fill_null("").to_numpy()
    told = labels[draw.integers(0, len(x), n)]
    out = np.empty((n, *x.shape[1:]), np.float32)
    for label in np.unique(told):
        rows = np.flatnonzero(labels == label)
        rows = rows if len(rows) >= 10 else np.arange(len(x))
        flat = x[rows].reshape(len(rows), -1)
        mean = flat.mean(axis=0)
        _, size, axes = np.linalg.svd(flat - mean, full_matrices=False)
        keep = int(np.searchsorted(np.cumsum(size**2) / max(np.sum(size**2), 1e-12), 0.99)) + 1
        into = np.flatnonzero(told == label)
        score = draw.standard_normal((len(into), len(size[:keep]))) * size[:keep] / np.sqrt(len(rows))
        out[into] = (mean + score @ axes[:keep]).reshape(len(into), *x.shape[1:])
    return {"samples": out, "labels": told.tolist()}


def simulator(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any] | None:
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


def barycentre(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any] | None:
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


def neurokit(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any] | None:
    """neurokit2's ECG simulators, of one lead or of the standard twelve: rates, their variation and sizes of training.

    Single beats are cut from records of its default rate, one each, R where it stands in training.
    """
    from cohortloom.simulation.ecg import LEADS

    waves = next(iter(train.signals.values()))
    spec, length = waves.spec, waves.samples.shape[2]
    one, single = len(spec.channels) == 1, length < 3 * spec.fs
    if spec.kind != "ecg" or spec.unit == "1" or not (one or set(spec.channels) <= set(LEADS)):
        return None
    import neurokit2 as nk  # heavy

    rng, n = Rng(seed).child("neurokit2"), min(n, 100)
    rate, variation = np.full(1, 70.0), np.full(1, 1 / 70)
    if not single:
        facts = per_record(waves)
        known = np.isfinite(facts["heart_rate"]) & np.isfinite(facts["rr_variation"])
        rate, variation = facts["heart_rate"][known], facts["rr_variation"][known]
    rows = rng.child("rows").numpy.integers(0, len(rate), n)
    how = {"duration": 5 if single else int(np.ceil(length / spec.fs)) + 1, "sampling_rate": round(spec.fs),
           "method": "ecgsyn" if one else "multileads"}  # fmt: skip
    began, made = time.process_time(), []
    for k, row in enumerate(rows):
        told = {"heart_rate": float(rate[row]), "heart_rate_std": float(rate[row] * variation[row]), **how}
        with suppress(TimeoutError), at_most(5.0):  # its loop over RR need not end; such records are left out
            made.append(nk.ecg_simulate(random_state=rng.integer("record", k) % 2**31, **told))
    n = len(made)
    spent = time.process_time() - began
    x = np.stack([m[None] if one else m[list(spec.channels)].to_numpy().T for m in made]).astype(np.float32)
    own = np.nan_to_num(np.asarray(waves.samples))
    begin = np.zeros(n, int)
    if single:
        at = int(np.abs(own.mean(axis=(0, 1))).argmax())
        begin = x[:, 0, at : at + 2 * length].argmax(axis=1)
    x = np.stack([record[:, b : b + length] for record, b in zip(x, begin)])
    return {
        "samples": x * (own.std(axis=(0, 2)) / x.std(axis=(0, 2)))[:, None],
        "samples_per_cpu_s": round(n / spent, 1),
    }


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError after so many CPU seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    on_signal(SIGVTALRM, stop)
    setitimer(ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        setitimer(ITIMER_VIRTUAL, 0)


def ddpm(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any] | None:
    """A published diffusion model of series; labels are channels, 0 or 1 all along. None without its Python."""
    if not os.environ.get("DDPM_PYTHON"):
        return None
    waves = next(iter(train.signals.values()))
    codec = SignalCodec.fit(waves)
    x = codec.encode(np.asarray(waves.samples))[0]
    low, high = x.min(axis=(0, 2), keepdims=True), x.max(axis=(0, 2), keepdims=True)
    labels = waves.records["label"].fill_null("").to_numpy()
    known = np.unique(labels)
    told = np.repeat((labels[:, None] == known)[:, :, None], x.shape[2], axis=2)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "train.npz", x=np.concatenate([(x - low) / (high - low), told], axis=1))
        script = Path(__file__).with_name("ddpm1d_peer.py")
        wanted = [str(v) for v in (folder, n, os.environ["DDPM_SECONDS"], seed)]
        subprocess.run(
            [os.environ["DDPM_PYTHON"], str(script), *wanted], check=True, env={**os.environ, "PYTHONPATH": ""}
        )
        drawn, facts = np.load(folder / "drawn.npz")["x"], json.loads((folder / "facts.json").read_text())
    inner = x.shape[1]
    return {"samples": codec.decode(drawn[:, :inner] * (high - low) + low, drawn=True),
            "labels": known[drawn[:, inner:].mean(axis=2).argmax(axis=1)].tolist(),
            "fit_cpu_s": round(facts["fit_cpu_s"], 1), "samples_per_cpu_s": round(n / facts["sample_cpu_s"], 1),
            "steps": facts["steps"], "nfe": facts["nfe"], "own_peak_mb": facts["peak_mb"]}  # fmt: skip


def diffusion(**settings: Any) -> Callable[..., dict[str, Any]]:
    def make(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any]:
        from cohortloom.generators.signal_diffusion import SignalDiffusion

        model = SignalDiffusion(levels=(1, 2), **settings)
        if train.schema.statics:
            model.records_per_patient = 1
        model.training = replace(model.training, steps=steps, batch_size=batch, evaluate_every=max(steps // 4, 1))
        began = time.process_time()
        model.fit(train, seed=seed)
        fitted = time.process_time() - began
        began = time.process_time()
        given = held.select(held.subjects.head(n)) if train.schema.statics else None
        per_patient = next(iter(train.signals.values())).records.height / max(train.n_subjects, 1)
        patients = None if given is not None else min(n, int(np.ceil(2 * n / per_patient)))
        drawn = model.sample(patients, given=given, seed=seed + 1)
        waves = next(iter(drawn.signals.values()))
        if given is None and waves.records.height > n:  # as many as were asked for, of any patient
            keep = np.sort(np.random.default_rng(seed).permutation(waves.records.height)[:n])
            waves = SignalSet(waves.spec, waves.records[keep], np.asarray(waves.samples)[keep])
        spent = time.process_time() - began
        made = len(next(iter(drawn.signals.values())).samples)
        last = next(r for r in model.history_.records if r["kind"] == "end" and r["phase"] == "diffusion")
        labels = waves.records["label"].to_list()
        return {"samples": waves.samples, "labels": labels, "fit_cpu_s": round(fitted, 1), "validation": last["best"],
                "samples_per_cpu_s": round(made / spent, 1), "steps": steps, "batch": batch, "width": model.width,
                "nfe": model.sampling_steps}  # fmt: skip

    return make


def coded(latent: int) -> Callable[..., dict[str, Any]]:
    """Training records, coded to latents and decoded: what latents alone cost, beside the floor."""

    def make(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any]:
        from cohortloom.generators.signal_diffusion import SignalDiffusion
        from cohortloom.generators.signal_inpaint import recoded

        model = SignalDiffusion(width=8, levels=(1,), latent=latent)
        model.training = replace(model.training, steps=1, batch_size=2, evaluate_every=1)
        began = time.process_time()
        model.fit(train, seed=seed)
        fitted, began = time.process_time() - began, time.process_time()
        waves = next(iter(recoded(model, train, Rng(seed + 1)).signals.values()))
        spent = time.process_time() - began
        return {"samples": waves.samples, "labels": waves.records["label"].to_list(), "fit_cpu_s": round(fitted, 1),
                "samples_per_cpu_s": round(len(waves.samples) / spent, 1)}  # fmt: skip

    return make


def in_steps(generator: str, **settings: Any) -> Callable[..., dict[str, Any] | None]:
    """A generator of records on short waveforms: about 20 steps a record. None where records are longer than 512."""

    def make(train: Cohort, held: Cohort, n: int, seed: int, steps: int, batch: int) -> dict[str, Any] | None:
        from cohortloom.generators.signal_steps import LONGEST, SignalSteps

        waves = next(iter(train.signals.values()))
        if waves.samples.shape[2] > LONGEST or train.schema.statics:
            return None
        model = SignalSteps(generator={"generator": generator, **settings}, patch=-(-waves.samples.shape[2] // 20))
        began = time.process_time()
        model.fit(train, seed=seed)
        fitted, began = time.process_time() - began, time.process_time()
        drawn = next(iter(model.sample(n, seed=seed + 1).signals.values()))
        spent, made = time.process_time() - began, len(drawn.samples)
        keep = np.sort(np.random.default_rng(seed).permutation(made)[:n])
        return {"samples": np.asarray(drawn.samples)[keep], "labels": drawn.records["label"].gather(keep).to_list(),
                "fit_cpu_s": round(fitted, 1), "samples_per_cpu_s": round(made / spent, 1)}  # fmt: skip

    return make


FAMILIES: dict[str, Callable[..., dict[str, Any] | None]] = {
    "bootstrap": bootstrap,
    "gaussian": gaussian,
    "barycentre": barycentre,
    "simulator": simulator,
    "neurokit2": neurokit,
    "ddpm": ddpm,
    "columnar-ar, in steps": in_steps("columnar-ar", training={"steps": 400}),
    "temporal-vae, in steps": in_steps("temporal-vae", training={"steps": 1000, "evaluate_every": 200}),
    "timegan, in steps": in_steps("timegan", training={"steps": 600, "evaluate_every": 200}),
    "signal-diffusion": diffusion(width=32),
    "signal-diffusion, latent 2": diffusion(width=32, latent=2),
    "signal-diffusion, latent 4": diffusion(width=32, latent=4),
    "signal-diffusion, latent 8": diffusion(width=32, latent=8),
    "coded, latent 2": coded(2),
    "coded, latent 4": coded(4),
    "coded, latent 8": coded(8),
    "without Gaussian start": diffusion(width=32, start=False),
    "without rhythm and code": diffusion(width=32, top_down=False),
}


def label_accuracy(asked: SignalSet, x: np.ndarray, labels: list | None, truth: list | None = None) -> float | None:
    """Share of records (`asked`, with `truth` for labels or their own) whose label is told by a logistic regression.

    It learns from x and labels: from the samples of single beats, from random convolutions of longer records.
    """
    truth = asked.records["label"].to_list() if truth is None else truth
    if labels is None or None in truth or None in labels or len(set(labels)) < 2 or len(set(truth)) < 2:
        return None
    from sklearn.linear_model import LogisticRegression  # heavy
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    other = np.asarray(asked.samples)[..., : x.shape[2]]
    if x.shape[2] <= 200:
        a, b = (np.nan_to_num(v).reshape(len(v), -1) for v in (x, other))
    else:
        a, b = np.split(features(np.concatenate([x, other])), [len(x)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(a, [str(v) for v in labels])
    return round(float(np.mean(model.predict(b) == np.array([str(v) for v in truth]))), 3)


def scores(
    real: SignalSet, own: SignalSet, samples: np.ndarray, modelled: tuple[int, ...], labels: list | None = None
) -> dict[str, Any]:
    """All numbers of one set of records against held-out (`real`) and training records (`own`)."""
    n, length = len(samples), samples.shape[2]
    other = SignalSet(real.spec, _records(np.arange(n), length, [None] * n), samples)
    held, trained, mine = (np.nan_to_num(np.asarray(v))[:, modelled] for v in (real.samples, own.samples, samples))
    common = min(held.shape[2], mine.shape[2])
    held, trained, mine = held[..., :common], trained[..., :common], mine[..., :common]
    found: dict[str, Any] = {
        "spectrum": round(spectrum_gap(held, mine, real.spec.fs), 3),
        "judge": round(judge(held, mine, length=common), 3),
    }
    if samples is not own.samples:
        found["judge_train"] = round(judge(trained, mine, length=common), 3)
    if len(modelled) > 1 and real.spec.kind == "eeg":
        found["correlation"] = round(float(np.abs(_correlation(held) - _correlation(mine)).mean()), 3)
    accuracy = label_accuracy(real, samples, labels)
    if accuracy is not None:
        found["tstr"] = accuracy
    drawn = SignalSet(real.spec, _records(np.arange(n), length, [None] * n), np.nan_to_num(samples))
    kept = None
    if samples is not own.samples and labels is not None:
        kept = label_accuracy(drawn, np.asarray(own.samples), own.records["label"].to_list(), labels)
    if kept is not None:
        found["kept"] = kept
    if real.spec.kind == "ecg" and common >= 3 * real.spec.fs:
        found["coherence"] = coherence(other, modelled)
        a, b = per_record(real, modelled), per_record(other, modelled)
        found["distance"] = {k: round(quantile_distance(a[k], b[k]), 3) for k in a}
    elif (pulse := pulse_of(own, modelled)) is not None:
        found["coherence"] = pulse_coherence(other, pulse)
    return found


def _correlation(x: np.ndarray) -> np.ndarray:
    """Of each pair of channels, over all records."""
    return np.corrcoef(x.transpose(1, 0, 2).reshape(x.shape[1], -1))[np.triu_indices(x.shape[1], 1)]


FLOOR = "real train (floor)"


def measure(name: str, data: Path, n: int, seed: int, family: str, steps: int, batch: int) -> dict[str, Any]:
    """One row; empty where the family draws no such records."""
    train, held = DATA_SETS[name](data, n, seed)
    real, own = (next(iter(c.signals.values())) for c in (held, train))
    modelled = SignalCodec.fit(own).modelled
    row: dict[str, Any] = {"data": name, "family": family, "seed": seed}
    if family == FLOOR:
        row |= scores(real, own, own.samples, modelled, own.records["label"].to_list())
        row |= {"records": len(own.samples), "held_out_records": len(real.samples)}
        if "coherence" in row:
            bare, pulse = SignalSet(real.spec, real.records, real.samples), pulse_of(own, modelled)
            row["held_out"] = coherence(bare, modelled) if pulse is None else pulse_coherence(bare, pulse)
        return row
    began = time.process_time()
    n_drawn = max(len(real.samples), len(own.samples))  # a classifier shall learn from as many as from real ones
    made = FAMILIES[family](train, held, n_drawn, seed, steps, batch)
    if made is None:
        return {}
    row["cpu_s"] = round(time.process_time() - began, 1)
    samples, labels = made.pop("samples"), made.pop("labels", None)
    return row | made | scores(real, own, samples, modelled, labels)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    options.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--records", type=int, default=200)
    options.add_argument("--ddpm", default="", help="Python of the environment with denoising-diffusion-pytorch")
    options.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of --ddpm's training")
    options.add_argument("--no-floor", action="store_true", help="real training records are in the result file already")
    options.add_argument("--table", action="store_true", help="print the results that are there, and do nothing else")
    chosen = options.parse_args()
    path = chosen.out or RESULTS / "signals.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    if chosen.table:
        print(table(before))
        return
    os.environ.update(DDPM_PYTHON=chosen.ddpm, DDPM_SECONDS=str(chosen.seconds))
    command = "python -m benchmarks.signals " + " ".join(a for a in sys.argv[1:] if not a.startswith("/"))
    rows: list[dict[str, Any]] = []
    for name in chosen.only:
        for seed in chosen.seeds:
            for family in (*([] if chosen.no_floor else [FLOOR]), *chosen.families):
                row = apart(measure, name, chosen.data, chosen.records, seed, family, chosen.steps, chosen.batch)
                if "data" not in row:
                    continue
                row["peak_mb"] = round(row["peak_mb"])
                row["command"] = command
                print({k: v for k, v in row.items() if k not in ("command", "held_out")}, flush=True)
                rows.append(row)
                save("signals", _merged(before, rows), out=chosen.out)


def _merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier rows that were not measured again, then the new ones, data set by data set."""
    key = [(r["data"], r["family"], r["seed"]) for r in rows]
    whole = [r for r in before if (r["data"], r["family"], r["seed"]) not in key] + rows
    order, names = list(DATA_SETS), [FLOOR, *FAMILIES]
    place = {n: k for k, n in enumerate(names)}
    return sorted(whole, key=lambda r: (order.index(r["data"]), r["seed"], place.get(r["family"], len(names))))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a row per data set and family; what was not measured is left empty."""
    columns = ("data", "family", "judge", "judge_train", "spectrum", "correlation", "tstr", "kept", "rr_variation",
               "beat_correlation", "r_ratio", "fit_cpu_s", "peak_mb", "samples_per_cpu_s", "nfe")  # fmt: skip
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
