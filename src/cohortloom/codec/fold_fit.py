"""What an event table needs to be folded, learned from the rows of training patients; see `fold`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from cohortloom.codec.beside import Beside, distinct_of
from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import ticks_per_day
from cohortloom.codec.columns import QuantileTransform, decimals_of
from cohortloom.codec.course import Course
from cohortloom.codec.fold import (
    CodeFold,
    Fold,
    Rows,
    code_ids,
    each_once,
    folds_to_subject,
    last_of,
    moments_of,
    numbers_of,
    place_of,
    value_ids,
)
from cohortloom.codec.laws import CellLaw, Repeats
from cohortloom.codec.panels import Panels, groups_of, moment_class
from cohortloom.codec.precedence import Precedence, moments
from cohortloom.codec.rare import NO_CODE, RareLaw, beginnings, told
from cohortloom.codec.steps import Steps
from cohortloom.codec.tensors import RARE
from cohortloom.codec.times import Ends, TimeLaw
from cohortloom.schema import Schema, Table

__all__ = ["code_cell", "code_limits", "fit_fold"]

_OFTEN = 5  # moments of a step from which on rows are told as a share of them
_NAMED = 60  # codes with items that get a feature
_SELDOM = 0.01  # chance of a step with rows to hold none of its codes
_FREE = 100  # columns of a course


def code_limits(n_subjects: int, max_codes: int | None) -> tuple[int, int]:
    """Most codes with numbers and without that get a feature; few patients can't carry many columns."""
    if max_codes is not None:
        return max_codes, max_codes
    root = np.sqrt(n_subjects)
    return int(np.clip(1.5 * root, 10, 40)), int(np.clip(3 * root, 20, 100))


def fit_fold(
    schema: Schema,
    table: str,
    rows: Rows,
    steps: Steps,
    ends: Ends,
    *,
    grid: int,
    limit: float | None,
    k_min: int,
    max_codes: int | None,
    bounds: str,
    about: np.ndarray | None = None,
) -> tuple[Fold, dict[str, int]]:
    """Learn how a table folds; also what will be left out (counts). `about`: subject x what is known of the patient."""
    spec, notes = schema.tables[table], dict(rows.notes)
    skip = {spec.code, spec.value} if spec.is_long else set()
    cells = []
    for column in spec.columns:
        if column not in skip:
            cell = Cell.fit(
                schema, table, column, rows.frame[column], rows.subject, rows.reference,
                k_min=k_min, max_levels=100, bounds=bounds,
            )  # fmt: skip
            cells += [cell] if cell else []
    kwargs: dict[str, Any] = {"long": spec.is_long}
    if spec.timed:
        _, of, linked = moments_of(rows)
        kwargs["several"] = bool((np.diff(of) == 0).any())
        kwargs["opens"] = schema.has_visit_id(table) and bool(linked.any() and not linked.all())
    if spec.is_long:
        limits = code_limits(len(steps.length), max_codes)
        learned, most = _fit_codes(schema, table, rows, cells, limits, k_min, bounds, notes)
        fold = Fold(table, folds_to_subject(schema, table), tuple(cells), **kwargs, **learned)
        learned |= _fit_rare(schema, fold, rows, steps, about)
        learned |= _fit_beside(schema, fold, rows, learned["fixed"], k_min)
        learned |= _fit_panels(rows, fold, schema) if fold.several else {}
        holding = len(np.unique(rows.owner))
        kwargs["gated"] = _none_by_chance(fold, rows, spec) < _SELDOM
        kwargs["sparse"] = kwargs["gated"] and not fold.several and min(holding, rows.n_owners - holding) >= k_min
        kwargs |= learned
    else:
        most = np.bincount(rows.owner, minlength=rows.n_owners)
        encoded = [cell.encode(schema, rows.frame[cell.column], rows.reference) for cell in cells]
        kwargs["repeats"] = tuple(
            Repeats.fit(rows.owner, *columns, levels=cell.kind == "category", moment=rows.reference)
            for cell, columns in zip(cells, encoded)
        )
        if most.max(initial=0) > 1:
            every = np.arange(len(rows.owner))
            numbers = [(every[seen], x[seen], cell.law) for cell, (x, seen) in zip(cells, encoded) if cell.law]
            kwargs["course"] = _fit_course(rows, numbers, spec, schema)
        kwargs["code_laws"] = {
            cell.column: {"": CellLaw.fit(*columns, rows.subject, category=cell.kind == "category", k_min=k_min)}
            for cell, columns in zip(cells, encoded)
        }
    if spec.timed:
        kwargs["times"] = TimeLaw.fit(
            steps, rows.owner, rows.reference, rows.linked, most, ends, has_link=schema.has_visit_id(table),
            grid=grid, per_day=ticks_per_day(schema), limit=limit, k_min=k_min, dated=schema.clock == "timestamp",
        )  # fmt: skip
    elif schema.has_visit_id(table):
        kwargs["open_share"] = float((~rows.linked).mean()) if len(rows.linked) else 0.0
    return Fold(table, folds_to_subject(schema, table), tuple(cells), **kwargs), notes


def _fit_codes(
    schema: Schema,
    table: str,
    rows: Rows,
    cells: list[Cell],
    limits: tuple[int, int],
    k_min: int,
    bounds: str,
    notes: dict[str, int],
) -> tuple[dict[str, Any], np.ndarray]:
    """Frequent and rare codes of a long table, and the most rows of one code in each step."""
    spec = schema.tables[table]
    spec_code = spec.code_column()
    public = list(set(spec_code.levels or ()) | set(spec_code.items))
    names, numbers = rows.frame[spec.code or ""].cast(pl.String), numbers_of(rows.frame, spec)
    stems = beginnings(names, rows.subject, public, spec_code.system, k_min)
    enough = pl.DataFrame({"code": names, "subject": rows.subject}).group_by("code").agg(pl.col("subject").n_unique())
    kept = enough.filter(pl.col("subject") >= k_min)["code"].drop_nulls().to_list()
    raw, names = names, told(names, [*kept, *public], stems)
    held = (
        pl.DataFrame({"code": names, "subject": rows.subject, "number": np.isfinite(numbers)})
        .group_by("code")
        .agg(
            pl.col("subject").n_unique().alias("patients"),
            pl.len().alias("rows"),
            pl.col("number").sum().alias("numbers"),
            pl.col("subject").filter("number").n_unique().alias("patients_with_number"),
        )
        .sort("patients", "rows", "code", descending=[True, True, False])
    )
    safe = held.filter(pl.col("patients") >= k_min)
    numeric = (pl.col("patients_with_number") >= k_min) & (pl.col("numbers") >= 0.1 * pl.col("rows"))
    named = pl.col("code").is_in(list(spec_code.items))
    with_number = safe.filter(numeric & named).head(max(limits[0], _NAMED))["code"].to_list()
    with_number += safe.filter(numeric & ~named).head(max(limits[0] - len(with_number), 0))["code"].to_list()
    without = safe.filter(~numeric).head(limits[1])["code"].to_list()
    chosen = sorted(with_number) + sorted(without)
    rest = held.filter(~pl.col("code").is_in(chosen))
    drawable = rest.filter((pl.col("patients") >= k_min) | pl.col("code").is_in(public))
    never = int(rest["rows"].sum() - drawable["rows"].sum())
    for what, n in (
        (f"rows of codes held by fewer than {k_min} patients, told by their beginning", int((raw != names).sum())),
        (f"rows of codes held by fewer than {k_min} patients, never drawn", never),
    ):
        if n:
            notes[f"{table}: {what}"] = n
    every = chosen + drawable["code"].to_list()
    ids = code_ids(names, every)
    ids[(ids < 0) & (names == NO_CODE).to_numpy()] = -2
    _, written = np.unique(raw.fill_null("").to_numpy(), return_inverse=True)
    pair = rows.owner * (int(written.max(initial=0)) + 1) + written.reshape(-1)
    once = len(np.unique(pair)) >= 0.99 * len(pair)
    ids = each_once(ids, rows.owner) if once and stems else ids
    order = np.argsort(ids, kind="stable")
    edge = np.searchsorted(ids[order], np.arange(len(every) + 1))
    parts = {code: order[edge[i] : edge[i + 1]] for i, code in enumerate(every)}
    most = np.zeros(rows.n_owners, np.int64)
    encoded = {c.column: (c, *c.encode(schema, rows.frame[c.column], rows.reference)) for c in cells}
    laws: dict[str, dict[str, CellLaw]] = {column: {} for column in encoded}
    for column, (cell, values, observed) in encoded.items():
        laws[column][""] = CellLaw.fit(values, observed, rows.subject, category=cell.kind == "category", k_min=k_min)
    value = spec.value
    if value is not None:
        laws[value] = {}
    codes, repeated, pairs, courses, free = [], 0, 0, [], []
    for code, at in parts.items():
        owner, subject = rows.owner[at], rows.subject[at]
        n = np.bincount(owner, minlength=1)
        np.maximum(most[: len(n)], n, out=most[: len(n)])
        repeated, pairs = repeated + int((n > 1).sum()), pairs + int((n > 0).sum())
        for column, (cell, values, observed) in encoded.items():
            every_code = laws[column][""].law
            law = CellLaw.fit(
                values[at], observed[at], subject, category=cell.kind == "category", k_min=k_min,
                usual=None if every_code is None else every_code.spikes,
            )  # fmt: skip
            if law.known and len(np.unique(subject)) >= k_min:
                laws[column][code] = law
        x = numbers[at]
        has = np.isfinite(x)
        if code in chosen:
            cell = repeats = None
            if code in with_number:
                cell = code_cell(spec, table, code, x, subject, k_min, bounds)
                repeats = Repeats.fit(owner, x, has)
                courses.append((at[has], x[has], cell.law))
            bare = bool((n[np.setdiff1d(owner, owner[has])] > 0).any())
            counted = bool((n > 1).any()) or (cell is not None and bare)
            codes.append(CodeFold(code, cell, repeats or Repeats(), counted, bare))
        elif value is not None:
            cell = code_cell(spec, table, code, x, subject, k_min, bounds)
            laws[value][code] = CellLaw(empty=float(1 - has.mean()), law=cell.law)
            if cell.law is not None and len(free) < _FREE - len(with_number) and len(np.unique(subject[has])) >= k_min:
                free.append(code)
                courses.append((at[has], x[has], cell.law))
    moment = moments(rows.owner, rows.reference)
    written = np.argsort(moment, kind="stable")
    return {
        "order": Precedence.fit(moment[written], ids[written], len(every)),
        "codes": tuple(codes),
        "rare": tuple(drawable["code"].to_list()),
        "rare_share": tuple(drawable["rows"].cast(pl.Float64).to_list()),
        "code_laws": laws,
        "once": once if stems else repeated <= 0.01 * pairs,
        "course": _fit_course(rows, courses, spec, schema) if courses and (repeated or free) else None,
        "free": tuple(free),
        "stems": stems,
    }, most


def _none_by_chance(fold: Fold, rows: Rows, spec: Table) -> float:
    """Share of the steps with rows that would hold no code if each were there by itself; 1 for a single code."""
    ids = code_ids(fold.names(rows.frame[spec.code or ""]), [c.code for c in fold.codes])
    ids = np.where(ids == -1, len(fold.codes), ids)  # rare ones are counted together
    known = ids >= 0
    pairs = np.unique(np.stack([ids[known], rows.owner[known]]), axis=1)[0]
    there = np.bincount(pairs)[np.unique(pairs)] / max(len(np.unique(rows.owner)), 1)
    return float(np.prod(1 - there)) if len(there) > 1 else 1.0


def _fit_rare(schema: Schema, fold: Fold, rows: Rows, steps: Steps, about: np.ndarray | None) -> dict[str, Any]:
    """Columns that are features of the step, and which rare codes a step holds."""
    fixed = tuple(
        cell.column
        for cell in fold.cells
        if cell.kind == "category" and _one_level(cell.ids(rows.frame[cell.column]), rows.owner)
    )
    fold = replace(fold, fixed=fixed)
    if not fold.rare:
        return {"fixed": fixed}
    subject = np.arange(rows.n_owners) if fold.per_subject else steps.subject
    names = fold.names(rows.frame[schema.tables[fold.table].code or ""])
    ids = code_ids(names, [*(c.code for c in fold.codes), *fold.rare])
    n_codes = len(fold.codes)
    present = np.zeros((rows.n_owners, n_codes), bool)
    own = (ids >= 0) & (ids < n_codes)
    present[rows.owner[own], ids[own]] = True
    levels = {
        cell.column: last_of(cell.encode(schema, rows.frame[cell.column], rows.reference), rows)[0]
        for cell in fold.cells
        if cell.column in fixed
    }
    about = np.zeros((rows.n_owners, 0)) if about is None else about[subject]
    rare = ids >= n_codes
    law = RareLaw.fit(
        fold.facts(present, levels, about), subject, rows.owner[rare], ids[rare] - n_codes, len(fold.rare)
    )
    return {"fixed": fixed, "rare_law": law}


def _one_level(ids: np.ndarray, owner: np.ndarray) -> bool:
    """Are there levels, and is it one for all rows of (nearly) every step with several?"""
    seen = ids >= RARE
    if len(np.unique(ids[seen])) < 2:
        return False
    n = np.bincount(owner[seen])
    least, most = np.full(len(n), 2**31), np.zeros(len(n), np.int64)
    np.minimum.at(least, owner[seen], ids[seen])
    np.maximum.at(most, owner[seen], ids[seen])
    several = n > 1
    return bool(several.sum() >= 20 and (least == most)[several].mean() >= 0.99 and seen.mean() >= 0.5)


def _fit_beside(schema: Schema, fold: Fold, rows: Rows, fixed: tuple[str, ...], k_min: int) -> dict[str, Any]:
    """How levels beside a code go with the number of the row and with each other."""
    spec = schema.tables[fold.table]
    _, code = np.unique(fold.names(rows.frame[spec.code or ""]).to_numpy(), return_inverse=True)
    group = rows.subject * (code.max(initial=0) + 1) + code.reshape(-1)
    order = np.lexsort((rows.reference, group))
    numbers = numbers_of(rows.frame, spec)
    values = distinct_of(numbers, rows.subject, k_min) if spec.value is not None else ()
    others = {"": (value_ids(numbers, values)[order], len(values) + 2)} if values else {}
    found = {}
    for cell in fold.cells:
        if cell.kind == "category" and cell.column not in fixed:
            ids = cell.ids(rows.frame[cell.column])[order]
            found[cell.column] = Beside.fit(ids, others, group[order], len(cell.levels) + 2)
            others = others | {cell.column: (ids, len(cell.levels) + 2)}
    return {"beside": found, "values": values}


def _fit_course(rows: Rows, columns: list, spec: Table, schema: Schema) -> Course:
    """Times without a clock are places in the order of a patient's rows."""
    time = rows.reference / ticks_per_day(schema) if spec.timed else place_of(rows.subject)
    return Course.fit(rows.subject, rows.owner, time, columns)


def _fit_panels(rows: Rows, fold: Fold, schema: Schema) -> dict[str, Any]:
    """Codes that are counted together, and where codes like to stand."""
    codes, n_codes = fold.codes, len(fold.codes)
    names = fold.names(rows.frame[schema.tables[fold.table].code or ""])
    ids = code_ids(names, [c.code for c in codes])
    moment, of, linked = moments_of(rows)
    own, counted = ids >= 0, np.array([c.counted for c in codes], bool)
    panel = _is_panel(rows, ids, n_codes)
    if panel:
        _, unit = np.unique(np.where(counted, n_codes, np.arange(n_codes)), return_inverse=True)
    else:
        pairs, n = np.unique(moment[own] * max(n_codes, 1) + ids[own], return_counts=True)
        twice = np.bincount(pairs % max(n_codes, 1), n > 1, n_codes)
        once = twice < 0.001 * np.bincount(pairs % max(n_codes, 1), minlength=n_codes)
        unit = groups_of(moment[own], ids[own], counted & once)
    often = np.bincount(ids[own], minlength=n_codes)
    groups = []
    for one in np.unique(unit):
        members = np.flatnonzero(unit == one)
        if len(members) > 1 or (panel and counted[members[0]]):
            groups.append(tuple(int(i) for i in members[np.argsort(-often[members], kind="stable")]))
    time = np.zeros(len(of), np.int64)
    time[moment] = rows.reference
    found = Panels.fit(unit.reshape(-1), moment, ids, of, moment_class(of, linked, time), time)
    shares = [] if panel else [f"{fold.table}.[{codes[g[0]].code}]" for g in groups if _often(moment, ids, of, g)]
    alone = set(range(n_codes)) - {i for group in groups for i in group}
    shares += [f"{fold.table}.{codes[i].code}" for i in sorted(alone) if counted[i] and _often(moment, ids, of, (i,))]
    return {"groups": tuple(groups), "panel": panel, "panels": found, "shares": tuple(shares)}


def _often(moment: np.ndarray, ids: np.ndarray, of: np.ndarray, group: tuple[int, ...]) -> bool:
    """Does a step that holds a group hold it at several moments, as a rule?"""
    n = np.bincount(of[np.unique(moment[np.isin(ids, group)])])
    return bool((n > 0).any() and np.median(n[n > 0]) >= _OFTEN)


def _is_panel(rows: Rows, ids: np.ndarray, n_codes: int) -> bool:
    """Where a step has several moments, do the frequent codes it holds stand at 60 % of them, once each?"""
    n_moments = np.bincount(moments_of(rows)[1], minlength=rows.n_owners).astype(float)
    own = np.flatnonzero((ids >= 0) & (ids < n_codes))
    pairs, n = np.unique(rows.owner[own] * max(n_codes, 1) + ids[own], return_counts=True)
    of = n_moments[pairs // max(n_codes, 1)] if len(pairs) else n_moments[:0]
    several = of > 1
    return bool(several.sum() >= 20 and (n[several] / of[several]).mean() >= 0.6 and (n > of).mean() < 0.001)


def code_cell(spec: Table, table: str, code: str, x: np.ndarray, subject: np.ndarray, k_min: int, bounds: str) -> Cell:
    """The numbers of one code, with the bounds of its item."""
    item, column = spec.code_column().items.get(code), spec.value_column()
    known = [source for source in (item, column) if source is not None]
    low, high, decimals = (
        next((getattr(s, key) for s in known if getattr(s, key) is not None), None)
        for key in ("low", "high", "decimals")
    )
    if decimals is None:
        decimals = decimals_of(x)
    law = QuantileTransform.fit(x, k_min, decimals=decimals, low=low, high=high, subject=subject)
    if bounds == "data" and law.n:
        low, high = (law.ends[0] if low is None else low), (law.ends[1] if high is None else high)
    return Cell(table, spec.value or "", "number", decimals=decimals, low=low, high=high, law=law)
