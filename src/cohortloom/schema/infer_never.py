"""Which levels never meet in one patient, though chance would have shown it: rules for a draft.

A tumour of the prostate lies in no woman's record. A model of a few hundred patients gives it to one in a hundred all
the same, and a reader sees that first. So for each static category of few levels (sex, treatment arm) and each category
or code of any table: where a level and a value would meet in 15 patients by chance and meet in none, a rule forbids it.
By chance alone that happens in three pairs of ten million.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from cohortloom.schema.drafted import column_of
from cohortloom.schema.sheets import Sheet

__all__ = ["add_never"]

EXPECTED = 15.0  #: Patients in whom both would meet: exp(-15) = 3e-7.
MOST_LEVELS = 4  #: Of the category that decides.
KINDS = ("category", "ordinal", "code")


def add_never(data: dict[str, Any], sheets: Mapping[str, Sheet], head: list[str]) -> None:
    """Add `rules` to a drafted schema.

    Args:
        data: The schema as plain data.
        sheets: Table -> its file.
        head: Takes a comment.
    """
    held, deciding = {}, {}
    for name, table in data["tables"].items():
        for column, spec in table["columns"].items():
            if spec["kind"] not in KINDS or (pairs := _held(sheets[name], table, column, spec)) is None:
                continue
            held[f"{name}.{column}"] = pairs
            if table["role"] == "static" and 2 <= len(spec.get("levels", ())) <= MOST_LEVELS:
                deciding[f"{name}.{column}"] = pairs.rename({"v": "level"})
    rules: list[dict[str, Any]] = []
    done: set[frozenset[str]] = set()
    for first, levels in deciding.items():
        for then, values in held.items():
            if first == then or frozenset((first, then)) in done:
                continue
            for level, never in _never(levels, values).items():
                done.add(frozenset((first, then)))
                given, asked = {"column": first, "in": [level]}, {"column": then, "not_in": never}
                rules.append({"kind": "implies", "if": given, "then": asked})
    if rules:
        data["rules"] = data.get("rules", []) + rules
        head.append("Levels that never meet in a patient of the files are rules: look whether they never can.")


def _held(sheet: Sheet, table: dict[str, Any], column: str, spec: dict[str, Any]) -> pl.DataFrame | None:
    """Each patient `s` with each of its values `v` of a column, as the schema names them."""
    source = table["source"]
    theirs, known = column_of(table, column), spec.get("levels", spec.get("items"))
    if theirs not in sheet.frame.columns or not sheet.subject:
        return None
    values = sheet.ids(theirs).replace(source.get("values", {}).get(column, {}))
    pairs = pl.DataFrame({"s": sheet.ids(sheet.subject), "v": values}).drop_nulls().unique(maintain_order=True)
    return pairs if known is None else pairs.filter(pl.col("v").is_in(list(known)))


def _never(levels: pl.DataFrame, values: pl.DataFrame) -> dict[str, list[str]]:
    """Level -> values that chance would have shown with it; nothing where each value has its own level."""
    both = levels.join(values, on="s")
    share = dict(both.select("s", "level").unique().group_by("level").agg(n=pl.len()).rows())
    n = sum(share.values())
    met = both.group_by("v", "level").agg(pl.len()).pivot("level", index="v", values="len").fill_null(0).sort("v")
    if met.width < 3 or (met.select((pl.exclude("v") > 0).cast(int)).sum_horizontal() == 1).all():
        return {}
    all_of = met.select(pl.exclude("v")).sum_horizontal()
    out = {}
    for level in sorted(share):
        never = met.filter((pl.col(level) == 0) & (all_of * share[level] / n >= EXPECTED))["v"].to_list()
        out |= {level: never} if never else {}
    return out
