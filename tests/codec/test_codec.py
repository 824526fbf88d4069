"""Facts of the round trip from a cohort to arrays and back."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortloom.codec import Codec, Layout
from cohortloom.cohort import Cohort
from cohortloom.errors import DataError, SettingsError
from cohortloom.rng import Rng
from cohortloom.schema import Number, Schema, Table, Timestamp
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


@pytest.fixture(scope="module")
def cohort(hospital) -> Cohort:
    return hospital()


@pytest.fixture(scope="module")
def normal(cohort) -> Codec:
    return Codec.fit(cohort, NORMAL)


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of two empirical distribution functions (slow reference)."""
    grid = np.unique(np.concatenate([a, b]))
    return max(abs((a <= g).mean() - (b <= g).mean()) for g in grid)


def test_normal_scores_give_the_columns_back(cohort, normal):
    encoded = normal.encode(cohort, rng=Rng(0))
    back = normal.decode(encoded, Rng(1), ids=np.arange(cohort.n_subjects))
    true, made = cohort.tables["stays"], back.tables["stays"]
    gaps = [np.diff(c["time"].to_physical().to_numpy()) / 86.4e9 for c in (true, made)]
    ends = [(c["end"] - c["time"]).dt.total_hours().to_numpy() for c in (true, made)]
    # the tails are clipped at the 5th extreme of 135 patients, which moves the distribution function by at most 5 / 135
    assert ks(*gaps) < 0.04 and ks(*ends) < 0.04
    assert np.array_equal(true["ward"].to_list(), made["ward"].to_list())


def test_normal_scores_of_numbers_are_standard_normal(cohort, normal):
    encoded = normal.encode(cohort, rng=Rng(0)).sequence
    j = [f.name for f in encoded.features].index("labs.Na")
    z = encoded.values[encoded.observed[:, j], j]
    # about 200 values: standard error of the mean 0.07, of the sd 0.05
    assert abs(z.mean()) < 0.2 and abs(z.std() - 1) < 0.15


def test_gap_scores_go_there_and_back(cohort, normal):
    encoded = normal.encode(cohort, rng=Rng(0)).sequence
    first = encoded.position == 0
    score = normal.times.gap_score(encoded.gap, first, Rng(0))
    assert (score[first] == 0).all() and abs(score[~first].std() - 1) < 0.15
    low, high = normal.times.gaps[1].ends
    inside = ~first & (encoded.gap > low) & (encoded.gap < high)
    assert np.allclose(normal.times.gap_days(score, first)[inside], encoded.gap[inside])


def test_parts_encode_as_the_whole(cohort):
    codec = Codec.fit(cohort, RAW)
    whole = codec.encode(cohort, rng=Rng(0))
    parts = [codec.encode(cohort, slice(i, i + 40), rng=Rng(0)) for i in range(0, 150, 40)]
    assert np.array_equal(whole.static.values, np.concatenate([p.static.values for p in parts]))
    assert np.array_equal(whole.sequence.values, np.concatenate([p.sequence.values for p in parts]))
    some = codec.encode(cohort, cohort.subjects[[3, 7]], rng=Rng(0))
    assert np.array_equal(some.static.values, whole.static.values[[3, 7]])


def test_parts_decode_to_ids_that_fit_together(cohort):
    codec = Codec.fit(cohort, RAW)
    whole = codec.encode(cohort, rng=Rng(0))
    ids = np.arange(1, 151)
    parts = [codec.decode(whole.take(np.arange(i, i + 50)), Rng(1), ids=ids[i : i + 50]) for i in (0, 50, 100)]
    joined = pl.concat([p.tables["stays"] for p in parts])
    assert joined.equals(codec.decode(whole, Rng(1), ids=ids).tables["stays"])


def test_arrays_of_a_wild_generator_decode_to_a_sound_cohort(cohort):
    """Numbers far off, NaN, ids that do not exist, negative gaps, lengths of 0: the cohort holds what its types say."""
    codec, draw = Codec.fit(cohort, RAW), np.random.default_rng(0)
    encoded = codec.encode(cohort, rng=Rng(0))
    length = draw.integers(0, 4, 150)
    n, width = length.sum(), len(codec.sequence_features)
    values = draw.normal(0, 50, (n, width)) * np.where(draw.random((n, width)) < 0.01, 1e9, 1)
    values[draw.random((n, width)) < 0.02] = np.nan
    gap = np.where(draw.random(n) < 0.1, np.nan, draw.normal(0, 1e7, n))
    seen = draw.random((n, width)) < 0.7
    sequence = type(encoded.sequence)(encoded.sequence.features, values, seen, gap, length)
    back = codec.decode(type(encoded)(encoded.static, sequence), Rng(1), ids=np.arange(150))
    stays, labs = back.tables["stays"], back.tables["labs"]
    assert stays.height == n and stays["time"].is_not_null().all()
    assert stays["visit_id"].is_sorted()  # rows are sorted by time, so times never fall from one visit to the next
    assert stays["time"].dt.year().max() < 9999
    assert labs.filter(pl.col("item") == "K")["value"].drop_nulls().is_between(1, 9).all()
    assert set(stays["ward"].drop_nulls()) <= {"A", "B", "C"}
    assert back.tables["vitals"]["hr"].drop_nulls().is_between(20, 250).all()
    assert labs.drop_nulls("visit_id").join(stays, on=["subject_id", "visit_id"], how="anti").is_empty()


def test_same_seed_same_cohort(cohort, normal):
    encoded = normal.encode(cohort, rng=Rng(0))
    a, b, c = (normal.decode(encoded, Rng(seed), ids=np.arange(150)) for seed in (1, 1, 2))
    assert all(a.tables[name].equals(b.tables[name]) for name in a.tables)
    assert not a.tables["labs"].equals(c.tables["labs"])


def test_unsorted_ids_keep_their_rows(cohort):
    codec = Codec.fit(cohort, RAW)
    ids = np.random.default_rng(0).permutation(150)
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=ids)
    true = cohort.tables["patients"]["birth"]
    assert back.tables["patients"]["birth"].gather(ids).equals(true)


def test_a_patient_without_stays_keeps_the_statics(cohort):
    _, back = round_trip(cohort)
    without = set(range(150)) - set(back.tables["stays"]["subject_id"])
    assert without == set(range(9, 150, 10))
    assert back.tables["patients"].filter(pl.col("subject_id").is_in(list(without)))["birth"].null_count() == 0


def test_unknown_levels_are_rare(cohort):
    codec = Codec.fit(cohort, RAW)
    strange = cohort.tables["stays"].with_columns(ward=pl.lit("new ward"))
    changed = Cohort.build(cohort.schema, dict(cohort.tables) | {"stays": strange})
    encoded = codec.encode(changed, rng=Rng(0))
    assert (encoded.sequence.values[:, [f.name for f in codec.sequence_features].index("stays.ward")] == 1).all()
    # no ward is rare in training, so nothing can be drawn for it
    assert codec.decode(encoded, Rng(1), ids=np.arange(150)).tables["stays"]["ward"].is_null().all()


def test_rare_levels_are_drawn_from_those_of_enough_patients(cohort):
    codec = Codec.fit(cohort, RAW, max_codes=1)
    made = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(150)).tables["stays"]
    assert set(made["ward"]) == {"A", "B", "C"}
    true, drawn = (
        c["ward"].value_counts().sort("ward")["count"].cast(pl.Float64).to_numpy()
        for c in (cohort.tables["stays"], made)
    )
    # 188 draws among two wards of equal share: standard error 7 rows
    assert np.abs(drawn - true).max() < 4 * 7


def test_bounds_of_the_data_are_kth_extremes(cohort):
    feature = {f.name: f for f in Codec.fit(cohort, RAW, bounds="data").sequence_features}["labs.Na"]
    largest = cohort.tables["labs"].filter(pl.col("item") == "Na").group_by("subject_id").agg(pl.col("value").max())
    assert feature.high == largest["value"].sort(descending=True)[4]
    assert {f.name: f for f in Codec.fit(cohort, RAW).sequence_features}["labs.Na"].high is None


def test_where_gives_feature_numbers(cohort, normal):
    raw = Codec.fit(cohort, RAW)
    assert raw.encode_where({"patients.sex": "M", "stays.died": True}) == {"patients.sex": 3.0, "stays.died": 3.0}
    assert raw.encode_where({"patients.sex": None}) == {"patients.sex": 0.0}
    assert normal.encode_where({"stays.ward": "B"}) == {"stays.ward": 3.0}


def test_where_lists_everything_that_is_wrong(cohort):
    codec = Codec.fit(cohort, RAW)
    where = {
        "patients.sex": "W",
        "patients.birth": "1960-01-01",
        "patients.weight": 70,
        "nothing.here": 1,
        "labs.value": 3,
        "stays.died": None,
    }
    with pytest.raises(SettingsError) as caught:
        codec.encode_where(where)
    codes = [p.code for p in caught.value.problems]
    assert codes == ["unknown-level", "not-fixable", "unknown-column", "unknown-table", "not-fixable", "never-missing"]
    assert "Levels: F, M, X" in str(caught.value)
    can_be = str(caught.value).split("Columns that can be: ")[1].split(".\n")[0]
    assert "patients.sex" in can_be and "patients.birth" not in can_be


def test_where_checks_numbers():
    schema = Schema(
        name="one", tables={"p": Table(role="static", columns={"age": Number(low=0, high=110, decimals=0)})}
    )
    cohort = Cohort.build(schema, {"p": pl.DataFrame({"subject_id": range(50), "age": np.arange(50.0)})})
    assert Codec.fit(cohort, RAW).encode_where({"p.age": 30.2}) == {"p.age": 30.0}
    codec = Codec.fit(cohort, NORMAL)
    assert codec.transforms["p.age"].decode(np.array([codec.encode_where({"p.age": 30})["p.age"]])) == 30
    for value, code in ((200, "out-of-range"), ("old", "not-a-number"), (float("nan"), "not-a-number")):
        with pytest.raises(SettingsError) as caught:
            codec.encode_where({"p.age": value})
        assert [p.code for p in caught.value.problems] == [code]


def test_what_does_not_fit_is_refused(cohort, normal):
    other = Schema(name="other", tables={"p": Table(role="static", columns={"age": Number()})})
    with pytest.raises(DataError, match="another schema"):
        normal.encode(Cohort.build(other, {}), rng=Rng(0))
    with pytest.raises(DataError, match="1 ids are not in the cohort"):
        normal.encode(cohort, [1, 1000], rng=Rng(0))
    twice = pl.concat([cohort.tables["patients"], cohort.tables["patients"][:2]])
    with pytest.raises(DataError, match="2 subjects have more than one row"):
        normal.encode(Cohort.build(cohort.schema, dict(cohort.tables) | {"patients": twice}), rng=Rng(0))
    encoded = normal.encode(cohort, rng=Rng(0))
    with pytest.raises(DataError, match="149 ids for 150 subjects"):
        normal.decode(encoded, Rng(0), ids=np.arange(149))
    with pytest.raises(DataError, match="other features"):
        Codec.fit(cohort, RAW, max_codes=0).decode(encoded, Rng(0), ids=np.arange(150))
    with pytest.raises(SettingsError, match="k_min"):
        Codec.fit(cohort, RAW, k_min=0)


@pytest.mark.parametrize("clock", ["offset", "order"])
def test_other_clocks_come_back(clock):
    schema = Schema(
        name="t", clock=clock, tables={"v": Table(role="visit", columns={"x": Number(), "when": Timestamp()})}
    )
    draw = np.random.default_rng(0)
    subject = np.repeat(np.arange(40), 5)
    time = np.tile(np.arange(5), 40)
    ticks = time if clock == "order" else (time * 30 + draw.integers(-5, 5, 200)) * 86_400_000_000
    times = pl.Series(ticks) if clock == "order" else pl.Series(ticks).cast(pl.Duration("us"))
    frame = pl.DataFrame(
        {"subject_id": subject, "visit_id": range(200), "time": times, "x": draw.normal(size=200), "when": times}
    )
    cohort = Cohort.build(schema, {"v": frame})
    for layout in (RAW, NORMAL):
        _, back = round_trip(cohort, layout)
        assert back.tables["v"]["time"].equals(cohort.tables["v"]["time"])


def test_schemas_without_steps_or_statics_work(cohort):
    for keep in (("patients",), ("stays",)):
        tables = {name: cohort.schema.tables[name].model_copy(update={"parent": None}) for name in keep}
        part = Cohort.build(Schema(name="part", tables=tables), {name: cohort.tables[name] for name in keep})
        codec, back = round_trip(part)
        assert back.tables[keep[0]].height == part.tables[keep[0]].height
        assert bool(codec.sequence_features) == (keep == ("stays",))


def test_one_part_of_a_layout_can_be_left_out(cohort):
    ids = np.arange(150)
    for layout in (Layout(sequence=False, scale="raw"), Layout(static=False, scale="raw")):
        codec = Codec.fit(cohort, layout)
        encoded = codec.encode(cohort, rng=Rng(0))
        back = codec.decode(encoded, Rng(1), ids=ids)
        assert (encoded.static is None) == (not layout.static) and (encoded.sequence is None) == (not layout.sequence)
        assert (back.tables["stays"].height > 0) == layout.sequence
        assert (back.tables["patients"].height > 0) == layout.static
