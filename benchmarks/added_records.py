"""How often `evaluate` says that adding synthetic records helped or harmed, where the truth is known.

    python -m benchmarks.added_records [--cohorts 40] [--first 1000]

The cases are those of `tests/evaluation/test_signals_added.py`: sines in noise, 150 training patients of whom 6 or 30
have the label, 160 held-out ones. Synthetic records are fresh ones of the true law, copies of training records with
noise, fresh ones with exchanged labels, or of a label that nothing of the record tells. Seeds are none that the rule
was chosen on (100 to 139). A row: the answers, mean and spread of the gain in AUROC over the cohorts, and the mean
standard error that the score claims; it is right if it is near the spread.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.common import ROOT, parser, save, show

sys.path.insert(0, str(ROOT / "tests" / "evaluation"))

import test_signals_added as cases

CASES = (("right", 6), ("right", 30), ("copies", 6), ("copies", 30), ("noise", 6), ("noise", 30), ("wrong", 12))


def score(made: str, seed: int, n_rare: int) -> Any:
    """The one score of a case."""
    if made != "copies":
        return cases.case(made, seed, n_rare)[1][0]
    draw = np.random.default_rng(seed)
    rare, held = np.arange(150) < n_rare, np.arange(160) < 40
    train, tested = cases.waves(draw, rare), cases.waves(draw, held)
    of = np.r_[draw.integers(0, n_rare, 80), draw.integers(n_rare, 150, 80)]
    copies = train[of] + 0.3 * draw.standard_normal(train[of].shape)
    return cases.answers(cases.cohort(copies, rare[of], "synthetic"), train, rare, tested, held, seed)[0]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cohorts", type=int, default=40, help="of each case")
    options.add_argument("--first", type=int, default=1000, help="seed of the first; the others follow")
    given = options.parse_args()
    rows = []
    for made, n_rare in CASES:
        found = [score(made, seed, n_rare) for seed in range(given.first, given.first + given.cohorts)]
        said = Counter(s.details["answer"] for s in found)
        gain = np.array([-s.value for s in found])
        error = np.mean([(s.interval[1] - s.interval[0]) / 3.92 for s in found])
        rows.append(
            {"synthetic": made, "with the label": n_rare, "cohorts": len(found)}
            | {answer: said[answer] for answer in ("helped", "harmed", "no difference", "can't be told")}
            | {"gain": round(gain.mean(), 3), "spread": round(gain.std(ddof=1), 3), "claimed": round(float(error), 3)}
        )
        show(rows[-1:])
    save("added_records", rows, out=given.out)


if __name__ == "__main__":
    main()
