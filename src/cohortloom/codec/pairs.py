"""Which of many columns, or pairs of columns, can give a column: T = a, a + b, a - b.

With p columns there are p^2 pairs for each of p targets, too many to ask one by one. On a sample of rows all pairs are
compared at once, row by row, and a pair is let go as soon as it is off in more rows than a law may be.
"""

from __future__ import annotations

import numpy as np

__all__ = ["SHARE", "screened"]

#: Share of the rows of a sample in which a law must hold to be asked of all rows.
SHARE = 0.95
_EXACT, _DENSE = 1e-6, 10


def screened(
    target: np.ndarray, others: list[np.ndarray], step: float, far: float, pairs: bool
) -> tuple[list[int], list[tuple[int, int, float]]]:
    """Columns, and pairs with the sign of the second, that may give the target on the sample.

    Args:
        target: [rows] values of the sample, NaN where missing.
        others: [rows] values each.
        step: Grid of the target, 0 if there is none.
        far: Steps a law may be off.
        pairs: Also look for pairs.

    Returns:
        All that agree up to rounding in `SHARE` of the rows where all is known, and perhaps a few more, in order.
    """
    if not others:
        return [], []
    rows = np.flatnonzero(np.isfinite(target))
    t, x = target[rows], np.stack(others)[:, rows]
    limit = (max(_EXACT, (far + 1e-3) * step) * np.maximum(1, np.abs(t) * 1e-6)) + 1.01 * step
    most = int((1 - SHARE) * len(t) + 1e-9)  # rows a law may be off; NaN compares as not off
    singles = np.flatnonzero((np.abs(x - t) > limit).sum(axis=1) <= most).tolist()
    if not pairs or len(others) < 2:
        return singles, []
    known = np.argsort(-np.isfinite(x).sum(axis=0), kind="stable")  # rows with few holes rule out most
    t, x, limit = t[known], x[:, known], limit[known] - 0.5 * step
    found = []
    off, left = np.empty((len(x), len(x)), np.int16), np.empty((len(x), len(x)))
    for sign in (1.0, -1.0):
        off[...] = most + 1  # what must not be asked
        off[np.triu_indices(len(x), 1) if sign > 0 else ~np.eye(len(x), dtype=bool)] = 0
        for row in range(min(len(t), most + _DENSE)):
            np.subtract(t[row] - x[:, row, None], sign * x[None, :, row], out=left)
            off += np.abs(left, out=left) > limit[row]
            if row >= most and np.count_nonzero(off <= most) < len(off):
                break
        i, j = np.nonzero(off <= most)
        for k in range(0, len(i), 1 << 16):
            a, b = i[k : k + (1 << 16)], j[k : k + (1 << 16)]
            held = (np.abs(t - x[a] - sign * x[b]) > limit).sum(axis=1) <= most
            found += [(int(p), int(q), sign) for p, q in zip(a[held], b[held])]
    return singles, sorted(found, key=lambda f: (f[0], f[1], -f[2]))
