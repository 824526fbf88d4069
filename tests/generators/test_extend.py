"""Continuing patients and filling holes: what the base promises whatever the model draws."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from cohortloom import rules
from cohortloom.codec.tensors import Encoded, Layout, SequenceArrays
from cohortloom.cohort import Cohort
from cohortloom.cohort.resample import bootstrap
from cohortloom.errors import DataError, SamplingError, SettingsError
from cohortloom.generators.base import Ability, Generator
from cohortloom.generators.extend import PLACES, with_new_visits
from cohortloom.generators.redraw import with_statics
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.testing.checks import small_cohort

DAY = timedelta(days=1)


@dataclass(kw_only=True)
class Weekly(Generator):
    """Goes on with the last visit every `gap` days for ever; fills holes with a constant."""

    name: ClassVar[str] = "weekly"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="raw")
    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.EXTEND, Ability.IMPUTE})
    gap: float = 7.0
    fill: float = 2.0

    def _fit(self, data, context, rng, run):
        return None

    def _draw(self, n, context, rng, where):
        raise NotImplementedError

    def _continue(self, encoded, until, rng):
        seq = encoded.sequence
        n = seq.length
        more = 1 + (until // self.gap).astype(int)  # one beyond the end, for the base to cut
        owner = np.concatenate([seq.subject, np.repeat(np.arange(len(n)), more)])
        order = np.argsort(owner, kind="stable")
        template = np.where(n > 0, seq.starts + n - 1, 0)
        rows = np.concatenate([np.arange(len(seq.gap)), np.repeat(template, more)])[order]
        gap = np.concatenate([seq.gap, np.full(more.sum(), self.gap)])[order]
        sequence = SequenceArrays(seq.features, seq.values[rows], seq.observed[rows], gap, n + more)
        return Encoded(encoded.static, sequence)

    def _impute_cells(self, encoded, holes, rng):
        def filled(part, mask):
            return replace(part, values=np.where(mask, self.fill, part.values), observed=part.observed | mask)

        return Encoded(filled(encoded.static, holes.static), filled(encoded.sequence, holes.sequence))


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return small_cohort(40)


@pytest.fixture(scope="module")
def weekly(cohort):
    return Weekly().fit(cohort, seed=0)


def past_of(cohort: Cohort, longer: Cohort) -> dict[str, pl.DataFrame]:
    """The rows of a continued cohort that are rows of the prefix."""
    return {n: f.join(cohort.tables[n], on=f.columns, how="semi", nulls_equal=True) for n, f in longer.tables.items()}


def test_the_past_stays_byte_for_byte(cohort, weekly):
    longer = weekly.extend(cohort, until=30 * DAY, seed=1)
    past = past_of(cohort, longer)
    assert all(past[name].equals(frame) for name, frame in cohort.tables.items())
    assert longer.subjects.equals(cohort.subjects)
    assert longer.tables["visits"].height > cohort.tables["visits"].height
    assert longer.tables["patients"].equals(cohort.tables["patients"])


def test_new_visits_come_after_the_last_row_and_within_the_horizon(cohort, weekly):
    longer = weekly.extend(cohort, until=30 * DAY, seed=1)
    rows = [f.select("subject_id", "time") for f in (cohort.tables["visits"], cohort.tables["labs"])]
    last = pl.concat(rows).group_by("subject_id").agg(pl.col("time").max().alias("last"))
    new = longer.tables["visits"].join(cohort.tables["visits"], on=["subject_id", "visit_id"], how="anti")
    new = new.join(last, on="subject_id", how="left").with_columns(pl.col("last").fill_null(timedelta(0)))
    after = new["time"] - new["last"]
    assert (after > timedelta(0)).all() and (after <= 30 * DAY).all()
    # every 7 days after the last visit: nobody gets more than 4 in 30 days, nor fewer without labs after the visit
    count = new.group_by("subject_id").len()["len"]
    assert count.max() == 4


def test_columns_may_have_any_name():
    """Names that joins inside might take for their own: a user's columns are neither lost nor mixed up."""
    names = ("place", "own", "had", "new_id", "new_visit", "row", "rank", "n")
    number = {"kind": "number", "unit": "1", "low": 0, "high": 99, "decimals": 0}
    columns = {name: number for name in names}
    tables = {
        "people": {"role": "static", "columns": columns},
        "visits": {"role": "visit", "parent": "people", "columns": columns},
        "labs": {"role": "event", "parent": "visits", "columns": columns},
    }
    schema = Schema.model_validate({"name": "any", "clock": "offset", "tables": tables})
    ids = np.repeat(np.arange(1, 21), 2)
    values = {name: np.full(40, 10.0 + i) for i, name in enumerate(names)}
    frame = pl.DataFrame({"subject_id": ids, "visit_id": np.arange(1, 41), **values})
    frame = frame.with_columns(pl.Series("time", [DAY, 3 * DAY] * 20))
    people = frame.drop("visit_id", "time").unique("subject_id", maintain_order=True)
    cohort = Cohort.build(schema, {"people": people, "visits": frame, "labs": frame})
    model = Weekly().fit(cohort, seed=0)
    given = with_statics(cohort, cohort, np.arange(1, 21))
    for made in (model.extend(cohort, until=30 * DAY, seed=1), bootstrap(cohort, 9, Rng(0)), given):
        for table in made.tables.values():
            assert table.height and {n: table[n].unique().to_list() for n in names} == {
                n: [v[0]] for n, v in values.items()
            }


def test_patients_without_visits_start_at_the_origin(cohort, weekly):
    longer = weekly.extend(cohort, until=15 * DAY, seed=1)
    without = cohort.subjects.filter(~cohort.subjects.is_in(cohort.tables["visits"]["subject_id"].implode()))
    assert without.len() >= 5
    times = longer.tables["visits"].filter(pl.col("subject_id").is_in(without.implode()))["time"]
    assert sorted(set(times)) == [7 * DAY, 14 * DAY]


def test_several_draws_have_ids_that_name_patient_and_draw(cohort, weekly):
    longer = weekly.extend(cohort, until=9 * DAY, draws=3, seed=1)
    assert longer.n_subjects == 3 * cohort.n_subjects
    expected = [f"{s}#{d}" for s in cohort.subjects for d in (1, 2, 3)]
    assert longer.subjects.to_list() == sorted(expected)
    one = longer.tables["patients"].filter(pl.col("subject_id").str.ends_with("#2"))
    bare = one.with_columns(pl.col("subject_id").str.strip_suffix("#2"))
    assert bare.equals(cohort.tables["patients"])


def test_links_and_rules_hold_and_new_labs_belong_to_new_visits(cohort, weekly):
    longer = weekly.extend(cohort, until=30 * DAY, seed=1)
    assert rules.broken_subjects(longer).is_empty()
    keys = ["subject_id", "visit_id"]
    old = cohort.tables["visits"].select(keys)
    labs = longer.tables["labs"].join(cohort.tables["labs"], on=cohort.tables["labs"].columns, how="anti",
                                      nulls_equal=True)  # fmt: skip
    assert labs.height and labs.join(old, on=keys, how="semi").is_empty()


def test_a_continued_real_patient_is_real_data(cohort, weekly):
    longer = weekly.extend(cohort, until=9 * DAY, seed=1)
    assert longer.origin.kind == cohort.origin.kind and longer.origin.release == "UNREVIEWED"
    assert longer.origin.notes["extended subjects"] == cohort.n_subjects


def test_a_horizon_must_fit_the_clock(cohort, weekly):
    for until in (5, timedelta(0), -DAY):
        with pytest.raises(SettingsError, match="until"):
            weekly.extend(cohort, until=until, seed=0)
    with pytest.raises(SettingsError, match="draws"):
        weekly.extend(cohort, until=DAY, draws=0, seed=0)
    with pytest.raises(DataError, match="another schema"):
        weekly.extend(people(), until=DAY, seed=0)
    with pytest.raises(DataError, match="another schema"):
        weekly.impute(people(), seed=0)


def test_an_event_later_than_the_last_visit_belongs_to_the_past(cohort):
    """No visit may be drawn between the last visit and the last row of the patient."""
    visits = cohort.tables["visits"]
    last = visits.group_by("subject_id", maintain_order=True).last()
    late = last.select("subject_id", pl.lit(None, pl.String).alias("visit_id"), pl.col("time") + 10 * DAY)
    labs = late.select("subject_id", pl.lit(None, cohort.tables["labs"]["visit_id"].dtype).alias("visit_id"), "time")
    labs = labs.with_columns(pl.lit(4.0).alias("potassium")).select(cohort.tables["labs"].columns)
    tables = {**cohort.tables, "labs": pl.concat([cohort.tables["labs"], labs])}
    waiting = Cohort.build(cohort.schema, tables)
    with pytest.raises(SamplingError, match="before the end of the prefix"):
        Weekly(gap=7.0).fit(waiting, seed=0).extend(waiting, until=30 * DAY, seed=0)
    longer = Weekly(gap=12.0).fit(waiting, seed=0).extend(waiting, until=30 * DAY, seed=0)
    assert longer.tables["visits"].height > visits.height


ORDER = Schema.model_validate(
    {
        "name": "order",
        "clock": "order",
        "tables": {
            "people": {"role": "static", "columns": {"sex": {"kind": "category", "levels": ["F", "M"]}}},
            "visits": {
                "role": "visit",
                "columns": {
                    "x": {"kind": "number", "decimals": 0, "low": 0, "high": 9},
                    "pregnant": {"kind": "category", "levels": ["no", "yes"]},
                },
            },
        },
        "rules": [
            {
                "kind": "implies",
                "if": {"column": "people.sex", "in": ["M"]},
                "then": {"column": "visits.pregnant", "missing": True},
            }
        ],
    }
)


def people() -> Cohort:
    sex = pl.DataFrame({"subject_id": [1, 2, 3, 4], "sex": ["F", "M", None, "F"]})
    visits = pl.DataFrame(
        {
            "subject_id": [1, 1, 2, 2, 3],
            "visit_id": [1, 2, 1, 2, 1],
            "time": [0, 1, 0, 1, 0],
            "x": [1.0, None, None, 4.0, None],
            "pregnant": ["no", None, None, None, "no"],
        }
    )
    return Cohort.build(ORDER, {"people": sex, "visits": visits})


@pytest.mark.parametrize("text", [False, True])
def test_new_visits_have_new_ids_and_rows_of_old_ones_keep_theirs(text):
    """Patient 1 has two visits, 3 has one; the codec numbers visits from the first one of the prefix on."""
    past = people()
    if text:
        visits = past.tables["visits"].with_columns(pl.format("v{}", "visit_id").alias("visit_id"))
        past = Cohort.build(ORDER, {**past.tables, "visits": visits})
    made = pl.DataFrame({"subject_id": [1, 3], "visit_id": [1 * PLACES + 3, 3 * PLACES + 2]})
    beyond = 3 * PLACES + 3  # a visit that was cut off
    of = [1 * PLACES + 2, 1 * PLACES + 3, None, beyond, 3 * PLACES + 1]
    rows = pl.DataFrame({"subject_id": [1, 1, 1, 3, 3], "visit_id": of})
    had = pl.DataFrame({"subject_id": [1, 3], "__had": [2, 1]})
    new = ["+3", "+2"] if text else [1 * PLACES + 3 + 2, 3 * PLACES + 2 + 2]  # 2: the largest id there is
    old = ["v2", "v1"] if text else [2, 1]
    named = with_new_visits(ORDER, {"visits": made, "rows": rows}, past, had)
    assert named["visits"].rows() == [(1, new[0]), (3, new[1])]
    assert named["rows"].rows() == [(1, old[0]), (1, new[0]), (1, None), (3, old[1])]
    alone = with_new_visits(ORDER, {"visits": made, "rows": rows}, past)
    assert alone["visits"].rows() == named["visits"].rows()
    assert alone["rows"].rows() == [(1, new[0]), (1, None)]  # no visit among the new ones: gone with it


def test_places_in_an_order_are_counted():
    cohort = people()
    longer = Weekly(gap=1.0).fit(cohort, seed=0).extend(cohort, until=2, seed=0)
    times = longer.tables["visits"].group_by("subject_id", maintain_order=True).agg("time")
    found = dict(zip(times["subject_id"], times["time"].to_list()))
    assert {k: found[k] for k in (1, 2, 3)} == {1: [0, 1, 2, 3], 2: [0, 1, 2, 3], 3: [0, 1, 2]}


def test_only_holes_are_filled_and_what_does_not_apply_stays_empty():
    cohort = people()
    full = Weekly(fill=2.0).fit(cohort, seed=0).impute(cohort, seed=0)
    before, after = cohort.tables["visits"], full.tables["visits"]
    seen = before["x"].is_not_null()
    assert after.filter(seen)["x"].equals(before.filter(seen)["x"]) and after["x"].null_count() == 0
    assert (after.filter(~seen)["x"] == 2.0).all()
    # the third patient's sex is drawn (id 2: the first level), so "pregnant" may stand; the man's stays empty
    assert full.tables["people"]["sex"].to_list()[2] is not None
    assert after.filter(pl.col("subject_id") == 2)["pregnant"].to_list() == [None, None]
    assert after.filter(pl.col("subject_id") == 1)["pregnant"].to_list() == ["no", "no"]
    assert full.origin.notes["imputed cells"] == 5


def test_columns_to_fill_can_be_chosen_and_unknown_ones_are_named():
    cohort = people()
    model = Weekly().fit(cohort, seed=0)
    full = model.impute(cohort, seed=0, columns=["visits.x"])
    assert full.tables["visits"]["x"].null_count() == 0
    assert full.tables["people"].equals(cohort.tables["people"])
    with pytest.raises(SettingsError, match=r"visits\.y"):
        model.impute(cohort, seed=0, columns=["visits.y"])


def test_multiple_imputation_copies_patients(cohort, weekly):
    full = weekly.impute(cohort, seed=0, draws=2)
    assert full.n_subjects == 2 * cohort.n_subjects
    for draw in ("#1", "#2"):
        rows = full.tables["labs"].filter(pl.col("subject_id").str.ends_with(draw))
        assert rows.with_columns(pl.col("subject_id").str.strip_suffix(draw)).equals(cohort.tables["labs"])


def test_unused_statics_are_not_made_up(cohort, weekly):
    """A patient without a static row has none afterwards."""
    full = weekly.impute(cohort, seed=0)
    assert full.tables["patients"].height == cohort.tables["patients"].height < cohort.n_subjects


def test_copies_of_patients_keep_their_waveforms():
    """Each copy has every record of its patient, with its annotations, under names of its own."""
    from cohortloom.generators.impute import copies
    from cohortloom.testing.checks import small_waves

    waves = small_waves(4)
    assert copies(waves, 1) is waves
    thrice = copies(waves, 3)
    name = next(iter(waves.signals))
    one, many = waves.signals[name], thrice.signals[name]
    assert many.records.height == 3 * one.records.height == many.records["record_id"].n_unique()
    assert set(many.records["subject_id"]) == set(thrice.subjects) and thrice.n_subjects == 12
    source = {str(r): i for i, r in enumerate(one.records["record_id"])}
    for i, (record, subject) in enumerate(many.records.select("record_id", "subject_id").iter_rows()):
        old = source[record.partition("#")[0]]
        np.testing.assert_array_equal(many.samples[i], one.samples[old])
        assert record.partition("#")[2] == subject.partition("#")[2]
        assert subject.partition("#")[0] == str(one.records["subject_id"][old])
    if one.annotations is not None:
        assert many.annotations.height == 3 * one.annotations.height
