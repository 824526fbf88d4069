"""Where a course goes hangs on how it ends: urea rises towards a death and falls in those who live."""

import numpy as np
import pytest

from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays, StaticArrays
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.nets.history import LEVEL, TOLD

VISITS, WAY = 12, 1.5  # of patients who die, from the first to the last visit; those who live go the other way
START, END = (0.5 / VISITS - 0.5, 0.5 - 0.5 / VISITS)
SD = np.sqrt(1 + WAY**2 / 12 + 0.25)  # of all records


def ward(n: int, seed: int) -> tuple[Encoded, np.ndarray]:
    """The mean of a course says nothing of its end; a third of the records are missing, a second column is noise."""
    rng = np.random.default_rng(seed)
    died = rng.random(n) < 0.5
    place = np.linspace(START, END, VISITS)
    urea = rng.normal(size=(n, 1)) + np.where(died, WAY, -WAY)[:, None] * place + 0.5 * rng.normal(size=(n, VISITS))
    values = np.stack([50 + 10 * urea, rng.normal(size=urea.shape)], 2).round(2).reshape(n * VISITS, 2)
    observed = rng.random(values.shape) < 2 / 3
    features = tuple(Feature(f"visits.{name}", "number", decimals=2) for name in ("urea", "noise"))
    sequence = SequenceArrays(
        features, np.where(observed, values, 0.0), observed, np.ones(n * VISITS), np.full(n, VISITS)
    )
    outcome = (Feature("patients.died", "category", levels=("no", "yes")),)
    static = StaticArrays(outcome, 1.0 + died[:, None].astype(float), np.ones((n, 1), bool))
    return Encoded(static, sequence), died


@pytest.fixture(scope="module")
def learned():
    encoded, died = ward(600, 0)
    alphabet = Alphabet.fit(encoded)
    x, _ = alphabet.static_inputs(alphabet.static_cells(encoded))
    return encoded, died, alphabet, alphabet.spec.way(600, x)


def test_statics_say_where_a_level_goes(learned):
    """The two outcomes part by 2 WAY over a course, in scores: over the spread of all records."""
    _, died, _, way = learned
    urea, noise = way[-2], way[-1]
    assert urea[died].mean() - urea[~died].mean() == pytest.approx(2 * WAY / SD, abs=0.25)
    assert np.abs(noise).max() < 0.2


def test_levels_are_on_their_way(learned):
    """What statics say of a level at a visit moves with the visit, and own records count as they stood then."""
    encoded, died, alphabet, way = learned
    rows = alphabet.later_rows(
        alphabet.static_cells(encoded), alphabet.visit_cells(encoded)[1], encoded.sequence, fit=True
    )
    block = alphabet.spec.number_block(alphabet.spec.n_numbers - 2)
    told, level = (
        (rows.features * alphabet.sd + alphabet.mean)[:, block[place]].reshape(600, VISITS - 1)
        for place in (TOLD[0], LEVEL)
    )
    gained = told[:, -1] - told[:, 0]
    assert np.allclose(gained, way[-2] * (VISITS - 2) / VISITS, atol=0.02)
    # at the end the own level is nearer to the truth of the end than a mean of all records could be
    assert level[died, -1].mean() - level[~died, -1].mean() > 0.75 * 2 * WAY * END / SD


def test_first_visits_hear_what_statics_say_of_all_visits(learned):
    encoded, died, alphabet, way = learned
    statics = alphabet.static_cells(encoded)
    alphabet.later_rows(statics, alphabet.visit_cells(encoded)[1], encoded.sequence, fit=True)
    dense, _ = alphabet.first_inputs(statics)
    x, _ = alphabet.static_inputs(statics)
    assert np.array_equal(dense[:, : x.shape[1]], x)
    level = alphabet.spec.priors(len(x), x)[0]
    urea = dense[:, x.shape[1]]  # of each number its level, then how often it is recorded
    at = alphabet.spec.number_block(alphabet.spec.n_numbers - 2)[TOLD[0]]
    expected = level[-2] + way[-2] * START  # the level at the begin, which those who die have below the others
    assert np.allclose(urea * alphabet.sd[at] + alphabet.mean[at], expected, atol=1e-4)
    assert expected[died].mean() < expected[~died].mean() - 1
    shape = alphabet.shapes("first", alphabet.visit_cells(encoded)[0])[-2]
    assert shape.own == shape.told == (x.shape[1], x.shape[1] + 1)
