"""Fine noise between beats: closed forms of white noise, and what must stay as it was."""

import numpy as np
import pytest
import torch

from cohortloom.nets.stillness import Stillness

FS, N = 100.0, 1000


@pytest.fixture(scope="module")
def noise():
    return torch.randn(200, 2, N, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def still(noise):
    made, everywhere = Stillness(2, FS), torch.ones(200, 2, N)
    made.fit(made.log_power(0.2 * noise, everywhere), made.log_power(noise, everywhere))
    return made


def test_bands_add_up_to_what_is_above_the_first_edge(noise):
    """A sine of 2 Hz is in no band, one of 30 Hz in the last."""
    made = Stillness(1, FS)
    t = torch.arange(N) / FS
    slow, fast = (torch.sin(2 * np.pi * f * t)[None, None] for f in (2.0, 30.0))
    assert torch.stack(made._bands(slow))[..., 100:-100].abs().max() < 0.02
    assert made._bands(fast)[-1][..., 100:-100].std() == pytest.approx(0.5**0.5, rel=0.1)


def test_noise_between_beats_becomes_a_fifth(noise, still):
    moved = still(noise, torch.ones(200, N))
    ratio = still.log_power(moved, torch.ones(200, 2, N)) - still.log_power(noise, torch.ones(200, 2, N))
    # neighbouring bands overlap by a little, so each keeps some of what the other is left with
    assert ratio.exp().mean().sqrt().item() == pytest.approx(0.2, abs=0.06)


def test_beats_and_slow_waves_stay(noise, still):
    """Within 50 ms of R nothing changes by more than 2 % of the noise; 1 Hz comes back as it was."""
    place, real = torch.full((200, 1), 500.0), torch.ones(200, 1, dtype=torch.bool)
    away = still.away(place, real, ~real, N)
    assert away[0, 500] < 1e-3 and away[0, 489] == pytest.approx(0.5, abs=0.01) and away[0, 400] > 0.99
    odd = still.away(place, real, real, N)
    assert odd[0, 485] < 0.01
    slow = 3 * torch.sin(2 * np.pi * torch.arange(N) / FS).expand_as(noise)
    moved, alone = still(noise + slow, away), still(noise, away)
    assert (moved - noise - slow)[..., 495:506].abs().max() < 0.02 * noise.std()
    assert (moved - alone - slow).abs()[..., 50:-50].max() < 0.05


def test_order_of_records_is_kept(still):
    draw = torch.Generator().manual_seed(1)
    size = torch.linspace(0.5, 2, 40)[:, None, None]
    x = size * torch.randn(40, 2, N, generator=draw)
    ones = torch.ones(40, 2, N)
    before, after = (still.log_power(v, ones) for v in (x, still(x, ones[:, 0])))
    far = before[:, 5:] - before[:, :-5] > 0.3  # clearly louder
    assert (after[:, 5:] > after[:, :-5])[far].all()


def test_noise_of_the_right_size_stays(noise):
    made, everywhere = Stillness(2, FS), torch.ones(200, 2, N)
    power = made.log_power(noise, everywhere)
    made.fit(power, power)
    assert torch.equal(made(noise, everywhere[:, 0]), noise)
