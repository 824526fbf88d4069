"""Facts of drafted rules about rows that belong together."""

import numpy as np
import polars as pl

from cohortloom.schema.infer import infer_schema

MINUTE, DAY = np.timedelta64(1, "m"), np.timedelta64(1, "D")


def text(moments: np.ndarray) -> list[str]:
    return [str(t).replace("T", " ") for t in moments]


def rules(frames: dict[str, dict], *kinds: str) -> list[dict]:
    draft = infer_schema({name: pl.DataFrame(frame) for name, frame in frames.items()}, name="x")
    return [{"kind": r.kind, **r.settings} for r in draft.schema.rules if r.kind in kinds]


def chart(wrong: int = 0) -> dict[str, dict]:
    """60 stays of 5 rounds of 3 numbers; one nurse a round, one ward a stay, a device of its own each number."""
    draw = np.random.default_rng(0)
    n, rounds = 60, 5
    start = np.datetime64("2020-01-01T08:00") + draw.integers(0, 400, n) * DAY
    stay = np.repeat(np.arange(n), 3 * rounds)
    when = (start[:, None] + np.arange(rounds) * 60 * MINUTE).repeat(3, axis=1).ravel()
    nurse = draw.integers(0, 12, (n, rounds)).repeat(3, axis=1).ravel()
    nurse[:wrong] += 1
    rows = {
        "subject_id": stay // 2,
        "stay_id": 500 + stay,
        "charttime": text(when),
        "itemid": np.tile(["hr", "map", "rr"], n * rounds),
        "value": draw.normal(80, 9, len(stay)).round(1),
        "nurse_no": nurse,
        "ward": draw.choice(["a", "b", "c"], n)[stay],
        "device": draw.choice(["x", "y"], len(stay)),
    }
    stays = {"subject_id": np.arange(n) // 2, "stay_id": 500 + np.arange(n), "intime": text(start)}
    stays |= {"unit": draw.choice(["p", "q"], n), "age": draw.integers(20, 90, n)}
    return {"stays": stays, "chart": rows}


def test_what_never_differs_at_a_moment_or_in_a_visit_is_a_rule():
    found = {r["column"]: r.get("within") for r in rules(chart(), "constant")}
    assert found == {"chart.nurse_no": "moment", "chart.ward": "visit"}
    assert {r["column"] for r in rules(chart(wrong=1), "constant")} == {"chart.ward"}


def test_what_ends_before_the_next_begins_is_a_rule():
    draw = np.random.default_rng(1)
    n, lines = 60, 3
    lasts, rest = draw.integers(20, 300, (n, lines)), draw.integers(10, 60, (n, lines))
    begin = np.cumsum(lasts + rest, axis=1) - lasts - rest
    first = np.datetime64("2015-01-01") + draw.integers(0, 900, (n, 1)) * DAY
    given = {"patient_id": np.repeat(np.arange(n), lines), "regimen": draw.choice(["A", "B", "C"], n * lines)}
    given |= {
        "start_date": text((first + begin * DAY).ravel()),
        "stop_date": text((first + (begin + lasts) * DAY).ravel()),
    }
    people = {"patient_id": np.arange(n), "sex": draw.choice(["f", "m"], n), "site": draw.choice(["x", "y"], n)}
    frames = {"patients": people, "lines": given}
    assert rules(frames, "no_overlap") == [{"kind": "no_overlap", "column": "lines.stop_date"}]
    late = given["stop_date"].copy()
    late[0] = given["start_date"][2]
    assert not rules(frames | {"lines": given | {"stop_date": late}}, "no_overlap")


def test_the_day_of_death_is_that_of_its_moment():
    draw = np.random.default_rng(2)
    n = 80
    admitted = np.datetime64("2018-01-01T10:00") + draw.integers(0, 900, n) * DAY
    left = admitted + draw.integers(600, 9000, n) * MINUTE
    dead = np.arange(n) % 2 == 0
    day = [str(t)[:10] if d else None for t, d in zip(left, dead)]
    stays = {"patient_id": np.arange(n), "stay_id": 900 + np.arange(n), "admittime": text(admitted)}
    stays |= {"deathtime": [t if d else None for t, d in zip(text(left), dead)], "ward": draw.choice(["a", "b"], n)}
    again = {c: [*v, *v][: n + 30] for c, v in stays.items()} | {"stay_id": np.arange(n + 30)}
    again["admittime"] = text(np.concatenate([admitted, admitted[:30] - 50 * DAY]))
    again["deathtime"][n:] = [None] * 30
    people = {"patient_id": np.arange(n), "sex": draw.choice(["f", "m"], n), "dod": day}
    found = rules({"patients": people, "stays": again}, "same_day")
    assert found == [{"kind": "same_day", "column": "patients.dod", "of": "stays.deathtime"}]
    other = [*day]
    other[0] = None
    assert not rules({"patients": people | {"dod": other}, "stays": again}, "same_day")


def test_what_names_the_rows_of_another_file_is_left_out():
    """Bed stays within admissions: drawn anew row by row, no number would be that of a bed stay."""
    frames = chart()
    stays = frames["stays"]
    beds = {c: stays[c] for c in ("subject_id", "stay_id", "intime")} | {"bed_id": 9000 + np.arange(60)}
    beds |= {"bay": ["n", "s"] * 30}
    rows = frames["chart"] | {"bed_id": np.repeat(beds["bed_id"], 15)}
    both = {name: pl.DataFrame(f) for name, f in (frames | {"beds": beds, "chart": rows}).items()}
    draft = infer_schema(both, name="x")
    assert "bed_id" not in draft.schema.tables["chart"].columns and "bed_id" in draft.schema.tables["beds"].columns
    assert '"bed_id" (names rows of beds.parquet)' in draft.text


def test_rows_days_apart_are_the_visits_and_the_grafts_they_name_are_events():
    """As rows of grafts that last for years, drawn visits of a transplant registry were told at a glance."""
    draw = np.random.default_rng(3)
    n, each = 60, 12
    grafts = np.repeat(np.arange(n), 1 + np.arange(n) % 2)
    began = np.datetime64("2010-01-01") + draw.integers(0, 900, n)[grafts] * DAY
    began = began + (np.diff(grafts, prepend=-1) == 0) * 1500 * DAY
    days = np.cumsum(draw.integers(5, 90, (len(grafts), each)), axis=1)
    people = {"recipient_id": np.arange(n), "sex": ["f", "m"] * (n // 2), "height_cm": draw.normal(170, 9, n).round()}
    people |= {"first_date": text(np.array([began[grafts == i].min() for i in range(n)]))}
    listed = {"episode_id": 700 + np.arange(len(grafts)), "recipient_id": grafts, "transplant_date": text(began)}
    listed |= {"donor_age": draw.integers(20, 70, len(grafts)), "donor_type": draw.choice(["DBD", "DCD"], len(grafts))}
    seen = {"recipient_id": grafts.repeat(each), "episode_id": listed["episode_id"].repeat(each)}
    seen |= {"visit_date": text((began[:, None] + days * DAY).ravel()), "days_post_tx": days.ravel()}
    rows = len(seen["visit_date"])
    seen |= {"creatinine": draw.normal(110, 20, rows).round(), "dose_mg": draw.gamma(9, 0.5, rows).round(1)}
    seen |= {"sbp": draw.normal(130, 12, rows).round()}
    frames = {k: pl.DataFrame(v) for k, v in (("recipients", people), ("transplants", listed), ("followup", seen))}
    draft = infer_schema(frames, name="x")
    tables = draft.schema.tables
    assert "transplants.parquet holds events" in draft.text.replace("\n# ", " ")
    assert {n: t.role for n, t in tables.items()} == {
        "recipients": "static",
        "transplants": "event",
        "followup": "visit",
    }
    assert "episode_id" not in tables["followup"].columns and "days_post_tx" not in tables["followup"].columns
    assert 'counts the time since "transplant_date" of transplants.parquet' in draft.text
    first = {"kind": "baseline", "column": "recipients.first_date", "of": "transplants.time"}
    assert first in [{"kind": r.kind, **r.settings} for r in draft.schema.rules]
    hours = seen | {"visit_date": text((began[:, None] + days * 60 * MINUTE).ravel())}
    near = infer_schema(frames | {"followup": pl.DataFrame(hours)}, name="x").schema.tables
    assert near["transplants"].role == "visit" and near["followup"].role == "event"


def test_what_is_said_at_enrolment_is_the_first_value_of_the_visits():
    draw = np.random.default_rng(4)
    n, each = 60, 4
    weight = (draw.normal(80, 12, (n, 1)) + draw.normal(0, 2, (n, each)).cumsum(1)).round(1)
    start = np.datetime64("2015-01-01") + draw.integers(0, 900, (n, 1)) * DAY
    seen = {
        "patient_id": np.repeat(np.arange(n), each),
        "visit_date": text((start + np.arange(each) * 90 * DAY).ravel()),
    }
    seen |= {
        "weight_kg": weight.ravel(),
        "pulse": draw.normal(70, 9, n * each).round(),
        "sbp": draw.normal(130, 9, n * each),
    }
    people = {"patient_id": np.arange(n), "sex": draw.choice(["f", "m"], n), "baseline_weight": weight[:, 0].copy()}
    rule = {"kind": "baseline", "column": "patients.baseline_weight", "of": "visits.weight_kg"}
    assert rules({"patients": people, "visits": seen}, "baseline") == [rule]
    people["baseline_weight"][0] += 1
    assert not rules({"patients": people, "visits": seen}, "baseline")


def test_a_discharge_as_dead_is_the_last_and_its_day_that_of_death_where_few_died():
    draw = np.random.default_rng(5)
    n = 80
    admitted = np.datetime64("2018-01-01T10:00") + np.arange(n) * 9 * DAY
    left = admitted + draw.integers(600, 9000, n) * MINUTE
    how = np.where(np.arange(n) % 10 == 1, "Tod", draw.choice(["nach Hause", "Verlegung"], n))
    day = [str(t)[:10] if h == "Tod" else None for t, h in zip(left, how)]
    stays = {"patient_id": np.arange(n) // 2, "fall_id": 900 + np.arange(n), "Aufnahme": text(admitted)}
    stays |= {"Entlassung": text(left), "Entlassungsgrund": how, "ward": draw.choice(["a", "b"], n)}
    people = {"patient_id": np.arange(40), "sex": draw.choice(["f", "m"], 40)}
    people |= {"Sterbedatum": [day[2 * i] or day[2 * i + 1] for i in range(40)]}
    rule = {"kind": "same_day", "column": "patients.sterbedatum", "of": "stays.entlassung"}
    rule |= {"flag": "stays.entlassungsgrund", "levels": ["Tod"]}
    assert rules({"patients": people, "stays": stays}, "same_day") == [rule]
    (last,) = rules({"patients": people, "stays": stays}, "nothing_after")
    assert last["end"] == "stays.entlassung" and last["levels"] == ["Tod"] and [*last["tables"]] == ["stays"]
    back = np.where(np.arange(n) % 10 == 0, "Tod", how)
    assert not rules({"patients": people, "stays": stays | {"Entlassungsgrund": back}}, "nothing_after")
