"""Ways to spoil good ECGs and EEGs, each with the checks or scores of which at least one must see it.

A fault takes samples (record x channel x sample), the sampling frequency, channel names and a numpy generator, and
returns samples of the same shape. A key is the name of a validator ("identities", must fail on more than 5 % of the
records) or of a score between cohorts ("signals.ecg.intervals", must fail).
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import resample_poly

from cohortloom.rules.ecg_beats import find_r_peaks

ECG: dict[str, tuple[Callable, tuple[str, ...]]] = {}
EEG: dict[str, tuple[Callable, tuple[str, ...]]] = {}


def fault(table: dict, *keys: str):
    def register(make: Callable) -> Callable:
        table[make.__name__] = (make, keys)
        return make

    return register


def at(channels, name):
    return channels.index(name)


def stretched(x: np.ndarray, up: int, down: int) -> np.ndarray:
    """Resampled and cut or mirrored to the old length."""
    y = resample_poly(x, up, down, axis=2, padtype="line")
    n = x.shape[2]
    while y.shape[2] < n:
        y = np.concatenate([y, y[:, :, ::-1]], axis=2)
    return y[:, :, :n]


# -- electrodes and leads --------------------------------------------------------------------------------------------


@fault(ECG, "electrodes")
def arms_swapped(x, fs, channels, draw):
    y = x.copy()
    i, ii, iii, r, left, f = (at(channels, c) for c in ("I", "II", "III", "aVR", "aVL", "aVF"))
    y[:, i], y[:, ii], y[:, iii] = -x[:, i], x[:, iii], x[:, ii]
    y[:, r], y[:, left], y[:, f] = x[:, left], x[:, r], x[:, f]
    return y


@fault(ECG, "electrodes", "signals.ecg.correlation_worst")
def chest_leads_swapped(x, fs, channels, draw):
    y = x.copy()
    a, b = at(channels, "V1"), at(channels, "V5")
    y[:, [a, b]] = x[:, [b, a]]
    return y


@fault(ECG, "identities")
def limb_leads_swapped(x, fs, channels, draw):
    y = x.copy()
    a, b = at(channels, "II"), at(channels, "III")
    y[:, [a, b]] = x[:, [b, a]]
    return y


@fault(ECG, "identities")
def identity_broken(x, fs, channels, draw):
    y = x.copy()
    y[:, at(channels, "III")] = x[draw.permutation(len(x)), at(channels, "III")]
    return y


@fault(ECG, "identities")
def gain_of_one_limb_lead(x, fs, channels, draw):
    y = x.copy()
    y[:, at(channels, "aVF")] *= 1.6
    return y


@fault(ECG, "same_leads")
def lead_doubled(x, fs, channels, draw):
    y = x.copy()
    y[:, at(channels, "V4")] = x[:, at(channels, "V3")]
    return y


@fault(ECG, "polarity")
def inverted(x, fs, channels, draw):
    return -x


# -- units and time --------------------------------------------------------------------------------------------------


@fault(ECG, "amplitude")
def microvolt_labelled_millivolt(x, fs, channels, draw):
    return x * 1000


@fault(ECG, "amplitude")
def volt_labelled_millivolt(x, fs, channels, draw):
    return x / 1000


@fault(ECG, "signals.ecg.intervals_worst", "signals.ecg.spectrum")
def gain_halved(x, fs, channels, draw):
    return x * 0.5


@fault(ECG, "time_scale", "qtc")
def half_the_sampling_frequency(x, fs, channels, draw):
    return stretched(x, 1, 2)


@fault(ECG, "time_scale", "qtc")
def twice_the_sampling_frequency(x, fs, channels, draw):
    return stretched(x, 2, 1)


@fault(ECG, "signals.ecg.intervals_worst")
def speed_1_3(x, fs, channels, draw):
    return stretched(x, 10, 13)


@fault(ECG, "resampled")
def resampled_without_saying(x, fs, channels, draw):
    return resample_poly(resample_poly(x, 1, 2, axis=2), 2, 1, axis=2)[:, :, : x.shape[2]]


@fault(ECG, "time_direction")
def time_reversed(x, fs, channels, draw):
    return x[:, :, ::-1]


# -- what generators do ----------------------------------------------------------------------------------------------


@fault(ECG, "signals.ecg.intervals_worst", "signals.ecg.spectrum")
def qrs_smoothed(x, fs, channels, draw):
    return gaussian_filter1d(x, 0.012 * fs, axis=2)


@fault(ECG, "seams")
def seams_every_patch(x, fs, channels, draw):
    y = x.copy()
    level = 0.25 * draw.standard_normal((len(x), x.shape[1], x.shape[2] // 16 + 1)) * x.std(axis=2, keepdims=True)
    return y + np.repeat(level, 16, axis=2)[:, :, : x.shape[2]]


@fault(ECG, "repeated")
def one_template_repeated(x, fs, channels, draw):
    y = x.copy()
    for r in range(len(x)):
        peaks = find_r_peaks(x[r], fs)
        a, b = peaks[2], peaks[3]
        beat = x[r, :, a:b] - np.linspace(0, 1, b - a) * (x[r, :, b - 1 : b] - x[r, :, a : a + 1])
        y[r] = np.tile(beat, (1, x.shape[2] // (b - a) + 2))[:, : x.shape[2]]
    return y


@fault(ECG, "morphology", "signals.ecg.intervals_worst")
def beats_of_others(x, fs, channels, draw):
    """Every second beat comes from another record."""
    y = x.copy()
    half = round(0.3 * fs)
    peaks = [find_r_peaks(row, fs) for row in x]
    for r in range(len(x)):
        other = (r + 1 + draw.integers(len(x) - 1)) % len(x)
        theirs = [p for p in peaks[other] if half <= p < x.shape[2] - half]
        for p in peaks[r][::2]:
            if half <= p < x.shape[2] - half and theirs:
                q = theirs[draw.integers(len(theirs))]
                y[r, :, p - half : p + half] = x[other, :, q - half : q + half]
    return y


@fault(ECG, "signals.ecg.intervals_worst", "signals.ecg.intervals")
def rhythm_erratic(x, fs, channels, draw):
    """Beats cut out and put down at independent intervals (variation .25)."""
    y = np.zeros_like(x)
    for r in range(len(x)):
        peaks = find_r_peaks(x[r], fs)
        base = np.median(x[r], axis=1, keepdims=True)
        mean = np.median(np.diff(peaks))
        place, out = 0, []
        while sum(p.shape[1] for p in out) < x.shape[2]:
            p = peaks[1 + place % (len(peaks) - 2)]
            a, b = max(0, p - round(0.25 * fs)), min(x.shape[2], p + round(0.4 * fs))
            gap = max(0, round(mean * draw.gamma(16, 1 / 16)) - (b - a))
            out += [x[r, :, a:b], base + 0.005 * draw.standard_normal((x.shape[1], gap))]
            place += 1
        y[r] = np.concatenate(out, axis=1)[:, : x.shape[2]]
    return y


@fault(ECG, "signals.ecg.intervals_worst", "signals.ecg.measured_worst")
def p_waves_removed(x, fs, channels, draw):
    y = x.copy()
    for r in range(len(x)):
        for p in find_r_peaks(x[r], fs):
            a, b = p - round(0.28 * fs), p - round(0.05 * fs)
            if a >= 0:
                ramp = np.linspace(0, 1, b - a)
                line = x[r, :, a : a + 1] * (1 - ramp) + x[r, :, b - 1 : b] * ramp
                y[r, :, a:b] = line + 0.004 * draw.standard_normal(line.shape)
    return y


@fault(ECG, "signals.ecg.intervals_worst", "signals.ecg.intervals")
def r_sizes_erratic(x, fs, channels, draw):
    """Each beat has its own gain, between .5 and 1.8."""
    y = x.copy()
    for r in range(len(x)):
        gain = np.ones(x.shape[2])
        for p in find_r_peaks(x[r], fs):
            gain[max(0, p - round(0.3 * fs)) : p + round(0.3 * fs)] = np.exp(draw.normal(0, 0.35))
        y[r] = x[r] * gain
    return y


@fault(ECG, "signals.ecg.record", "signals.ecg.record_worst", "signals.ecg.record_known")
def records_of_other_patients(x, fs, channels, draw):
    return x[draw.permutation(len(x))]


@fault(ECG, "signals.ecg.diversity")
def few_records_for_all(x, fs, channels, draw):
    return x[draw.integers(0, max(2, len(x) // 12), len(x))]


# -- recorders -------------------------------------------------------------------------------------------------------


@fault(ECG, "clipping")
def clipped(x, fs, channels, draw):
    low, high = np.quantile(x, [0.02, 0.98], axis=2, keepdims=True)
    return np.clip(x, low, high)


@fault(ECG, "flat")
def flat_lead(x, fs, channels, draw):
    y = x.copy()
    y[:, 7] = 0
    return y


@fault(ECG, "flat", "dropout")
def stands_still(x, fs, channels, draw):
    y = x.copy()
    y[:, 3, round(2 * fs) : round(4 * fs)] = y[:, 3, round(2 * fs)][:, None]
    return y


@fault(ECG, "dropout")
def dropout(x, fs, channels, draw):
    y = x.copy()
    y[:, :, round(4 * fs) : round(6 * fs)] *= 0.002
    return y


@fault(ECG, "gaps")
def nan_gap(x, fs, channels, draw):
    y = x.copy()
    y[:, 5, round(3 * fs) : round(4 * fs)] = np.nan
    return y


@fault(ECG, "missing_lead", "gaps")
def record_without_samples(x, fs, channels, draw):
    y = x.copy()
    y[::4] = np.nan
    return y


@fault(ECG, "mains")
def mains_hum(x, fs, channels, draw):
    return x + 0.3 * np.sin(2 * np.pi * 50 * np.arange(x.shape[2]) / fs)


@fault(ECG, "baseline")
def baseline_wander(x, fs, channels, draw):
    turn = 2 * np.pi * draw.random((len(x), x.shape[1], 1))
    return x + 5.0 * np.sin(2 * np.pi * 0.15 * np.arange(x.shape[2]) / fs + turn)


@fault(ECG, "morphology", "signals.ecg.spectrum")
def noisy(x, fs, channels, draw):
    return x + 0.12 * draw.standard_normal(x.shape)


@fault(ECG, "beats_found", "rr_regularity", "noise", "morphology")
def noise_only(x, fs, channels, draw):
    return draw.standard_normal(x.shape) * x.std(axis=2, keepdims=True)


@fault(ECG, "in_range")
def spike_beyond_bounds(x, fs, channels, draw):
    y = x.copy()
    y[:, 2, 100:140] = 50
    return y


# -- EEG -------------------------------------------------------------------------------------------------------------


@fault(EEG, "amplitude")
def volt_labelled_microvolt(x, fs, channels, draw):
    return x / 1e6


@fault(EEG, "amplitude")
def nanovolt_labelled_microvolt(x, fs, channels, draw):
    return x * 1000


@fault(EEG, "slope", "band_power")
def white_noise(x, fs, channels, draw):
    return draw.standard_normal(x.shape) * x.std(axis=2, keepdims=True)


@fault(EEG, "coherence", "same_leads")
def channels_the_same(x, fs, channels, draw):
    return np.repeat(x[:, :1], x.shape[1], axis=1) + 0.01 * x


@fault(EEG, "signals.eeg.correlation", "signals.eeg.coherence_worst")
def channels_of_others(x, fs, channels, draw):
    return np.stack([x[draw.permutation(len(x)), c] for c in range(x.shape[1])], axis=1)


@fault(EEG, "spikes")
def spikes_everywhere(x, fs, channels, draw):
    return x + (draw.random(x.shape) < 0.05) * draw.standard_normal(x.shape) * 15 * x.std(axis=2, keepdims=True)


@fault(EEG, "signals.eeg.intervals_worst", "signals.eeg.autocorrelation")
def alpha_removed(x, fs, channels, draw):
    f = np.fft.rfftfreq(x.shape[2], 1 / fs)
    spectrum = np.fft.rfft(x, axis=2)
    spectrum[:, :, (f > 7) & (f < 14)] *= 0.3
    return np.fft.irfft(spectrum, n=x.shape[2], axis=2)


@fault(EEG, "signals.eeg.intervals_worst")
def eeg_speed_1_3(x, fs, channels, draw):
    return stretched(x, 10, 13)


@fault(EEG, "mains")
def hum(x, fs, channels, draw):
    return x + 1.5 * x.std(axis=2, keepdims=True) * np.sin(2 * np.pi * 50 * np.arange(x.shape[2]) / fs)


@fault(EEG, "clipping")
def eeg_clipped(x, fs, channels, draw):
    low, high = np.quantile(x, [0.03, 0.97], axis=2, keepdims=True)
    return np.clip(x, low, high)


@fault(EEG, "seams", "signals.eeg.spectrum_worst")
def eeg_seams(x, fs, channels, draw):
    level = 0.6 * draw.standard_normal((len(x), x.shape[1], x.shape[2] // 16 + 1)) * x.std(axis=2, keepdims=True)
    return x + np.repeat(level, 16, axis=2)[:, :, : x.shape[2]]


@fault(EEG, "signals.eeg.labels")
def labels_of_others(x, fs, channels, draw):
    return x[draw.permutation(len(x))]
