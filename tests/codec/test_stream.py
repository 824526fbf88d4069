"""Streams hold what the tables hold, in an order the grammar allows."""

import numpy as np
import polars as pl
import pytest

from cohortloom.codec.stream import END, NONE, NUMBER, SAME, StreamCodec
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.schema.text import read_schema
from cohortloom.simulation import simulate
from cohortloom.testing.checks import small_cohort

HOUR = 3_600_000_000


def ward() -> Cohort:
    """Two patients: timed labs in and out of visits, an untimed list of diagnoses, a code without a number."""
    schema = Schema.model_validate(
        {"name": "ward", "clock": "offset", "tables": {
            "people": {"role": "static", "columns": {"sex": {"kind": "category", "levels": ["F", "M"]}}},
            "stays": {"role": "visit", "columns": {"kind": {"kind": "category", "levels": ["day", "night"]}}},
            "diagnoses": {"role": "event", "parent": "stays", "timed": False, "code": "icd",
                          "columns": {"icd": {"kind": "code", "levels": ["I50", "N18"]}}},
            "labs": {"role": "event", "parent": "stays", "code": "item", "value": "value", "columns": {
                "item": {"kind": "code", "levels": ["K", "Na", "seen"]}, "value": {"kind": "number", "decimals": 1}}},
        }}
    )  # fmt: skip
    hours = lambda *x: pl.Series([h * HOUR for h in x]).cast(pl.Duration("us"))  # noqa: E731
    return Cohort.build(schema, {
        "people": pl.DataFrame({"subject_id": [1, 2], "sex": ["F", None]}),
        "stays": pl.DataFrame({"subject_id": [1, 1], "visit_id": [10, 11], "time": hours(0, 100),
                               "kind": ["day", None]}),
        "diagnoses": pl.DataFrame({"subject_id": [1, 1, 1], "visit_id": [10, 10, 11], "icd": ["N18", "I50", "I50"]}),
        "labs": pl.DataFrame({
            "subject_id": [1, 1, 1, 1, 2], "visit_id": [10, 10, None, 11, None], "time": hours(2, 2, 50, 101, 5),
            "item": ["Na", "K", "K", "K", "seen"], "value": [138.0, 4.1, 4.1, 5.0, None]}),
    })  # fmt: skip


def test_a_stream_reads_as_it_should():
    cohort = ward()
    codec = StreamCodec.fit(cohort, k_min=1)
    stream = codec.encode(cohort, rng=Rng(0)).sequence
    names = []
    for token, state, _ in stream.values:
        t = codec.tokens[int(token)]
        level = ""
        if t.level >= 2:
            cell = codec.codes[t.table] if t.column < 0 else codec.cells[t.table][t.column]
            level = ":" + cell.levels[t.level - 2]
        names.append(t.table + level + ("" if t.linked else "@") + {NONE: "", NUMBER: "#", SAME: "="}[int(state)])
    first = ["stays", "stays:day", "diagnoses:I50", "diagnoses:N18", "labs:K#", "labs:Na#", "labs:K@#"]
    assert names[:7] == first  # codes of one time by frequency; a lab outside any stay has a token of its own
    assert names[7:] == ["stays", "diagnoses:I50", "labs:K#", "labs:seen@"]
    assert stream.length.tolist() == [10, 1]
    assert np.round(stream.gap * 24, 9).tolist() == [0, 0, 0, 0, 2, 0, 48, 50, 0, 1, 5]


def test_a_number_that_comes_again_is_the_same_token_value():
    cohort = ward()
    labs = cohort.tables["labs"].with_columns(visit_id=pl.when(pl.col("subject_id") == 1).then(10).otherwise(None))
    codec = StreamCodec.fit(again := Cohort.build(cohort.schema, {**cohort.tables, "labs": labs}), k_min=1)
    values = codec.encode(again, rng=Rng(0)).sequence.values
    k = next(i for i, t in enumerate(codec.tokens) if t.table == "labs" and t.level == 2)
    rows = values[values[:, 0] == k]
    assert rows[:, 1].tolist() == [NUMBER, SAME, NUMBER] and rows[0, 2] == rows[1, 2]


def admissions() -> Cohort:
    return simulate(read_schema("schemas/mimic_iv_demo.toml"), 40, seed=0)


@pytest.mark.parametrize("make", [small_cohort, ward, admissions], ids=["small", "ward", "mimic"])
def test_round_trip_keeps_rows_times_codes_and_links(make):
    cohort = make()
    codec = StreamCodec.from_json(cohort.schema, StreamCodec.fit(cohort, k_min=1).to_json())
    encoded = codec.encode(cohort, rng=Rng(0))
    back = codec.decode(encoded, Rng(1), ids=np.arange(1, cohort.n_subjects + 1))
    number = pl.DataFrame({"subject_id": cohort.subjects, "__n": np.arange(1, cohort.n_subjects + 1)})
    for name, spec in cohort.schema.tables.items():
        if spec.role == "static":
            continue
        was = cohort.tables[name].join(number, on="subject_id", how="left", maintain_order="left")
        now = back.tables[name].with_columns(pl.col("subject_id").alias("__n"))
        if spec.code is not None:
            was = was.filter(pl.col(spec.code).is_not_null())
        exact = ["__n", *(c for c, s in spec.columns.items() if s.kind in ("category", "ordinal", "flag", "code"))]
        if cohort.schema.has_time(name) and cohort.schema.clock != "timestamp":
            exact.append("time")  # dates count from a day that is a number of the statics
        if cohort.schema.has_visit_id(name) and spec.role == "event":
            was, now = (f.with_columns(inside=pl.col("visit_id").is_not_null()) for f in (was, now))
            exact.append("inside")
        assert was.select(exact).sort(exact).equals(now.select(exact).sort(exact)), name
        for column, s in spec.columns.items():
            if s.kind in ("number", "count") and was[column].drop_nulls().len():
                a, b = was[column].drop_nulls(), now[column].drop_nulls()
                assert a.len() == b.len() and b.mean() == pytest.approx(a.mean(), rel=0.05, abs=0.2), (name, column)


def test_hours_are_those_of_the_visits_and_of_nothing_else():
    cohort = admissions()
    codec = StreamCodec.fit(cohort, k_min=1)
    stream = codec.encode(cohort, rng=Rng(0)).sequence
    token, state, score = stream.values.T
    token = token.astype(np.int64)
    found, visit = codec.hours(token, state, score), codec.facts["visit"][token]
    assert codec.clock and not np.isfinite(found[~visit]).any()
    time = cohort.tables[cohort.schema.visit_table].sort("subject_id", "time")["time"]
    exact = time.dt.hour().to_numpy() + time.dt.minute().to_numpy() / 60
    np.testing.assert_allclose(found[visit], exact, atol=0.5)  # the law has no tails
    first = np.flatnonzero(visit)[0]  # an hour nobody recorded is none, whatever the others have
    assert np.isnan(codec.hours(token, np.where(np.arange(len(token)) == first, NONE, state), score)[first])


def test_a_column_that_was_never_empty_is_never_left_out():
    cohort = ward()
    for filled, due in ((False, False), (True, True)):
        stays = cohort.tables["stays"].with_columns(pl.col("kind").fill_null("day") if filled else pl.col("kind"))
        made = Cohort.build(cohort.schema, {**cohort.tables, "stays": stays})
        codec = StreamCodec.fit(made, k_min=1)
        visit = np.flatnonzero(codec.facts["visit"])
        assert (codec.facts["due"][visit] == 0).all() == due and (codec.facts["rest"][visit] == due).all()


@pytest.mark.parametrize("make", [small_cohort, ward], ids=["small", "ward"])
def test_real_streams_obey_the_grammar_and_shuffled_ones_do_not(make):
    cohort = make()
    codec = StreamCodec.fit(cohort, k_min=1)
    stream = codec.encode(cohort, rng=Rng(0)).sequence

    def breaches(token: np.ndarray) -> int:
        facts, row, last, found = codec.facts, 0, END, 0
        for t, place in zip(token, stream.position):
            row, last = (0, END) if place == 0 else (row, last)
            cell = not facts["row"][t]
            fine = facts["table"][t] == facts["table"][row] and facts["column"][last] < facts["column"][t]
            fine &= facts["column"][t] <= facts["due"][last]
            found += not (fine if cell else codec.follows[row, t] and facts["due"][last] == np.iinfo(np.int64).max)
            row, last = (row if cell else t), t
        return found

    token = stream.values[:, 0].astype(int)
    assert breaches(token) == 0
    assert breaches(Rng(0).numpy.permutation(token)) > 0.05 * len(token)


def test_a_code_of_few_patients_is_never_written_down():
    schema = Schema.model_validate(
        {"name": "codes", "clock": "order", "tables": {
            "visits": {"role": "visit"},
            "drugs": {"role": "event", "parent": "visits", "timed": False, "columns": {"drug": {"kind": "code"}}}}}
    )  # fmt: skip
    who = np.arange(12)
    cohort = Cohort.build(schema, {
        "visits": pl.DataFrame({"subject_id": who, "visit_id": who, "time": np.zeros(12, int)}),
        "drugs": pl.DataFrame({"subject_id": who, "visit_id": who, "drug": ["common"] * 8 + ["unheard of"] * 4}),
    })  # fmt: skip
    codec = StreamCodec.fit(cohort, k_min=5)
    assert "common" in str(codec.to_json()) and "unheard of" not in str(codec.to_json())
    assert codec.notes == {"drugs: rows of rare codes, drawn as other rare codes": 4}
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(1, 13))
    assert back.tables["drugs"]["drug"].to_list() == ["common"] * 12
