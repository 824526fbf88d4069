"""Seconds and memory of `evaluate` at 10,000 synthetic patients against 10,000, 20 visits each, 12 columns.

    python -m benchmarks.evaluate_speed [--sizes 1000 10000] [--visits 20]

Patients are AR(1) courses made in a few vectorised lines: 7 numbers, 2 categories and 3 flags per visit, 3 statics, a
task (next visit) and irregular gaps; training, held-out and synthetic cohorts are of the same size. Every group of
scores is measured, not fast, with figures. One process, one thread; making the cohorts is not counted.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl

from benchmarks.common import apart, parser, save, show


def ward(n: int, visits: int, seed: int):
    """`n` patients with 1 to 2 x `visits` - 1 visits."""
    from cohortloom import Cohort, Schema

    numbers = {f"lab{i}": {"kind": "number"} for i in range(7)}
    states = {f"state{i}": {"kind": "category", "levels": ["a", "b", "c"]} for i in range(2)}
    flags = {f"flag{i}": {"kind": "flag"} for i in range(3)}
    statics = {"age": {"kind": "number"}, "sex": {"kind": "category", "levels": ["f", "m"]}, "ill": {"kind": "flag"}}
    schema = Schema.model_validate(
        {
            "name": "ward",
            "tables": {
                "patients": {"role": "static", "columns": statics},
                "visits": {"role": "visit", "columns": {**numbers, **states, **flags}},
            },
            "tasks": [{"name": "flag next", "kind": "next_visit", "target": "visits.flag0"}],
            "subgroups": ["patients.sex"],
        }
    )
    draw = np.random.default_rng(seed)
    count = draw.integers(1, 2 * visits, n)
    who = np.repeat(np.arange(n), count)
    row = np.arange(len(who)) - np.repeat(np.cumsum(count) - count, count)
    level, course = draw.normal(size=(n, 12)), np.zeros((len(who), 12))
    shock = draw.normal(size=course.shape)
    for k in range(row.max() + 1):  # one step of all patients at once
        at = np.flatnonzero(row == k)
        course[at] = shock[at] if k == 0 else 0.8 * course[at - 1] + 0.6 * shock[at]
    course += level[who]
    day = np.cumsum(draw.gamma(2, 15, len(who)).round())
    day -= np.repeat(day[np.cumsum(count) - count], count)
    frame: dict[str, Any] = {
        "subject_id": who, "visit_id": np.arange(len(who)),
        "time": pl.Series((18_000 + day).astype(np.int64) * 86_400_000_000).cast(pl.Datetime("us")),
    }  # fmt: skip
    for i, name in enumerate(numbers):
        frame[name] = pl.Series(np.where(draw.random(len(who)) < 0.1, np.nan, course[:, i].round(2))).fill_nan(None)
    for i, name in enumerate(states):
        frame[name] = np.array(["a", "b", "c"])[np.digitize(course[:, 7 + i], [-0.7, 0.9])]
    for i, name in enumerate(flags):
        frame[name] = course[:, 9 + i] > 1
    people = {
        "subject_id": np.arange(n), "age": (60 + 12 * level[:, 0]).round(), "sex": draw.choice(["f", "m"], n),
        "ill": level[:, 1] > 0.5,
    }  # fmt: skip
    return Cohort.build(schema, {"patients": pl.DataFrame(people), "visits": pl.DataFrame(frame)})


def stage(n: int, visits: int) -> dict[str, Any]:
    from cohortloom.evaluation import evaluate

    train, held_out, synthetic = (ward(n, visits, seed) for seed in (1, 2, 3))
    start = time.process_time()
    moments: list[tuple[str, float]] = []
    report = evaluate(
        synthetic, train=train, held_out=held_out, progress=lambda d, t, words: moments.append((words, _now(start)))
    )
    ends = [t for _, t in moments[1:]] + [_now(start)]
    parts = {w: round(b - a, 1) for (w, a), b in zip(moments, ends, strict=True) if b - a > 1}
    return {
        "patients": n, "visits": synthetic.tables["visits"].height, "scores": len(report.scores),
        "failed": len(report.failed), "cpu_s": round(_now(start), 1), "cpu_s_by_stage": parts,
    }  # fmt: skip


def _now(start: float) -> float:
    return time.process_time() - start


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    options.add_argument("--visits", type=int, default=20)
    chosen = options.parse_args()
    rows = []
    for n in chosen.sizes:
        rows.append(apart(stage, n, chosen.visits))
        show(rows[-1:])
        save("evaluate_speed", rows, out=chosen.out, visits_per_patient=chosen.visits)


if __name__ == "__main__":
    main()
