"""Simulated pulses and breaths, and whether drawn ones keep their rhythm.

ppg        photoplethysmograms of neurokit2, 20 s at 64 Hz: rate, its variation, drift and motion differ by patient
pressure   arterial pressure, 20 s at 100 Hz: systolic peak, dicrotic wave and decay; 3 % variation of the interval
breathing  60 s at 25 Hz: breaths whose length varies by 12 % and whose depth by 10 %, on a slow wave
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from cohortloom.codec.pulses import Pulse, find_pulses
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.schema import Schema

__all__ = ["PULSES", "pulse_coherence"]


def _ppg(draw: np.random.Generator) -> np.ndarray:
    from neurokit2 import ppg_simulate  # heavy

    rate = float(np.clip(draw.normal(74, 12), 48, 120))
    x = ppg_simulate(
        duration=24, sampling_rate=64, heart_rate=rate, frequency_modulation=float(draw.uniform(0.1, 0.4)),
        ibi_randomness=float(draw.uniform(0.02, 0.2)), drift=float(draw.uniform(0, 0.3)),
        motion_amplitude=float(draw.uniform(0, 0.15)), powerline_amplitude=0, burst_number=0,
        random_state=int(draw.integers(1e9)),
    )  # fmt: skip
    return x[128 : 128 + 20 * 64] * draw.lognormal(0, 0.3)


def _pressure(draw: np.random.Generator) -> np.ndarray:
    time, rr = np.arange(2000) / 100, 60 / np.clip(draw.normal(75, 12), 45, 120)
    k = int(20 / rr) + 8
    swing = 0.02 * np.sin(2 * np.pi * 0.25 * rr * np.arange(k))
    begin = np.cumsum(rr * (1 + 0.03 * draw.standard_normal(k) + swing)) - 2
    since = time - begin[np.clip(np.searchsorted(begin, time, side="right") - 1, 0, k - 1)]
    size, at = draw.uniform(0.4, 0.7), draw.uniform(0.3, 0.36)
    wave = np.exp(-0.5 * np.square((since - 0.15) / 0.06)) + size * np.exp(-0.5 * np.square((since - at) / 0.09))
    wave += 0.25 * np.exp(-since / 0.5) * np.clip(since / 0.05, 0, 1)
    high, low = draw.normal(122, 15), draw.normal(74, 9)
    breath = 2 * np.sin(2 * np.pi * 0.25 * time + draw.uniform(0, 6))
    return low + (high - low) * wave / 1.1 + breath + 0.3 * draw.standard_normal(2000)


def _breathing(draw: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d  # heavy

    time, usual, rise = np.arange(1500) / 25, draw.uniform(2.5, 5.5), draw.uniform(0.3, 0.45)
    k = int(90 / usual) + 6
    begin = np.cumsum(usual * draw.lognormal(0, 0.12, k)) - 2 * usual
    own = np.clip(np.searchsorted(begin, time, side="right") - 1, 0, k - 2)
    part = np.clip((time - begin[own]) / (begin[own + 1] - begin[own]), 0, 1)
    wave = np.where(part < rise, 1 - np.cos(np.pi * part / rise), 1 + np.cos(np.pi * (part - rise) / (1 - rise))) / 2
    wave = gaussian_filter1d(wave * draw.normal(1, 0.1, k)[own], 2.5) * draw.lognormal(0, 0.3)
    slow = 0.2 * np.sin(2 * np.pi * 0.03 * time + draw.uniform(0, 6))
    return wave + slow + 0.02 * draw.standard_normal(len(time))


_KINDS = {"ppg": ("ppg", 64.0, _ppg), "pressure": ("other", 100.0, _pressure), "breathing": ("resp", 25.0, _breathing)}


def _made(name: str, data: Path, n: int, seed: int) -> tuple[Cohort, Cohort]:
    """n records to learn from and n others, a patient each."""
    kind, fs, one = _KINDS[name]
    draw = np.random.default_rng([seed, list(_KINDS).index(name)])
    x = np.stack([one(draw) for _ in range(2 * n)])[:, None].astype(np.float32)
    spec = {"kind": kind, "channels": [name], "fs": fs, "duration": x.shape[2] / fs, "unit": "1"}
    schema = Schema.model_validate({"name": name, "clock": "offset", "signals": {name: spec}})
    ids = np.arange(2 * n)
    records = pl.DataFrame(
        {"record_id": ids, "subject_id": ids, "visit_id": pl.Series([None] * len(ids), dtype=pl.Int64),
         "time": pl.Series([0] * len(ids)).cast(pl.Duration("us")), "n_samples": [x.shape[2]] * len(ids),
         "label": pl.Series([None] * len(ids), dtype=pl.String)}
    )  # fmt: skip
    whole = Cohort.build(schema, {}, signals={name: SignalSet(schema.signals[name], records, x)})
    return whole.select(ids[:n].tolist()), whole.select(ids[n:].tolist())


#: Name -> (folder of data, records a side, seed) -> records to learn from, held-out records.
PULSES = {name: partial(_made, name) for name in _KINDS}


def pulse_coherence(signals: SignalSet, pulse: Pulse) -> dict[str, list[float]]:
    """10 %, 50 % and 90 % quantiles of records' interval variation and correlation of pulses with their mean."""
    found, fs, variation, alike = find_pulses(signals, (0,), pulse), signals.spec.fs, [], []
    for x, place, count in zip(np.asarray(signals.samples)[:, 0], found.place, found.count):
        place = np.rint(place[:count]).astype(int)
        rr = np.diff(place) / fs
        if len(rr) < 3:
            continue
        variation.append(rr.std() / rr.mean())
        ahead, behind = round(0.3 * rr.mean() * fs), round(0.6 * rr.mean() * fs)
        inner = place[(place >= ahead) & (place + behind < len(x))]
        if len(inner) >= 3:
            pieces = x[inner[:, None] + np.arange(-ahead, behind)]
            alike.append(np.mean([np.corrcoef(p, pieces.mean(axis=0))[0, 1] for p in pieces]))
    quantiles = {"rr_variation": variation, "beat_correlation": alike}
    return {k: [round(float(q), 4) for q in np.quantile(v, [0.1, 0.5, 0.9])] for k, v in quantiles.items() if v}
