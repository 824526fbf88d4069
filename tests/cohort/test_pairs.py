"""Pairs that never meet: counts against loops, what is found of a known law, and what is not claimed."""

import json

import numpy as np
import polars as pl
import pytest
from ward_codes import ward, with_cells

from cohortloom.cohort import Cohort
from cohortloom.cohort.pairs import Never, crossings, numbered, read_columns, rulers


@pytest.fixture(scope="module")
def patients():
    return ward(400, 1)


def words(never):
    found = set()
    for (i, j), pairs in never.pairs.items():
        first, then = never.rulers[i], never.rulers[j]
        for level, value in (divmod(p, len(then.labels)) for p in pairs):
            found.add(f"{first.words(level)} & {then.words(value)}")
    return found


def test_what_never_meets_by_law_is_found_and_nothing_else(patients):
    found = words(Never.of(patients))
    assert "patients.sex = M & visits.code = birth" in found
    assert "visits.route = vein & visits.pieces recorded" in found
    assert "patients.age above 73 & patients.stopped recorded" in found
    assert "patients.age 50 to 73 & visits.code = croup" in found
    rest = [w for w in found if not any(x in w for x in ("birth", "pieces", "stopped", "croup"))]
    assert rest == []
    assert not any("sex = F" in w or "mouth" in w or "up to 27" in w for w in found)


def test_crossings_count_as_loops_do(patients):
    known = rulers(patients.schema, [patients])
    columns = read_columns(known, numbered(patients, patients.subjects))
    taken = np.arange(400) < 300
    some = {(c.first.name, c.then.name, c.then.labels): c for c in crossings(columns, taken)}
    people, rows = patients.tables["patients"], patients.tables["visits"].filter(pl.col("subject_id") < 300)

    crossing = next(c for (a, b, _), c in some.items() if (a, b) == ("patients.sex", "visits.code"))
    sex = dict(people.select("subject_id", "sex").rows())
    met = {(sex[s], code, s) for s, code in rows.select("subject_id", "code").rows()}
    counted = np.bincount(crossing.pair, minlength=10).reshape(2, 5)
    expected = crossing.expected.reshape(2, 5)
    for a, level in enumerate(crossing.first.labels):
        for v, code in enumerate(crossing.then.labels):
            assert counted[a, v] == sum(x[:2] == (level, code) for x in met)
            holders = len({s for _, c, s in met if c == code})
            assert expected[a, v] == pytest.approx(holders * sum(sex[s] == level for s in range(300)) / 300)

    crossing = next(c for (a, b, _), c in some.items() if (a, b) == ("visits.code", "visits.route"))
    share = rows.group_by("subject_id").agg((pl.col("code") == "fall").mean())["code"].sum() / 300
    place = crossing.first.labels.index("fall") * 2 + crossing.then.labels.index("vein")
    holders = rows.filter(pl.col("route") == "vein")["subject_id"].n_unique()
    assert crossing.expected[place] == pytest.approx(holders * share)
    both = rows.filter((pl.col("code") == "fall") & (pl.col("route") == "vein"))
    assert (crossing.pair == place).sum() == both.height


def test_each_pair_of_columns_is_crossed_once(patients):
    known = rulers(patients.schema, [patients])
    columns = read_columns(known, numbered(patients, patients.subjects))
    seen = [frozenset((c.first, c.then)) for c in crossings(columns, np.ones(400, bool))]
    assert len(seen) == len(set(seen)) > 10
    assert all(len({r.name for r in pair}) == 2 for pair in seen)


def test_patients_who_hold_a_pair_are_those_of_a_loop(patients):
    never = Never.of(patients)
    assert never.held_by(patients).len() == 0
    strangers = with_cells(ward(200, 2), "visits", "code", np.arange(0, 500, 7), "birth")
    men = set(strangers.tables["patients"].filter(pl.col("sex") == "M")["subject_id"])
    born = set(strangers.tables["visits"].filter(pl.col("code") == "birth")["subject_id"])
    assert set(never.held_by(strangers)) == men & born != set()
    swallowed = with_cells(ward(200, 2), "visits", "route", np.arange(20), "vein")
    rows = swallowed.tables["visits"].filter((pl.col("route") == "vein") & pl.col("pieces").is_not_null())
    assert set(never.held_by(swallowed)) == set(rows["subject_id"]) != set()


def test_state_survives_json_and_names_needed_values_only(patients):
    never = Never.of(patients)
    text = json.dumps(never.to_json())
    assert Never.from_json(json.loads(text)) == never
    assert "fall" not in text
    assert Never.from_json(Never().to_json()).held_by(patients).len() == 0


def test_nothing_is_claimed_where_the_next_patient_may_be_the_first(patients):
    """Among 400 patients, 40 are each the only man with one of 40 births: so will others be."""
    frame = patients.tables["visits"]
    men = patients.tables["patients"].filter(pl.col("sex") == "M")["subject_id"].to_list()
    draw, code = np.random.default_rng(0), frame["code"].to_list()
    for row, (s, c) in enumerate(frame.select("subject_id", "code").rows()):
        if c == "birth" and s not in men:
            code[row] = f"birth {draw.integers(8)}"
    for k in range(8):
        code[frame["subject_id"].to_list().index(men[k])] = f"birth {k}"
    changed = Cohort.build(patients.schema, {**patients.tables, "visits": frame.with_columns(pl.Series("code", code))})
    found = Never.of(changed)
    assert not any("birth" in w for w in words(found))
    kept = with_cells(changed, "visits", "code", np.array([code.index(f"birth {k}") for k in range(8)]), "gout")
    assert len(words(found)) <= len(words(Never.of(kept)))


def test_odd_cohorts(patients):
    tiny = patients.select(patients.subjects[:1])
    assert Never.of(tiny).pairs == {}
    empty = Cohort.build(patients.schema, {**patients.tables, "visits": patients.tables["visits"].clear()})
    never = Never.of(empty)  # nobody has a visit
    assert all("visits" not in w for w in words(never))
    assert Never.of(patients).held_by(empty).len() == 0
    gone = with_cells(patients, "patients", "sex", np.arange(400), None)
    assert "patients.sex = M & visits.code = birth" not in words(Never.of(gone))
    assert Never.of(patients).held_by(gone).len() == 0
