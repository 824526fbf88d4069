"""Simulated ECGs: a moving heart vector, projected to leads.

Each beat is a sum of Gaussian waves of the heart vector v(t) in R^3 (x left, y down, z back) around its R peak,

    v(t) = sum over waves w of  m_w exp(-(t - c_w)^2 / (2 s_w^2)),

whose centres follow the PR and QT intervals of the beat (QT = QTc RR^(1/3), Fridericia), and the leads are the Dower
projection of v. Noise arises at electrodes, not at leads: the limb and chest leads are differences of nine noisy
electrode potentials, so Einthoven's and Goldberger's identities hold to rounding. The truth of each beat and interval
comes along.

References:
    Dower, Machado, Osborne (1980). On deriving the electrocardiogram from vectorcardiographic leads. Clin Cardiol 3:87.
    Sameni, Clifford, Jutten, Shamsollahi (2007). Multichannel ECG and noise modeling. EURASIP J Adv Signal Process
    43407. McSharry et al. (2003), doi:10.1109/TBME.2003.808805. Fridericia (1920). Acta Med Scand 53:469.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl
from jaxtyping import Float

from cohortloom.rng import Rng
from cohortloom.rules.ecg_checks import DOWER
from cohortloom.schema.signals import STANDARD_12
from cohortloom.simulation.rhythm import PAC, PVC, Beats, beat_times

__all__ = ["LEADS", "EcgTraits", "draw_traits", "simulate_ecg"]

LEADS = STANDARD_12


@dataclass(frozen=True)
class EcgTraits:
    """What makes one record's ECG; every field is an array with one entry per record.

    Args:
        heart_rate: Mean ventricular rate [1/min].
        age: Age [a].
        pr, qrs, qtc: Intervals [s]; QT follows from QTc and RR.
        axis: Frontal axis of the QRS [deg].
        voltage: Factor on all deflections (pericardial effusion: about .4).
        t_amplitude: Factor on the T wave (rises with potassium).
        st: ST shift along the main vector [mV]; negative is depression.
        atrial_fibrillation: No P waves, fibrillatory waves, irregular.
        left_bundle, right_bundle: Bundle branch block.
        ventricular_ectopy, atrial_ectopy: Chance per beat.
        av_block: 0, 1 (long PR) or 2 (Mobitz I).
        noise: Factor on all noise.
    """

    heart_rate: np.ndarray
    age: np.ndarray
    pr: np.ndarray
    qrs: np.ndarray
    qtc: np.ndarray
    axis: np.ndarray
    voltage: np.ndarray
    t_amplitude: np.ndarray
    st: np.ndarray
    atrial_fibrillation: np.ndarray
    left_bundle: np.ndarray
    right_bundle: np.ndarray
    ventricular_ectopy: np.ndarray
    atrial_ectopy: np.ndarray
    av_block: np.ndarray
    noise: np.ndarray

    def __len__(self) -> int:
        return len(self.heart_rate)

    def take(self, index: np.ndarray | slice) -> "EcgTraits":
        return EcgTraits(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def draw_traits(
    n: int,
    rng: Rng,
    *,
    age: Float[np.ndarray, "record"] | None = None,
    female: np.ndarray | None = None,
    heart_rate: Float[np.ndarray, "record"] | None = None,
    potassium: Float[np.ndarray, "record"] | None = None,
    qt_drug: np.ndarray | None = None,
    effusion: np.ndarray | None = None,
    **fixed: np.ndarray,
) -> EcgTraits:
    """Traits of n records from what the patient's record says; what is not given is drawn from adult norms.

    Args:
        n: Number of records.
        rng: Random stream.
        age: Age [a].
        female: Sex; QTc is 10 ms longer and voltage lower in women.
        heart_rate: From the vitals [1/min]; the waveform has this mean rate.
        potassium: Serum potassium [mmol/L]: T amplitude factor 1 + .45 (K - 4.2), QRS widens above 6.
        qt_drug: Takes a drug that prolongs QTc (by about 35 ms).
        effusion: Pericardial effusion: voltage about .4.
        **fixed: Any field of `EcgTraits`, overriding the draw.
    """
    draw = rng.numpy

    def given(value: np.ndarray | None, default: np.ndarray) -> np.ndarray:
        if value is None:
            return default
        value = np.asarray(value, dtype=float)
        return np.where(np.isfinite(value), value, default)

    age = given(age, draw.uniform(25, 85, n))
    female = given(female, draw.random(n) < 0.5) > 0.5
    rate = np.clip(given(heart_rate, draw.normal(72, 12, n)), 30, 220)
    salt = given(potassium, draw.normal(4.2, 0.35, n))
    drug = given(qt_drug, np.zeros(n)) > 0.5
    wet = given(effusion, np.zeros(n)) > 0.5
    qrs = draw.normal(0.092, 0.008, n) - 0.006 * female + 0.025 * np.clip(salt - 6.0, 0, 2.5)
    traits = EcgTraits(
        heart_rate=rate,
        age=age,
        pr=np.clip(draw.normal(0.150 + 0.0004 * (age - 50), 0.018, n), 0.11, 0.2),
        qrs=np.clip(qrs, 0.07, 0.2),
        qtc=draw.normal(0.405 + 0.010 * female + 0.0003 * (age - 50), 0.016, n) + drug * draw.normal(0.035, 0.008, n),
        axis=draw.normal(45 - 0.5 * (age - 50), 25, n),
        voltage=draw.lognormal(-0.06 * female, 0.22, n) * np.where(wet, 0.4, 1.0),
        t_amplitude=np.clip(1 + 0.45 * (salt - 4.2), 0.15, 3.0) * draw.lognormal(0, 0.15, n),
        st=draw.normal(0, 0.012, n),
        atrial_fibrillation=np.zeros(n, bool),
        left_bundle=np.zeros(n, bool),
        right_bundle=np.zeros(n, bool),
        ventricular_ectopy=np.zeros(n),
        atrial_ectopy=np.zeros(n),
        av_block=np.zeros(n, int),
        noise=draw.lognormal(0, 0.35, n),
    )
    traits = replace(traits, **{name: np.asarray(value) for name, value in fixed.items()})
    blocked = traits.left_bundle | traits.right_bundle
    wide = np.where(blocked, np.maximum(traits.qrs, draw.normal(0.138, 0.008, n)), traits.qrs)
    slow = np.where(traits.av_block == 1, np.maximum(traits.pr, draw.normal(0.24, 0.02, n)), traits.pr)
    return replace(traits, qrs=wide, pr=slow)


def simulate_ecg(
    traits: EcgTraits, *, fs: float, duration: float, rng: Rng, leads: tuple[str, ...] = LEADS, mains: float = 50.0
) -> tuple[Float[np.ndarray, "record channel sample"], pl.DataFrame]:
    """Waveforms and the truth of every beat.

    Args:
        traits: One entry per record.
        fs: Sampling frequency [Hz].
        duration: Length [s].
        rng: Random stream; records are drawn in batches of 64 with a stream each, so any order gives the same bytes.
        leads: Names from `LEADS`, in the order wanted.
        mains: Mains frequency [Hz].

    Returns:
        Samples [mV], float32; and a table of the beats inside the records: record, time [s] of the R peak, kind
        ("N", "V", "A"), rr, pr, qrs, qt [s] (pr null where there is no P wave).
    """
    n_samples = round(duration * fs)
    out = np.empty((len(traits), len(leads), n_samples), dtype=np.float32)
    truth = []
    for start in range(0, len(traits), 64):
        part = traits.take(slice(start, start + 64))
        samples, beats = _batch(part, n_samples, fs, rng.child("ecg", start), mains)
        out[start : start + 64] = np.einsum("le,res->rls", _from_electrodes(leads), samples, optimize=True)
        truth.append(beats.with_columns(pl.col("record") + start))
    table = pl.concat(truth) if truth else pl.DataFrame()
    return out, table


def _batch(
    traits: EcgTraits, n_samples: int, fs: float, rng: Rng, mains: float
) -> tuple[Float[np.ndarray, "record electrode sample"], pl.DataFrame]:
    n, duration = len(traits), n_samples / fs
    beats = beat_times(
        heart_rate=traits.heart_rate,
        age=traits.age,
        pr=traits.pr,
        fibrillating=traits.atrial_fibrillation,
        ventricular_ectopy=traits.ventricular_ectopy,
        atrial_ectopy=traits.atrial_ectopy,
        av_block=traits.av_block,
        duration=duration,
        rng=rng.child("rhythm"),
    )
    vector = np.zeros((n, 3, n_samples), dtype=np.float32)
    shape = _waves(traits, rng.child("shape"))
    rows, columns = np.nonzero(beats.real & (beats.time > -1.0))
    qt = traits.qtc[rows] * np.clip(beats.rr[rows, columns], 0.3, 2.0) ** (1 / 3)
    _add_beats(vector, shape, traits, beats, rows, columns, qt, fs)
    if traits.atrial_fibrillation.any():
        _add_fibrillation(vector, traits, fs, rng.child("fibrillation").numpy)
    electrodes = np.einsum("ed,rds->res", _to_electrodes(), vector, optimize=True)
    electrodes += _noise(traits, n_samples, fs, mains, rng.child("noise").numpy)
    kind = beats.kind[rows, columns]
    time = beats.time[rows, columns]
    inside = (time >= 0) & (time < duration)
    has_p = (kind != PVC) & ~traits.atrial_fibrillation[rows]
    qrs = np.where(kind == PVC, 0.15, traits.qrs[rows])
    truth = pl.DataFrame(
        {
            "record": rows,
            "time": time,
            "kind": np.array(["N", "V", "A"])[kind],
            "rr": beats.rr[rows, columns],
            "pr": pl.Series(np.where(has_p, beats.pr[rows, columns], np.nan)).fill_nan(None),
            "qrs": qrs,
            "qt": qt,
        }
    ).filter(pl.Series(inside))
    return electrodes, truth


@dataclass(frozen=True)
class _Shape:
    """Vectors of the waves of each record [mV]: record x 3."""

    p: np.ndarray
    q: np.ndarray
    r: np.ndarray
    s: np.ndarray
    t: np.ndarray


def _waves(traits: EcgTraits, rng: Rng) -> _Shape:
    draw, n = rng.numpy, len(traits)

    def about(x: float, y: float, z: float, spread: float) -> np.ndarray:
        base = np.array([x, y, z])
        return base * draw.lognormal(0, spread, (n, 3)) + 0.08 * np.linalg.norm(base) * draw.standard_normal((n, 3))

    r = about(1.05, 0.75, 0.10, 0.15)
    size = np.linalg.norm(r[:, :2], axis=1)
    angle = np.deg2rad(traits.axis)
    # axis 0 deg is lead I (x), 90 deg is aVF (y): turn the main vector to the record's axis
    r[:, 0], r[:, 1] = size * np.cos(angle), size * np.sin(angle)
    left, right = traits.left_bundle[:, None], traits.right_bundle[:, None]
    q = np.where(left, 0.0, about(-0.12, 0.05, -0.28, 0.25))
    s = about(-0.18, -0.10, 0.55, 0.2)
    s = np.where(right, np.array([-0.45, 0.0, -0.35]) * draw.lognormal(0, 0.15, (n, 1)), s)
    r = np.where(left, r * np.array([0.85, 0.8, 1.0]) + np.array([0.0, 0.0, 0.55]), r)
    t = about(0.26, 0.19, -0.17, 0.18)
    t = np.where(left, -0.3 * r, t)
    scale = traits.voltage[:, None]
    return _Shape(
        about(0.06, 0.11, -0.02, 0.2) * scale, q * scale, r * scale, s * scale, t * traits.t_amplitude[:, None] * scale
    )


def _add_beats(
    vector: np.ndarray,
    shape: _Shape,
    traits: EcgTraits,
    beats: Beats,
    rows: np.ndarray,
    columns: np.ndarray,
    qt: np.ndarray,
    fs: float,
) -> None:
    """Add every beat's waves to its record; all beats of the batch at once."""
    before, after = int(0.45 * fs), int(0.8 * fs)
    time, kind = beats.time[rows, columns], beats.kind[rows, columns]
    middle = np.rint(time * fs).astype(int)
    offset = ((np.arange(-before, after)[None] + middle[:, None]) / fs - time[:, None]).astype(np.float32)
    wide = kind == PVC
    qrs = np.where(wide, 0.15, traits.qrs[rows])
    rr = np.clip(beats.rr[rows, columns], 0.3, 2.0)
    qrs_on = -0.42 * qrs
    blocked = traits.left_bundle[rows] | traits.right_bundle[rows]
    no_p = wide | traits.atrial_fibrillation[rows]
    left = traits.left_bundle[rows]

    def wave(amplitude: np.ndarray, centre: np.ndarray, width: np.ndarray) -> None:
        g = np.exp(-0.5 * np.square((offset - centre[:, None].astype(np.float32)) / width[:, None].astype(np.float32)))
        for axis in range(3):
            total[:, axis] += amplitude[:, axis, None].astype(np.float32) * g

    total = np.zeros((len(rows), 3, offset.shape[1]), dtype=np.float32)
    p_width = np.full(len(rows), 0.021)
    p_centre = qrs_on - beats.pr[rows, columns] + 2.2 * p_width
    fade = np.where(no_p, 0.0, np.where(kind == PAC, 0.7, 1.0))[:, None]
    for share, shift in ((0.55, -0.008), (0.5, 0.012)):  # right, then left atrium
        wave(share * fade * shape.p[rows], p_centre + shift, p_width)
    main = np.where(wide[:, None], shape.r[rows] * np.array([-0.9, 0.9, -1.2]) * 1.3, shape.r[rows])
    r_width = np.where(wide, 0.028, np.where(left, 0.024, np.where(blocked, 0.013, 0.115 * qrs)))
    wave(np.where(wide[:, None], 0.0, shape.q[rows]), -0.26 * qrs, 0.085 * qrs)
    wave(main, np.zeros(len(rows)), r_width)
    wave(np.where(left[:, None] | wide[:, None], 0.55 * main, 0.0), np.full(len(rows), 0.042), np.full(len(rows), 0.02))
    s_centre = np.where(traits.right_bundle[rows], 0.5 * qrs, 0.28 * qrs)
    s_width = np.where(traits.right_bundle[rows], 0.022, 0.1 * qrs)
    wave(np.where(wide[:, None] | left[:, None], 0.0, shape.s[rows]), s_centre, s_width)
    # T: slow rise, fast fall; its end (peak + 2 falls) is the end of QT
    fall = np.clip(0.042 * np.sqrt(rr), 0.028, 0.06)
    t_end = qrs_on + qt
    t_peak = t_end - 2.0 * fall
    rise = 1.55 * fall
    t_vector = np.where(wide[:, None], -0.35 * main, shape.t[rows])
    early = offset < t_peak[:, None]
    spread = np.where(early, rise[:, None], fall[:, None]).astype(np.float32)
    hump = np.exp(-0.5 * np.square((offset - t_peak[:, None].astype(np.float32)) / spread))
    st_on, st_off = (0.58 * qrs)[:, None], (t_peak - 0.3 * rise)[:, None]
    plateau = 1 / (1 + np.exp(-(offset - st_on) / 0.008)) / (1 + np.exp((offset - st_off) / 0.025))
    lift = (traits.st[rows, None] * main / np.maximum(np.linalg.norm(main, axis=1, keepdims=True), 1e-6)).astype(
        np.float32
    )
    for axis in range(3):
        total[:, axis] += t_vector[:, axis, None].astype(np.float32) * hump + lift[:, axis, None] * plateau.astype(
            np.float32
        )
    place = middle[:, None] + np.arange(-before, after)[None]
    keep = (place >= 0) & (place < vector.shape[2])
    flat = vector.reshape(-1)
    for axis in range(3):
        target = (rows[:, None] * 3 + axis) * vector.shape[2] + place
        flat += np.bincount(target[keep], weights=total[:, axis][keep], minlength=flat.size).astype(np.float32)


def _add_fibrillation(vector: np.ndarray, traits: EcgTraits, fs: float, draw: np.random.Generator) -> None:
    """Fibrillatory waves of 4 to 8 Hz with wandering phase, along the atrial vector."""
    rows = np.flatnonzero(traits.atrial_fibrillation)
    n = vector.shape[2]
    rate = draw.uniform(4.5, 7.5, (len(rows), 1))
    wander = np.cumsum(draw.standard_normal((len(rows), n)), axis=1) * np.sqrt(1 / fs) * 1.5
    phase = 2 * np.pi * (rate * np.arange(n) / fs) + wander
    wave = np.sin(phase) + 0.35 * np.sin(2 * phase + 0.6)
    size = (0.05 * draw.lognormal(0, 0.35, len(rows)) * traits.voltage[rows])[:, None, None]
    vector[rows] += (size * np.array([0.3, 0.7, -0.65])[None, :, None] * wave[:, None]).astype(np.float32)


def _noise(traits: EcgTraits, n_samples: int, fs: float, mains: float, draw: np.random.Generator) -> np.ndarray:
    """Noise of nine electrodes [mV]: baseline wander, muscle, mains, electrode motion."""
    n, t = len(traits), np.arange(n_samples, dtype=np.float32) / np.float32(fs)
    level = traits.noise[:, None, None].astype(np.float32)
    noise = draw.standard_normal((n, 9, n_samples), dtype=np.float32)
    noise[..., 1:] -= 0.5 * noise[..., :-1]  # muscle and amplifier: rising towards high frequency
    noise *= 0.006 * level
    breath = draw.uniform(0.15, 0.35, (n, 1, 1)).astype(np.float32)
    for rate, size in ((breath, 0.025), (0.5 * breath, 0.02), (draw.uniform(0.02, 0.1, (n, 1, 1)), 0.03)):
        gain = size * level * draw.standard_normal((n, 9, 1)).astype(np.float32)
        turn = draw.uniform(0, 2 * np.pi, (n, 1, 1)).astype(np.float32)
        noise += gain * np.sin(2 * np.pi * np.asarray(rate, np.float32) * t + turn)
    hum = 0.002 * level * draw.lognormal(0, 0.6, (n, 9, 1)).astype(np.float32)
    if 2 * mains < fs:
        noise += hum * np.sin(2 * np.pi * mains * t + draw.uniform(0, 2 * np.pi, (n, 1, 1)).astype(np.float32))
    moved = np.flatnonzero(draw.random(n) < 0.1)
    if len(moved):
        where = draw.uniform(0, t[-1], len(moved)).astype(np.float32)
        lag = np.maximum(t[None] - where[:, None], 0)
        step = (lag > 0) * np.exp(-lag / 0.7) * (0.15 * draw.standard_normal(len(moved)))[:, None]
        noise[moved, draw.integers(0, 9, len(moved))] += step.astype(np.float32)
    return noise


def _to_electrodes() -> Float[np.ndarray, "electrode 3"]:
    """Heart vector -> potentials of RA, LA, LL, V1..V6 against Wilson's terminal."""
    one, two, chest = DOWER[0], DOWER[1], DOWER[2:]
    # with RA + LA + LL = 0: RA = -(I + II) / 3, LA = (2 I - II) / 3, LL = (2 II - I) / 3
    return np.vstack([-(one + two) / 3, (2 * one - two) / 3, (2 * two - one) / 3, chest]).astype(np.float32)


def _from_electrodes(leads: tuple[str, ...]) -> Float[np.ndarray, "channel electrode"]:
    rows = {
        "I": {"LA": 1, "RA": -1},
        "II": {"LL": 1, "RA": -1},
        "III": {"LL": 1, "LA": -1},
        "aVR": {"RA": 1, "LA": -0.5, "LL": -0.5},
        "aVL": {"LA": 1, "RA": -0.5, "LL": -0.5},
        "aVF": {"LL": 1, "RA": -0.5, "LA": -0.5},
    }
    third = 1 / 3
    rows |= {f"V{i}": {f"V{i}": 1, "RA": -third, "LA": -third, "LL": -third} for i in range(1, 7)}
    names = ["RA", "LA", "LL", *(f"V{i}" for i in range(1, 7))]
    return np.array([[rows[lead].get(name, 0.0) for name in names] for lead in leads], dtype=np.float32)
