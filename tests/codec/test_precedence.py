"""Facts of the order in which codes of one moment are written."""

import numpy as np
import pytest

from cohortloom.codec.precedence import Precedence, moments


def written(true: np.ndarray, n: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Moments of a few codes each; `share` of them in the true order, the others at random."""
    draw = np.random.default_rng(seed)
    moment, code = [], []
    for i in range(n):
        chosen = draw.choice(len(true), int(draw.integers(1, 5)), replace=False)
        if draw.random() < share:
            chosen = chosen[np.argsort(true[chosen])]
        moment += [i] * len(chosen)
        code += chosen.tolist()
    return np.array(moment), np.array(code)


def test_an_order_that_always_holds_is_found():
    true = np.random.default_rng(1).permutation(12)
    found = Precedence.fit(*written(true, 600, 1.0), 12)
    assert np.array_equal(found.rank, true) and found.share == 1.0


def test_share_of_moments_in_order_is_learned():
    # about 600 moments with 2 codes or more: the share is known to 0.03
    true = np.random.default_rng(1).permutation(6)
    moment, code = written(true, 900, 0.6)
    found = Precedence.fit(moment, code, 6)
    assert found.share == pytest.approx(0.6, abs=0.1)
    again = Precedence.fit(moment, code[np.lexsort((found.arrange(moment, code, np.random.default_rng(2)), moment))], 6)
    assert again.share == pytest.approx(found.share, abs=0.1)


def test_codes_without_an_order_are_written_at_random():
    assert Precedence.fit(*written(np.arange(6), 900, 0.0), 6).share < 0.2


def test_rows_of_one_code_stay_together():
    code = np.array([0, 0, 0, 1, 1, 2])
    key = Precedence((2, 1, 0), 0.0).arrange(np.zeros(6, int), code, np.random.default_rng(0))
    assert all(len(np.unique(key[code == c])) == 1 for c in range(3))


def test_moments_are_numbered_by_step_and_time():
    assert moments(np.array([1, 0, 1, 0]), np.array([5, 7, 5, 3])).tolist() == [2, 1, 2, 0]


def test_nothing_to_order():
    assert Precedence.fit(np.zeros(0, int), np.zeros(0, int), 0).rank == ()
    assert len(Precedence().arrange(np.zeros(0, int), np.zeros(0, int), np.random.default_rng(0))) == 0
