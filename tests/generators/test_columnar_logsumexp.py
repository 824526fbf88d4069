"""The narrow log-sum-exp of columnar-ar against scipy's."""

import numpy as np
from scipy.special import logsumexp as reference

from cohortloom.generators.columnar_sampling import logsumexp


def test_it_is_scipys():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 300, (200, 7))
    x[rng.random(x.shape) < 0.2] = -np.inf
    x[3], x[4] = -np.inf, 1e4
    for axis in (0, 1):
        for keepdims in (False, True):
            found, wanted = (f(x, axis=axis, keepdims=keepdims) for f in (logsumexp, reference))
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
