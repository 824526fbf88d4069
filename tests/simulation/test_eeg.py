import numpy as np
import pytest
from scipy.signal import welch

from cohortloom.errors import SchemaError
from cohortloom.rng import Rng
from cohortloom.simulation.eeg import POSITIONS, draw_eeg_traits, simulate_eeg

CHANNELS = ("Fp1", "F3", "C3", "Cz", "P3", "O1", "O2")
FS = 200


def draw(n=24, *, duration=20.0, seed=1, **fixed):
    traits = draw_eeg_traits(n, Rng(seed), **fixed)
    return traits, *simulate_eeg(traits, fs=FS, duration=duration, channels=CHANNELS, rng=Rng(seed).child("wave"))


def band(x, low, high):
    f, p = welch(x, FS, nperseg=2 * FS)
    return p[..., (f >= low) & (f < high)].sum(axis=-1)


def test_alpha_peaks_at_its_frequency_at_the_back():
    _, x, _ = draw(alpha_peak=np.full(24, 10.0), alpha=np.full(24, 15.0))
    f, p = welch(x[:, CHANNELS.index("O1")], FS, nperseg=4 * FS)
    inside = (f > 6) & (f < 14)
    assert np.median(f[inside][p[:, inside].argmax(axis=1)]) == pytest.approx(10.0, abs=0.5)
    assert np.median(band(x[:, 5], 8, 12) / band(x[:, 0], 8, 12)) > 3


def test_closing_the_eyes_raises_alpha_about_sixfold_in_power():
    _, shut, _ = draw(eyes_closed=np.ones(24), background=np.full(24, 1.0))
    _, open_, _ = draw(eyes_closed=np.zeros(24), background=np.full(24, 1.0))
    ratio = np.median(band(shut[:, 5], 8, 12) / band(open_[:, 5], 8, 12))
    assert ratio == pytest.approx(2.5**2, rel=0.35)


@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_background_follows_its_power_law(slope):
    quiet = np.full(24, 1e-3)
    _, x, _ = draw(slope=np.full(24, slope), alpha=quiet, muscle=quiet, background=np.full(24, 20.0))
    f, p = welch(x[:, 3], FS, nperseg=4 * FS)
    inside = (f >= 2) & (f <= 20)
    fitted = -np.polyfit(np.log(f[inside]), np.log(p[:, inside].mean(axis=0)), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.2)


def test_neighbours_agree_more_than_distant_channels():
    _, x, _ = draw(alpha=np.full(24, 1e-3), muscle=np.full(24, 1e-3))
    r = np.mean([np.corrcoef(record) for record in x], axis=0)
    near, far = r[CHANNELS.index("C3"), CHANNELS.index("F3")], r[CHANNELS.index("Fp1"), CHANNELS.index("O2")]
    assert near > far + 0.15


def test_a_seizure_lies_where_the_truth_says_and_repeats_about_three_times_a_second():
    _, x, events = draw(8, seizure_start=np.full(8, 8.0), seizure_length=np.full(8, 6.0))
    seizures = events.filter(events["kind"] == "seizure")
    assert seizures["time"].to_list() == [8.0] * 8
    inside, outside = x[:, 1, 9 * FS : 13 * FS], x[:, 1, 1 * FS : 7 * FS]
    assert (inside.std(axis=1) > 2.0 * outside.std(axis=1)).all()
    f, p = welch(inside, FS, nperseg=4 * FS)
    assert 2.4 <= np.median(f[p.argmax(axis=1)]) <= 3.6


def test_spindles_and_blinks_come_at_their_rates():
    _, _, events = draw(
        60, duration=60.0, spindle_rate=np.full(60, 5.0), eyes_closed=np.zeros(60), blink_rate=np.full(60, 12.0)
    )
    per_record = events["kind"].value_counts().sort("kind")["count"].to_numpy() / 60
    # blink, spindle; standard errors sqrt(12 / 60), sqrt(5 / 60)
    assert per_record == pytest.approx([12, 5], abs=1.5)


def test_unknown_channel_is_named():
    with pytest.raises(SchemaError, match=r"unknown-channel.*Oz9"):
        simulate_eeg(draw_eeg_traits(1, Rng(0)), fs=100, duration=1, channels=("Cz", "Oz9"), rng=Rng(0))


def test_same_seed_same_bytes():
    assert draw(3)[1].tobytes() == draw(3)[1].tobytes()


def test_electrodes_of_the_10_10_system_lie_between_their_neighbours():
    place = {name: np.array(xy) for name, xy in POSITIONS.items()}
    assert len(place) >= 64 and max(np.hypot(*xy) for xy in place.values()) <= 1
    for name, between in {"FC1": ("Fz", "C3"), "CP5": ("C3", "P7"), "POz": ("Pz", "Oz"), "AF4": ("Fp2", "F4")}.items():
        middle = (place[between[0]] + place[between[1]]) / 2
        assert np.hypot(*(place[name] - middle)) < 0.2
    for left, right in (("FC5", "FC6"), ("TP7", "TP8"), ("PO3", "PO4"), ("C1", "C2")):
        np.testing.assert_allclose(place[left] * [-1, 1], place[right])
    assert len({tuple(np.round(xy, 3)) for xy in place.values()}) == len(place) - 4  # T3 is T7, and so on
