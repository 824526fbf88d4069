"""Every planted fault against every group of scores: which see it. Writes docs/concepts/faults.md.

    python -m benchmarks.fault_matrix [--patients 400]

The faults are those of tests/evaluation/faults.py; `evaluate` runs fast, without the groups that fit models for tasks.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np

from benchmarks.common import ROOT, parser, save

GROUPS = ("marginal", "missingness", "association", "temporal", "codes", "detection", "copies")
PAGE = ROOT / "docs" / "concepts" / "faults.md"
HEAD = """# Which score sees which fault

A cohort of {n} simulated patients is spoiled in one way at a time and judged against another {n}. Each fault must fail
the score named for it (`tests/evaluation/test_faults.py`); the number in a cell says how many scores of the group
failed, a dot none. The first row is a second real sample, which must fail nothing. Made by `{command}`, seed {seed}.

| fault | score named for it | {groups} |
|---|---|{line}|
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--patients", type=int, default=400)
    chosen = options.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
    from clinic import clinic
    from faults import FAULTS

    from cohortloom.evaluation import evaluate

    n, seed = chosen.patients, chosen.seeds[0]
    train, held_out, good = (clinic(n, seed + i) for i in (1, 2, 3))
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for name in ["a second real sample", *FAULTS]:
        make, key = FAULTS.get(name, (None, ""))
        spoiled = good
        if make is not None:
            more = {"train": train} if "train" in inspect.signature(make).parameters else {}
            spoiled = make(good, np.random.default_rng(seed), **more)
        report = evaluate(spoiled, train=train, held_out=held_out, seed=seed, only=GROUPS, fast=True)
        failed = {g: sum(s.group == g for s in report.failed) for g in GROUPS}
        own = next((s for s in report.scores if s.key == key), None)
        row = {"fault": name, "named": key, **failed}
        if own is not None and own.value is not None:
            row |= {"value": round(own.value, 4), "limit": round(own.limit or 0, 4), "seen": own.passed is False}
        rows.append(row)
        score = f"`{key}` {row.get('value')} (limit {row.get('limit')})" if key else ""
        cells = [name.replace("_", " "), score, *(str(failed[g]) if failed[g] else "·" for g in GROUPS)]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    command = f"python -m benchmarks.fault_matrix --patients {n}"
    head = HEAD.format(n=n, seed=seed, command=command, groups=" | ".join(GROUPS), line="---|" * len(GROUPS))
    PAGE.write_text(head.replace("---||", "---|") + "\n".join(lines) + "\n")
    save("fault_matrix", rows, out=chosen.out)


if __name__ == "__main__":
    main()
