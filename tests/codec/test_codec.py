"""Facts of the round trip from a cohort to arrays and back."""

import json

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortloom.codec import Codec, Layout
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.testing.strategies import cohorts, schemas

RAW, NORMAL = Layout(scale="raw"), Layout(scale="normal")
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def round_trip(cohort: Cohort, layout: Layout = RAW, **settings) -> tuple[Codec, Cohort]:
    """The codec, stored and read, and the decoded cohort under ids 0, 1, 2, ..."""
    codec = Codec.fit(cohort, layout, **settings)
    codec = Codec.from_json(cohort.schema, json.loads(json.dumps(codec.to_json())))
    encoded = codec.encode(cohort, rng=Rng(0))
    return codec, codec.decode(encoded, Rng(1), ids=np.arange(cohort.n_subjects))


def numbered(cohort: Cohort, frame: pl.DataFrame) -> pl.DataFrame:
    """A frame whose subjects are numbered in the order of the cohort."""
    ids = pl.DataFrame({"subject_id": cohort.subjects, "new": np.arange(cohort.n_subjects)})
    return frame.join(ids, on="subject_id", maintain_order="left").with_columns(subject_id="new").drop("new")


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(cohorts(schemas()))
def test_statics_and_visits_come_back(cohort):
    _, back = round_trip(cohort, k_min=1, max_codes=1000)
    schema = cohort.schema
    for name, table in schema.tables.items():
        if table.role == "event":
            continue
        true, made = numbered(cohort, cohort.tables[name]), back.tables[name]
        if table.role == "visit":
            assert (
                true.group_by("subject_id")
                .len()
                .sort("subject_id")
                .equals(made.group_by("subject_id").len().sort("subject_id"))
            )
        else:
            made = made.join(true, on="subject_id", how="semi", maintain_order="left")
        for column, spec in table.columns.items():
            a, b = true[column], made[column]
            if spec.kind == "identifier":
                continue
            assert (a.is_null() == b.is_null()).all(), (name, column)
            if spec.kind in ("number", "timestamp"):
                a, b = (x.to_physical().cast(pl.Float64).fill_null(0).to_numpy() for x in (a, b))
                inside = np.ones(len(a), bool)
                if spec.kind == "timestamp":
                    continue
                grid = 0.5 * 10.0**-spec.decimals if spec.decimals is not None else 1e-9
                inside = (a >= (spec.low or -np.inf)) & (a <= (spec.high or np.inf))
                assert np.abs(a - b)[inside].max(initial=0) <= grid + 1e-9, (name, column)
            elif spec.kind in ("category", "ordinal", "flag"):
                assert a.equals(b, null_equal=True), (name, column)


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(cohorts(schemas()), st.sampled_from([RAW, NORMAL]))
def test_links_hold_and_shapes_agree(cohort, layout):
    codec, back = round_trip(cohort, layout)
    schema = cohort.schema
    encoded = codec.encode(cohort, rng=Rng(0))
    assert np.isfinite(encoded.static.values).all() and np.isfinite(encoded.sequence.values).all()
    assert encoded.sequence.length.sum() == len(encoded.sequence.gap) == len(encoded.sequence.values)
    if schema.visit_table is None:
        return
    visits = back.tables[schema.visit_table]
    assert visits["visit_id"].n_unique() == visits.height
    for name in schema.events:
        if schema.has_visit_id(name):
            rows = back.tables[name].drop_nulls("visit_id")
            assert rows.join(visits, on=["subject_id", "visit_id"], how="anti").is_empty()


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(cohorts(schemas()))
def test_decoded_events_have_as_many_rows(cohort):
    codec, back = round_trip(cohort, k_min=1, max_codes=1000)
    for name in cohort.schema.events:
        lost = sum(n for what, n in codec.notes.items() if what.startswith(f"{name}:") and "left out" in what)
        assert back.tables[name].height == cohort.tables[name].height - lost, codec.notes
