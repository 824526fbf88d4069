"""Facts of columns that follow from others."""

import datetime as dt
import json
import time

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import Codec, Layout
from cohortloom.codec.derived import ITEM, Column, Derived, find_derived
from cohortloom.codec.stream import StreamCodec
from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.rng import Rng
from cohortloom.schema import Category, Code, Count, Flag, Number, Ordinal, Schema, Table, Timestamp
from cohortloom.training import Training

RAW = Layout(scale="raw")
DAY = dt.timedelta(days=1)


def date() -> Timestamp:
    return Timestamp(granularity="day")


def study(n: int = 200, seed: int = 0) -> Cohort:
    """Dates that repeat each other, an age, a follow-up, a sum, and a length of stay."""
    schema = Schema(
        name="study",
        tables={
            "patients": Table(
                role="static",
                columns={
                    "birth": date(),
                    "first": date(),
                    "age": Number(unit="a", decimals=0),
                    "last": date(),
                    "died": Flag(missing=False),
                    "death": date(),
                    "follow_up": Number(unit="d", decimals=0),
                    "chance": Number(unit="d", decimals=0),
                },
            ),
            "stays": Table(
                role="visit",
                columns={
                    "out": Timestamp(),
                    "hours": Number(unit="h", decimals=1),
                    "systolic": Number(unit="mm[Hg]", decimals=0),
                    "diastolic": Number(unit="mm[Hg]", decimals=0),
                    "pulse_pressure": Number(unit="mm[Hg]", decimals=0),
                },
            ),
        },
    )
    draw = np.random.default_rng(seed)
    patients, stays = [], []
    for i in range(n):
        first = dt.datetime(2015, 1, 1) + int(draw.integers(0, 2000)) * DAY
        birth = first - int(draw.integers(7000, 33000)) * DAY
        last, died = first + int(draw.integers(30, 1500)) * DAY, bool(draw.random() < 0.4)
        age = np.floor((first - birth).days / 365.25)
        patients.append(
            (i, birth, first, age, last, died, last if died else None, (last - first).days, draw.integers(99))
        )
        time = first + dt.timedelta(minutes=int(draw.integers(480, 1000)))
        for _ in range(int(draw.integers(1, 4))):
            hours = float(draw.integers(5, 400)) / 10
            high, low = float(draw.integers(100, 180)), float(draw.integers(50, 99))
            stays.append((i, len(stays), time, time + dt.timedelta(hours=hours), hours, high, low, high - low))
            time += int(draw.integers(2, 20)) * DAY
    tables = {
        "patients": pl.DataFrame(patients, schema=["subject_id", *schema.tables["patients"].columns], orient="row"),
        "stays": pl.DataFrame(
            stays, schema=["subject_id", "visit_id", "time", *schema.tables["stays"].columns], orient="row"
        ),
    }
    return Cohort.build(schema, tables)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return study()


@pytest.fixture(scope="module")
def codec(cohort) -> Codec:
    return Codec.from_json(cohort.schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))


def test_laws_are_found_and_nothing_else(codec):
    found = {law.path: (set(law.terms), law.dropped, law.moved) for law in codec.derived}
    first = ("stays.start", 1.0)
    assert found["patients.first"] == ({first}, True, None)
    assert found["patients.death"] == ({("patients.last", 1.0)}, True, None)
    assert found["patients.follow_up"] == ({("patients.last", 1.0), ("stays.start", -1.0)}, True, None)
    assert found["patients.age"][1:] == (False, "patients.birth")
    assert found["stays.hours"] == ({("stays.out", 24.0), ("stays.time", -24.0)}, True, None)
    assert found["stays.pulse_pressure"][1:] == (True, None)
    assert len(found) == 6
    assert next(law.level for law in codec.derived if law.path == "patients.death") == ("patients.died", ("true",))


def test_what_follows_is_not_modelled_and_comes_back(cohort, codec):
    names = {f.name for f in (*codec.static_features, *codec.sequence_features)}
    assert not names & {"patients.first", "patients.death", "stays.pulse_pressure"}
    assert {"patients.follow_up", "patients.age", "patients.birth", "patients.last", "stays.out"} <= names
    back = codec.decode(codec.encode(cohort, rng=Rng(0)), Rng(1), ids=np.arange(200))
    assert back.tables["patients"].equals(cohort.tables["patients"])
    assert back.tables["stays"].drop("visit_id").equals(cohort.tables["stays"].drop("visit_id"))


def test_laws_hold_for_whatever_a_generator_draws(cohort, codec):
    """Every column shuffled on its own, as a generator without any sense would."""
    encoded, draw = codec.encode(cohort, rng=Rng(0)), np.random.default_rng(3)
    for part in (encoded.static, encoded.sequence):
        for j in range(part.values.shape[1]):
            order = draw.permutation(len(part.values))
            part.values[:, j], part.observed[:, j] = part.values[order, j], part.observed[order, j]
    made = codec.decode(encoded, Rng(1), ids=np.arange(200)).tables
    patients, stays = made["patients"], made["stays"]
    assert patients["death"].equals(patients.select(pl.when("died").then("last").alias("death"))["death"])
    assert patients["follow_up"].equals((patients["last"] - patients["first"]).dt.total_days().cast(float))
    age = ((patients["first"] - patients["birth"]).dt.total_days() / 365.25).floor()
    assert np.array_equal(age, patients["age"])
    first = stays.group_by("subject_id", maintain_order=True).agg(pl.col("time").min().dt.truncate("1d"))
    assert patients["first"].equals(first["time"])
    assert np.allclose((stays["out"] - stays["time"]).dt.total_minutes() / 60, stays["hours"], atol=0.051)
    assert stays["pulse_pressure"].equals(stays["systolic"] - stays["diastolic"])


def test_the_age_a_user_asks_for_holds(cohort, codec):
    encoded = codec.encode(cohort, rng=Rng(0))
    at = [f.name for f in codec.static_features].index("patients.age")
    encoded.static.values[:, at] = codec.encode_where({"patients.age": 70})["patients.age"]
    made = codec.decode(encoded, Rng(1), ids=np.arange(200)).tables["patients"]
    years = (made["first"] - made["birth"]).dt.total_days() / 365.25
    assert (made["age"] == 70).all() and ((years >= 70) & (years < 71)).all()


def test_what_follows_can_not_be_asked_for(codec):
    with pytest.raises(SettingsError, match=r"follows from patients\.last and stays\.start"):
        codec.encode_where({"patients.follow_up": 100})


def columns(n: int, draw: np.random.Generator, wrong: float = 0.0) -> list[Column]:
    x, y = draw.integers(0, 1000, n).astype(float), draw.integers(0, 1000, n).astype(float)
    total = np.where(draw.random(n) < wrong, 5000.0, x + y)
    return [Column(name, False, v, 1.0, "mg", True) for name, v in (("t.x", x), ("t.y", y), ("t.total", total))]


@pytest.mark.parametrize("n, wrong, found", [(400, 0.0, 1), (400, 0.002, 1), (400, 0.05, 0), (15, 0.0, 0)])
def test_a_law_needs_patients_and_hardly_an_exception(n, wrong, found):
    draw = np.random.default_rng(0)
    assert len(find_derived(columns(n, draw, wrong), {}, np.arange(n))) == found


def test_many_visits_of_few_patients_are_no_law():
    assert not find_derived(columns(400, np.random.default_rng(0)), {}, np.repeat(np.arange(10), 40))


def test_few_values_are_no_law():
    """Two flags' worth of numbers agree by chance."""
    x = np.tile([0.0, 1.0], 100)
    assert not find_derived([Column(p, False, x, 1.0, "", True) for p in ("t.x", "t.y")], {}, np.arange(200))


def test_one_step_off_is_drawn_as_often_as_seen():
    draw = np.random.default_rng(0)
    x = draw.integers(0, 2000, 1000).astype(float)
    late = draw.random(1000) < 0.3
    seen = [Column("t.x", False, x, 1.0, "d", True), Column("t.y", False, x - late, 1.0, "d", True)]
    (law,) = find_derived(seen, {}, np.arange(1000))
    assert law.slack == pytest.approx((late.mean(), 1 - late.mean(), 0))
    again = law.value({"t.x": x}, np.random.default_rng(1))
    # 1,000 draws know the share to 0.015
    assert (again == x - 1).mean() == pytest.approx(0.3, abs=0.05) and set(again - x) == {-1.0, 0.0}
    assert Derived.from_json(json.loads(json.dumps(law.to_json()))) == law


@pytest.mark.parametrize("unit, grid, younger", [("Y", 365, 0.5), ("M", 30, 1 / 24)])
def test_an_age_beside_a_year_of_birth_is_that_of_the_dates_or_one_less(unit, grid, younger):
    """Born on any day, known by year (or month) alone: before the birthday of that year one is a year younger."""
    draw = np.random.default_rng(0)
    n = 1000
    birth = np.datetime64("1930-01-01") + draw.integers(0, 20_000, n) * np.timedelta64(1, "D")
    seen = np.datetime64("2005-01-01") + draw.integers(0, 3000, n) * np.timedelta64(1, "D")
    named = birth.astype(f"datetime64[{unit}]").astype("datetime64[D]")
    days = {"t.birth": named.astype(float), "t.seen": seen.astype(float)}
    age = np.floor((seen - birth).astype(float) / 365.25)
    given = [Column(path, True, x, grid if path == "t.birth" else 1.0, "", False, True) for path, x in days.items()]
    laws = find_derived([*given, Column("t.age", False, age, 1.0, "a", True)], {}, np.arange(n))
    assert [(law.path, law.rounding) for law in laws] == [("t.age", "floor")]
    again = laws[0].value(days, np.random.default_rng(1))
    over = np.floor((seen - named).astype(float) / 365.25) - again
    assert {*np.unique(over)} == {0.0, 1.0} and over.mean() == pytest.approx(younger, abs=0.06)


def test_missing_where_nothing_says_so_stays_modelled():
    draw = np.random.default_rng(0)
    x = draw.integers(0, 2000, 400).astype(float)
    y = np.where(draw.random(400) < 0.3, np.nan, x)
    (law,) = find_derived(
        [Column(n, False, v, 1.0, "d", True) for n, v in (("t.x", x), ("t.y", y))], {}, np.arange(400)
    )
    assert not law.dropped and law.moved is None


# -- sums, products, classes and groups ------------------------------------------------------------------------------


def clinic(n: int = 120, seed: int = 5) -> Cohort:
    """A score of nine items, an index, a difference in other units, classes of both, and the country of a centre."""
    draw = np.random.default_rng(seed)
    items = draw.integers(0, 4, (n, 9))
    weight, height = draw.normal(75, 12, n).round(1), draw.normal(170, 9, n).round(0)
    bmi, before = (weight / (height / 100) ** 2).round(1), draw.uniform(1, 4, n).round(1)
    total = items.sum(axis=1)
    country = {"1": "FR", "2": "FR", "3": "DE", "4": "IT", "5": "IT"}
    centre = draw.choice(list(country), n)
    likert = [str(i) for i in range(4)]
    columns = {f"item_{i}": (Ordinal(levels=tuple(likert)), items[:, i].astype(str)) for i in range(9)}
    columns["total"] = Number(unit="{score}", decimals=0), total.astype(float)
    columns["severity"] = (
        Ordinal(levels=("none", "mild", "severe")),
        np.where(total < 10, "none", np.where(total < 15, "mild", "severe")),
    )
    columns |= {"weight": (Number(unit="kg", decimals=1), weight), "height": (Number(unit="cm", decimals=0), height)}
    columns |= {"bmi": (Number(unit="kg/m2", decimals=1), bmi), "obese": (Flag(), bmi >= 25)}
    columns |= {"before": (Number(unit="kg", decimals=1), weight + before)}
    columns |= {"lost": (Number(unit="mL", decimals=0), (before * 1000).round())}
    columns |= {"centre": (Category(levels=tuple(country)), centre)}
    columns |= {"country": (Category(levels=("DE", "FR", "IT")), np.array([country[c] for c in centre]))}
    columns |= {"chance": (Number(unit="1", decimals=0), draw.integers(0, 30, n).astype(float))}
    columns |= {"word": (Category(levels=("a", "b")), draw.choice(["a", "b"], n))}
    schema = Schema(
        name="clinic", tables={"p": Table(role="static", columns={name: kind for name, (kind, _) in columns.items()})}
    )
    frame = pl.DataFrame({"subject_id": np.arange(n)} | {name: list(v) for name, (_, v) in columns.items()})
    return Cohort.build(schema, {"p": frame})


def broken(p: pl.DataFrame) -> dict[str, int]:
    """Rows in which each law is broken, counted from the definition."""
    total = sum(pl.col(f"item_{i}").cast(pl.Int64) for i in range(9))
    severity = (
        pl.when(total < 10).then(pl.lit("none")).when(total < 15).then(pl.lit("mild")).otherwise(pl.lit("severe"))
    )
    country = pl.col("centre").replace({"1": "FR", "2": "FR", "3": "DE", "4": "IT", "5": "IT"})
    off = {
        "total": pl.col("total") != total,
        "severity": pl.col("severity") != severity,
        "bmi": (pl.col("bmi") - pl.col("weight") / (pl.col("height") / 100) ** 2).abs() > 0.0501,
        "obese": pl.col("obese") != (pl.col("bmi") >= 25),
        "lost": (pl.col("lost") - 1000 * (pl.col("before") - pl.col("weight"))).abs() > 0.5,
        "country": pl.col("country") != country,
    }
    return {name: p.filter(wrong).height for name, wrong in off.items()}


def test_scores_indices_classes_and_groups_hold_for_whatever_is_drawn():
    cohort = clinic()
    assert not any(broken(cohort.tables["p"]).values())
    codec = Codec.from_json(cohort.schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    assert {law.path for law in codec.derived} == {
        f"p.{c}" for c in ("total", "severity", "bmi", "obese", "lost", "country")
    }
    encoded, draw = codec.encode(cohort, rng=Rng(0)), np.random.default_rng(3)
    for j in range(encoded.static.values.shape[1]):
        encoded.static.values[:, j] = draw.permutation(encoded.static.values[:, j])
    made = codec.decode(encoded, Rng(1), ids=np.arange(120)).tables["p"]
    assert made["item_1"].to_list() != cohort.tables["p"]["item_1"].to_list()
    assert not any(broken(made).values())
    assert not sum(made.null_count().row(0))


def test_a_total_before_its_items_is_computed_and_items_stay_items():
    cohort = clinic()
    names = list(cohort.schema.tables["p"].columns)
    names = ["total", *(c for c in names if c != "total")]
    table = Table(role="static", columns={c: cohort.schema.tables["p"].columns[c] for c in names})
    codec = Codec.fit(Cohort.build(Schema(name="clinic", tables={"p": table}), cohort.tables), RAW)
    assert {law.path for law in codec.derived} >= {"p.total", "p.severity"}


@pytest.mark.parametrize("seed", range(3))
def test_an_item_that_hardly_varies_belongs_to_the_sum(seed):
    """Twelve items that fall together, the last lost by one patient in thirty: without it nearly all rows are near."""
    draw = np.random.default_rng(seed)
    lost = draw.gamma(1.5, 1.0, (400, 1)) * draw.gamma(8, 1 / 8, (400, 12)) * np.array([1.0] * 11 + [0.25])
    items = np.clip(np.round(4 - lost), 0, 4)
    columns = [Column(f"t.i{k}", False, items[:, k], 1.0, ITEM) for k in range(12)]
    (law,) = find_derived([*columns, Column("t.total", False, items.sum(1), 1.0, "1", True)], {}, np.arange(400))
    assert dict(law.terms) == {f"t.i{k}": 1.0 for k in range(12)} and law.constant == 0


def test_an_index_of_weights_before_rounding_is_one_step_off_as_often_as_seen():
    draw = np.random.default_rng(2)
    weight, height = draw.normal(80, 14, 600), draw.normal(170, 9, 600).round()
    bmi, shown = (weight / (height / 100) ** 2).round(1), weight.round(1)
    columns = [Column("t.w", False, shown, 0.1, "kg"), Column("t.h", False, height, 1.0, "cm")]
    (law,) = find_derived([*columns, Column("t.bmi", False, bmi, 0.1, "kg/m2", True)], {}, np.arange(600))
    assert law.form == "product" and dict(law.terms) == {"t.w": 1.0, "t.h": -2.0} and law.constant == 10_000
    off = (shown / (height / 100) ** 2).round(1) - bmi
    assert law.slack[1] == pytest.approx((np.abs(off) < 0.05).mean(), abs=0.005) and law.slack[1] < 0.99


def test_who_has_no_age_is_in_the_group_unknown():
    """The group stands in every row, the age in nine of ten."""
    draw = np.random.default_rng(0)
    age, gone = draw.integers(0, 95, 300), draw.random(300) < 0.1
    group = np.where(gone, "unknown", np.where(age < 18, "child", "adult"))
    levels = ("child", "adult", "unknown")
    columns = {"age": Number(unit="a", decimals=0), "group": Category(levels=levels, missing=False), "other": Flag()}
    schema = Schema(name="x", tables={"p": Table(role="static", columns=columns)})
    ages = [None if no else float(x) for x, no in zip(age, gone)]
    frame = pl.DataFrame({"subject_id": np.arange(300), "age": ages, "group": group, "other": draw.random(300) < 0.5})
    cohort = Cohort.build(schema, {"p": frame})
    codec = Codec.from_json(schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    assert [(law.path, law.absent) for law in codec.derived] == [("p.group", "unknown")]
    assert "p.group" in {feature.name for feature in codec.static_features}  # tells networks what hangs on it
    encoded = codec.encode(cohort, rng=Rng(0))
    order = draw.permutation(300)
    encoded.static.values[:] = encoded.static.values[order]
    encoded.static.observed[:] = encoded.static.observed[order]
    made = codec.decode(encoded, Rng(1), ids=np.arange(300)).tables["p"]
    assert made["group"].to_list() == group[order].tolist()


def test_a_formula_that_rounding_hides_is_no_law():
    """One value in twenty off by ten: nothing is computed, and nothing is lost."""
    cohort = clinic()
    wrong = [pl.when(pl.int_range(pl.len()) % 20 == k).then(10).otherwise(0) for k in range(3)]
    off = [pl.col(c) + w for c, w in zip(("total", "bmi", "lost"), wrong)]
    frame = cohort.tables["p"].with_columns(off)
    codec = Codec.fit(Cohort.build(cohort.schema, {"p": frame}), RAW)
    assert not {"p.total", "p.bmi", "p.lost"} & {law.path for law in codec.derived}


def test_rare_flags_of_the_same_few_patients_are_no_law():
    draw = np.random.default_rng(0)
    rare = np.arange(60) < 3
    columns = {"a": Flag(), "b": Flag(), "x": Number(unit="1", decimals=2)}
    schema = Schema(name="few", tables={"p": Table(role="static", columns=columns)})
    x = draw.normal(size=60).round(2) + 9 * rare
    frame = pl.DataFrame({"subject_id": np.arange(60), "a": rare, "b": rare, "x": x})
    assert Codec.fit(Cohort.build(schema, {"p": frame}), RAW).derived == ()


def test_what_rows_of_events_say_of_themselves_holds_in_drawn_ones():
    """A claim: allowed is 60 % of the charge, paid and the rest make it up, a total is a price times a number."""
    draw = np.random.default_rng(2)
    n = 900
    charge = draw.lognormal(5, 1, n).round(2)
    allowed = (charge * 0.6).round(2)
    paid = (allowed * draw.uniform(0.3, 1, n)).round(2)
    price, fills = draw.uniform(1, 90, n).round(2), draw.integers(1, 13, n)
    code = draw.choice(["A10", "C09", "C10"], n)
    money = Number(unit="1", decimals=2)
    columns = {"charge": money, "allowed": money, "paid": money, "rest": money, "price": money}
    columns |= {"fills": Count(), "total": money, "atc": Code(levels=("A10", "C09", "C10"))}
    columns |= {"group": Category(levels=("A", "C"))}
    tables = {
        "p": Table(role="static", columns={"sex": Category(levels=("F", "M"))}),
        "claims": Table(role="event", columns=columns, code="atc", parent="p"),
    }
    who = np.sort(draw.integers(0, 60, n))
    rows = pl.DataFrame(
        {
            "subject_id": who,
            "time": [dt.datetime(2020, 1, 1) + int(k) * DAY for k in draw.integers(0, 700, n)],
            "charge": charge,
            "allowed": allowed,
            "paid": paid,
            "rest": (allowed - paid).round(2),
            "price": price,
            "fills": fills,
            "total": (price * fills).round(2),
            "atc": code,
            "group": [c[0] for c in code],
        }
    )
    people = pl.DataFrame({"subject_id": np.arange(60), "sex": draw.choice(["F", "M"], 60)})
    cohort = Cohort.build(Schema(name="payer", tables=tables), {"p": people, "claims": rows})
    codec = Codec.from_json(cohort.schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    encoded = codec.encode(cohort, rng=Rng(0))
    for part in (encoded.static, encoded.sequence):
        for j in range(part.values.shape[1] if part is not None else 0):
            part.values[:, j] = draw.permutation(part.values[:, j])
    made = codec.decode(encoded, Rng(1), ids=np.arange(60)).tables["claims"]
    assert made.height > 300
    assert (made["allowed"] - 0.6 * made["charge"]).abs().max() < 0.0051
    assert (made["rest"] - made["allowed"] + made["paid"]).abs().max() < 0.0051
    assert (made["total"] - made["price"] * made["fills"]).abs().max() < 0.0051
    assert made["group"].to_list() == made["atc"].str.slice(0, 1).to_list()


def registry(n: int = 150) -> Cohort:
    """One row per patient: birth, two dates days apart, the stay, the age in groups, months to an end."""
    draw = np.random.default_rng(4)
    birth = [dt.datetime(1930, 1, 1) + int(k) * DAY for k in draw.integers(0, 25000, n)]
    came = [dt.datetime(2015, 1, 1) + int(k) * DAY for k in draw.integers(0, 2500, n)]
    stay = draw.integers(1, 25, n)
    end = [c + int(k) * DAY for c, k in zip(came, draw.integers(30, 1500, n))]
    age = np.array([(c - b).days / 365.25 for c, b in zip(came, birth)])
    columns = {
        "birth": date(), "came": date(), "left": date(), "stay": Number(unit="d", decimals=0, low=0, high=30),
        "age_group": Ordinal(levels=("<40", "40-64", "65+")), "end": date(), "months": Number(unit="mo", decimals=1),
    }  # fmt: skip
    frame = pl.DataFrame(
        {
            "subject_id": np.arange(n),
            "birth": birth,
            "came": came,
            "left": [c + int(k) * DAY for c, k in zip(came, stay)],
            "stay": stay.astype(float),
            "age_group": np.select([age < 40, age < 65], ["<40", "40-64"], "65+"),
            "end": end,
            "months": [round((e - c).days / 30.4375, 1) for e, c in zip(end, came)],
        }
    )
    return Cohort.build(Schema(name="registry", tables={"p": Table(role="static", columns=columns)}), {"p": frame})


def test_dates_days_apart_stay_days_apart_and_nothing_is_moved_for_months():
    """Columns shuffled on their own: stays are still those of training, and nobody leaves before they came."""
    cohort = registry()
    codec = Codec.from_json(cohort.schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    laws = {law.path: law for law in codec.derived}
    assert set(laws) == {"p.stay", "p.age_group", "p.months"} and not any(law.moved for law in laws.values())
    encoded = codec.encode(cohort, rng=Rng(0))
    back = codec.decode(encoded, Rng(1), ids=np.arange(150)).tables["p"]
    assert back.equals(cohort.tables["p"])
    draw = np.random.default_rng(3)
    for j in range(encoded.static.values.shape[1]):
        encoded.static.values[:, j] = draw.permutation(encoded.static.values[:, j])
    made = codec.decode(encoded, Rng(1), ids=np.arange(150)).tables["p"]
    days = (made["left"] - made["came"]).dt.total_days()
    assert sorted(days) == sorted(cohort.tables["p"]["stay"]) and days.to_list() == made["stay"].to_list()
    assert sorted(made["came"]) == sorted(cohort.tables["p"]["came"])  # not moved
    assert ((made["end"] - made["came"]).dt.total_days() / 30.4375 - made["months"]).abs().max() <= 0.051
    age = (made["came"] - made["birth"]).dt.total_days() / 365.25
    assert made["age_group"].to_list() == np.select([age < 40, age < 65], ["<40", "40-64"], "65+").tolist()


def test_screened_pairs_are_those_that_hold_one_by_one():
    # the slow way: every pair compared by itself, on columns with holes and a target off in a few rows
    from cohortloom.codec.pairs import SHARE, screened

    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 40, (12, 60)).astype(float)
        x[rng.random(x.shape) < 0.1] = np.nan
        target = x[3] + x[7] if seed % 2 else x[5] - x[2]
        target = np.where(rng.random(60) < 0.02, target + 50, target)
        singles, pairs = screened(target, list(x), 1.0, 0.0, True)
        slow = []
        for i, j in np.ndindex(12, 12):
            for sign in (1.0, -1.0):
                both = np.isfinite(target) & np.isfinite(x[i] + sign * x[j])
                if i != j and (i < j or sign < 0) and (target == x[i] + sign * x[j])[both].mean() >= SHARE:
                    slow.append((i, j, sign))
        assert slow == [(3, 7, 1.0) if seed % 2 else (5, 2, -1.0)]
        assert pairs == slow and singles == []
    assert screened(x[4], list(x), 1.0, 0.0, False) == ([4], [])


def test_laws_of_five_hundred_columns_take_seconds():
    # 500 columns make 125,000 pairs for each of 500 targets
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(10, 3, (500, 60)), 2)
    values[499] = np.round(values[10] + values[20], 2)
    columns = [Column(f"p.c{i}", False, v, 0.01, wanted=True) for i, v in enumerate(values)]
    began = time.process_time()
    laws = find_derived(columns, {}, np.arange(60))
    assert [(law.path, law.terms) for law in laws] == [("p.c499", (("p.c10", 1.0), ("p.c20", 1.0)))]
    assert time.process_time() - began < 20


@pytest.mark.parametrize("name", ["columnar-ar", "event-transformer"])
def test_the_day_of_study_in_rows_of_events_follows_from_their_date(name):
    # SDTM: day 1 is the reference date, the day before it day -1; unknown where the date is only a month
    rng = np.random.default_rng(0)
    n, each = 60, 6
    start = [dt.datetime(2020, 1, 1) + int(k) * DAY for k in rng.integers(0, 300, n)]
    owner = np.repeat(np.arange(n), each)
    after = np.sort(rng.integers(-20, 90, n * each).reshape(n, each), axis=1).ravel()
    day = np.where(after >= 0, after + 1, after)
    known = rng.random(len(after)) > 0.15
    schema = Schema(
        name="trial",
        tables={
            "patients": Table(role="static", columns={"reference": Timestamp(granularity="day", missing=False)}),
            "events": Table(
                role="event", columns={"day": Number(unit="d", decimals=0), "x": Number(unit="1", decimals=1)}
            ),
        },
    )
    tables = {
        "patients": pl.DataFrame({"subject_id": np.arange(n), "reference": start}),
        "events": pl.DataFrame(
            {
                "subject_id": owner,
                "time": [start[i] + int(k) * DAY for i, k in zip(owner, after)],
                "day": [int(d) if k else None for d, k in zip(day, known)],
                "x": rng.normal(size=len(owner)).round(1),
            }
        ),
    }
    from cohortloom.generators import create

    model = create(name, **({} if name == "columnar-ar" else {"training": Training(steps=60)}))
    drawn = model.fit(Cohort.build(schema, tables), seed=0).sample(100, seed=1)
    rows = drawn.tables["events"].join(drawn.tables["patients"], on="subject_id").drop_nulls("day")
    off = (rows["time"].dt.truncate("1d") - rows["reference"].dt.truncate("1d")).dt.total_days()
    assert rows.height > 100 and (rows["day"] == off + (off >= 0).cast(pl.Int64)).all()
    assert 0.05 < drawn.tables["events"]["day"].is_null().mean() < 0.3


def test_visit_numbers_count_the_visits_and_skipped_ones_do_not():
    """Four visits at most: too few values for other laws. `protocol` leaves visits out, so it says something."""
    number = {"kind": "number", "unit": "1", "low": 0, "high": 20, "decimals": 0}
    columns = {"count": number, "protocol": number, "from_zero": {"kind": "count", "high": 20}}
    tables = {
        "patients": {"role": "static", "columns": {}},
        "visits": {"role": "visit", "parent": "patients", "columns": columns},
    }
    schema = Schema.model_validate({"name": "counted", "clock": "offset", "tables": tables})
    draw, rows = np.random.default_rng(0), []
    for i in range(60):
        planned = np.sort(draw.choice(8, draw.integers(1, 5), replace=False))
        rows += [(i, 10 * i + k, dt.timedelta(days=30 * int(p)), k + 1, p, k) for k, p in enumerate(planned)]
    names = ["subject_id", "visit_id", "time", *columns]
    visits = pl.DataFrame(rows, schema=names, orient="row")
    cohort = Cohort.build(schema, {"patients": visits.select("subject_id").unique(), "visits": visits})
    codec = Codec.from_json(schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    laws = {law.path: law.constant for law in codec.derived if law.terms[0][0] == "visits.(number)"}
    assert laws == {"visits.count": 0.0, "visits.from_zero": -1.0}
    encoded = codec.encode(cohort, rng=Rng(0))
    assert "visits.count" not in {f.name for f in codec.sequence_features}
    made = codec.decode(encoded, Rng(1), ids=np.arange(60)).tables["visits"]
    assert made.drop("visit_id").equals(cohort.tables["visits"].drop("visit_id"))
    stream = StreamCodec.fit(cohort)
    encoded = stream.encode(cohort, rng=Rng(0))
    number = encoded.sequence.values[:, 2]
    encoded.sequence.values[:, 2] = draw.permutation(number)
    whole = stream.decode(encoded, Rng(1), ids=np.arange(60)).tables["visits"]
    place = 1 + pl.int_range(pl.len()).over("subject_id")
    assert whole.height == visits.height and whole["count"].equals(whole.select(place.cast(float))["literal"])
    # the rows after the first token, which begins the first visit, where a patient has others
    rest = stream.decode(encoded, Rng(1), ids=np.arange(60), since=np.ones(60, int)).tables["visits"]
    assert rest["count"].equals(rest.select((1 + place).cast(float))["literal"])


def injections(n: int = 60, rows: int = 6) -> Cohort:
    """Doses, some of them missing, their sum so far and before, how often there was one, and a total of two items."""
    number = Number(unit="mg", decimals=1)
    columns = {"dose": number, "cumulative": number, "before": number, "given": Flag(), "n_given": Count(high=99)}
    columns |= {"a": Ordinal(levels=tuple("01234")), "b": Ordinal(levels=tuple("01234"))}
    columns |= {"total": Number(unit="1", decimals=0), "other": number}
    schema = Schema.model_validate({
        "name": "x", "clock": "offset",
        "tables": {"p": {"role": "static", "columns": {"sex": {"kind": "category", "levels": ["f", "m"]}}},
                   "v": {"role": "visit", "columns": columns}},
        "rules": [{"kind": "monotone", "column": "v.a", "direction": "down"}],
    })  # fmt: skip
    draw = np.random.default_rng(3)
    dose = draw.gamma(2, 5, (n, rows)).round(1)
    empty, given, items = draw.random((n, rows)) < 0.2, draw.random((n, rows)) < 0.6, draw.integers(0, 5, (2, n, rows))
    items[0] = -np.sort(-items[0], axis=1)
    sums = np.where(empty, 0, dose).cumsum(1)
    frame = pl.DataFrame({
        "subject_id": np.repeat(np.arange(n), rows), "visit_id": np.arange(n * rows),
        "time": [k * DAY for k in np.tile(np.arange(rows), n).tolist()],
        "dose": [None if gone else x for x, gone in zip(dose.ravel().tolist(), empty.ravel())],
        "cumulative": sums.ravel().round(1), "before": (sums - np.where(empty, 0, dose)).ravel().round(1),
        "given": given.ravel(), "n_given": given.cumsum(1).ravel(),
        "a": items[0].ravel().astype(str), "b": items[1].ravel().astype(str),
        "total": items.sum(0).ravel().astype(float), "other": draw.gamma(2, 5, n * rows).round(1).cumsum(),
    })  # fmt: skip
    people = pl.DataFrame({"subject_id": np.arange(n), "sex": ["f", "m"] * (n // 2)})
    return Cohort.build(schema, {"p": people, "v": frame})


def contradictions(v: pl.DataFrame) -> list[int]:
    """Rows that contradict a sum, from its definition."""
    dose = pl.col("dose").fill_null(0)
    so_far = dose.cum_sum().over("subject_id")
    wrong = (
        (pl.col("cumulative") - so_far).abs() > 0.01,
        (pl.col("before") - so_far + dose).abs() > 0.01,
        pl.col("n_given") != pl.col("given").cast(pl.Int64).cum_sum().over("subject_id"),
        pl.col("total") != pl.col("a").cast(pl.Float64) + pl.col("b").cast(pl.Float64),
    )
    return [v.filter(one).height for one in wrong]


def test_sums_so_far_are_computed():
    cohort = injections()
    assert contradictions(cohort.tables["v"]) == [0, 0, 0, 0]
    codec = Codec.from_json(cohort.schema, json.loads(json.dumps(Codec.fit(cohort, RAW).to_json())))
    forms = {law.path: law.form for law in codec.derived if law.form in ("so far", "before")}
    assert forms.keys() == {"v.cumulative", "v.before", "v.n_given"} and forms["v.n_given"] == "so far"
    encoded, draw = codec.encode(cohort, rng=Rng(0)), np.random.default_rng(3)
    for j in range(encoded.sequence.values.shape[1]):
        order = draw.permutation(len(encoded.sequence.values))
        encoded.sequence.values[:, j] = encoded.sequence.values[order, j]
        encoded.sequence.observed[:, j] = encoded.sequence.observed[order, j]
    made = codec.decode(encoded, Rng(1), ids=np.arange(60)).tables["v"]
    assert contradictions(made) == [0, 0, 0, 0]
    assert not made["dose"].equals(cohort.tables["v"]["dose"])


def test_a_total_follows_its_items_after_a_repair():
    from cohortloom import rules

    cohort = injections()
    codec = Codec.fit(cohort, RAW)
    turned = cohort.tables["v"].with_columns(pl.col("a").reverse().over("subject_id"))
    broken = codec.lawful(Cohort.build(cohort.schema, {**cohort.tables, "v": turned}), Rng(0))
    mended = rules.repair(broken, Rng(1))
    assert mended is not broken and contradictions(mended.tables["v"])[3] > 0
    assert contradictions(codec.lawful(mended, Rng(2)).tables["v"]) == [0, 0, 0, 0]


def test_what_follows_is_computed_again_where_a_repair_moved_its_source(cohort, codec):
    moved = cohort.tables["patients"].with_columns(pl.col("last") + 10 * DAY)
    changed = Cohort.build(cohort.schema, {**cohort.tables, "patients": moved})
    again = codec.lawful(changed, Rng(0)).tables["patients"]
    assert again["death"].equals(again.select(pl.when("died").then("last").alias("death"))["death"])
    assert again["last"].equals(moved["last"]) and not moved["death"].equals(again["death"])
    assert codec.lawful(cohort, Rng(0)).tables["patients"].equals(cohort.tables["patients"])


def test_a_follow_up_agrees_with_dates_that_a_rule_put_in_order():
    from cohortloom.generators import create

    number = {"kind": "number", "unit": "d", "decimals": 0}
    columns = {
        "start": {"kind": "timestamp", "granularity": "day"},
        "last": {"kind": "timestamp", "granularity": "day"},
    }
    schema = Schema.model_validate(
        {"name": "registry", "tables": {"p": {"role": "static", "columns": columns | {"days": number}}},
         "rules": [{"kind": "before", "first": "p.start", "then": "p.last"}]}
    )  # fmt: skip
    draw = np.random.default_rng(0)
    start = [dt.datetime(2010, 1, 1) + int(k) * DAY for k in draw.integers(0, 3000, 150)]
    days = draw.integers(0, 2500, 150)
    last = [one + int(k) * DAY for one, k in zip(start, days)]
    frame = pl.DataFrame({"subject_id": np.arange(150), "start": start, "last": last, "days": days.astype(float)})
    model = create("columnar-ar", members=1, training=Training(steps=30)).fit(
        Cohort.build(schema, {"p": frame}), seed=0
    )
    drawn = model.sample(300, seed=1)
    assert drawn.origin.notes["repaired subjects"] > 0
    rows = drawn.tables["p"]
    assert ((rows["last"] - rows["start"]).dt.total_days() == rows["days"]).all()


@pytest.mark.filterwarnings("error")
def test_a_table_of_visits_without_a_row_has_no_laws(cohort):
    none = Cohort.build(cohort.schema, cohort.tables | {"stays": cohort.tables["stays"].clear()})
    codec = Codec.fit(none, RAW)
    assert not [law for law in codec.derived if law.path.startswith("stays.")]


def test_a_stay_that_a_repair_shortened_is_as_long_as_its_dates_say(cohort, codec):
    stays = cohort.tables["stays"].with_columns(pl.col("time") + (pl.col("out") - pl.col("time")) / 2)
    changed = Cohort.build(cohort.schema, {**cohort.tables, "stays": stays})
    again = codec.lawful(changed, Rng(0)).tables["stays"]
    hours = (again["out"] - again["time"]).dt.total_seconds() / 3600
    assert again["time"].equals(stays["time"]) and (again["hours"] - hours).abs().max() <= 0.051
    assert codec.lawful(cohort, Rng(0)).tables["stays"].equals(cohort.tables["stays"])
