"""Which column is the patient, the visit, the time, the code: keys and links between the files of a folder.

Names give candidates, contents decide: the patient column is shared by the files, the visit column is unique in one
file and its values are found again in others, the time varies within a patient, static columns do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import polars as pl

from cohortloom.schema.profile import PAIR, Profile, number_in, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.source import FILE_NAME, FOLDER_NAME, TIME_UNITS
from cohortloom.schema.units import ucum

__all__ = [
    "constant_share",
    "find_codes",
    "find_numbered",
    "find_subject",
    "find_time",
    "find_visit",
    "said_once",
    "same_at_visit",
    "subject_score",
]

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
_NUMBERED = re.compile(
    r"^a?visit(n|num|_?(no|nr|num|number|code|name|seq))?$|^(time_?point|wave|cycle|session|study_event|event_name)(_?(no|nr|num|number))?$|"
    r"^(encounter|contact|exam)_?(no|nr|num|number)$"
)
_END = re.compile(
    r"(^|_)(end|stop|tstop|out|disch|discharge|dischtime|outtime|death|dod|birth|dob|expir|verbatim|valid)|"
    r"(^|_)(entlass|geburt|sterbe|todes|egreso|salida|nacimiento|fallec|defunc|sortie|naissance|deces|d[ée]c[èe]s)|"
    r"(^|_)(bis|alta|fin)(_|$)"
)
_START = re.compile(
    r"(^|_)(start|in|admit|admittime|intime|chart|charttime|starttime|event|visit|measurement|time|date|day|days|obs|"
    r"aufnahme|beginn|abnahme|datum|zeitpunkt|ingreso|inicio|fecha|entr[ée]e|d[ée]but)"
)
_CODE = re.compile(
    r"^(lab|test|obs|measure)_?(name|code|item)$|(^|_)(item_?id|param(eter)?|code|test(_name)?|variable|measure(ment)?|analyte|result_name|loinc|concept_id|drug|"
    r"medication|event|item|ndc|atc|icd(_?(9|10|11))?(_?(gm|cm|pcs|who|am|ca))?(_code)?|ops(_code)?|cpt|"
    r"laborparameter|untersuchung|medikament|wirkstoff|prueba|determinaci[oó]n|par[aá]metro|medicamento|f[aá]rmaco|codigo|c[oó]digo|analyse|"
    r"snomed|(variable|param(eter)?|test|drug|pharma|med)_?id|"
    r"(read|med|prod)_?code(_?id)?)$|(^|_)code_coding_\d_code$|^[a-z]{2}(testcd|decod|term|trt)$|"
    r"^paramcd$"
)
_VALUE = re.compile(
    r"^((lab|test)_?)?(value_?|val|value_?num(ber|eric)?|value_as_number|result|result_value|amount|reading|"
    r"numeric_value|value_quantity_value|[a-z]{2}(stresn|orres)|aval|(mess|labor|ergebnis|befund)?wert|ergebnis|valor|"
    r"resultado|valeur|r[ée]sultat)$"
)


#: Numbers under these names name things, whatever words stand beside them.
_NAMES = re.compile(
    r"(^|_)(code|id|no|nr|ward|room|bed|unit|site|cent(er|re)|group|type|class|stage|grade|version)(_|$)"
)
_DOSE = re.compile(r"^(given|drug|single)?_?(dose|dosage|dosis|dosis_?menge)(_given|_administered|_val(ue)?(_rx)?)?$")
MANY = 10
APART = 3.0  #: Usual doses of two drugs, one by the other.
_UNIT = (
    r"(value|dose|dosage)?_?(uom|units?|unit_source_value|quantity_unit)|[a-z]{2}(stresu|orresu)|"
    r"einheit|unidad(es)?|unit[ée]s?"
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


def find_codes(sheet: Sheet) -> None:
    """Set code, value and unit columns of a long sheet."""
    taken = {sheet.subject, sheet.visit}
    codes = [
        (p.distinct, name)
        for name, p in sheet.profiles.items()
        if name not in taken
        and _CODE.search(snake(name))
        and 2 <= p.distinct < 0.9 * p.rows + 2
        and p.kind in ("text", "number")
        if p.kind == "text" or p.whole
        if not re.search(
            r"(type|unit|value_as|operator|status|source|route)_concept|(unit|quantity|status|category|class)_(\w+_)?code$",
            snake(name),
        )
    ]
    if not codes:
        return
    sheet.code = max(codes)[1]
    named = [n for n in sheet.profiles if n not in (*taken, sheet.code) and _VALUE.search(snake(n))]
    named.sort(key=lambda n: not snake(n).endswith("stresn"))  # in standard units before as reported
    values = [n for n in named if sheet.profiles[n].kind == "number"]
    mixed = [n for n in named if sheet.profiles[n].kind == "text" and _share_of_numbers(sheet.profiles[n]) > 0.3]
    sheet.value = next(iter([*values, *mixed]), None) or _dose(sheet)
    if sheet.value:
        if sheet.value in mixed:
            sheet.split(sheet.value)
        others = [n for n in sheet.profiles if n not in (*taken, sheet.code, sheet.value)]
        for name in sorted(others, key=lambda n: not snake(n).endswith("stresc")):
            more = _says_again(sheet, name)
            if more is not None and more > 0.01:  # <5 has no number beside it
                sheet.split(name)
                sheet.again[sheet.value] = name
                sheet.value = name
            elif more is not None:
                sheet.words_of(name)
    for name, p in sheet.profiles.items():
        if re.fullmatch(_UNIT, snake(name)) and p.kind == "text":
            sheet.unit = name
    if sheet.unit is None and sheet.value:
        sheet.unit = next((n for n in sheet.profiles if n not in taken and _holds_units(sheet.profiles[n])), None)


def _dose(sheet: Sheet) -> str | None:
    """The number beside drugs that each have doses of their own: milligrams of one, units of another."""
    for name, p in sheet.profiles.items():
        if not _DOSE.search(snake(name)) or p.kind != "number" or p.share_missing > 0.5:
            continue
        rows = pl.DataFrame({"c": sheet.ids(sheet.code or ""), "x": sheet.frame[name].cast(pl.Float64, strict=False)})
        usual = rows.drop_nulls().group_by("c").agg(n=pl.len(), m=pl.col("x").median()).filter(pl.col("n") >= MANY)
        if usual.height > 1 and usual["m"].max() > APART * max(usual["m"].min(), 1e-9):  # type: ignore[operator,type-var]
            return name
    return None


def part_words(sheet: Sheet) -> None:
    """Take columns of many numbers and a few words (12.5, negative) for two columns each, numbers and words."""
    for name, p in list(sheet.profiles.items()):
        if p.kind != "text" or name in (sheet.subject, sheet.visit, sheet.time, sheet.code, *sheet.mixed):
            continue
        if _pressures(p):
            sheet.split_pair(name)
            continue
        number = p.values.select(number_in(pl.col("value")).is_not_null()).to_series()
        numbers, words = p.values.filter(number), p.values["value"].filter(~number)
        named = words.len() and words.len() <= 12 and not words.str.contains(r"\d").any()
        plain = not numbers["value"].str.contains(r"^0\d").any() and not _NAMES.search(snake(name))
        if named and plain and numbers.height >= MANY and _share_of_numbers(p) > 0.5:
            sheet.split(name)


def _pressures(p: Profile) -> bool:
    """Does a column hold blood pressures, 120/80?"""
    upper, lower = (p.values["value"].str.extract(PAIR, k).cast(pl.Float64) for k in (1, 2))
    few = 0.05 * p.distinct
    shaped = p.distinct >= MANY and upper.null_count() <= few and int((upper <= lower).sum()) <= few
    return shaped and bool(upper.is_between(80, 200).mean() > 0.8)  # type: ignore[operator]


def _share_of_numbers(p: Profile) -> float:
    """Share of the filled cells of a column of text that are numbers, signs around them or not."""
    number = p.values.select(number_in(pl.col("value")).is_not_null()).to_series()
    return float(p.values["count"].filter(number).sum() / max(p.values["count"].sum(), 1))


def _says_again(sheet: Sheet, name: str) -> float | None:
    """Share of rows in which only a column of text has a number, if it is the value as reported; None if it isn't."""
    if sheet.profiles[name].kind != "text" or not sheet.value:
        return None
    both = sheet.frame.select(
        number_in(pl.col(sheet.value).cast(pl.String)).alias("a"), number_in(pl.col(name).cast(pl.String)).alias("b")
    )
    known = both.drop_nulls("a")
    same = (known["a"] - known["b"]).abs() <= 1e-6 * known["a"].abs().clip(1.0)
    if known.height < 20 or float(same.fill_null(False).mean() or 0.0) < 0.9:
        return None
    return float((both["a"].is_null() & both["b"].is_not_null()).mean() or 0.0)


def _holds_units(p: Profile) -> bool:
    """Are nearly all words of a column units, whatever its name?"""
    if p.kind != "text" or not 2 <= p.distinct <= 200:
        return False
    known = [ucum(str(v)) is not None and bool(re.search(r"[/%]|^mm", str(v))) for v in p.values["value"]]
    return sum(known) >= 0.8 * len(known)


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
        if p.kind == "number" and _is_year(n, p) and _within_changes(sheet, name):
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
        if _within_changes(sheet, name) == 0.0 or score <= 0:
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


def _within_changes(sheet: Sheet, name: str) -> float | None:
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
