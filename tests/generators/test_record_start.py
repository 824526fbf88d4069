"""Where tokens start from, and when those within a gate are drawn, on cells with a known law."""

import numpy as np
import pytest
import torch

from cohortloom.diffusion.masked import reveal_times
from cohortloom.generators.record_start import fit_tokens
from cohortloom.generators.record_tensors import Part, Records
from cohortloom.nets.record_cells import CellColumn, Columns, Shown
from cohortloom.nets.record_denoiser import CLEAN, TOKENS, Clock, RecordDenoiser, place_features
from cohortloom.rng import Rng

STAYS, PATIENTS, VISITS = 0.95, 120, 10


def category(n=2):
    return CellColumn("category", (True,) * n, (1 / n,) * n)


def chains(rng):
    """Two states that stay with a chance of .95 each visit, and a third column that says what the first does."""
    token = np.zeros((PATIENTS, VISITS, 3), int)
    token[:, 0, :2] = rng.random((PATIENTS, 2)) < 0.5
    for t in range(1, VISITS):
        token[:, t, :2] = np.where(rng.random((PATIENTS, 2)) < STAYS, token[:, t - 1, :2], 1 - token[:, t - 1, :2])
    token[..., 2] = token[..., 0]
    return token


def records(token):
    rows = torch.from_numpy(token.reshape(-1, 3))
    source = torch.arange(VISITS).repeat(PATIENTS)[:, None].expand(-1, 3)
    nothing = torch.zeros(rows.shape)
    empty = torch.zeros(PATIENTS, 0)
    statics = Part(empty.long(), empty, empty, empty.bool())
    series = Part(rows, nothing, nothing + 1, torch.ones(rows.shape, dtype=torch.bool), source)
    return Records(statics, series, torch.full((PATIENTS,), VISITS))


def law(net, token, hidden):
    """Chance of level 1 of each hidden cell."""
    n = len(token)
    nothing = torch.zeros(token.shape)
    shown = Shown(torch.where(hidden, net.series.masks, token), nothing, nothing.bool(), nothing.bool())
    empty = torch.zeros(n, 0)
    clocks = [Clock(torch.full((n,), k), torch.full((n,), 0.5), torch.full((n,), 9.0)) for k in (CLEAN, TOKENS)]
    place = place_features(torch.arange(VISITS).expand(n, -1), torch.full((n,), VISITS), torch.ones(n).bool())
    m, _, _, shares = net.neighbours(shown, torch.ones(n, VISITS).bool(), clocks[1])
    around = net.token_row(Shown(empty.long(), empty, empty.bool(), empty.bool()), shown, m, place)
    logits = net.series_heads.bias + net.token_line(around, shares)
    return logits.unflatten(-1, (3, 2)).softmax(-1)[..., 1]


@pytest.fixture(scope="module")
def started():
    token, stream = chains(Rng(0).numpy), Rng(1)
    net = RecordDenoiser([], [category() for _ in range(3)], width=16, n_layers=1, units=4)
    everyone = np.arange(PATIENTS)
    fit_tokens(net, records(token), everyone[20:], everyone[:20], 128, stream.torch)
    return net


@torch.no_grad()
def test_a_state_lasts_as_long_as_it_does(started):
    # both neighbours alike: .95^2 / (.95^2 + .05^2) = .997; they differ: .5
    token = torch.zeros(3, VISITS, 3, dtype=torch.long)
    token[0, :, 1], token[2, 5:, 1] = 1, 1
    hidden = torch.zeros(token.shape, dtype=torch.bool)
    hidden[:, 4, 1] = True
    chance = law(started, token, hidden)[:, 4, 1]
    assert chance[0] > 0.97 and chance[1] < 0.03 and 0.2 < chance[2] < 0.8


@torch.no_grad()
def test_what_is_recorded_together_is_known_from_the_row_alone(started):
    token = torch.zeros(2, VISITS, 3, dtype=torch.long)
    token[0, :, 0] = 1
    hidden = torch.ones(token.shape, dtype=torch.bool)
    hidden[:, 3, 0] = False
    chance = law(started, token, hidden)[:, 3, 2]
    assert chance[0] > 0.95 and chance[1] < 0.05


def test_cells_within_a_gate_are_not_all_drawn_with_it():
    gate = CellColumn("category", (True, True), (0.5, 0.5))
    inner = [CellColumn("category", (True, True), (0.5, 0.5), gate=0, closes=(True, False)) for _ in range(9)]
    columns = Columns((gate, *inner))
    time = columns.after_gates(reveal_times((500, 1, 10), Rng(0).torch))
    pass_of = (20 * time).long()
    assert (time[..., 1:] >= time[..., :1]).all() and (time < 1).all()
    assert (pass_of[..., 1:] == pass_of[..., :1]).float().mean() < 0.15
