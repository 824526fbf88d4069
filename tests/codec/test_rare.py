"""Facts of rare codes, and of levels that stand beside a code."""

import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec, Layout
from cohortloom.codec.beside import Beside, distinct_of
from cohortloom.codec.laws import CellLaw
from cohortloom.codec.rare import NO_CODE, RareLaw, beginnings, told
from cohortloom.cohort import Cohort
from cohortloom.rng import Rng
from cohortloom.schema import Category, Code, Number, Schema, Table
from cohortloom.schema.text import parse_schema


def test_a_rare_code_is_told_by_the_longest_beginning_enough_patients_share():
    names = pl.Series(["E11.65", "E11.9", "E11.22", "E13.1", "I10", "I10", "I10", "Z00", None])
    subject = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8])
    stems = beginnings(names, subject, [], "ICD-10", 3)
    assert stems == ("E11",)  # E1 has one more patient only, Z nobody else
    assert told(names, ["I10"], stems).to_list() == [
        "E11-",
        "E11-",
        "E11-",
        "E13.1",
        "I10",
        "I10",
        "I10",
        "Z00",
        NO_CODE,
    ]
    assert beginnings(names, subject, [], "free text", 3) == ()
    assert "E11" not in beginnings(names, subject, ["E11.65", "E11.9", "E11.22"], "ICD-10", 3)  # public codes stay


def rare_cohort(n: int = 400, seed: int = 0):
    """Six rare codes: 0, 1 in women only, 2, 3 in men only; a patient keeps to one of them, 4 and 5 come and go."""
    draw = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n), 4)
    sex = draw.integers(0, 2, n)
    own = sex * 2 + draw.integers(0, 2, n)
    facts = np.stack([sex[subject] == 0, sex[subject] == 1], 1).astype(float)
    owner = np.concatenate([np.arange(4 * n), np.arange(4 * n)])
    code = np.concatenate([own[subject], draw.integers(4, 6, 4 * n)])
    return subject, facts, owner, code


def test_rare_codes_keep_to_who_may_have_them_and_to_who_had_them():
    subject, facts, owner, code = rare_cohort()
    law = RareLaw.fit(facts, subject, owner, code, 6)
    law = RareLaw.from_json(json.loads(json.dumps(law.to_json())))
    share = np.bincount(code).astype(float)
    count = np.full(len(subject), 2)
    at, drawn = law.draw(share, count, facts, subject, True, np.random.default_rng(1))
    assert np.array_equal(np.bincount(at), count)
    assert len(np.unique(at * 6 + drawn)) == len(at)  # once a step
    women = facts[at, 0] == 1
    assert not np.isin(drawn[women], (2, 3)).any() and not np.isin(drawn[~women], (0, 1)).any()
    held = np.zeros((len(subject), 6), bool)
    held[at, drawn] = True
    chronic = held[:, :4].reshape(-1, 4, 4)
    stays = chronic[:, 1:] & chronic[:, :-1]
    assert stays.sum() / chronic[:, :-1].sum() > 0.6  # 0.44 if codes were drawn anew
    made = np.bincount(drawn) / len(drawn)
    assert made == pytest.approx(share / share.sum(), abs=0.06)


def test_rows_beyond_the_distinct_codes_repeat_them():
    subject, facts, owner, code = rare_cohort()
    owner, code = np.repeat(owner, 3), np.repeat(code, 3)
    law = RareLaw.fit(facts, subject, owner, code, 6)
    assert law.again == pytest.approx(2 / 3, abs=0.01)
    count = np.full(len(subject), 6)
    at, drawn = law.draw(np.ones(6), count, facts, subject, False, np.random.default_rng(1))
    assert np.array_equal(np.bincount(at), count)
    distinct = np.bincount(np.unique(at * 6 + drawn) // 6)
    assert distinct.mean() == pytest.approx(1 + 5 / 3, abs=0.15)


def test_nobody_has_rare_rows():
    law = RareLaw.fit(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), 3)
    owner, code = law.draw(np.ones(3), np.zeros(4, int), np.zeros((4, 2)), np.arange(4), True, np.random.default_rng(0))
    assert len(owner) == len(code) == 0


def test_levels_go_with_the_number_of_their_row():
    """One dose a day is never twice daily."""
    draw = np.random.default_rng(0)
    doses = draw.integers(1, 4, 2000).astype(float)
    values = distinct_of(doses, np.arange(2000), 5)
    assert values == (1.0, 2.0, 3.0) and distinct_of(draw.normal(size=2000), np.arange(2000), 5) == ()
    ids = doses.astype(int) + 1
    law = Beside.fit(ids, {"": (ids, 5)}, np.arange(2000), 6)
    law = Beside.from_json(json.loads(json.dumps(law.to_json())))
    share = CellLaw(share=(0.0, 0.0, 700.0, 700.0, 600.0, 1.0))
    made, seen = law.draw(share, {"": ids}, np.arange(2000), np.random.default_rng(1))
    assert seen.all() and (made == ids).all()


def test_columns_beside_a_code_and_rows_without_one_come_back():
    """The version is one per visit, some rows name no drug, and a patient's drug keeps its route."""
    schema = Schema(
        name="drugs",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "visits": Table(role="visit", columns={"ward": Category(levels=("A", "B"))}),
            "drugs": Table(
                role="event", parent="visits", timed=False, code="drug", value="dose",
                columns={"drug": Code(), "dose": Number(), "route": Code(), "version": Category(levels=("9", "10"))},
            ),
        },
    )  # fmt: skip
    draw = np.random.default_rng(0)
    time = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2023, 1, 1), "1d", eager=True)
    visits, rows = [], []
    for i in range(150):
        route = {drug: str(draw.choice(["po", "iv"])) for drug in "abcdefghijklmnopqrstuvwxyz"}
        for k in range(4):
            visit, version = 10 * i + k, str(draw.choice(["9", "10"]))
            visits.append((i, visit, time[100 * k + i], "A"))
            for drug in draw.choice(list(route), 6, replace=False):
                drug = str(drug)
                dose = float(1 + ord(drug) % 2)
                rows.append((i, visit, None if drug == "z" else drug, dose, route[drug], version))
    cohort = Cohort.build(
        schema,
        {
            "patients": pl.DataFrame({"subject_id": range(150), "sex": ["F"] * 150}),
            "visits": pl.DataFrame(visits, schema=["subject_id", "visit_id", "time", "ward"], orient="row"),
            "drugs": pl.DataFrame(
                rows, schema=["subject_id", "visit_id", "drug", "dose", "route", "version"], orient="row"
            ),
        },
    )
    codec = Codec.fit(cohort, Layout(scale="raw"), max_codes=5)
    codec = Codec.from_json(schema, json.loads(json.dumps(codec.to_json())))
    assert "drugs.version" in {f.name for f in codec.sequence_features}
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(150))

    def facts(c: Cohort) -> list[float]:
        drugs = c.tables["drugs"]
        one = drugs.group_by("visit_id").agg(pl.col("version").n_unique() == 1)["version"].mean()
        keep = drugs.drop_nulls("drug").group_by("subject_id", "drug").agg(pl.col("route").n_unique(), pl.len())
        return [drugs["drug"].is_null().mean(), one, (keep.filter(pl.col("len") > 1)["route"] == 1).mean()]

    true, made = facts(cohort), facts(back)
    assert made[0] == pytest.approx(true[0], abs=0.02) and true[0] > 0.03
    assert true[1] == made[1] == 1.0
    assert true[2] == 1.0 and made[2] > 0.9


def test_a_visit_holds_no_code_twice_even_if_two_share_a_beginning():
    schema = Schema(
        name="diagnoses",
        tables={
            "patients": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
            "visits": Table(role="visit", columns={"ward": Category(levels=("A", "B"))}),
            "diagnoses": Table(
                role="event", parent="visits", timed=False, code="icd", columns={"icd": Code(system="ICD-10")}
            ),
        },
    )
    draw = np.random.default_rng(0)
    codes = [f"{a}{b}.{c}" for a in "EI" for b in range(10, 20) for c in range(10)]
    time = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 12, 31), "1d", eager=True)[:300]
    rows = [(i, i, str(code)) for i in range(300) for code in draw.choice(codes, 6, replace=False)]
    cohort = Cohort.build(
        schema,
        {
            "patients": pl.DataFrame({"subject_id": range(300), "sex": ["F"] * 300}),
            "visits": pl.DataFrame(
                {"subject_id": range(300), "visit_id": range(300), "time": time, "ward": ["A"] * 300}
            ),
            "diagnoses": pl.DataFrame(rows, schema=["subject_id", "visit_id", "icd"], orient="row"),
        },
    )
    codec = Codec.fit(cohort, Layout(scale="raw"), k_min=10)
    codec = Codec.from_json(schema, json.loads(json.dumps(codec.to_json())))
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(300)).tables["diagnoses"]
    assert back.height == len(rows) and back.select("visit_id", "icd").is_unique().all()
    held = cohort.tables["diagnoses"].group_by("icd").agg(pl.col("subject_id").n_unique())
    few = held.filter(pl.col("subject_id") < 10)["icd"]
    assert few.len() > 50 and not back["icd"].is_in(few.implode()).any()
    assert back["icd"].str.ends_with("-").mean() > 0.3
    chapter = [c["icd"].str.slice(0, 1).eq("E").mean() for c in (cohort.tables["diagnoses"], back)]
    assert chapter[1] == pytest.approx(chapter[0], abs=0.03)


def towns(names: list[str]) -> Cohort:
    schema = Schema(
        name="towns", tables={"patients": Table(role="static", columns={"town": Code(missing=False), "age": Number()})}
    )
    frame = pl.DataFrame({"subject_id": range(len(names)), "town": names, "age": [30.0 + i for i in range(len(names))]})
    return Cohort.build(schema, {"patients": frame})


def test_a_rare_code_in_a_cell_that_must_be_filled_becomes_another():
    """Left empty, every patient with a rare code broke the schema, and sampling gave up."""
    cohort = towns(["Ulm"] * 6 + ["Aalen"] * 5 + [f"village {i}" for i in range(20)])
    codec = Codec.fit(cohort, Layout(static=True))
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(31)).tables["patients"]["town"]
    assert set(back) == {"Ulm", "Aalen"} and back.null_count() == 0


def test_rows_of_one_moment_hold_numbers_of_their_own():
    """Lines of one bill came back with one amount, and doses beside a rare drug between the tablets there are."""
    draw, n = np.random.default_rng(0), 900
    drug = draw.choice([f"d{i}" for i in range(60)], n)
    schema = Schema(
        name="bills",
        tables={
            "bills": Table(role="event", columns={"amount": Number(decimals=2)}),
            "fills": Table(role="event", code="drug", columns={"drug": Code(), "tablets": Number(decimals=0)}),
        },
    )
    day = [datetime(2020, 1, 1) + timedelta(days=int(d)) for d in np.sort(draw.integers(0, 200, n // 3))]
    keys = {"subject_id": np.repeat(np.arange(60), 15), "time": [d for d in day for _ in range(3)]}
    bills = pl.DataFrame(keys).with_columns(amount=pl.Series(draw.lognormal(5, 1, n).round(2)))
    fills = pl.DataFrame(keys).with_columns(drug=pl.Series(drug), tablets=pl.Series(draw.choice([30.0, 60.0, 90.0], n)))
    cohort = Cohort.build(schema, {"bills": bills, "fills": fills})
    codec = Codec.from_json(
        schema, json.loads(json.dumps(Codec.fit(cohort, Layout(static=True, sequence=True)).to_json()))
    )
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(60)).tables
    days = back["bills"].group_by("subject_id", "time").agg(pl.len(), pl.col("amount").n_unique().alias("different"))
    assert days["len"].sum() > 0.9 * n and (days["len"] - days["different"]).sum() <= 3
    assert set(back["fills"]["tablets"].drop_nulls()) == {30.0, 60.0, 90.0}


def test_rare_codes_of_a_visit_follow_the_patient():
    schema = parse_schema("""
        name = "clinic"
        clock = "order"
        [tables.patients]
        role = "static"
        columns.sex = { kind = "category", levels = ["w", "m"], missing = true }
        [tables.visits]
        role = "visit"
        columns.code = { kind = "code", missing = true }
    """)
    n, rng = 2_000, np.random.default_rng(0)
    sex = rng.integers(0, 2, n)
    common = np.array([f"K{k}" for k in range(10)])
    rare = np.array([["R0", "R2", "R2"], ["R1", "R2", "R3"]])  # R0, R1, R3: of one sex alone
    code = np.where(rng.random(n) < 0.8, rng.choice(common, n), rare[sex, rng.integers(0, 3, n)])
    subject = np.arange(n) + 1
    named = pl.Series("sex", [["w", "m"][s] for s in sex]).scatter(np.arange(0, n, 50).tolist(), None)
    patients = pl.DataFrame({"subject_id": subject}).with_columns(named)
    visits = pl.DataFrame({"subject_id": subject, "visit_id": subject, "time": np.zeros(n, int), "code": code})
    cohort = Cohort.build(schema, {"patients": patients, "visits": visits})
    codec = Codec.fit(cohort, Layout(static=True, sequence=True), max_codes=10)
    codec = Codec.from_json(schema, json.loads(json.dumps(codec.to_json())))
    drawn = codec.decode(codec.encode(cohort, rng=Rng(1)), rng=Rng(2), ids=subject).tables
    both = drawn["visits"].join(drawn["patients"], on="subject_id")
    count = {key: len(rows) for key, rows in both.group_by("code", "sex")}
    for only, other in (("R0", "m"), ("R1", "w"), ("R3", "w")):
        assert (only, other) not in count
    truth = {
        key: len(rows) for key, rows in cohort.tables["visits"].join(patients, on="subject_id").group_by("code", "sex")
    }
    for key in (("R0", "w"), ("R1", "m"), ("R2", "w"), ("R2", "m"), ("R3", "m")):
        assert count[key] == pytest.approx(truth[key], rel=0.35)
