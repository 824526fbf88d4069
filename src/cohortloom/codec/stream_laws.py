"""What follows from other columns, in the rows of a decoded stream.

Tokens are drawn one by one and know nothing of laws: a study day contradicts its date, a visit number skips. The
laws that `Codec` found in the training rows (`derived`, `event_laws`) are written over what was drawn.
"""

from __future__ import annotations

import polars as pl

from cohortloom.codec.codec import Codec
from cohortloom.codec.event_laws import with_laws
from cohortloom.codec.inputs import one_row_each
from cohortloom.codec.naturals import write_visits
from cohortloom.codec.steps import steps_of
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng

__all__ = ["lawful"]


def lawful(codec: Codec, cohort: Cohort, before: pl.DataFrame, rng: Rng) -> Cohort:
    """The cohort with its visits and events as the laws want them.

    Args:
        codec: Holds the laws.
        cohort: Decoded rows.
        before: Patient and the number of visits that come before those in the cohort ("subject_id", "n").
        rng: Draws where a law has slack.
    """
    schema, tables = cohort.schema, dict(cohort.tables)
    laws = {name: tuple(law for law in codec.derived if law.path.partition(".")[0] == name) for name in tables}
    visit, steps = schema.visit_table, steps_of(cohort, cohort.subjects)
    if visit is not None and laws[visit] and steps.frame is not None and steps.frame.height:
        own = {name: one_row_each(cohort, name, steps.ids)[0].to_dict() for name in schema.statics}
        frames = own | {visit: steps.frame.to_dict()}
        beside = steps.frame.select("subject_id").join(before, on="subject_id", how="left", maintain_order="left")
        earlier = beside["n"].fill_null(0).to_numpy().astype(float)
        draw = rng.child("derived").numpy
        write_visits(schema, laws[visit], codec.visits, codec.statics, frames, steps, draw, earlier=earlier)
        tables[visit] = pl.DataFrame(frames[visit])
    statics = {name: cohort.tables[name] for name in schema.statics}
    for name in schema.events:
        if laws[name]:
            draw = rng.child("laws", name).numpy
            tables[name] = with_laws(schema, laws[name], name, tables[name], statics, draw)
    return Cohort.build(schema, tables, signals=cohort.signals, origin=cohort.origin)
