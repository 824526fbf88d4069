"""Patient vectors against numbers worked out by hand."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.cohort.features import Vocabulary, patient_features
from cohortloom.schema import Schema

SCHEMA = Schema.model_validate(
    {
        "name": "small",
        "clock": "offset",
        "tables": {
            "patients": {"role": "static", "columns": {"sex": {"kind": "category", "levels": ["F", "M"]}}},
            "visits": {
                "role": "visit",
                "columns": {
                    "x": {"kind": "number"},
                    "y": {"kind": "number"},
                    "state": {"kind": "category", "levels": ["a", "b"]},
                },
            },
            "labs": {
                "role": "event",
                "code": "code",
                "value": "value",
                "columns": {"code": {"kind": "code"}, "value": {"kind": "number"}},
            },
        },
    }
)


@pytest.fixture
def cohort():
    days = pl.Series([0, 1, 3, 4, 0]) * 86_400_000_000
    visits = pl.DataFrame(
        {
            "subject_id": [1, 1, 1, 1, 2],
            "visit_id": [1, 2, 3, 4, 5],
            "time": days.cast(pl.Duration("us")),
            "x": [1.0, 1.0, None, 4.0, None],
            "y": [0.0, 1.0, 5.0, 2.0, 3.0],
            "state": ["a", "b", None, "b", "a"],
        }
    )
    labs = pl.DataFrame(
        {
            "subject_id": [1, 1, 3],
            "time": days.head(3).cast(pl.Duration("us")),
            "code": ["k", "k", "n"],
            "value": [1.0, 3.0, 9.0],
        }
    )
    patients = pl.DataFrame({"subject_id": [1, 2, 3], "sex": ["F", None, "M"]})
    return Cohort.build(SCHEMA, {"patients": patients, "visits": visits, "labs": labs})


def test_every_kind_of_feature_by_hand(cohort):
    f = patient_features(cohort)
    assert f.subjects.to_list() == [1, 2, 3]
    got = {name: f.values[0, i] for i, name in enumerate(f.names)}
    slope = np.polyfit([0, 1, 4], [1, 1, 4], 1)[0]
    gaps = np.array([1.0, 2.0, 1.0])
    expected = {
        "patients.sex = F": 1,
        "visits: rows": 4,
        "visits: length": 4,
        "visits: mean gap": gaps.mean(),
        "visits: sd of gaps": gaps.std(ddof=1),
        "visits: product of gaps": 2 / gaps.mean() ** 2,
        "visits.x: missing": 0.25,
        "visits.x: mean": 2,
        "visits.x: sd": np.std([1, 1, 4], ddof=1),
        "visits.x: first": 1,
        "visits.x: last": 4,
        "visits.x: lag-1 product": ((-1) * (-1) + (-1) * 2) / 2,
        "visits.x: mean change": 1.5,
        "visits.x: repeats": 0.5,
        "visits.x: trend": slope,
        "visits.state = b: share": 2 / 3,
        "visits.state = b: at last": 1,
        "visits.state: changes": 0.5,
        "visits.state: missing": 0.25,
        "labs: rows": 2,
        "labs[k]: count": 2,
        "labs[k]: mean": 2,
        "labs.code: distinct": 1,
    }
    assert {k: float(got[k]) for k in expected} == pytest.approx(expected, rel=1e-5)


def test_patients_without_rows_have_counts_of_zero_and_unknown_values(cohort):
    f = patient_features(cohort)
    third = {name: f.values[2, i] for i, name in enumerate(f.names)}
    assert third["visits: rows"] == 0
    assert np.isnan(third["visits.x: mean"])
    assert third["labs[n]: count"] == 1


def test_a_reference_vocabulary_fixes_the_columns(cohort):
    vocabulary = Vocabulary.of([cohort])
    less = cohort.select([2])
    assert patient_features(less, vocabulary).names == patient_features(cohort, vocabulary).names


def test_features_of_hidden_columns_are_left_out(cohort):
    f = patient_features(cohort).without(["visits.x", "labs.code"])
    assert not [n for n in f.names if "visits.x" in n or "labs[" in n]
    assert "visits.y: mean" in f.names
    assert f.values.shape == (3, len(f.names))


def test_equal_values_vary_by_exactly_nothing_however_rows_lie_in_memory():
    visits = {"role": "visit", "columns": {c: {"kind": "number"} for c in "xy"}}
    schema = Schema.model_validate({"name": "weights", "clock": "offset", "tables": {"visits": visits}})
    n, k = 40, 37
    rows = {
        "subject_id": np.repeat(np.arange(n), k),
        "visit_id": np.arange(n * k),
        "time": pl.Series(np.tile(np.arange(k), n) * 3_600_000_000).cast(pl.Duration("us")),
        "x": np.repeat(np.arange(n) * 0.7 + 60.1, k),
        "y": np.random.default_rng(0).normal(size=n * k),
    }
    frame = pl.DataFrame(rows)
    constant = [f"visits.x: {name}" for name in ("sd", "lag-1 product", "mean change", "trend")]
    constant.append("visits.x x visits.y: product within")
    for part in (frame, frame.with_columns(pl.col("subject_id").set_sorted()), frame.sort("subject_id", "visit_id")):
        found = patient_features(
            Cohort(schema, {"visits": part.with_columns(pl.col("subject_id", "visit_id").cast(pl.String))})
        )
        for name in constant:
            assert (found.values[:, found.names.index(name)] == 0).all(), name
        assert (found.values[:, found.names.index("visits.y: sd")] > 0.5).all()


def test_starts_count_from_the_origin_or_from_the_first_time_of_the_patient():
    def starts(clock, origin, dtype):
        table = {"role": "event", "columns": {"x": {"kind": "number"}}}
        born = {"born": {"kind": "timestamp"}} if clock == "timestamp" else {"sex": {"kind": "flag"}}
        schema = Schema.model_validate(
            {"name": "two", "clock": clock, "tables": {"people": {"role": "static", "columns": born},
             "labs": table, "drugs": table}}
        )  # fmt: skip
        time = lambda *days: pl.Series([(origin + d) * 86_400_000_000 for d in days]).cast(dtype)  # noqa: E731
        fact = {"born": time(-40, 3)} if "born" in born else {"sex": [True] * 2}
        people = pl.DataFrame({"subject_id": [1, 2], **fact})
        labs = pl.DataFrame({"subject_id": [1, 1, 2], "time": time(2, 5, -3), "x": [1.0, 2.0, 3.0]})
        drugs = pl.DataFrame({"subject_id": [1, 2], "time": time(9, -7), "x": [1.0, 2.0]})
        f = patient_features(Cohort.build(schema, {"people": people, "labs": labs, "drugs": drugs}))
        return {name: f.values[:, i].tolist() for i, name in enumerate(f.names)}

    found = starts("offset", 0, pl.Duration("us"))
    assert found["labs: start"] == [2, -3] and found["drugs: start"] == [9, -7]
    found = starts("timestamp", 18_000, pl.Datetime("us"))
    assert found["labs: start"] == [0, 4] and found["drugs: start"] == [7, 0]
    assert found["people.born: after the first time"] == [-42, 10]
