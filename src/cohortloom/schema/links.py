"""Which column is the patient and which the visit: keys and links between the files of a folder.

Names give candidates, contents decide: the patient column is shared by the files, the visit column is unique in one
file and its values are found again in others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

from cohortloom.schema.profile import Profile, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import FILE_NAME, FOLDER_NAME
from cohortloom.schema.time_column import find_time

__all__ = ["find_numbered", "find_subject", "find_visit", "idlike", "same_at_visit", "subject_score"]

_SUBJECT = frozenset(
    [
        "subject_id",
        "patient_id",
        "iid",
        "person_id",
        "patient_nbr",
        "patient_no",
        "patient_number",
        "patient_num",
        "record_id",
        "pid",
        "mrn",
        "usubjid",
        "subjid",
        "subject_number",
        "ptid",
        "patid",
        "patient",
        "subject",
        "person",
        "patientid",
        "subjectid",
        "personid",
        "participant_id",
        "participant",
        "ssid",
    ]
)
_PERSON = re.compile(
    r"(^|_)(patient(en|e|s)?|subject|person(en)?|participant|proband(en)?|sujet|paciente|paziente)(_|$)|_(pid|mrn)$"
)
_VISIT = re.compile(
    r"(^|_)(visit|hadm|encounter|enc|admission|episode)(_|$).*(id|no|nr|num|number|occurrence)|^csn$|^hadm_id"
)
_STAY = re.compile(r"(^|_)(stay|icustay)_?id$")
_NUMBERED = re.compile(
    r"^a?visit(n|num|_?(no|nr|num|number|code|name|seq))?$|^(time_?point|wave|cycle|session|study_event|event_name)(_?(no|nr|num|number))?$|"
    r"^(encounter|contact|exam)_?(no|nr|num|number)$"
)


def idlike(p: Profile) -> bool:
    if p.kind == "number":
        return p.whole and p.low >= 0
    return p.kind == "text" and p.values["value"].str.len_chars().max() <= 64  # type: ignore[operator]


def subject_score(name: str) -> float:
    """How much a column's name says that it names patients; 0: nothing."""
    if name in (FILE_NAME, FOLDER_NAME):
        return 4.0
    n = snake(name).rstrip("_")
    if n in _SUBJECT:
        return 3.0
    if _PERSON.search(n) and re.search(r"id|nbr|num|no|key|code|_patient$|^patient|ref", n) and "source_value" not in n:
        return 2.5
    return 2.0 if n == "id" else 0.0


def find_subject(sheets: list[Sheet]) -> str:
    """Set `subject` of every sheet that has patients.

    Returns:
        Words on what was taken and why.
    """
    total: dict[str, float] = {}
    for sheet in sheets:
        for i, (name, p) in enumerate(sheet.profiles.items()):
            if p.kind == "empty" or not idlike(p) or p.share_missing > 0.05:
                continue
            score = subject_score(name)
            if score == 0 and i == 0:
                score = 0.5 + 0.5 * bool(re.search(r"(id|nr|no|key)$", snake(name)))
            if score:
                total[name] = max(total.get(name, 0.0), score)
    for name in total:
        total[name] += 2 * _sharing(name, sheets) / len(sheets)
    if not total:
        return ""
    best = max(total, key=lambda n: total[n])
    beside = ""
    if (other := _in_more_files(best, total, sheets)) is not None:
        beside = f'; "{best}" is in fewer, so each "{other}" counts as a patient: mind split --group'
        best = other
    for sheet in sheets:
        sheet.subject = best if best in sheet.profiles else None
    with_key = [s for s in sheets if s.subject]
    known = pl.concat([s.ids(best) for s in with_key]).unique().drop_nulls()
    for sheet in sheets:
        if sheet.subject is None:
            for name, p in sheet.profiles.items():
                if (
                    p.kind != "empty"
                    and idlike(p)
                    and (score := subject_score(name)) >= 2
                    and _same_people(sheet.ids(name), known, sure=score > 2 or p.kind == "text")
                ):
                    sheet.subject = name
                    break
    sure = "sure" if total[best] >= 4 else "likely" if total[best] >= 2.5 else "a guess"
    if best == FILE_NAME:
        return "patients are told apart by the files' names: a file each"
    if best == FOLDER_NAME:
        return "patients are told apart by the folders' names: a folder each"
    return (
        f'patients are told apart by "{best}" ({sure}: its name, and {len(with_key)} of {len(sheets)} files have it)'
        f"{beside}"
    )


def _in_more_files(best: str, names: Iterable[str], sheets: list[Sheet]) -> str | None:
    """An id that stands beside the patient's wherever that is, and alone in more files: of admissions, say."""
    own = [s for s in sheets if best in s.profiles]
    more = {n: _sharing(n, sheets) for n in names if n != best and all(n in s.profiles for s in own)}
    found = max(more, key=lambda n: more[n], default=None)
    return found if found is not None and more[found] >= max(3, 2 * len(own)) else None


def _inside(values: pl.Series, known: pl.Series) -> float:
    """Share of distinct values that are known."""
    values = values.drop_nulls().unique()
    return float(values.is_in(known.implode()).mean() or 0.0) if values.len() else 0.0


def _sharing(name: str, sheets: list[Sheet]) -> int:
    """How many files have the column, those left out whose values no other file knows: every table has an "id"."""
    found = [s.ids(name).drop_nulls().unique() for s in sheets if name in s.profiles]
    if len(found) < 2:
        return len(found)
    met = [any(_inside(a, b) > 0.3 or _inside(b, a) > 0.3 for b in found if b is not a) for a in found]
    return sum(met)


def _same_people(values: pl.Series, known: pl.Series, *, sure: bool) -> bool:
    """Do two columns name the same people? Running numbers (not `sure`) must also hold all that are known."""
    return _inside(known, values) > 0.9 or (sure and _inside(values, known) > 0.9)


def find_visit(sheets: list[Sheet]) -> str:
    """Set `visit` of the sheets that carry a visit id, and role "visit" of the one that lists the visits."""
    best: tuple[float, Sheet, str] | None = None
    for sheet in sheets:
        if sheet.subject is None or _one_row_each(sheet):
            continue
        for name, p in sheet.profiles.items():
            if name == sheet.subject or p.kind == "empty" or not idlike(p) or p.share_missing or p.distinct < p.rows:
                continue
            n = snake(name)
            n = f"{_stem(sheet)}_id" if n in ("id", "key") else n
            score = 3.0 if _VISIT.search(n) else 2.0 if _STAY.search(n) else 0.0
            others = sum(_carries(other, name, sheet) is not None for other in sheets if other is not sheet)
            score += others
            if score >= 2 and (others or score >= 2) and (best is None or score > best[0]):
                best = (score, sheet, name)
    if best is None:
        return ""
    _, home, name = best
    home.role, home.visit = "visit", name
    for sheet in sheets:
        if sheet is not home and sheet.subject:
            sheet.visit = _carries(sheet, name, home)
    return f'"{name}" numbers the visits: unique in "{home.file}", found again in the files that hang on it'


def find_numbered(sheets: list[Sheet]) -> str:
    """Visits that have a number within each patient (visit 1, 2, ...; week 4) where no id tells them apart.

    Sets `visit` of the sheets that carry the number, and role "visit" of the one that lists visits; where all are long,
    `visits` of the one whose rows name them all.
    """
    tried = [s for s in sheets if s.subject and not _one_row_each(s)]
    names = {n for s in tried for n, p in s.profiles.items() if _NUMBERED.search(snake(n)) and _tells(p)}
    best: tuple[tuple[bool, int, int, bool], Sheet, str] | None = None
    for name in sorted(names):
        pairs = {id(s): _pairs(s, name) for s in tried if name in s.profiles and _tells(s.profiles[name])}
        for sheet in tried:
            if id(sheet) not in pairs:
                continue
            own = pairs[id(sheet)]
            lists = own.height == sheet.frame.height
            if own.height < 1.2 * own["s"].n_unique() or (lists and len(pairs) == 1):
                continue
            if not lists and (own.height > 0.6 * sheet.frame.height or not _at_once(sheet, name)):
                continue
            inside = sum(p.join(own, on=["s", "v"], how="anti").is_empty() for p in pairs.values())
            more = 0 if lists else len(same_at_visit(sheet, name))
            rank = (lists, inside, more, sheet.profiles[name].kind == "number")
            if (not lists or inside > 1) and (best is None or rank > best[0]):
                best = rank, sheet, name
    if best is None:
        return ""
    (lists, *_), home, name = best
    home.visit = name
    home.role, home.visits = ("visit", False) if lists else (home.role, True)
    known = _pairs(home, name)
    for sheet in tried:
        if sheet is not home and name in sheet.profiles and _tells(sheet.profiles[name]):
            sheet.visit = name if _pairs(sheet, name).join(known, on=["s", "v"], how="anti").is_empty() else None
    where = f'"{home.file}" lists them' if lists else f'one is made of the rows of "{home.file}" that share it'
    return f'"{name}" numbers the visits of each patient: {where}'


def _tells(p: Profile) -> bool:
    return p.kind in ("number", "text") and not p.missing and 2 <= p.distinct <= 1000


def _pairs(sheet: Sheet, name: str) -> pl.DataFrame:
    return pl.DataFrame({"s": sheet.ids(sheet.subject or ""), "v": sheet.ids(name)}).unique()


def _at_once(sheet: Sheet, name: str) -> bool:
    """Do rows with one number lie on one day?"""
    find_time(sheet)
    if sheet.time is None or sheet.time_unit == "order":
        return False
    day = sheet.frame[sheet.time].cast(pl.String).str.slice(0, 10)
    rows = pl.DataFrame({"s": sheet.ids(sheet.subject or ""), "v": sheet.ids(name), "d": day})
    return bool((rows.group_by("s", "v").agg(pl.col("d").n_unique())["d"] == 1).mean() >= 0.8)  # type: ignore[operator]


def same_at_visit(sheet: Sheet, visit: str) -> list[str]:
    """Columns that hold one value in all rows of a visit."""
    assert sheet.subject
    keys = {sheet.subject, visit, sheet.time, sheet.code, sheet.value, sheet.unit}
    rest = [
        c
        for c in sheet.frame.columns
        if c not in keys and sheet.profiles[c].distinct + bool(sheet.profiles[c].missing) > 1
    ]
    at = sheet.frame.select(rest).with_columns(__s=sheet.ids(sheet.subject), __v=sheet.ids(visit))
    held = at.group_by("__s", "__v").agg(pl.col(rest).n_unique())
    return [c for c in rest if (held[c] == 1).mean() >= 0.99]  # type: ignore[operator]


def _stem(sheet: Sheet) -> str:
    """What a file is a list of: encounters -> encounter."""
    return snake(sheet.name).removesuffix("s")


def _carries(sheet: Sheet, name: str, home: Sheet) -> str | None:
    """The column of another sheet that holds the visit ids of `home`."""
    known, stem = home.ids(name), _stem(home)
    own = snake(name) in ("id", "key")  # called after the file elsewhere
    for other, p in sheet.profiles.items():
        n = snake(other)
        called = n == stem or n.startswith(f"{stem}_") if own else other == name or other.startswith(f"{name}_")
        if called and p.kind != "empty" and _inside(sheet.ids(other), known) > 0.9:
            return other
    return None


def _one_row_each(sheet: Sheet) -> bool:
    return sheet.subject is not None and sheet.ids(sheet.subject).n_unique() == sheet.frame.height
