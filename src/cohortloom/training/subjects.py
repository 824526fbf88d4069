"""Patients kept aside for early stopping. Always patients, never rows: rows of one patient know each other."""

import numpy as np

from cohortloom.rng import Rng

__all__ = ["hold_out"]


def hold_out(n_subjects: int, share: float, rng: Rng, *, fold: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation patients, both sorted.

    Args:
        n_subjects: Patients 0 .. n_subjects - 1.
        share: Share for validation. Fewer than 10 patients are all used for training, and none for validation.
        rng: Same stream, same split.
        fold: Members of an ensemble take different folds of one permutation, so each leaves out other patients.

    Returns:
        (training, validation) indices [subject].
    """
    if share <= 0 or n_subjects < 10:
        return np.arange(n_subjects), np.zeros(0, dtype=np.int64)
    order = rng.child("hold-out").numpy.permutation(n_subjects)
    size = min(max(1, round(share * n_subjects)), n_subjects - 1)
    chosen = np.sort(np.take(order, np.arange(fold * size, (fold + 1) * size), mode="wrap"))
    return np.setdiff1d(np.arange(n_subjects), chosen), chosen
