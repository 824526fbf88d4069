"""Every planted fault against every group of scores: which see it. Writes docs/concepts/faults.md.

    python -m benchmarks.fault_matrix [--patients 600] [--only GROUP ...] [--add]

The faults are those of tests/evaluation/faults.py; `evaluate` runs fast, without the groups that fit models for tasks.
`--only` measures some groups and `--add` keeps what the result file holds of the others.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, parser, save

GROUPS = ("marginal", "missingness", "association", "temporal", "codes", "detection", "copies")
GOOD = "a second real sample"
PAGE = ROOT / "docs" / "concepts" / "faults.md"
HEAD = """# Which score sees which fault

A cohort of {n} simulated patients is spoiled in one way at a time and judged against another {n}. Each fault must fail
the score named for it (`tests/evaluation/test_faults.py`); the number in a cell says how many scores of the group
failed, a dot none, an empty cell that it was not measured. The first row is a second real sample, which must fail
nothing. Made by `{command}`, seed {seed}.{fewer} Faults of utility, survival and realism
stand in `tests/evaluation/test_tasks.py` and `test_survival.py`, those of waveforms in [waveforms.md](waveforms.md).

| fault | score named for it | {groups} |
|---|---|{line}|
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--patients", type=int, default=600)
    options.add_argument("--only", nargs="+", default=list(GROUPS), help="groups of scores")
    options.add_argument("--faults", nargs="+", default=None, help="some faults only")
    options.add_argument("--add", action="store_true", help="add to the rows of the result file")
    chosen = options.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
    from clinic import clinic
    from faults import FAULTS

    from cohortloom.evaluation import evaluate

    n, seed = chosen.patients, chosen.seeds[0]
    path = chosen.out or RESULTS / "fault_matrix.json"
    known = {r["fault"]: r for r in json.loads(path.read_text())["rows"]} if chosen.add else {}
    train, held_out, good = (clinic(n, seed + i) for i in (1, 2, 3))
    for name in chosen.faults or [GOOD, *FAULTS]:
        make, key = FAULTS.get(name, (None, ""))
        spoiled = good
        if make is not None:
            more = {"train": train} if "train" in inspect.signature(make).parameters else {}
            spoiled = make(good, np.random.default_rng(seed), **more)
        report = evaluate(spoiled, train=train, held_out=held_out, seed=seed, only=chosen.only, fast=True)
        row = known.setdefault(name, {"fault": name, "named": key, "failed": {}, "patients": {}})
        for group in chosen.only:
            row["failed"][group] = [s.key for s in report.failed if s.group == group]
            row["patients"][group] = n
        own = next((s for s in report.scores if s.key == key), None)
        if own is not None and own.value is not None:
            row |= {"value": round(own.value, 4), "limit": round(own.limit or 0, 4), "seen": own.passed is False}
        print(name, row.get("value"), row.get("limit"), row.get("seen"), flush=True)
        rows = [known[k] for k in [GOOD, *FAULTS] if k in known]
        save("fault_matrix", rows, out=chosen.out)
    PAGE.write_text(page(rows, n, seed))


def page(rows: list[dict[str, Any]], n: int, seed: int) -> str:
    """The matrix as Markdown."""
    lines = []
    for row in rows:
        score = f"`{row['named']}` {row.get('value')} (limit {row.get('limit')})" if row["named"] else ""
        cells = ["" if g not in row["failed"] else str(len(row["failed"][g]) or "·") for g in GROUPS]
        lines.append(f"| {' | '.join([row['fault'].replace('_', ' '), score, *cells])} |")
    sizes = {g: {row["patients"].get(g) for row in rows} - {n, None} for g in GROUPS}
    fewer = "".join(f" The column {g} is of {', '.join(map(str, sorted(s)))} patients." for g, s in sizes.items() if s)
    command = f"python -m benchmarks.fault_matrix --patients {n}"
    head = HEAD.format(
        n=n, seed=seed, command=command, fewer=fewer, groups=" | ".join(GROUPS), line="---|" * len(GROUPS)
    )
    return head.replace("---||", "---|") + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
