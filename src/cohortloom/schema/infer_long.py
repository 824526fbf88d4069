"""Long files (patient, code, value, unit): a column for each code, or codes with their units and bounds."""

from __future__ import annotations

import re

import polars as pl

from cohortloom.schema.guess import FEW, MAX_LEVELS, guess, item
from cohortloom.schema.infer_roles import GIVEN
from cohortloom.schema.infer_shown import about
from cohortloom.schema.profile import profile, snake
from cohortloom.schema.sheets import Sheet
from cohortloom.schema.units import ucum

__all__ = ["add_items", "pivots", "units_apart", "wide_codes"]

MAX_PIVOT = 60
MAX_ITEMS = 400


def pivots(sheet: Sheet, wanted: list[str]) -> bool:
    """A few numeric codes and nothing else in the row: better one column each, unless they are drugs."""
    if GIVEN.search(snake(sheet.code or "")):
        return False
    rest = [c for c in wanted if c not in (sheet.code, sheet.value, sheet.unit) and sheet.profiles[c].kind != "empty"]
    silent = sheet.frame[sheet.value or ""].cast(pl.String).str.strip_chars().fill_null("") == ""
    rows = pl.DataFrame({"c": sheet.frame[sheet.code or ""], "silent": silent})
    alone = rows.filter(pl.col("silent").mean().over("c") > 0.9).height  # a diagnosis, say: such rows would be lost
    some = alone > 0.02 * rows.height
    return not rest and not some and sheet.profiles[sheet.code or ""].distinct <= MAX_PIVOT


def wide_codes(sheet: Sheet, lookups: list[Sheet], columns: dict, source: dict) -> tuple[str, dict[str, str]]:
    """Fill columns and source of a table with a column for each code; a sentence, and a comment on each column."""
    comments = {}
    names = _lookup(sheet, lookups)
    source |= {"layout": "long", "code": sheet.code, "value": sheet.value, "codes": {}}
    for code, part in _by_code(sheet):
        label, unit = names.get(code.split("|")[0], ("", ""))
        ours = snake(label) if label else snake(code) if not code[:1].isdigit() else f"code_{snake(code)}"
        ours = f"{ours}_{snake(code.split('|')[1])}" if label and "|" in code else ours
        ours = ours if ours not in columns else f"{ours}_{len(columns)}"
        p = profile(part[sheet.value or ""].alias(ours))
        if p.kind != "number":
            continue
        unit = ucum(_unit(sheet, part) or unit) or "1"
        drafted = guess(p, part["__s"], part[sheet.value or ""], "offset")
        if drafted.column is None:
            continue
        if drafted.column["kind"] == "number" and unit != "1":
            drafted.column["unit"] = unit
        drafted.column.pop("missing", None)
        columns[ours] = drafted.column
        source["codes"][code] = ours
        if drafted.marks:
            source.setdefault("missing_in", {})[ours] = list(drafted.marks)
        people = part["__s"].n_unique()
        few = f"{about(people)} patients" if people >= FEW else f"fewer than {FEW} patients"
        comments[ours] = f"{re.sub('; (never missing|[0-9]+% missing)', '', drafted.comment)[:-1]}; {few}."
    said = (
        f'Long file: each "{sheet.code}" becomes a column. For an hourly grid set role = "visit" and '
        'grid = { every = "1h" } in the source.'
    )
    return said, comments


def add_items(sheet: Sheet, lookups: list[Sheet], column: dict) -> str:
    """List the codes of a drafted column of codes, or what stands beside each; a sentence on them."""
    p = sheet.profiles[sheet.code or ""]
    said = f"{p.distinct} different codes" + ("" if column.get("system") else "; name their system")
    if not sheet.value:
        keys = pl.DataFrame({"c": sheet.ids(sheet.code or ""), "s": sheet.ids(sheet.subject or "")})
        people = keys.drop_nulls().group_by("c").agg(pl.col("s").n_unique()).sort("s", "c", descending=[True, False])
        if p.kind == "text" and people.height <= MAX_LEVELS and (people["s"] >= FEW).all():
            column["levels"] = people["c"].to_list()
            said += f"; listed, as each occurs in at least {FEW} patients"
        return f"{said}."
    names, items = _lookup(sheet, lookups), {}
    for code, part in _by_code(sheet):
        number = profile(part[sheet.value])
        if part["__s"].n_unique() < FEW or number.kind != "number" or len(items) >= MAX_ITEMS:
            continue
        label, unit = names.get(code.split("|")[0], ("", ""))
        unit = _unit(sheet, part) or unit
        items[code.replace("|", " ")] = item(number.values["number"], unit, label)
    column["items"] = items
    return said + f"; items for the {len(items)} with numbers in at least {FEW} patients, others without bounds."


def units_apart(sheet: Sheet, source: dict) -> str:
    """Codes that come in several units of at least FEW patients: the rarer ones become codes of their own."""
    if not sheet.unit or not sheet.code or not sheet.subject:
        return ""
    unit = sheet.frame[sheet.unit].cast(pl.String).str.strip_chars()
    rows = pl.DataFrame({"c": sheet.ids(sheet.code), "u": unit, "s": sheet.ids(sheet.subject)}).drop_nulls()
    rows = rows.filter(pl.col("u") != "")
    rows = rows.group_by("c", "u").agg(pl.len().alias("n"), pl.col("s").n_unique()).filter(pl.col("s") >= FEW)
    same = {u: ucum(u) or u.lower() for u in rows["u"].unique()}
    rows = rows.filter(pl.col("u").replace(same) != "1")  # none, unknown
    rows = rows.with_columns(same=pl.col("u").replace(same)).sort("c", "n", "u", descending=[False, True, False])
    usual = rows.group_by("c", maintain_order=True).agg(usual=pl.col("same").first())
    rows = rows.join(usual, on="c", maintain_order="left").filter(pl.col("same") != pl.col("usual"))
    sheet.apart = [f"{c}|{u}" for c, u in rows.select("c", "u").rows()]
    if not sheet.apart:
        return ""
    source["unit"] = sheet.unit
    source["codes"] = {key: key.replace("|", " ") for key in sheet.apart} | {"*": "*"}
    return (
        f" {rows['c'].n_unique()} codes come in several units and are kept apart by them; to have one unit, "
        'give the change: codes."CODE|UNIT" = { column = "CODE", scale = ... }.'
    )


def _by_code(sheet: Sheet) -> list[tuple[str, pl.DataFrame]]:
    """Rows of each code, the codes kept apart by unit last as "code|unit"."""
    assert sheet.code and sheet.subject
    kept = [c for c in (sheet.value, sheet.unit) if c]
    frame = (
        sheet.frame.select(*kept)
        .with_columns(__c=sheet.ids(sheet.code), __s=sheet.ids(sheet.subject))
        .drop_nulls("__c")
    )
    if sheet.apart:
        both = pl.concat_str("__c", pl.lit("|"), pl.col(sheet.unit or "").cast(pl.String).str.strip_chars())
        frame = frame.with_columns(__c=pl.when(both.is_in(sheet.apart)).then(both).otherwise("__c"))
    parts = frame.partition_by("__c", as_dict=True)
    return sorted(((str(k[0]), v) for k, v in parts.items()), key=lambda kv: (-kv[1].height, kv[0]))


def _unit(sheet: Sheet, part: pl.DataFrame) -> str:
    if not sheet.unit:
        return ""
    most = part[sheet.unit].drop_nulls().mode().sort()
    return str(most[0]) if most.len() else ""


def _lookup(sheet: Sheet, lookups: list[Sheet]) -> dict[str, tuple[str, str]]:
    """Code -> (name, unit), from a file without patients that lists the codes."""
    known = sheet.ids(sheet.code or "").drop_nulls().unique()
    best: tuple[float, dict] = (0.5, {})
    for other in lookups:
        for key, p in other.profiles.items():
            if p.kind == "empty" or p.distinct < 0.8 * (p.rows - p.missing):
                continue
            share = float(known.is_in(other.ids(key).drop_nulls().implode()).mean() or 0.0)
            label = next(
                (
                    c
                    for c in other.frame.columns
                    if c != key and re.search(r"label|name|desc|title", snake(c)) and other.profiles[c].kind == "text"
                ),
                None,
            )
            if share > best[0] and label:
                unit = next((c for c in other.frame.columns if re.fullmatch(r"uom|units?|unit_name", snake(c))), None)
                rows = zip(other.ids(key), other.frame[label], other.frame[unit] if unit else [""] * other.frame.height)
                best = (share, {k: (str(v or ""), str(u or "")) for k, v, u in reversed(list(rows))})  # first wins
                other.skip = f"names the codes of {sheet.file}"
    return best[1]
