"""Events of an EEG: planted sharp waves and spindles are found where they are, and noise of any spectrum has none."""

import numpy as np
import pytest

from cohortloom.codec.wave_events import EventLaw, Events

FS, N = 64.0, 512
TIMES = np.arange(N) / FS


def noise(n: int, seed: int, *, slope: float = 1.0, peak: float = 0.0, channels: int = 1) -> np.ndarray:
    """Gaussian records with power f^-slope and a rhythm at 10 Hz; their sizes differ. Unit variance on average."""
    draw = np.random.default_rng(seed)
    rate = np.fft.rfftfreq(2 * N, 1 / FS)
    gain = np.maximum(rate, 0.5) ** (-slope / 2) * (1 + peak * np.exp(-0.5 * ((rate - 10) / 0.5) ** 2))
    x = np.fft.irfft(np.fft.rfft(draw.standard_normal((n, channels, 2 * N))) * gain)[..., :N]
    x *= draw.lognormal(0, 0.4, (n, 1, 1))
    return x / x.std()


def spikes(n: int, seed: int, size: float = 5.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Records with three sharp waves that rise at once and fall in .06 s, up or down; places and signs."""
    draw = np.random.default_rng(seed)
    x = noise(n, seed)
    place = np.sort(np.stack([40 + draw.permutation(14)[:3] * 32 + draw.integers(0, 8, 3) for _ in range(n)]), axis=1)
    sign = np.where(draw.random((n, 3)) < 0.5, 1.0, -1.0)
    for r in range(n):
        for p, s in zip(place[r], sign[r]):
            since = np.arange(N) - p
            x[r, 0] += size * x[r].std() * s * np.where(since >= 0, np.exp(-since / (0.06 * FS)), 0.0)
    return x, place, sign


def fitted(x: np.ndarray, seed: int = 0) -> EventLaw | None:
    return EventLaw.fit(x, FS, np.eye(x.shape[1]), np.random.default_rng(seed))


@pytest.mark.parametrize(("slope", "peak"), [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (1.0, 4.0), (0.0, 20.0)])
def test_noise_of_any_spectrum_has_no_events(slope, peak):
    for seed in range(2):
        assert fitted(noise(100, seed, slope=slope, peak=peak), seed) is None


def test_short_records_have_none():
    assert EventLaw.fit(spikes(60, 0)[0][..., :150], FS, np.eye(1), np.random.default_rng(0)) is None


def test_planted_sharp_waves_are_found_with_their_sign():
    x, place, sign = spikes(80, 1)
    law = fitted(x)
    assert law is not None
    found = law.found(x, np.random.default_rng(1))
    hits, right = 0, 0
    for r in range(len(x)):
        near = np.abs(found.place[r, : found.count[r], None] - place[r]) <= 4
        hits += near.any(axis=0).sum()
        wave = law.train(found, N)[r, 0]
        right += sum(np.sign(wave[p + 1]) == s for p, s, hit in zip(place[r], sign[r], near.any(axis=0)) if hit)
    assert hits > 0.9 * place.size
    assert right > 0.95 * hits
    assert found.count.sum() < 1.4 * place.size  # a large one has an echo now and then


def test_what_is_found_takes_the_sharp_waves_away():
    x, place, _ = spikes(80, 2)
    law = fitted(x)
    assert law is not None
    train = law.train(law.found(x, np.random.default_rng(1)), N)
    at = place[:, None, :] + 1
    before, after = (np.square(np.take_along_axis(v, at, axis=2)).mean() for v in (x, x - train))
    assert after < 0.3 * before


def test_planted_spindles_are_found_with_span_and_frequency():
    x, draw = noise(80, 3), np.random.default_rng(4)
    middle = draw.uniform(1.5, 6.5, 80)
    for r, m in enumerate(middle):
        window = np.where(np.abs(TIMES - m) < 0.5, np.cos(np.pi * (TIMES - m)) ** 2, 0.0)
        x[r, 0] += 2 * x[r].std() * window * np.cos(2 * np.pi * 13 * TIMES + draw.uniform(0, 6))
    law = fitted(x)
    assert law is not None
    found = law.found(x, np.random.default_rng(0))
    burst = found.real & found.burst
    near = burst & (np.abs(found.place / FS - middle[:, None]) < 0.4)
    assert near.any(axis=1).mean() > 0.8
    assert (burst & ~near).sum() < 0.2 * near.sum()
    assert np.abs(found.marks[..., 2][near] - 13).mean() < 1
    assert 0.5 <= np.median(found.marks[..., 1][near]) <= 1.0


def test_pieces_of_a_train_are_those_of_the_whole():
    law = EventLaw(FS, np.eye(1), np.random.default_rng(0).standard_normal((2, 1, 33)), 4.0, 12.0)
    row, place = np.array([0, 0, 1]), np.array([100.0, 130.0, 300.0])
    marks = np.array([[1.0, -0.5, 0, 0], [1, 1, 12, 0.3], [-2, 1, 0, 0]])
    events = Events.of(2, row, place, np.array([False, True, False]), marks)
    whole, start = law.train(events, N), np.array([90, 280])
    piece = law.train(events, 64, start)
    np.testing.assert_allclose(piece, np.stack([w[:, s : s + 64] for w, s in zip(whole, start)]), atol=1e-6)
    again = EventLaw.from_json(law.to_json())
    np.testing.assert_array_equal(again.train(events, N), whole)
    assert (again.sharp, again.burst) == (4.0, 12.0)


def test_an_event_beside_a_gap_does_not_count():
    x, _, _ = spikes(80, 1)
    law = fitted(x)
    assert law is not None
    lit = np.ones((80, N), bool)
    lit[:, 200:300] = False
    found = law.found(x, np.random.default_rng(1), lit=lit)
    assert found.count.sum() > 0
    assert not ((found.place >= 200) & (found.place < 300) & found.real).any()
