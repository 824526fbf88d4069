"""Drawing until every patient keeps every rule.

The codec can't express most breaches; what is left is repaired (the smallest change: a clipped bound, a sorted pair),
and patients whom no repair helps are drawn again, up to a limit. Both are counted: a generator that needs either often
has not learned the rule.

A generator may name patients it had better not draw (`Generator.avoided`). They are drawn again too, but only a few
times: what is left of them then is what the generator believes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom import rules
from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, SamplingError
from cohortloom.generators.condition import Condition
from cohortloom.rng import Rng
from cohortloom.sharding import Shard, merge

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["REDRAWS", "draw_valid", "with_statics"]

#: Times a patient may be drawn again: for a rule, and for what the generator avoids.
REDRAWS, AVOIDING = 20, 3


def draw_valid(
    generator: Generator, shard: Shard, rng: Rng, condition: Condition, given: Cohort | None
) -> tuple[Cohort, dict[str, int]]:
    """The patients of a shard, each keeping every rule of severity "error" and every condition.

    Returns:
        (cohort with ids `shard.ids`, counts of "repaired subjects", "redrawn subjects" and "avoided subjects" (redrawn
        ones that break no rule) that are not 0).

    Raises:
        SamplingError: some patients still break a rule after `REDRAWS` redraws.
    """
    ids, kept = shard.ids, []
    notes = {"repaired subjects": 0, "redrawn subjects": 0, "avoided subjects": 0}
    part = None
    for attempt in range(REDRAWS + 1):
        upstream = None if given is None else given.select(given.subjects.gather(ids - shard.start - 1))
        part, n_repaired = _one_draw(generator, ids, rng.child(attempt), condition, upstream)
        broken = pl.concat([rules.broken_subjects(part), condition.unmet(part)]).unique()
        if attempt < AVOIDING:
            avoided = generator.avoided(part)
            notes["avoided subjects"] += int((~avoided.is_in(broken.implode())).sum())
            broken = pl.concat([broken, avoided]).unique()
        good = part.subjects.filter(~part.subjects.is_in(broken.implode()))
        kept.append(part.select(good) if good.len() < part.n_subjects else part)
        ids = np.setdiff1d(ids, good.to_numpy())
        notes["repaired subjects"] += n_repaired
        if not len(ids):
            break
        notes["redrawn subjects"] += len(ids)
    if len(ids):
        assert part is not None
        raise _failure(generator, part.select(ids.tolist()), len(ids), shard, condition)
    return merge(generator.schema_, kept), {name: count for name, count in notes.items() if count}


def _one_draw(
    generator: Generator, ids: np.ndarray, rng: Rng, condition: Condition, given: Cohort | None
) -> tuple[Cohort, int]:
    """Patients after repair, and how many of them it changed."""
    drawn = generator._make(ids, given, rng.child("make"), condition)
    if given is not None:
        drawn = with_statics(drawn, given, ids)
    drawn = condition.write_into(drawn)
    repaired = rules.repair(drawn, rng.child("repair"))
    if repaired is drawn:
        return repaired, 0
    codec = getattr(generator, "codec_", None)
    if codec is not None and given is None:
        repaired = codec.lawful(repaired, rng)
    return repaired, _n_changed(drawn, repaired)


def with_statics(drawn: Cohort, given: Cohort, ids: np.ndarray) -> Cohort:
    """The static tables of the given patients, under the new ids."""
    plan = pl.DataFrame({"subject_id": given.subjects, "__id": ids})
    tables = dict(drawn.tables)
    for name in drawn.schema.statics:
        frame = given.tables[name].join(plan, on="subject_id", how="inner", maintain_order="left")
        tables[name] = frame.drop("subject_id").rename({"__id": "subject_id"})
    return Cohort.build(drawn.schema, tables, signals=drawn.signals, origin=drawn.origin)


def _n_changed(before: Cohort, after: Cohort) -> int:
    """Patients with a row that differs."""
    changed = []
    for name, frame in before.tables.items():
        if frame is after.tables[name]:
            continue
        old, new = (
            f.select("subject_id", pl.struct(pl.all()).hash().alias("row"))
            .group_by("subject_id")
            .agg(pl.col("row").sum())
            for f in (frame, after.tables[name])
        )
        both = old.join(new, on="subject_id", how="full", coalesce=True)
        changed.append(both.filter(pl.col("row").ne_missing(pl.col("row_right")))["subject_id"])
    return pl.concat(changed).n_unique() if changed else 0


def _failure(generator: Generator, part: Cohort, n: int, shard: Shard, condition: Condition) -> SamplingError:
    """The error that says which rules were broken and how often."""
    problems = []
    for rule in rules.compile_rules(part.schema):
        if rule.severity == "error" and (count := rule.broken_subjects(part).len()):
            what = f"{count} subjects break it: {rule.words}"
            problems.append(Problem("rule", rule.name or rule.kind, what, "", count))
    if count := condition.unmet(part).len():
        problems.append(Problem("condition", "where", f"{count} subjects do not meet it", "", count))
    if count := n - part.n_subjects:
        problems.append(Problem("empty", part.schema.name, f"{count} subjects have no row at all", "", count))
    return SamplingError(
        f"{n} of {shard.size} subjects of shard {shard.number} still break a rule after {REDRAWS} redraws "
        f"({generator.name}). Loosen the rule, train longer, or ask for other conditions.",
        problems,
    )
