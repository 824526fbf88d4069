"""Facts of drafted rules about two numbers of one row."""

import numpy as np
import polars as pl

from cohortloom.schema.infer import infer_schema


def babies(n: int = 200) -> dict[str, pl.DataFrame]:
    """Scores at one and five minutes, doses taken of those due, and a temperature that has nothing to do with them."""
    draw = np.random.default_rng(0)
    early = draw.integers(3, 10, n)
    due = draw.integers(10, 40, n)
    columns = {"subject_id": np.arange(n), "apgar_1": early, "apgar_5": np.minimum(10, early + draw.integers(0, 3, n))}
    columns |= {"doses_due": due, "doses_taken": due - draw.poisson(1.5, n).clip(0, 9), "index": -draw.gamma(1, 1, n)}
    return {"babies": pl.DataFrame(columns | {"weight_kg": draw.normal(3.4, 0.4, n).round(2)})}


def found(frames: dict[str, pl.DataFrame]) -> set[tuple[str, str]]:
    rules = infer_schema(frames, name="x").schema.rules
    return {(r.settings["column"], r.settings["of"]) for r in rules if r.kind == "at_most"}


def test_orders_of_numbers_that_go_together_are_rules():
    assert found(babies()) == {("babies.apgar_1", "babies.apgar_5"), ("babies.doses_taken", "babies.doses_due")}


def test_one_row_against_it_and_there_is_no_rule():
    frames = babies()
    swapped = frames["babies"].with_columns(
        pl.when(pl.int_range(pl.len()) == 150).then(pl.lit(41)).otherwise("doses_taken").alias("doses_taken")
    )
    assert found({"babies": swapped}) == {("babies.apgar_1", "babies.apgar_5")}


def test_few_patients_say_nothing():
    assert not found({"babies": babies()["babies"].head(29)})
