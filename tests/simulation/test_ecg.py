import numpy as np
import pytest

from cohortloom.rng import Rng
from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg

FS = 500


def draw(n=16, *, duration=10.0, seed=1, leads=LEADS, **given):
    traits = draw_traits(n, Rng(seed), **given)
    return traits, *simulate_ecg(traits, fs=FS, duration=duration, rng=Rng(seed).child("wave"), leads=leads)


def lead(samples, name):
    return samples[:, LEADS.index(name)]


def test_limb_leads_keep_einthoven_and_goldberger():
    _, x, _ = draw()
    one, two = lead(x, "I"), lead(x, "II")
    assert np.abs(lead(x, "III") - (two - one)).max() < 1e-5
    assert np.abs(lead(x, "aVR") + (one + two) / 2).max() < 1e-5
    assert np.abs(lead(x, "aVL") - (one - two / 2)).max() < 1e-5
    assert np.abs(lead(x, "aVF") - (two - one / 2)).max() < 1e-5


def test_mean_rate_of_the_beats_is_the_asked_for_rate():
    rate = np.array([45.0, 72.0, 110.0, 180.0])
    _, _, beats = draw(4, duration=60.0, heart_rate=rate)
    found = np.array([60 / beats.filter(beats["record"] == r)["rr"].mean() for r in range(4)])
    assert found == pytest.approx(rate, rel=0.03)


def test_the_steepest_deflection_stands_at_the_recorded_beat():
    _, x, beats = draw(8, noise=np.zeros(8))
    slope = np.abs(np.gradient(x, axis=2)).sum(axis=1)
    for r in range(8):
        for t in beats.filter(beats["record"] == r)["time"]:
            if 0.3 < t < 9.7:
                window = slope[r, int((t - 0.2) * FS) : int((t + 0.2) * FS)]
                assert abs(window.argmax() / FS - 0.2) < 0.05


def test_qt_follows_fridericia():
    traits, _, beats = draw(8)
    wanted = traits.qtc[beats["record"].to_numpy()] * beats["rr"].to_numpy() ** (1 / 3)
    assert beats["qt"].to_numpy() == pytest.approx(wanted)


def test_t_wave_rises_with_potassium():
    size = []
    for potassium in (3.0, 4.2, 6.0):
        _, x, beats = draw(32, potassium=np.full(32, potassium), noise=np.zeros(32), heart_rate=np.full(32, 65.0))
        first = beats.filter((beats["time"] > 1) & (beats["time"] < 9)).group_by("record", maintain_order=True).first()
        at = ((first["time"] - 0.42 * first["qrs"] + first["qt"] - 0.085) * FS).cast(int).to_numpy()
        size.append(np.median(lead(x, "V5")[first["record"].to_numpy(), at]))
    # factor 1 + .45 (K - 4.2): .46, 1, 1.81
    assert size[0] < 0.65 * size[1] < 1.4 * size[1] < size[2]


def test_effusion_lowers_every_lead():
    _, dry, _ = draw(32, noise=np.zeros(32))
    _, wet, _ = draw(32, noise=np.zeros(32), effusion=np.ones(32))
    ratio = np.median(np.ptp(wet, axis=2) / np.ptp(dry, axis=2))
    assert ratio == pytest.approx(0.4, abs=0.02)


def test_fibrillation_is_irregular_and_without_p():
    _, _, beats = draw(16, duration=60.0, atrial_fibrillation=np.ones(16, bool))
    assert beats["pr"].null_count() == beats.height
    cv = [part["rr"].std() / part["rr"].mean() for part in beats.partition_by("record")]
    assert 0.18 < np.mean(cv) < 0.32
    _, _, sinus = draw(16, duration=60.0)
    assert max(part["rr"].std() / part["rr"].mean() for part in sinus.partition_by("record")) < 0.15


def test_ventricular_beats_come_early_and_are_followed_by_a_full_pause():
    _, _, beats = draw(16, duration=60.0, ventricular_ectopy=np.full(16, 0.1), age=np.full(16, 90.0))
    rr, kind = beats["rr"].to_numpy(), beats["kind"].to_numpy()
    same = beats["record"].to_numpy()
    early = np.flatnonzero((kind[1:-1] == "V") & (same[:-2] == same[2:])) + 1
    assert len(early) > 30
    mean = np.array([np.median(rr[(same == same[i]) & (kind == "N")]) for i in early])
    assert np.median((rr[early] + rr[early + 1]) / mean) == pytest.approx(2.0, abs=0.1)
    assert np.median(rr[early] / mean) < 0.8


def test_leads_come_in_the_asked_order_and_chunks_do_not_matter():
    _, all_leads, _ = draw(70)
    _, some, _ = draw(70, leads=("V2", "II"))
    assert np.array_equal(some[:, 1], lead(all_leads, "II")) or np.allclose(
        some[:, 1], lead(all_leads, "II"), atol=1e-6
    )
    assert np.allclose(some[:, 0], lead(all_leads, "V2"), atol=1e-6)


def test_same_seed_same_bytes():
    assert draw(3)[1].tobytes() == draw(3)[1].tobytes()
    assert draw(3)[1].tobytes() != draw(3, seed=2)[1].tobytes()
