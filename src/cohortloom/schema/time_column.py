"""Which column of a sheet is its time, and what never changes within a patient.

A time is a date, or a number with a unit in its name, that varies within a patient; static columns do not.
"""

from __future__ import annotations

import re
from dataclasses import replace

import polars as pl

from cohortloom.schema.profile import Profile, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import TIME_UNITS

__all__ = ["constant_share", "find_time", "said_once"]

_TIME_UNITS = (
    (re.compile(r"(^|_)(minutes?|mins?)($|_)"), "min"),
    (re.compile(r"[a-z]offset$"), "min"),
    (re.compile(r"(^|_)(hours?|hrs?|h)($|_)"), "h"),
    (re.compile(r"(^|_)(seconds?|secs?|s)$"), "s"),
    (re.compile(r"(^|_)(ms|msec|milliseconds?)$"), "ms"),
    (re.compile(r"(^|_)(days?|d)($|_)"), "d"),
    (re.compile(r"(^|_)(weeks?|wks?)($|_)"), "wk"),
    (re.compile(r"(^|_)(months?|mo)($|_)"), "mo"),
    (re.compile(r"(^|_)(years?|yrs?)($|_)"), "a"),
)
_CLOCKLIKE = re.compile(
    r"^(time_?|t|tstart|t_start|start|offset|obstime|obs_time|fu_?time|followup_time|time_.*|.*_time|.*_offset|[a-z_]+(ed|en)_?at)$"
)
_ORDERLIKE = re.compile(r"^(seq|sequence|visit|visit_(no|nr|num|number)|visitnum|wave|enum|order|cycle|session)$")
_END = re.compile(
    r"(^|_)(end|stop|tstop|out|disch|discharge|dischtime|outtime|death|dod|birth|dob|expir|verbatim|valid)|"
    r"(^|_)(entlass|geburt|sterbe|todes|egreso|salida|nacimiento|fallec|defunc|sortie|naissance|deces|d[ée]c[èe]s)|"
    r"(^|_)(bis|alta|fin)(_|$)"
)
_START = re.compile(
    r"(^|_)(start|in|admit|admittime|intime|chart|charttime|starttime|event|visit|measurement|time|date|day|days|obs|"
    r"aufnahme|beginn|abnahme|datum|zeitpunkt|ingreso|inicio|fecha|entr[ée]e|d[ée]but)"
)


def find_time(sheet: Sheet) -> None:
    """Set the time column: a date, or a number with its unit, that varies within a patient."""
    best: tuple[float, str, str | None, str] | None = None
    for i, (name, p) in enumerate(sheet.profiles.items()):
        n = snake(name).rstrip("_")
        if (
            name in (sheet.subject, sheet.visit, sheet.code, sheet.value)
            or p.share_missing > 0.3
            or p.kind in ("empty", "text")
        ):
            continue
        unit, note = None, ""
        since = re.search(r"(^|_)(hours?|hrs?|h|days?|d|min|minutes?)_(since|after|from)_", n)
        if p.kind == "number" and _is_year(n, p) and within_changes(sheet, name):
            p = sheet.profiles[name] = _as_years(p)
        if p.kind == "date":
            score = 3.0 + 0.5 * p.clock_time + (0.25 if "datetime" in n else 0.0)
        else:
            unit = next((u for pattern, u in _TIME_UNITS if pattern.search(n)), None)
            if _ORDERLIKE.search(n) and p.whole and p.low in (0, 1) and p.high < 1000:
                score, unit = 0.5, "order"
            elif unit and (since or not re.search(r"in_|num|per_|count|los|supply|age|birth|length|fu_?|follow", n)):
                score, note = 2.0, "the unit is a guess" if n.endswith("offset") else ""
            elif _CLOCKLIKE.search(n) and n not in ("time_in_hospital", "futime", "fu_time", "followup_time"):
                score, unit, note = 1.5, unit or _unit_of(p), "the unit is a guess"
            elif (aged := _age_unit(n)) and _rises(sheet, name):
                score, unit, note = 1.0, aged, "age: the origin is birth"
            else:
                continue
        score += 0.6 * bool(_START.search(n)) - 2.0 * bool(_END.search(n) and not since) - p.share_missing - 0.01 * i
        if within_changes(sheet, name) == 0.0 or score <= 0:
            continue
        if best is None or score > best[0]:
            best = (score, name, unit, note)
    if best:
        _, sheet.time, sheet.time_unit, sheet.time_note = best


def _is_year(n: str, p: Profile) -> bool:
    """Calendar years, by name and size (2014, 2016, ...)?"""
    named = re.search(r"(^|_)(year|yr|jahr|annee|anno|date|datum)$|^(year|jahr)(_|$)", n) and not re.search(
        "birth|geb|dob|since", n
    )
    return bool(named and p.whole and p.low >= 1850 and p.high <= 2200 and p.distinct > 1)


def _as_years(p: Profile) -> Profile:
    said = "years, read as their first day"
    return replace(p, kind="date", format="%Y", said=said, values=p.values.drop("number"))


def _age_unit(n: str) -> str:
    found = re.search(
        r"(^|_)age_?(in_)?(?P<unit>mo|mos|months?|d|days?|wk|wks|weeks?|y|yrs?|years?)?(_at_(visit|exam\w*))?$", n
    )
    if not found:
        return ""
    return {"m": "mo", "d": "d", "w": "wk", "y": "a", "": "a"}[(found["unit"] or "")[:1]]


def _rises(sheet: Sheet, name: str) -> bool:
    """Does a number grow from row to row of nearly every patient, with a value of its own in nearly every row?"""
    rows = pl.DataFrame({"s": sheet.ids(sheet.subject or ""), "v": sheet.frame[name].cast(pl.Float64, strict=False)})
    step = rows.drop_nulls().select(pl.col("v").diff().over("s")).to_series().drop_nulls()
    return step.len() >= 20 and bool((step > 0).mean() > 0.95)  # type: ignore[operator]


def _unit_of(p: Profile) -> str:
    """The largest usual unit in which no course is longer than a life; "ms" where all are whole thousands."""
    units = ("ms",) if p.distinct > 20 and (p.values["number"] % 1000 == 0).all() else ("d", "h", "min", "s", "ms")
    return next((unit for unit in units if p.high * TIME_UNITS[unit] <= 120 * 365.25), "us")


def within_changes(sheet: Sheet, name: str) -> float | None:
    """Share of a patient's neighbouring rows in which the column differs; None if no patient has two values."""
    return _changes(sheet, name)[0]


def _changes(sheet: Sheet, name: str) -> tuple[float | None, int]:
    """That share, and the number of neighbouring rows it rests on."""
    if sheet.subject is None:
        return None, 0
    pair = pl.DataFrame({"s": sheet.ids(sheet.subject), "v": sheet.frame[name]}).drop_nulls()
    pair = pair.sort("s", maintain_order=True)
    differ = (pair["v"] != pair["v"].shift(1)).filter((pair["s"].shift(1) == pair["s"]).fill_null(False))
    return (float(differ.mean() or 0.0) if differ.len() else None), differ.len()


def said_once(sheet: Sheet, name: str) -> bool:
    """Is a column filled in one row of most patients, where they have several: said at the first visit, for good?"""
    assert sheet.subject
    keys = pl.DataFrame({"s": sheet.ids(sheet.subject), "v": sheet.frame[name]}).drop_nulls("s")
    if keys.height < 1.5 * keys["s"].n_unique():
        return False
    per = keys.group_by("s").agg(
        n=(pl.col("v").is_not_null() & (pl.col("v").cast(pl.String) != "")).sum(), rows=pl.len()
    )
    per = per.filter(pl.col("rows") > 1)
    return bool(per.height >= 5 and (per["n"] == 1).mean() >= 0.5 and (per["n"] > 1).mean() <= 0.02)  # type: ignore[operator]


def constant_share(sheet: Sheet, name: str) -> float | None:
    """How much a column varies within patients, against chance: 0 for a static one, near 1 for a free one.

    Changes between a patient's neighbouring rows divided by those expected if values were dealt at random
    (1 - sum of squared shares), so that a rare drug is not taken for a static. None where fewer than three changes
    would be expected, as then nothing can be told.
    """
    p = sheet.profiles[name]
    if p.distinct < 2:
        return None
    observed, pairs = _changes(sheet, name)
    shares = p.values["count"] / p.values["count"].sum()
    expected = 1 - float((shares**2).sum())
    return None if observed is None or expected * pairs < 3 else observed / expected
