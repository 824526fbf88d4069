"""Numbers that are often worked out from others of their row."""

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.generators import create, load, row_lines
from cohortloom.nets.tokens import NumberCoder
from cohortloom.schema.text import parse_schema

ROWS, PATIENTS = 900, 150
SHARE = 0.7


def pressures(rng: np.random.Generator) -> np.ndarray:
    """Diastolic, systolic, mean: whole numbers, means to a tenth; seven in ten fit together."""
    subject = np.repeat(np.arange(PATIENTS), ROWS // PATIENTS)
    low = np.round(70 + 6 * rng.standard_normal(PATIENTS)[subject] + 5 * rng.standard_normal(ROWS))
    high = np.round(low + 50 + 8 * rng.standard_normal(ROWS))
    mean = np.round((2 * low + high) / 3, 1)
    off = rng.random(ROWS) > SHARE
    mean[off] = np.round(mean[off] + 9 * rng.standard_normal(off.sum()), 1)
    return np.stack([low, high, mean], 1)


def found_in(columns: np.ndarray, decimals: tuple[int | None, ...]) -> row_lines.Lines:
    subject = np.repeat(np.arange(PATIENTS), len(columns) // PATIENTS)
    coders = [NumberCoder.fit(x, subject, decimals=d) for x, d in zip(columns.T, decimals)]
    return row_lines.find_lines(coders, columns, subject)


def test_the_line_of_most_rows_is_found():
    x = pressures(np.random.default_rng(0))
    x[::5, 1] = np.nan  # rows in which a part is missing say nothing
    found = found_in(x, (0, 0, 1))
    assert set(found) == {2}
    line = found[2]
    assert dict(zip(line.parts, line.weights)) == pytest.approx({0: 2 / 3, 1: 1 / 3})
    assert line.constant == 0.0
    turned = found_in(x[:, [0, 2, 1]], (0, 1, 0))  # 3 mean - 2 diastolic: three times what is wrong with the mean
    assert turned == {}


def test_one_quantity_in_two_units_is_found():
    rng = np.random.default_rng(1)
    celsius = np.round(37 + rng.standard_normal(ROWS), 1)
    fahrenheit = np.round(celsius * 1.8 + 32, 1) + np.where(
        rng.random(ROWS) < 0.3, np.round(rng.normal(size=ROWS), 1), 0
    )
    found = found_in(np.stack([celsius, fahrenheit], 1), (1, 1))
    assert found[1].parts == (0,)
    assert found[1].weights[0] == pytest.approx(1.8)
    assert found[1].constant == pytest.approx(32.0)


def test_numbers_that_go_together_have_no_line():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(ROWS)
    near = np.round(
        100 + 10 * np.stack([x, x + 0.2 * rng.standard_normal(ROWS), x + 0.3 * rng.standard_normal(ROWS)], 1)
    )
    assert found_in(near, (0, 0, 0)) == {}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    schema = parse_schema("""
        name = "cuff"
        clock = "order"
        [tables.patients]
        role = "static"
        [tables.patients.columns.sex]
        kind = "category"
        levels = ["F", "M"]
        [tables.hours]
        role = "visit"
        [tables.hours.columns]
        diastolic = { kind = "number", decimals = 0, missing = true }
        systolic = { kind = "number", decimals = 0, missing = true }
        mean = { kind = "number", decimals = 1, missing = true }
    """)
    rng = np.random.default_rng(3)
    x, n = pressures(rng), ROWS // PATIENTS
    x[rng.random(ROWS) < 0.1] = np.nan
    subject = np.repeat(np.arange(PATIENTS), n)
    visits = pl.DataFrame(
        {
            "subject_id": subject + 1, "visit_id": np.arange(ROWS) + 1, "time": np.tile(np.arange(n), PATIENTS),
            **dict(zip(("diastolic", "systolic", "mean"), x.T)),
        }
    ).with_columns(pl.col("diastolic", "systolic", "mean").fill_nan(None))  # fmt: skip
    patients = pl.DataFrame({"subject_id": np.arange(PATIENTS) + 1, "sex": ["F", "M"] * (PATIENTS // 2)})
    return Cohort.build(schema, {"patients": patients, "hours": visits})


def share_on_line(cohort: Cohort) -> float:
    whole = cohort.tables["hours"].drop_nulls()
    said = (2 * whole["diastolic"] + whole["systolic"]) / 3
    return float(((whole["mean"] - said).abs() < 0.06).mean())


def test_drawn_rows_lie_on_the_line_as_often_as_real_ones(cohort, tmp_path, monkeypatch):
    short = {"members": 1, "training": {"steps": 10}}
    model = create("columnar-ar", **short).fit(cohort, seed=0)
    drawn = model.sample(300, seed=1)
    assert share_on_line(drawn) == pytest.approx(share_on_line(cohort), abs=0.06)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").sample(300, seed=1).tables["hours"].equals(drawn.tables["hours"])
    emptied = pl.when(pl.col("visit_id") % 7 != 0).then("mean").alias("mean")
    holes = cohort.tables["hours"].with_columns(emptied)
    filled = model.impute(Cohort.build(cohort.schema, cohort.tables | {"hours": holes}), seed=2)
    again = filled.tables["hours"].filter(pl.col("visit_id") % 7 == 0)
    assert share_on_line(Cohort.build(cohort.schema, cohort.tables | {"hours": again})) > 0.5
    monkeypatch.setattr("cohortloom.generators.columnar_encoding.find_lines", lambda *_: {})
    plain = create("columnar-ar", **short).fit(cohort, seed=0)
    assert share_on_line(plain.sample(300, seed=1)) < 0.3
    assert model.score(cohort).mean() > plain.score(cohort).mean() + 4.0
