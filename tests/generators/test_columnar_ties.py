"""Two devices that measure one pressure by turns: the first value of one hangs on what the other has shown."""

import numpy as np

from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.nets.history import TOLD

VISITS, SWITCH = 10, 5


def by_turns(n: int, seed: int) -> tuple[Encoded, np.ndarray]:
    """One device in the first visits, the other and its copy in the later ones; a third column says nothing."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=n)
    pressure = level[:, None] + 0.5 * rng.normal(size=(n, VISITS))
    cuff = 80 + 10 * (0.9 * level[:, None] + 0.4 * rng.normal(size=(n, VISITS)))
    values = np.stack([80 + 10 * pressure, cuff, cuff + rng.normal(size=cuff.shape), rng.normal(size=cuff.shape)], 2)
    observed = np.ones(values.shape, bool)
    observed[:, SWITCH:, 0] = observed[:, :SWITCH, 1:3] = False
    features = tuple(Feature(f"visits.{name}", "number", decimals=1) for name in ("line", "cuff", "copy", "noise"))
    flat = (n * VISITS, 4)
    values, observed = np.where(observed, values.round(1), 0.0).reshape(flat), observed.reshape(flat)
    sequence = SequenceArrays(features, values, observed, np.ones(flat[0]), np.full(n, VISITS))
    return Encoded(None, sequence), level


def test_a_column_never_recorded_stands_where_the_others_say():
    encoded, level = by_turns(400, 0)
    alphabet = Alphabet.fit(encoded)
    ties = np.asarray(alphabet.spec.ties)[-4:, -4:]
    assert ties[1, 0] > 0.6 and ties[2, 0] > 0.6
    assert abs(ties[1, 2]) < 0.2  # the copy is as unknown as the cuff when that matters
    assert not ties[0].any() and not ties[3].any()
    rows = alphabet.later_rows(
        alphabet.static_cells(encoded), alphabet.visit_cells(encoded)[1], encoded.sequence, fit=True
    )
    told = rows.features[:, alphabet.spec.number_block(alphabet.spec.n_numbers - 3)[TOLD[1]]].reshape(400, VISITS - 1)
    assert np.corrcoef(told[:, SWITCH - 1], level)[0, 1] > 0.9
    assert np.ptp(told[:, SWITCH:]) < 1e-5  # own values stand for themselves
