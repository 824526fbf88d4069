"""Which sheets list patients, visits and events, and by which clock: for a draft."""

from __future__ import annotations

import re

from cohortloom.schema.code_columns import find_codes, part_words
from cohortloom.schema.guess import MAX_LEVELS
from cohortloom.schema.infer_shown import episodes, strangers
from cohortloom.schema.profile import snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.time_column import constant_share, find_time

__all__ = ["GIVEN", "clock_of", "has_all", "set_roles"]

#: Codes, and tables, of what is given at any time, so their rows are no visits.
GIVEN = re.compile(r"drug|pharma|medic|prod|atc|ndc")
_GIVEN_BY = re.compile(r"drug|pharma|medication|medikament|medicament|prescri|infusion|transfusion|input_?events")


def set_roles(patients: list[Sheet], head: list[str]) -> None:
    """Static: one row per patient. Visit: the sheet with the visit ids, or one wide sheet with a time."""
    for sheet in patients:
        assert sheet.subject
        rows = sheet.frame.height
        if sheet.role != "visit":
            once = sheet.ids(sheet.subject).n_unique() == rows and not sheet.repeats
            sheet.role = "static" if once else "event"
        if sheet.role == "event":
            find_codes(sheet)
        if sheet.role != "static":
            find_time(sheet)
        if not sheet.value:
            part_words(sheet)
    home = next((s for s in patients if s.role == "visit" and s.visit), None)
    between = episodes(home, patients) if home is not None else None
    if home is not None and between is not None:
        head[:] = [line for line in head if not line.startswith(f'"{home.visit}" numbers')]
        head.append(
            f'"{home.visit}" names rows of {home.file}, but rows of {between.file} lie days apart: those are the '
            f"visits, and {home.file} holds events."
        )
        home.role = "event"
        find_codes(home)
        for sheet in patients:
            sheet.visit = None
    if any(s.role == "visit" or s.visits for s in patients):
        return
    wide = []
    for sheet in patients:
        stream = sheet.code and sheet.profiles[sheet.code].distinct > MAX_LEVELS and len(sheet.profiles) <= 8
        given = _GIVEN_BY.search(snake(sheet.name)) or (sheet.code and GIVEN.search(snake(sheet.code)))
        if sheet.role != "event" or stream or given or (sheet.code and (sheet.value or len(sheet.profiles) <= 4)):
            continue
        keys = [k for k in (sheet.subject, sheet.time) if k]
        filled = [
            c
            for c, p in sheet.profiles.items()
            if c not in keys and p.kind != "empty" and (constant_share(sheet, c) or 0) > 0.03
        ]
        unique = sheet.frame.select(keys).n_unique() / sheet.frame.height if sheet.time else 1.0
        per_patient = sheet.frame.height / sheet.ids(sheet.subject).n_unique()  # type: ignore[arg-type]
        if len(filled) >= 3 and unique > 0.98 and per_patient < 400:
            wide.append((len(filled) * sheet.frame.height, sheet))
    if wide:
        best = max(wide, key=lambda w: w[0])[1]
        best.role = "visit"
        best.code = None


def has_all(sheet: Sheet, patients: list[Sheet], head: list[str]) -> bool:
    """Are the patients of all other files in this one, so that it can be their parent? Says so if only nearly."""
    beside = [s for s in patients if s is not sheet and s.subject]
    others = [s.ids(s.subject or "").drop_nulls() for s in beside]
    known = sheet.ids(sheet.subject or "").drop_nulls().unique()
    strange = [int((~o.unique().is_in(known.implode())).sum()) for o in others]
    if any(strange) and known.len() > 5 * max(strange):
        head.append(
            f"Some patients of other files are not in {sheet.file}, so no table hangs on it; add "
            f'parent = "{sheet.name}" to have such rows refused, or dropped with --on-error drop.'
        )
    else:
        for other, theirs, n in zip(beside, others, strange):
            if 2 * (theirs.n_unique() - n) < min(theirs.n_unique(), known.len()):
                head.append(strangers(other, theirs, sheet, known, n))
    return not any(strange)


def clock_of(patients: list[Sheet], head: list[str]) -> str:
    """The clock of most rows."""
    rows = {"timestamp": 0, "offset": 0}
    for sheet in patients:
        if sheet.role != "static" and sheet.time and sheet.time_unit != "order":
            rows["timestamp" if sheet.time_unit is None else "offset"] += sheet.frame.height
    if not any(rows.values()):
        moving = [s for s in patients if s.role != "static"]
        if moving:
            head.append("No file has dates or times: only the order of rows is known (clock = order).")
            return "order"
        return "timestamp"
    clock = max(rows, key=lambda k: rows[k])
    if min(rows.values()):
        head.append(f"Some files have dates and some numbers for times; the clock follows most rows: {clock}.")
    return clock
