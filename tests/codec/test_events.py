"""Facts of folding events into steps and unfolding them again."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec, Layout
from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Category, Code, Number, Schema, Table, Timestamp

RAW = Layout(scale="raw")


@pytest.fixture(scope="module")
def cohort(hospital) -> Cohort:
    return hospital()


@pytest.fixture(scope="module")
def codec(cohort) -> Codec:
    fitted = Codec.fit(cohort, RAW)
    return Codec.from_json(cohort.schema, json.loads(json.dumps(fitted.to_json())))


@pytest.fixture(scope="module")
def back(cohort, codec) -> Cohort:
    return codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(1, 151))


def renumbered(cohort: Cohort) -> Cohort:
    """The cohort with subjects 1, 2, ... and visit ids left as they are."""
    ids = pl.DataFrame({"subject_id": cohort.subjects, "new": np.arange(1, cohort.n_subjects + 1)})
    tables = {
        name: frame.join(ids, on="subject_id").with_columns(subject_id="new").drop("new")
        for name, frame in cohort.tables.items()
    }
    return Cohort.build(cohort.schema, tables)


def test_features_are_named_after_table_and_code(codec):
    names = {f.name for f in codec.sequence_features}
    assert {"labs.K", "labs.K#n", "labs.Na", "diagnoses.I10", "drugs.aspirin#n", "vitals.hr", "vitals#n"} <= names
    assert {f.name for f in codec.static_features} == {"stays.start", "patients.sex", "patients.birth"}


def test_statics_and_stays_come_back_exactly(cohort, back):
    true = renumbered(cohort)
    assert true.tables["patients"].drop("mrn").equals(back.tables["patients"].drop("mrn"))
    assert true.tables["stays"].drop("visit_id").equals(back.tables["stays"].drop("visit_id"))


def test_identifiers_are_made_anew(back):
    names = back.tables["patients"]["mrn"]
    assert names.null_count() == 0 and not names.str.contains("secret").any()


def test_decoded_events_fold_to_the_same_arrays(cohort, codec, back):
    first, again = codec.encode(cohort, rng=Rng(0)).sequence, codec.encode(back, rng=Rng(0)).sequence
    assert np.array_equal(first.observed, again.observed)
    assert np.array_equal(first.values, again.values)


def test_last_value_and_count_agree_with_a_slow_reference(cohort, codec):
    encoded = codec.encode(cohort, rng=Rng(0)).sequence
    at = {f.name: j for j, f in enumerate(encoded.features)}
    stays, labs = cohort.tables["stays"], cohort.tables["labs"].filter(pl.col("item") == "K")
    row = 0
    for (subject,), own in stays.group_by("subject_id", maintain_order=True):
        starts = own["time"].to_list()
        found: list[list] = [[] for _ in starts]
        for lab in labs.filter(pl.col("subject_id") == subject).iter_rows(named=True):
            if lab["visit_id"] is not None:
                place = own["visit_id"].to_list().index(lab["visit_id"])
            else:
                place = max([i for i, s in enumerate(starts) if s <= lab["time"]], default=0)
            found[place].append(lab["value"])
        for values in found:
            known = [v for v in values if v is not None]
            assert encoded.values[row, at["labs.K#n"]] == len(values)
            assert encoded.observed[row, at["labs.K"]] == bool(known)
            if known:
                assert encoded.values[row, at["labs.K"]] == known[-1]
            row += 1
    assert row == len(encoded.values)


def test_every_link_leads_to_a_stay_of_the_same_patient(back):
    for name in ("labs", "diagnoses", "vitals"):
        linked = back.tables[name].drop_nulls("visit_id")
        assert linked.height > 0
        assert linked.join(back.tables["stays"], on=["subject_id", "visit_id"], how="anti").is_empty()


def test_share_without_a_link_is_learned(cohort, back):
    true, made = (c.tables["labs"]["visit_id"].is_null().mean() for c in (cohort, back))
    assert made == pytest.approx(true, abs=0.05) and true > 0.1


def test_linked_times_lie_inside_the_stay(cohort, back):
    for c in (cohort, back):
        rows = c.tables["labs"].drop_nulls("visit_id").join(c.tables["stays"], on=["subject_id", "visit_id"])
        assert ((rows["time"] >= rows["time_right"]) & (rows["time"] <= rows["end"])).all()


def test_dates_stay_dates(back):
    assert (back.tables["drugs"]["time"].dt.truncate("1d") == back.tables["drugs"]["time"]).all()


def test_panels_stay_together(cohort, back):
    for c in (cohort, back):
        moments = c.tables["labs"].group_by("subject_id", "time").agg(pl.col("item").n_unique())
        assert (moments["item"] == 2).mean() > 0.6


def test_events_before_the_first_stay_are_kept(cohort, codec):
    first = cohort.tables["stays"].group_by("subject_id").agg(pl.col("time").min().alias("first"))
    early = (
        cohort.tables["drugs"]
        .join(first, on="subject_id")
        .filter(pl.col("time") < pl.col("first") - pl.duration(days=1))
    )
    assert early.height == 1
    encoded = codec.encode(cohort, rng=Rng(0)).sequence
    names = [f.name for f in encoded.features]
    total = sum(encoded.values[:, j].sum() for j, n in enumerate(names) if n.startswith("drugs.") and n.endswith("#n"))
    assert total == cohort.tables["drugs"].height


def test_a_code_of_one_patient_is_never_told(cohort, codec, back):
    assert "ONE-PATIENT" not in json.dumps(codec.to_json())
    assert "ONE-PATIENT" not in back.tables["diagnoses"]["icd"].to_list()
    assert codec.notes["diagnoses: rows of codes held by fewer than 5 patients, never drawn"] == 1


def test_rare_codes_are_drawn_among_those_of_enough_patients(cohort):
    codec = Codec.fit(cohort, RAW, max_codes=1)
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(150))
    made = back.tables["diagnoses"]
    assert set(made["icd"]) == {"I10", "E11", "N17", "J44"}
    assert made.group_by("visit_id").agg(pl.col("icd").n_unique() == pl.len())["icd"].all()
    # doubles that could not be drawn apart are dropped: at most the few stays where all rare codes are taken
    assert made.height >= 0.97 * cohort.tables["diagnoses"].height
    labs = back.tables["labs"]
    assert labs.filter(pl.col("item") == "K")["value"].is_between(1, 9).all()


def test_earlier_values_vary_as_in_training(cohort, back):
    # pooled variance within a stay; about 400 values, so the sd is known to 4 %, and rounding to 0.1 adds 0.0008
    def within(c: Cohort) -> float:
        rows = c.tables["labs"].filter(pl.col("item") == "K").drop_nulls(["visit_id", "value"])
        rows = rows.with_columns(
            n=pl.len().over("subject_id", "visit_id"),
            d=pl.col("value") - pl.col("value").mean().over("subject_id", "visit_id"),
        )
        rows = rows.filter(pl.col("n") > 2)
        return float(np.sqrt((rows["d"] ** 2).sum() / (rows["d"] * 0 + 1 - 1 / rows["n"]).sum()))

    assert within(cohort) == pytest.approx(0.3, rel=0.12)
    assert within(back) == pytest.approx(within(cohort), rel=0.15)


def test_items_bound_the_values_of_their_code(codec):
    feature = next(f for f in codec.sequence_features if f.name == "labs.K")
    assert (feature.low, feature.high, feature.decimals) == (1.0, 9.0, 1)


def test_a_number_needs_a_row_and_a_row_a_number(cohort, codec):
    """Arrays a generator may draw: a value with a count of 0, and a count without a value. A stay that is said to
    have no laboratory rows has none, whatever its values say."""
    encoded = codec.encode(cohort, rng=Rng(0))
    at = {f.name: j for j, f in enumerate(encoded.sequence.features)}
    values, observed = encoded.sequence.values.copy(), encoded.sequence.observed.copy()
    values[:, at["labs.Na#n"]], values[:, at["labs.Na"]], observed[:, at["labs.Na"]] = 0, 141.0, True
    changed = type(encoded.sequence)(
        encoded.sequence.features, values, observed, encoded.sequence.gap, encoded.sequence.length
    )
    made = codec.decode(type(encoded)(encoded.static, changed), Rng(1), ids=np.arange(150)).tables["labs"]
    held = int((values[:, at["labs#n"]] > 0).sum())
    assert 0 < held < cohort.tables["stays"].height
    assert made.filter(pl.col("item") == "Na").height == held
    values[:, at["labs.Na#n"]], observed[:, at["labs.Na"]] = 3, False
    made = codec.decode(type(encoded)(encoded.static, changed), Rng(1), ids=np.arange(150)).tables["labs"]
    assert made.filter(pl.col("item") == "Na").is_empty()


def test_encoded_cells_lie_within_what_says_that_they_are_there(cohort, codec):
    """Encoded arrays of real rows say the same of a table, a group, a code and its number: nothing is taken away."""
    encoded = codec.encode(cohort, rng=Rng(0)).sequence
    at = {feature.name: j for j, feature in enumerate(encoded.features)}
    within = 0
    for fold in codec.folds:
        if not fold.per_subject:
            told = {f.name: (encoded.values[:, at[f.name]], encoded.observed[:, at[f.name]]) for f in fold.features}
            for feature in fold.features:
                values, observed = fold.present(told)[feature.name]
                counts = feature.kind == "category" or feature.always
                kept = encoded.values[:, at[feature.name]] if counts else encoded.observed[:, at[feature.name]]
                assert np.array_equal(kept, values if counts else observed), feature.name
                within += bool(feature.within)
    assert within > 5


def test_whether_a_table_has_rows_is_one_cell_where_steps_hold_one_moment():
    """Untimed codes of visits, a third of which have none: "#any" says so before any code does. Where a visit with
    codes may hold none of the frequent ones it does not: drawn one by one none might come."""
    n, draw = 120, np.random.default_rng(0)
    schema = Schema(
        name="clinic",
        clock="order",
        tables={
            "visits": Table(role="visit", columns={"sbp": Number()}),
            "findings": Table(role="event", timed=False, parent="visits", columns={"code": Code()}, code="code"),
        },
    )
    visits = pl.DataFrame({"subject_id": range(n), "visit_id": range(n), "time": [0] * n, "sbp": draw.normal(size=n)})
    rows = [(i, i, code) for i in range(n) if i % 3 for code in "ABCD" if draw.random() < 0.8]
    findings = pl.DataFrame(rows, schema=["subject_id", "visit_id", "code"], orient="row")
    cohort = Cohort.build(schema, {"visits": visits, "findings": findings})
    codec = Codec.fit(cohort, RAW)
    encoded = codec.encode(cohort, rng=Rng(0))
    at = [f.name for f in codec.sequence_features].index("findings#any")
    holding = np.isin(np.arange(n), findings["visit_id"].to_numpy())
    assert np.array_equal(encoded.sequence.values[:, at] == 3, holding)
    assert {f.within for f in codec.sequence_features[at + 1 :]} == {"findings#any"}
    seldom = findings.group_by("visit_id").agg(pl.col("subject_id").first(), pl.col("code").sample(1, seed=0).first())
    names = [
        f.name for f in Codec.fit(Cohort.build(schema, {"visits": visits, "findings": seldom}), RAW).sequence_features
    ]
    assert "findings#any" not in names and "findings.A" in names
    back = codec.decode(encoded, Rng(1), ids=np.arange(n))
    pairs = [t.tables["findings"].select("subject_id", "code").sort("subject_id", "code") for t in (back, cohort)]
    assert pairs[0].equals(pairs[1])
    shut = replace(encoded.sequence, values=encoded.sequence.values.copy())
    shut.values[:, at] = 2
    assert codec.decode(Encoded(encoded.static, shut), Rng(1), ids=np.arange(n)).tables["findings"].is_empty()


def test_without_visits_a_step_is_a_day():
    schema = Schema(
        name="daily",
        clock="offset",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "home": Table(role="event", columns={"code": Code(), "value": Number()}, code="code", value="value"),
        },
    )
    draw = np.random.default_rng(0)
    hours = np.sort(draw.integers(0, 24 * 20, 600))
    frame = pl.DataFrame(
        {
            "subject_id": np.repeat(np.arange(60), 10),
            "time": pl.Series(hours * 3_600_000_000).cast(pl.Duration("us")),
            "code": draw.choice(["weight", "pulse"], 600),
            "value": np.round(draw.normal(70, 5, 600), 1),
        }
    )
    cohort = Cohort.build(
        schema, {"patients": pl.DataFrame({"subject_id": np.arange(61), "sex": ["F"] * 61}), "home": frame}
    )
    codec = Codec.fit(cohort, RAW, step_days=1)
    encoded = codec.encode(cohort, rng=Rng(0))
    days = frame.with_columns(day=pl.col("time").dt.total_days()).select("subject_id", "day").n_unique()
    assert encoded.sequence.length.sum() == days and encoded.sequence.length[60] == 0
    back = codec.decode(encoded, Rng(1), ids=np.arange(61))
    again = codec.encode(back, rng=Rng(0))
    assert np.array_equal(encoded.sequence.values, again.sequence.values)
    assert np.allclose(encoded.sequence.gap, again.sequence.gap)


def test_untimed_events_of_the_patient_fold_into_statics():
    schema = Schema(
        name="history",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "past": Table(role="event", timed=False, columns={"icd": Code()}, code="icd"),
        },
    )
    past = pl.DataFrame({"subject_id": [i for i in range(20) for _ in range(i % 2)], "icd": ["I10"] * 10})
    cohort = Cohort.build(
        schema, {"patients": pl.DataFrame({"subject_id": range(20), "sex": ["F"] * 20}), "past": past}
    )
    codec = Codec.fit(cohort, RAW)
    encoded = codec.encode(cohort, rng=Rng(0))
    assert [f.name for f in codec.static_features] == ["patients.sex", "past.I10"] and not codec.sequence_features
    assert np.array_equal(encoded.static.values[:, 1], 2.0 + np.arange(20) % 2)
    assert codec.decode(encoded, Rng(1), ids=np.arange(20)).tables["past"].equals(cohort.tables["past"])


def test_rows_of_patients_without_stays_are_counted(cohort):
    nobody = cohort.subjects[9]
    drugs = pl.concat(
        [cohort.tables["drugs"], cohort.tables["drugs"][:3].with_columns(subject_id=pl.lit(nobody, pl.Int64))]
    )
    codec = Codec.fit(Cohort.build(cohort.schema, dict(cohort.tables) | {"drugs": drugs}), RAW)
    assert codec.notes["drugs: rows of subjects without a step, left out"] == 3


def test_codes_of_one_moment_keep_their_order():
    """A panel prints Na before K before Cl, whatever the alphabet says."""
    schema = Schema(
        name="panel",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "visits": Table(role="visit", columns={"ward": Category(levels=("A",))}),
            "labs": Table(
                role="event", parent="visits", columns={"item": Code(), "value": Number()}, code="item", value="value"
            ),
        },
    )
    draw = np.random.default_rng(0)
    time = pl.Series(pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 2, 29), "1d", eager=True))
    visits = pl.DataFrame({"subject_id": np.arange(60), "visit_id": np.arange(60), "time": time, "ward": ["A"] * 60})
    rows = [(i, i, time[i], c, 1.0) for i in range(60) for c in ("Na", "K", "Cl") if draw.random() < 0.8]
    labs = pl.DataFrame(rows, schema=["subject_id", "visit_id", "time", "item", "value"], orient="row")
    cohort = Cohort.build(
        schema,
        {"patients": pl.DataFrame({"subject_id": range(60), "sex": ["F"] * 60}), "visits": visits, "labs": labs},
    )
    codec = Codec.from_json(schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(60)).tables["labs"]
    assert back["item"].equals(cohort.tables["labs"]["item"]) and back["time"].equals(cohort.tables["labs"]["time"])


def test_tests_of_one_sample_are_counted_by_sample():
    """Three tests per sample: one number of samples, and where a test is missing; rows come back sample by sample."""
    schema = Schema(
        name="samples",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "stays": Table(role="visit", columns={"ward": Category(levels=("A",))}),
            "labs": Table(
                role="event", parent="stays", columns={"item": Code(), "value": Number()}, code="item", value="value"
            ),
        },
    )
    draw = np.random.default_rng(0)
    start = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 3, 31), "1d", eager=True)[:80]
    stays = pl.DataFrame({"subject_id": range(80), "visit_id": range(80), "time": start, "ward": ["A"] * 80})
    rows = [
        (i, i, start[i] + np.timedelta64(6 * k, "h").astype(object), item, round(float(draw.normal(4, 1)), 1))
        for i in range(80)
        for k in range(int(draw.integers(1, 7)))
        for item in ("K", "Na", "Cl")
        if item == "K" or draw.random() < 0.9
    ]
    labs = pl.DataFrame(rows, schema=["subject_id", "visit_id", "time", "item", "value"], orient="row")
    cohort = Cohort.build(
        schema, {"patients": pl.DataFrame({"subject_id": range(80), "sex": ["F"] * 80}), "stays": stays, "labs": labs}
    )
    codec = Codec.from_json(schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    names = [f.name for f in codec.sequence_features]
    assert {"labs#n", "labs.Na#less"} <= set(names) and "labs.Na#n" not in names
    encoded = codec.encode(cohort, rng=Rng(0))
    samples = labs.group_by("subject_id").agg(pl.col("time").n_unique(), (pl.col("item") == "Na").sum().alias("na"))
    samples = samples.sort("subject_id")
    assert np.array_equal(encoded.sequence.values[:, names.index("labs#n")], samples["time"])
    assert np.array_equal(encoded.sequence.values[:, names.index("labs.Na#less")], samples["time"] - samples["na"])
    back = codec.decode(encoded, Rng(1), ids=np.arange(80)).tables["labs"]
    counts = [c.group_by("subject_id", "item").len().sort("subject_id", "item") for c in (labs, back)]
    assert counts[0].equals(counts[1])
    assert (
        back.filter(pl.col("item") == "K")
        .group_by("subject_id")
        .agg(pl.col("time").n_unique() == pl.len())["time"]
        .all()
    )


def test_a_row_of_a_wide_table_is_whole_or_not_there():
    """Drawn arrays say of each column on its own whether it is there; cells that must be filled are filled."""
    draw = np.random.default_rng(0)
    n = 200
    start = pl.datetime_range(
        pl.datetime(2020, 1, 1), interval="1d", closed="left", end=pl.datetime(2020, 7, 19), eager=True
    )
    columns = {
        "grade": Category(levels=("1", "2", "3"), missing=False),
        "dose": Number(missing=False),
        "note": Number(),
    }
    schema = Schema(
        name="trial",
        tables={
            "visits": Table(role="visit", columns={"sbp": Number(missing=False)}),
            "adverse": Table(role="event", columns=columns),
        },
    )
    visits = pl.DataFrame({"subject_id": range(n), "visit_id": range(n), "time": start, "sbp": draw.normal(120, 9, n)})
    some = visits.filter(pl.col("subject_id") % 3 == 0).select("subject_id", "time")
    adverse = some.with_columns(
        grade=pl.Series(draw.choice(["1", "2", "3"], len(some))), dose=pl.Series(draw.gamma(2, 2, len(some))), note=None
    )
    cohort = Cohort.build(schema, {"visits": visits, "adverse": adverse})
    codec = Codec.fit(cohort, RAW)
    true = codec.encode(cohort, rng=Rng(0))
    observed = true.sequence.observed.copy()
    for i, feature in enumerate(true.sequence.features):
        if feature.name in ("adverse.grade", "adverse.dose"):
            observed[:, i] ^= draw.random(n) < 0.1
    made = Encoded(true.static, replace(true.sequence, observed=observed))
    rows = codec.decode(made, Rng(1), ids=np.arange(1, n + 1)).tables["adverse"]
    assert rows.select("grade", "dose").null_count().row(0) == (0, 0)
    assert abs(rows.height - adverse.height) <= 0.05 * n  # a tenth of wrong masks would make and unmake some 30 rows


def charted(start, hours, rows):
    """Stays of so many hours, one per patient, and their charts."""
    schema = Schema(
        name="ward",
        tables={
            "stays": Table(role="visit", columns={"left": Timestamp(missing=False)}),
            "charts": Table(
                role="event", parent="stays", columns={"item": Code(), "value": Number()}, code="item", value="value"
            ),
        },
    )
    stays = {"subject_id": range(len(start)), "visit_id": range(len(start)), "time": start}
    stays = pl.DataFrame(stays | {"left": [t + timedelta(hours=hours) for t in start]})
    names = ["subject_id", "visit_id", "time", "item", "value"]
    return Cohort.build(schema, {"stays": stays, "charts": pl.DataFrame(rows, schema=names, orient="row")})


def test_codes_of_a_panel_are_missing_where_they_were_missing_in_training():
    """A, B and C are charted at the full hour; behind half of the hours C alone: so it is after decoding."""
    n, hours, draw = 60, 24, np.random.default_rng(0)
    start = [datetime(2024, 1, 1) + timedelta(days=3 * i) for i in range(n)]
    rows = []
    for i, t in enumerate(start):
        for hour in range(hours):
            at = t + timedelta(hours=hour)
            rows += [(i, i, at, code, draw.normal()) for code in "ABC"]
            if draw.random() < 0.5:
                rows.append((i, i, at + timedelta(minutes=int(draw.integers(1, 59))), "C", draw.normal()))
    cohort = charted(start, hours, rows)
    codec = Codec.fit(cohort, RAW)
    assert [len(group) for fold in codec.folds for group in fold.groups] == [3]
    made = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(n)).tables["charts"]
    at = made.group_by("subject_id", "time").agg(pl.col("item").sort().str.join())
    off = at.filter(pl.col("time").dt.minute() > 0)["item"]
    assert off.len() > 500 and (off == "C").mean() > 0.85
    assert (at.filter(pl.col("time").dt.minute() == 0)["item"] == "ABC").mean() > 0.9


def test_what_is_written_on_rounds_stays_at_the_hours_of_rounds():
    """A coma score every four hours, a pulse every hour: hours of the day are told apart, not quarters of it."""
    n, hours, draw = 60, 48, np.random.default_rng(0)
    start = [datetime(2024, 1, 1) + timedelta(days=3 * i, hours=int(draw.integers(24))) for i in range(n)]
    rows = []
    for i, t in enumerate(start):
        for at in (t + timedelta(hours=hour) for hour in range(1, hours)):
            rows.append((i, i, at, "pulse", 70.0))
            if at.hour % 4 == 0 and draw.random() < 0.9:
                rows.append((i, i, at, "coma", 15.0))
    cohort = charted(start, hours, rows)
    codec = Codec.fit(cohort, RAW)
    made = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(n)).tables["charts"]
    coma = made.filter(item="coma")["time"].dt.hour()
    assert coma.len() > 500 and (coma % 4 == 0).mean() > 0.9


def test_rows_that_never_coincide_get_times_of_their_own():
    """A code at a time, several a day. A generator that says "one moment" of a day with three codes is not believed:
    in 3,000 rows of training no two share a time."""
    draw = np.random.default_rng(5)
    subject = np.repeat(np.arange(60), 50)
    minute = np.concatenate([np.sort(draw.choice(40 * 1_440, 50, replace=False)) for _ in range(60)])
    time = pl.Series(np.datetime64("2021-03-01", "us") + minute * np.timedelta64(60_000_000, "us"))
    rows = pl.DataFrame({"subject_id": subject, "time": time, "code": draw.choice(list("ABCDEF"), 3_000)})
    columns = {"code": Code(system="x", levels=tuple("ABCDEF"), missing=False)}
    schema = Schema(
        name="stream", clock="timestamp", tables={"events": Table(role="event", code="code", columns=columns)}
    )
    codec = Codec.fit(Cohort.build(schema, {"events": rows}), RAW)
    encoded = codec.encode(Cohort.build(schema, {"events": rows}), rng=Rng(0))
    at = {f.name: j for j, f in enumerate(encoded.sequence.features)}
    values = encoded.sequence.values.copy()
    several = values[:, at["events#n"]] > 1
    assert several.sum() > 500
    values[several, at["events#n"]] = 1
    made = codec.decode(Encoded(encoded.static, replace(encoded.sequence, values=values)), Rng(1), ids=np.arange(60))
    assert made.tables["events"].height == 3_000
    assert made.tables["events"].select(pl.struct("subject_id", "time").n_unique()).item() > 2_990


def test_rows_at_the_moment_of_their_visit_stay_there():
    """A second questionnaire that names no visit, filled in with the first one; every third comes hours later."""
    n, draw = 200, np.random.default_rng(0)
    schema = Schema(
        name="clinic",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "mood": Table(role="visit", parent="patients", columns={"score": Number(decimals=0)}),
            "fear": Table(role="event", parent="patients", columns={"score": Number(decimals=0)}),
        },
    )
    days = np.tile(np.arange(4) * 20, n) + np.repeat(draw.integers(0, 300, n), 4)
    minute = days * 1440 + draw.integers(480, 1080, 4 * n)
    subject, late = np.repeat(np.arange(n), 4), np.arange(4 * n) % 3 == 0
    later = np.where(late, minute + draw.integers(30, 240, 4 * n), minute)
    at = [pl.Series(x * 60_000_000).cast(pl.Datetime("us")) for x in (minute, later)]
    score = draw.integers(0, 28, 4 * n).astype(float)
    tables = {
        "patients": pl.DataFrame({"subject_id": range(n), "sex": ["F", "M"] * (n // 2)}),
        "mood": pl.DataFrame({"subject_id": subject, "visit_id": range(4 * n), "time": at[0], "score": score}),
        "fear": pl.DataFrame({"subject_id": subject, "time": at[1], "score": score}),
    }
    cohort = Cohort.build(schema, tables)
    codec = Codec.fit(cohort, RAW)
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(n))
    shared = back.tables["fear"].join(back.tables["mood"], on=["subject_id", "time"], how="semi").height
    assert shared / (4 * n) == pytest.approx(2 / 3, abs=0.06)  # standard error .017; by the clock alone below .2
