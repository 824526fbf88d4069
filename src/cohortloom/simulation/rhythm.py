"""Beat times of simulated ECGs.

The RR interval of sinus rhythm is RR_k = 60 / rate * (1 + a_r sin(2 pi f_r t_k + p_r) + a_m sin(2 pi f_m t_k + p_m) +
e_k): respiration (f_r about .25 Hz) and the Mayer wave (f_m about .1 Hz), both smaller in the old. Atrial fibrillation
draws RR independently (gamma, coefficient of variation .25). An ectopic beat comes early and is followed by a pause
(ventricular: compensatory; atrial: shorter). In second-degree block every few beats one is not conducted (Mobitz I: PR
grows until then).

References:
    McSharry, Clifford, Tarassenko, Smith (2003). A dynamical model for generating synthetic electrocardiogram signals.
    IEEE Trans Biomed Eng 50:289. doi:10.1109/TBME.2003.808805. Task Force ESC/NASPE (1996). Heart rate variability.
    Circulation 93:1043.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from cohortloom.rng import Rng

__all__ = ["NORMAL", "PAC", "PVC", "Beats", "beat_times"]

NORMAL, PVC, PAC = 0, 1, 2


@dataclass(frozen=True)
class Beats:
    """Beats of a batch of records, padded to the longest.

    `time` is the R peak [s] (may lie outside the record at both ends), `rr` the interval to the beat before [s], `kind`
    NORMAL, PVC or PAC, `pr` the PR interval [s], `real` False for padding.
    """

    time: Float[np.ndarray, "record beat"]
    rr: Float[np.ndarray, "record beat"]
    kind: Int[np.ndarray, "record beat"]
    pr: Float[np.ndarray, "record beat"]
    real: Bool[np.ndarray, "record beat"]


def beat_times(
    *,
    heart_rate: Float[np.ndarray, "record"],
    age: Float[np.ndarray, "record"],
    pr: Float[np.ndarray, "record"],
    fibrillating: Bool[np.ndarray, "record"],
    ventricular_ectopy: Float[np.ndarray, "record"],
    atrial_ectopy: Float[np.ndarray, "record"],
    av_block: Int[np.ndarray, "record"],
    duration: float,
    rng: Rng,
) -> Beats:
    """Draw the beats of each record.

    Args:
        heart_rate: Mean ventricular rate over the record [1/min].
        age: Age [a]; damps heart-rate variability.
        pr: PR interval of conducted beats [s].
        fibrillating: Atrial fibrillation: irregular, no P waves.
        ventricular_ectopy: Chance of a beat to be a PVC.
        atrial_ectopy: Chance of a beat to be a PAC.
        av_block: 0 none or first degree (long `pr`), 2 Mobitz I.
        duration: Length of the records [s].
        rng: Random stream.
    """
    draw, n = rng.numpy, len(heart_rate)
    mean = 60.0 / np.clip(heart_rate, 20, 250)
    n_beats = int(np.ceil(duration * 2 / mean.min())) + 8 if n else 0
    clock = np.arange(n_beats) * mean[:, None]
    damping = np.exp(-(np.clip(age, 18, 95) - 20) / 45)
    breath = draw.uniform(0.18, 0.32, n)[:, None]
    amplitude = damping[:, None] * draw.lognormal(np.log([[0.035], [0.02]]), 0.45, (2, n))[..., None]
    phase = draw.uniform(0, 2 * np.pi, (2, n, 1))
    swing = amplitude[0] * np.sin(2 * np.pi * breath * clock + phase[0])
    swing = swing + amplitude[1] * np.sin(2 * np.pi * 0.1 * clock + phase[1])
    swing = swing + (0.004 + 0.006 * damping)[:, None] * draw.standard_normal((n, n_beats))
    irregular = draw.gamma(16.0, 1 / 16.0, (n, n_beats)) - 1
    rr = mean[:, None] * (1 + np.where(fibrillating[:, None], irregular, swing))

    chance = draw.random((n, n_beats))
    early = chance < (ventricular_ectopy + atrial_ectopy)[:, None]
    early[:, 1:] &= ~early[:, :-1]  # couplets are left out: the pause belongs to one beat
    early[:, 0] = False
    kind = np.where(early & (chance < ventricular_ectopy[:, None]), PVC, np.where(early, PAC, NORMAL))
    coupling = draw.uniform(0.55, 0.75, (n, n_beats))
    sinus = rr.copy()
    rr = np.where(kind != NORMAL, coupling * sinus, rr)
    after = np.zeros_like(kind)
    after[:, 1:] = kind[:, :-1]
    before = np.roll(coupling, 1, axis=1)
    rr = np.where((after == PVC) & ~fibrillating[:, None], (2 - before) * sinus, rr)
    rr = np.where((after == PAC) & ~fibrillating[:, None], 1.1 * sinus, rr)

    beat_pr = np.broadcast_to(pr[:, None], rr.shape).copy()
    cycle = draw.integers(3, 6, n)[:, None]
    place = (np.arange(n_beats)[None] + draw.integers(0, 6, n)[:, None]) % cycle
    mobitz = (av_block == 2)[:, None] & (kind == NORMAL)
    beat_pr = np.where(mobitz, beat_pr + 0.045 * place, beat_pr)
    rr = np.where(mobitz & (place == 0), 1.85 * rr, rr)
    # what ectopy and block add is taken off again, so that the mean rate is the asked-for one
    rr *= (mean / rr.mean(axis=1))[:, None] if n_beats else 1.0

    time = np.cumsum(rr, axis=1) - draw.uniform(0.5, 1.5, n)[:, None] * mean[:, None] - rr[:, :1]
    return Beats(time, rr, kind, beat_pr, time < duration + 1.0)
