"""Which columns of a long sheet are its code, value and unit, and which hold numbers and words at once."""

from __future__ import annotations

import re

import polars as pl

from cohortloom.schema.profile import PAIR, Profile, number_in, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.units import ucum

__all__ = ["find_codes", "part_words"]

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
