"""The drawn schemas are sound and the drawn cohorts valid, and the mess they promise does occur."""

import polars as pl
from hypothesis import HealthCheck, Phase, find, given, settings

from cohortloom.schema import Category, Count, Number, Ordinal
from cohortloom.testing.strategies import cohorts, schemas

slow_ok = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(schemas())
@slow_ok
def test_drawn_schemas_are_sound(schema):
    assert schema.problems() == []


@given(cohorts(schemas()))
@slow_ok
def test_drawn_cells_obey_the_schema(cohort):
    for name, table in cohort.schema.tables.items():
        frame = cohort.tables[name]
        assert frame.columns == [*cohort.schema.keys(name), *table.columns]
        if table.role == "static":
            assert frame["subject_id"].is_unique().all()
        if table.role == "visit":
            assert frame["visit_id"].is_unique().all() and frame["time"].null_count() == 0
        for c, column in table.columns.items():
            values = frame[c].drop_nulls()
            assert column.missing or values.len() == frame.height
            if isinstance(column, (Number, Count)):
                assert column.low is None or (values >= column.low).all()
                assert column.high is None or (values <= column.high).all()
            if isinstance(column, (Category, Ordinal)):
                assert values.is_in(list(column.levels)).all()


def test_every_mess_occurs():
    linked = cohorts(schemas(visits=True), min_subjects=2)
    quick = settings(max_examples=2000, deadline=None, database=None, phases=[Phase.generate])

    def visits(cohort):
        return cohort.tables["visits"]

    find(linked, lambda c: visits(c)["subject_id"].n_unique() < c.n_subjects and visits(c).height > 0, settings=quick)
    find(
        linked,
        lambda c: c.schema.clock == "offset" and visits(c).height > visits(c).unique(["subject_id", "time"]).height,
        settings=quick,
    )
    find(linked, lambda c: any(f.is_empty() for f in c.tables.values()) and c.n_subjects > 0, settings=quick)
    find(
        linked,
        lambda c: any(
            c.schema.has_visit_id(n) and f["visit_id"].null_count() not in (0, f.height)
            for n, f in c.tables.items()
            if n != "visits"
        ),
        settings=quick,
    )
    find(cohorts(schemas()), lambda c: c.n_subjects == 1, settings=quick)
    find(
        linked,
        lambda c: any(f[k].dtype == pl.String for f in c.tables.values() for k in f.columns if k == "subject_id"),
        settings=quick,
    )
