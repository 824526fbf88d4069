"""How often a second sample of real patients fails a report: at most one report in twenty should.

    python -m benchmarks.false_alarms [--splits 100] [--patients 250]

Three samples of one simulated population play training, held-out and synthetic patients; a report with any failed score
is an alarm. The JSON names each score that gave one.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.common import ROOT, parser, save


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--splits", type=int, default=100)
    options.add_argument("--patients", type=int, default=250)
    chosen = options.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
    from clinic import clinic

    from cohortloom.evaluation import evaluate

    rows: list[dict[str, Any]] = []
    for k in range(chosen.splits):
        train, held_out, good = (clinic(chosen.patients, 3 * k + i) for i in (1, 2, 3))
        report = evaluate(good, train=train, held_out=held_out, seed=k, fast=True)
        judged = sum(s.passed is not None for s in report.scores)
        rows.append({"split": k, "judged": judged, "failed": [s.key for s in report.failed]})
        print(k, rows[-1]["failed"], flush=True)
        alarms = sum(bool(row["failed"]) for row in rows)
        save("false_alarms", rows, out=chosen.out, splits=len(rows), reports_with_an_alarm=alarms)


if __name__ == "__main__":
    main()
