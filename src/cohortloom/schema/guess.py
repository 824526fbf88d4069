"""From facts about a column to a column of a schema, with a sentence on what was seen and how sure we are.

Levels seen in fewer than five patients are listed, as a draft without them could not read the data, but the comment
names them: fold or drop them before the schema leaves the hands of those who may see the data. Where most levels are
that rare, none is listed and the column is a code. Codes of few patients, values of identifiers and free text are never
printed; bounds are round numbers outside the data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from cohortloom.schema.profile import Profile, decimals_of, outward, snake
from cohortloom.schema.units import guess_unit, ucum, unit_in

__all__ = ["FEW", "MAX_LEVELS", "Guess", "bounds", "grain_of", "guess", "item", "names_things", "system_of"]

#: Fewer patients than this make a level or code rare.
FEW = 5
MAX_LEVELS = 60

_COUNTS = re.compile(
    r"^(n|num|number|count|no)_|_(count|num|number)$|^(visits|refills|quantity|siblings|parity|gravida|enum)$"
)
_ORDERED = re.compile(
    r"stage|grade|(^|_)class($|_)|level|severity|edema|nyha|(^|_)asa($|_)|ecog|performance|killip|risk|"
    r"(^|_)(phq|gad|epds|hads|bdi|pcl|madrs|hamd|whodas|eq_?5d|isi|eortc|qlq|facit|promis)_?\d"
)
_NOMINAL = re.compile(
    r"type|status|code|(^|_)id$|group|sex|gender|trt|treat|arm|race|ethnic|site|center|source|dispo|unit|kind|category|version"
)
_IDS = re.compile(
    r"(^|_)(id|key|uuid|guid|mrn|ssn|npi|dea|nbr|accession|barcode|lot_number|source_value)$|_id_|serial|identifier|"
    r"(auftrags|fall|proben|vorgangs|akten|patienten|versicherten)(nummer|nr)$|(^|_)(kennung|folio|expediente)$|"
    r"^(?!.*(acid|fluid|lipid|oid|rotid|covid|paid|solid|rapid|valid|hybrid|amid|grid)$)[a-z]+[a-z0-9_]{2,}id$"
)
#: Names of what several people share.
_GROUPED = re.compile(
    r"^(family|fam|pedigree|household|kindred|litter)_?(id|no|nr|num|number|key|code)?$|^(fid|mid|pid)$|"
    r"^(father|mother|dad|mom|sire|dam|paternal|maternal|pat|mat|spouse|sibling|twin)_?(id|no|nr|num|number)?$"
)
_FAMILY = "names a family or a relative, by the name; made anew in synthetic data"
#: Names of codes, whatever they are written in.
_CODED = re.compile(
    r"(^|_)(cd|code)$|[a-z]code$|(^|_)(cpt|hcpcs|drg|icd_?(9|10)?|loinc|snomed|ndc|atc|zip\w*|postcode)(_?\d+)?$|"
    r"icd_?(9|10|11)_?(gm|cm|pcs|who|am|ca)$|(^|_)(ops|plz|postleitzahl|codigo_postal|code_postal)(_?\d+)?$|"
    r"place_of_service|(^|_)(modality|modifier|speciali?ty|payer|plan|department|dept|ward|clinic|disposition)$"
)
_QUASI = re.compile(
    r"^(sex|gender|age|race|ethnic\w*|zip\w*|postcode|postal\w*|insurance|marital\w*|language|religion|nationality|region)($|_)|birth|dob|^age|_age$|"
    r"^(geschlecht|sexo|sexe|sesso|alter|edad|plz|postleitzahl|codigo_postal|code_postal|familienstand|estado_civil"
    r"|staatsangeh\w*|nacionalidad|wohnort|gemeinde|provincia|municipio)($|_)|"
    r"^(lat|lon|lng|latitude|longitude|city|town|village|county|district|birthplace|place_of_birth)($|_)"
)
#: Dates of birth and death.
_LIFE = re.compile(
    r"birth|dob|yob|death|dod|geb(urts)?_?(dat|jahr|monat)|naissance|nacimiento|nascita|sterbe|todes|fallec|defunc|deces|d[ée]c[èe]s"
)
#: Yes and no.
_YES_NO = ("yes no", "y n", "true false", "t f", "ja nein", "j n", "sí no", "si no", "s n", "oui non", "o n", "ja nee")
_READ = ("yes", "y", "true", "t")  #: As they are.
#: Names of people and ways to reach them: never levels.
_PERSONAL = re.compile(
    r"^((first|last|given|family|middle|maiden|full|patient|sur|nick)_?name|first|last|surname|forename|vorname|nachname"
    r"|geburtsname|prenom|nom|apellidos?|nombre|cognome|maiden|initials?|e_?mail|(tele)?phone(_.*)?|telefon|fax|ssn|passport"
    r"|telefono|tel[ée]fono|correo(_electr[oó]nico)?|direcci[oó]n|domicilio|drivers?(_licen[cs]e)?|street|strasse|straße|address(_.*)?|adresse|anschrift|name_\d_(family|given.*|text))$"
)
_SENSITIVE = re.compile(
    r"diag|(^|_)icd|hiv|sterbe|verstorben|todes|fallec|defunc|deces|d[ée]c[èe]s|death|dead|died|dod|mortal|expire|^(vital_|disease_)?status$|disease|condition|psych|abuse|genotype|inherit|outcome|drg"
)
_SYSTEMS = (
    ("LOINC", r"^\d{1,5}-\d$", 0.9),
    ("ATC", r"^[A-Z]\d\d[A-Z]{2}(\d\d)?$", 0.9),
    ("ICD-10", r"^[A-TV-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4})?$", 0.9),
    ("ICD-9-CM", r"^([VE]?\d{2,3}(\.?\d{1,2})?)$", 0.98),
    ("NDC", r"^\d{11}$", 0.95),
)


@dataclass
class Guess:
    """A drafted column: its settings (None: left out), the comment, and what its source needs."""

    column: dict[str, Any] | None
    comment: str
    marks: tuple[str, ...] = ()
    extract: bool = False
    format: str = ""
    values: dict[str, str] = field(default_factory=dict)


def bounds(numbers: pl.Series, unit: str) -> dict[str, Any]:
    low, high = outward(float(numbers.min()), float(numbers.max()), unit)  # type: ignore[arg-type]
    places = decimals_of(numbers)
    low, high = (int(b) if b == int(b) else b for b in (low, high))
    return {"low": low, "high": high, **({} if places is None else {"decimals": places})}


def names_things(name: str) -> bool:
    """Does a column's name (snake case) say that its numbers name things, whatever their order?"""
    return bool(_CODED.search(name) or _NOMINAL.search(name))


def guess(p: Profile, patients: pl.Series, cells: pl.Series, clock: str) -> Guess:
    """Draft one column.

    Args:
        p: Facts.
        patients: Patient of each row, as text.
        cells: The column as read.
        clock: Clock of the schema; dates can't stand under another clock than "timestamp".
    """
    name = snake(p.name)
    gone = f"{max(p.share_missing, 0.01):.0%} missing" if p.missing else "never missing"
    gone = "<" + gone if 0 < p.share_missing < 0.005 else gone
    drafted = {"empty": _empty, "number": _number, "date": _date, "text": _text}[p.kind](
        p, name, patients, cells, clock
    )
    if drafted.column is None:
        return drafted
    kind = drafted.column["kind"]
    seldom = _seldom(patients, cells) if kind == "code" else 0.0
    marks = {"missing": False} if not p.missing and seldom <= 0.5 else {}
    if seldom > 0.1:
        drafted.comment += f"; {seldom:.0%} of the cells hold codes of fewer than {FEW} patients, which are never drawn"
    if (kind not in ("identifier", "timestamp") and _QUASI.search(name)) or (
        kind == "timestamp" and re.search(_LIFE, name)
    ):
        marks["quasi_identifier"] = True
    if kind != "identifier" and _SENSITIVE.search(name):
        marks["sensitive"] = True
    drafted.column.update(marks)
    drafted.marks = (*p.sentinels, *drafted.marks)
    sentinel = f"; {', '.join(p.sentinels)} taken as missing" if p.sentinels else ""
    if p.signs and kind in ("number", "count"):
        drafted.extract = True
        sentinel += f"; {p.signs}"
    drafted.comment = f"{drafted.comment}; {gone}{sentinel}."
    return drafted


def _seldom(patients: pl.Series, cells: pl.Series) -> float:
    """Share of the cells whose code fewer than FEW patients hold: never drawn, so no cell can promise to be filled."""
    held = pl.DataFrame({"s": patients, "v": cells.cast(pl.String)}).drop_nulls().group_by("v")
    per = held.agg(pl.col("s").n_unique(), pl.len().alias("n"))
    return float(per.filter(pl.col("s") < FEW)["n"].sum() / max(per["n"].sum(), 1))


def _one_patient_each(patients: pl.Series, cells: pl.Series) -> bool:
    held = pl.DataFrame({"s": patients, "v": cells.cast(pl.String)}).drop_nulls().unique()
    return held["v"].n_unique() == held.height


def _empty(p: Profile, *_: Any) -> Guess:
    return Guess(None, p.said or "holds nothing")


def _number(p: Profile, name: str, patients: pl.Series, cells: pl.Series, clock: str) -> Guess:
    numbers = p.values["number"]
    known = set(numbers.to_list()) if p.distinct <= 12 else set()
    if known == {0.0, 1.0} and re.search(r"^(sex|gender)", name):
        return _levels(p, name, patients, cells, "category", "0 and 1: say which is which in labels")
    if known and known <= {0.0, 1.0}:
        if p.distinct == 2:
            return Guess({"kind": "flag"}, "only 0 and 1: a flag (sure)")
        if _IDS.search(name):
            return Guess(None, f"always {int(p.low)}, says nothing")
        return Guess({"kind": "flag"}, f"always {int(p.low)}: a flag (a guess)")
    if p.whole and _IDS.search(name) and p.distinct == p.rows - p.missing and p.distinct > 1:
        return Guess({"kind": "identifier"}, "a number of its own in every row; made anew in synthetic data")
    if p.whole and p.distinct > 30 and _GROUPED.search(name):
        return Guess({"kind": "identifier"}, _FAMILY)
    if p.whole and p.distinct > 30 and _IDS.search(name) and not _COUNTS.search(name):
        if re.search(r"concept|item|code|class", name) and p.distinct < 0.5 * (p.rows - p.missing):
            system = system_of(p)
            said = f"{_about(p.distinct)} different codes{f' of {system}' if system else '; name their system'}"
            return Guess({"kind": "code", **({"system": system} if system else {})}, said)
        return Guess({"kind": "identifier"}, "numbers of things or people, by the name; made anew in synthetic data")
    if p.whole and _IDS.search(name) and p.distinct <= 30:
        return _levels(p, name, patients, cells, "category", "whole numbers that name things, by the name")
    if p.whole and _CODED.search(name) and p.low >= 0:
        if p.distinct <= 30:
            return _levels(p, name, patients, cells, "category", "whole numbers that name things, by the name")
        system = system_of(p)
        said = f"{_about(p.distinct)} different codes{f' of {system}' if system else '; name their system'}"
        return Guess({"kind": "code", **({"system": system} if system else {})}, f"{said}; codes by the name")
    part = re.search(r"^(month|day)_of_|^birth_(month|day)$", name)
    last = 12 if part and "month" in part[0] else 31
    if part and p.whole and p.low >= 1 and p.high <= last:
        column = {"kind": "number", "unit": "1", "low": 1, "high": last, "decimals": 0}
        return Guess(column, "part of a date, by the name")
    if clock == "timestamp" and _is_year(p, name):
        said = "years of the calendar, read as their first day, so that orders and ages hold"
        return Guess({"kind": "timestamp", "granularity": "year"}, said, marks=p.marks, format="%Y")
    unit = p.unit or unit_in(p.name) or guess_unit(name)
    if p.whole and _COUNTS.search(name) and p.low >= 0:
        _, high = outward(p.low, p.high)
        return Guess({"kind": "count", "high": int(high)}, "whole numbers, and a name that counts")
    few = p.distinct <= 10 and p.high <= 20 and p.low >= -3 and unit is None  # -1, -3: did not know, would not say
    if few and _ORDERED.search(name):
        return _levels(p, name, patients, cells, "ordinal", "few numbers, and a name of steps (likely)")
    if few and p.whole and (_NOMINAL.search(name) or (p.distinct <= 6 and p.rows >= 50)):
        return _levels(p, name, patients, cells, "category", "few whole numbers (likely names of groups; else a count)")
    if few and p.distinct <= 5 and p.rows >= 100:
        return _levels(p, name, patients, cells, "ordinal", "few numbers with steps between (likely)")
    column: dict[str, Any] = {"kind": "number", "unit": unit or "1", **bounds(numbers, unit or "1")}
    said = (
        f'unit "{unit}" {"as the cells say" if p.unit else "guessed from the name"}'
        if unit
        else "unit unknown, please fill in"
    )
    typical = _typical(p, patients)
    tail = "; age above 89 singles people out, consider a cap" if name.startswith("age") and p.high > 89 else ""
    return Guess(column, f"number; {said}; bounds rounded outwards{typical}{tail}", marks=p.marks)


def _is_year(p: Profile, name: str) -> bool:
    """Whole numbers of a calendar, by the name, or by 20 of them under any."""
    inside = p.whole and p.low >= 1880 and p.high <= 2100
    plain = bool(p.values["value"].str.contains(r"^\d{4}$").all())
    return (
        inside
        and plain
        and (p.distinct >= 20 or bool(re.search(r"(^|_)(yob|year|yr|jahr|annee|ano|anno)(_|$)|year$", name)))
    )


def _typical(p: Profile, patients: pl.Series) -> str:
    """Where most values lie, if bounds are far wider (entry errors); rounded, and only for many patients."""
    if patients.n_unique() < 100 or p.distinct < 20:
        return ""
    ordered = p.values.sort("number")
    share = ordered["count"].cum_sum() / ordered["count"].sum()
    low, high = ordered["number"].filter(share >= 0.005)[0], ordered["number"].filter(share >= 0.995)[0]
    if p.high - p.low < 3 * (high - low) or high == low:
        return ""
    low, high = outward(low, high)
    return f" (99 % lie within {low:g} to {high:g}: entry errors beyond?)"


def grain_of(p: Profile) -> str:
    """The finest thing that dates without a time of day name: "day", "month" (2012-05) or "year"."""
    cells = p.values["value"]
    if p.format == "%Y" or cells.str.contains(r"^\d{4}$").all():
        return "year"
    months = p.format and "%d" not in p.format and re.search("%[mbB]", p.format)
    return "month" if months or cells.str.contains(r"^\d{4}(-\d\d)?$").all() else "day"


def _date(p: Profile, name: str, patients: pl.Series, cells: pl.Series, clock: str) -> Guess:
    if clock != "timestamp":
        return Guess(None, f"dates, which have no place on the {clock} clock of this schema")
    grain = {} if p.clock_time else {"granularity": grain_of(p)}
    said = "dates with time of day" if p.clock_time else "dates"
    return Guess(
        {"kind": "timestamp", **grain}, f"{said}; {p.said}" if p.said else said, marks=p.marks, format=p.format
    )


def _text(p: Profile, name: str, patients: pl.Series, cells: pl.Series, clock: str) -> Guess:
    values, filled = p.values["value"], p.rows - p.missing
    if _GROUPED.search(name) and p.distinct > MAX_LEVELS:
        return Guess({"kind": "identifier"}, _FAMILY)
    if _PERSONAL.search(name):
        return Guess({"kind": "identifier"}, "names a person, by the name of the column; made anew in synthetic data")
    words = p.values["value"].str.count_matches(r"\s") + 1
    typical_words = float((words * p.values["count"]).sum() / p.values["count"].sum())
    if p.distinct == 2 and (pair := _yes_no(values)) is not None:
        read: dict[str, str] = {} if pair[0].lower() in _READ else dict(zip(pair, ("yes", "no")))
        return Guess({"kind": "flag"}, "yes and no: a flag (sure)", values=read)
    if (
        re.search(r"desc|comment|note|text|remark|(^|_)sig$|address|(^|_)name$|narrative", name)
        and p.distinct > MAX_LEVELS
    ) or (re.search(r"comment|note|remark|free_?text|address|narrative", name) and typical_words >= 3):
        return Guess(None, "free text, by its name and values; it may name people, so it is not read")
    if values.str.contains(r"^\d{1,2}:\d\d(:\d\d)?(\s*[AaPp][Mm])?$").mean() > 0.95:  # type: ignore[operator]
        return Guess(None, "times of day without a date, which are not read")
    if p.distinct > 0.9 * filled and p.distinct > 20 and typical_words < 3:
        return Guess({"kind": "identifier"}, "nearly every row differs: an identifier, made anew in synthetic data")
    many = p.distinct > MAX_LEVELS or p.distinct > max(20, 0.3 * filled)
    if _IDS.search(name) and many and not system_of(p):
        return Guess({"kind": "identifier"}, "an identifier, by the name; made anew in synthetic data")
    if (typical_words > 6 and p.distinct > 0.3 * filled) or (p.distinct > 0.9 * filled and p.distinct > 20):
        return Guess(None, "free text; it may name people, so it is not read")
    if p.distinct <= MAX_LEVELS and (p.distinct <= 0.5 * filled or p.distinct <= 10):
        if p.distinct > 2 and _intervals(values):  # type: ignore[operator]
            return _levels(p, name, patients, cells, "ordinal", "intervals, lowest first (likely)")
        ordered = (p.distinct > 2 and _steps_of(values) is not None) or set(values.str.to_lowercase()) <= _STEPS
        said = "words of steps, lowest first (likely)" if ordered else f"{p.distinct} words, most frequent first"
        return _levels(p, name, patients, cells, "ordinal" if ordered else "category", said)
    system = system_of(p)
    if not system and p.distinct > MAX_LEVELS and _one_patient_each(patients, cells):
        return Guess(
            {"kind": "identifier"}, "no value comes in two patients: an identifier, made anew in synthetic data"
        )
    said = f", they look like {system}" if system else "; name their system"
    column = {"kind": "code", **({"system": system} if system else {})}
    return Guess(column, f"{_about(p.distinct)} different words or codes{said}; too many for a list of levels")


def _yes_no(words: pl.Series) -> tuple[str, str] | None:
    """The words that mean yes and no, if two words do."""
    by = {str(w).lower(): str(w) for w in words}
    return next(((by[y], by[n]) for y, n in map(str.split, _YES_NO) if {y, n} == by.keys()), None)


#: Scales in words, lowest first.
_SCALES = [
    scale.split("|")
    for scale in (
        "never|almost never|very rarely|rarely|seldom|occasionally|sometimes|often|frequently|usually|very often"
        "|almost always|always",
        "completely disagree|strongly disagree|disagree|somewhat disagree|slightly disagree|rather disagree|neutral"
        "|neither agree nor disagree|undecided|slightly agree|somewhat agree|rather agree|agree|strongly agree"
        "|completely agree",
        "very dissatisfied|dissatisfied|somewhat dissatisfied|neutral|neither|somewhat satisfied|satisfied"
        "|very satisfied",
        "very poor|very bad|poor|bad|fair|average|neutral|good|very good|excellent",
        "not at all|a little bit|a little|slightly|several days|somewhat|moderately|more than half the days|quite a bit"
        "|very much|nearly every day|extremely",
        "none|no|absent|negative|trace|minimal|very mild|mild|mild to moderate|moderate|moderately severe"
        "|moderate to severe|marked|severe|very severe|life threatening|life-threatening|fatal",
        "0|0is|i|ia|ia1|ia2|ia3|ib|ib1|ib2|ib3|ic|ii|iia|iib|iic|iii|iiia|iiib|iiic|iiid|iv|iva|ivb|ivc|v",
        "underweight|normal|normal weight|overweight|obese|obese i|obese ii|obese iii|severely obese",
        "no education|none|primary|lower secondary|secondary|upper secondary|tertiary|university",
        "not difficult at all|slightly difficult|somewhat difficult|moderately difficult|very difficult"
        "|extremely difficult",
        "negative|neg|nil|scanty|trace|+/-|1+|+|2+|++|3+|+++|4+|++++",
        "nie|selten|manchmal|gelegentlich|oft|häufig|meistens|immer",
        "keine|keiner|leicht|gering|mittel|mäßig|stark|schwer|sehr stark",
    )
]


def _plain(word: str) -> str:
    return re.sub(r"^(stage|stadium|grade|class|nyha|ctcae)\s+", "", word.strip().lower())


def _steps_of(words: list[str] | pl.Series) -> list[str] | None:
    """The scale all words stand on, if there is one."""
    plain = {_plain(str(w)) for w in words}
    if len(plain) != len({str(w).casefold() for w in words}) or plain <= {"none", "no", "absent", "negative", "normal"}:
        return None
    return next((scale for scale in _SCALES if plain <= set(scale)), None)


def _intervals(values: pl.Series) -> bool:
    """Are most words intervals (18-29, [30,40)), whose ends lie in order and which do not overlap? 2160-0 is a code,
    and so is 5-511 beside 8-837."""
    shape = r"^[\[(<>=]*\s*(\d+(?:\.\d+)?)\s*(?:-|to|–|,)\s*(\d+(?:\.\d+)?)?"
    low, high = (values.str.extract(shape, k).cast(pl.Float64, strict=False) for k in (1, 2))
    ends = values.str.contains(r"^[<>≤≥]=?\s*\d+(\.\d+)?$|^\d+(\.\d+)?\s*\+$")
    shaped = bool(low.is_not_null().any()) and bool((low.is_not_null() | ends).mean() > 0.6)  # type: ignore[operator]
    apart = pl.DataFrame({"low": low, "high": high}).drop_nulls().sort("low")
    apart = apart.select((pl.col("low") >= pl.col("high").shift(1)).fill_null(True).all()).item()
    return shaped and apart and bool((high.is_null() | (high >= low)).all())


_STEPS = {"none", "mild", "moderate", "severe", "low", "medium", "high", "very high", "normal", "absent", "present"}
_STEP_ORDER = [
    "none",
    "absent",
    "normal",
    "low",
    "mild",
    "medium",
    "moderate",
    "high",
    "severe",
    "very high",
    "present",
]


_SYSTEM_NAMES = (
    (r"icd_?10", "ICD-10"), (r"icd_?9", "ICD-9-CM"), (r"icd", "ICD"), (r"loinc", "LOINC"), (r"(^|_)atc", "ATC"),
    (r"(^|_)ndc", "NDC"), (r"snomed", "SNOMED CT"), (r"rx_?norm", "RxNorm"), (r"(^|_)drg", "DRG"),
    (r"cpt|hcpcs", "CPT"), (r"concept_id", "OMOP"),
)  # fmt: skip


def system_of(p: Profile) -> str:
    """Coding system, by the look of the codes or the name of the column; empty if neither says."""
    name = snake(p.name)
    named = next((system for pattern, system in _SYSTEM_NAMES if re.search(pattern, name)), "")
    if named and named != "ICD":
        return named
    values = p.values["value"]
    for system, pattern, share in _SYSTEMS if p.kind == "text" else ():
        if values.str.contains(pattern).mean() >= share:  # type: ignore[operator]
            return system
    return named


def _levels(p: Profile, name: str, patients: pl.Series, cells: pl.Series, kind: str, said: str) -> Guess:
    """A category or ordinal with its levels: numbers in order, intervals by their start, words by frequency."""
    text = cells.cast(pl.String).str.strip_chars()
    level = text.str.strip_suffix(".0") if p.kind == "number" else text
    levels = (
        [str(int(v)) if v == int(v) else repr(v) for v in sorted(p.values["number"])] if p.kind == "number" else p.texts
    )
    same = _by_case(levels) if p.kind == "text" else {}
    if same:
        levels, level = [v for v in levels if v not in same], level.replace(same)
        said += "; levels that differ by capitals alone are taken together"
    if kind == "ordinal" and p.kind == "text":
        if (scale := _steps_of(levels)) is not None:
            levels = sorted(levels, key=lambda v: scale.index(_plain(v)))
        elif set(map(str.lower, levels)) <= _STEPS:
            levels = sorted(levels, key=lambda v: _STEP_ORDER.index(v.lower()))
        else:
            levels = sorted(levels, key=_first_number)
    seen = pl.DataFrame({"s": patients, "v": level}).group_by("v").agg(pl.col("s").n_unique())
    seen_by = dict(zip(seen["v"], seen["s"]))
    rare = [v for v in levels if seen_by.get(v, 0) < FEW]
    note = ""
    if len(rare) == len(levels) or (len(rare) > 10 and len(rare) > 0.5 * len(levels)):
        few = f"most of its {len(levels)} levels" if len(rare) < len(levels) else "each of its levels"
        return Guess({"kind": "code"}, f"{said}; {few} occurs in fewer than {FEW} patients, so none is listed")
    if rare:
        note = f"; seen in fewer than {FEW} patients, fold or drop before sharing: {', '.join(rare)}"
    if len(levels) == 1:
        said = "always the same"
    return Guess({"kind": kind, "levels": levels}, f"{said}{note}", values=same)


def _by_case(levels: list[str]) -> dict[str, str]:
    """Level -> the most frequent one that is written with other capitals."""
    first: dict[str, str] = {}
    for level in levels:  # most frequent first
        first.setdefault(level.casefold(), level)
    return {level: first[level.casefold()] for level in levels if first[level.casefold()] != level}


def _first_number(text: str) -> tuple[float, str]:
    found = re.search(r"\d+(\.\d+)?", text)
    first = float(found.group()) if found else float("inf")
    return (
        first + (0.5 if text.lstrip("[(").startswith(">") else -0.5 if text.lstrip("[(").startswith("<") else 0),
        text,
    )


def _about(n: int) -> str:
    return str(n) if n < 20 else f"about {round(n, -len(str(n)) + 1):,}"


def item(numbers: pl.Series, unit: str | None, name: str) -> dict[str, Any]:
    """What stands beside one code of a long table."""
    code = (ucum(unit) or "1") if unit else "1"
    label = {"name": name} if name else {}
    return {**label, **({} if code == "1" else {"unit": code}), **(bounds(numbers, code) if numbers.len() else {})}
