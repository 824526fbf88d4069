"""Child events folded into steps.

A wide table gives a step its last value of each column and "table#n", the number of rows. A long table gives, for each
frequent code,

    with numbers      "labs.50912" (last number) and, where a step ever holds several rows, "labs.50912#n" (rows)
    without numbers   "diagnoses.I10" (no/yes), or "diagnoses.I10#n" (rows) where a step ever holds several

and "labs.#rare", the number of rows of all other codes. Where a step ever holds several moments, "labs#n" is their
number, and "labs#open" how many of them lie outside of any visit. Codes that are mostly recorded together (a panel of
tests) are counted together, so that a model need not draw one number many times over: "labs.[50912]#n" is the number of
moments that hold any code of the group around 50912, and "labs.50912#less", in place of "labs.50912#n", at how many of
them the code is missing. Where that is the whole table, "labs#n" is the count of the group. What stands at many moments
is told by its "#share" of them: a heart rate every hour is one fact about a stay, however long.

A code is frequent if at least `k_min` patients hold it and it is among the most frequent ones, or has numbers and an
item in the schema. On decoding, rare rows are drawn from the codes behind "#rare" that at least `k_min` patients hold
(`rare`); codes of fewer patients are never stored, only told by their beginning or counted in the notes. Rows without a
code count as rows of one more code. A column beside the code that is the same for all rows of a step (the version of a
code system) is a feature of the step.

Untimed tables that hang on the subject fold into its statics in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from cohortloom.codec.beside import Beside, distinct_of
from cohortloom.codec.cells import RESERVED_LEVELS, Cell
from cohortloom.codec.clock import ticks_of, ticks_per_day
from cohortloom.codec.columns import QuantileTransform, decimals_of
from cohortloom.codec.course import Course
from cohortloom.codec.laws import CellLaw, Repeats
from cohortloom.codec.panels import Panels, groups_of, moment_class
from cohortloom.codec.precedence import Precedence, moments
from cohortloom.codec.rare import NO_CODE, RareLaw, beginnings, told
from cohortloom.codec.steps import Steps, place, subject_rows
from cohortloom.codec.tensors import RARE, Feature
from cohortloom.codec.times import Ends, TimeLaw
from cohortloom.schema import Schema, Table

__all__ = ["CodeFold", "Fold", "Rows", "code_cell", "code_limits", "fit_fold", "folds_to_subject", "rows_of"]

_OFTEN = 5  # moments of a step from which on rows are told as a share of them
_NAMED = 60  # codes with items that get a feature
_FREE = 100  # columns of a course
_YES_NO = RESERVED_LEVELS + ("no", "yes")


@dataclass(frozen=True)
class Rows:
    """Rows of an event table with the step (or subject) they fall in.

    Args:
        frame: Rows that fall somewhere.
        owner: Step of each row, or subject for tables that fold into statics.
        subject: Subject of each row.
        linked: Does the row name its visit?
        reference: Time of each row, or of what it falls in; its timestamps count from there [ticks].
        n_owners: Number of steps (subjects).
        notes: What fell nowhere, or elsewhere than it said (counts).
    """

    frame: pl.DataFrame
    owner: np.ndarray
    subject: np.ndarray
    linked: np.ndarray
    reference: np.ndarray
    n_owners: int
    notes: Mapping[str, int]


@dataclass(frozen=True)
class CodeFold:
    """One frequent code of a long table.

    Args:
        code: The code.
        cell: Its numbers; None: presence only.
        repeats: Its rows beside the last one of a step.
        counted: Is there a "#n" feature?
        bare: May a step hold rows of the code without any number?
    """

    code: str
    cell: Cell | None
    repeats: Repeats
    counted: bool
    bare: bool


@dataclass(frozen=True)
class Fold:
    """How one event table folds and unfolds. Make one with `fit_fold`.

    Args:
        table: Its name.
        per_subject: Does it fold into statics?
        cells: Wide: all columns. Long: columns beside code and value.
        repeats: Wide: rows of a step beside its last one, column by column.
        codes: Long: frequent codes.
        rare, rare_share: Long: codes behind "#rare" that may be drawn, and their shares.
        shares: Long: codes and groups whose rows are told as a share of the moments.
        rare_law: Long: which rare codes a step holds.
        stems: Long: beginnings that stand for codes of too few patients.
        fixed: Long: columns beside the code that are features of the step.
        code_laws: Long: column -> code -> law of the cells beside that code; "" for any other code.
        beside: Long: column -> how its levels go with other cells of a row.
        values: Long: values of the number that `beside` tells apart.
        once: Long: does a step hold a code at most once?
        times: Law of times; None for untimed tables.
        open_share: Untimed tables that name visits: share of rows that name none.
        order: Long: order of the codes (frequent, then rare ones) at one moment.
        several: Does a step ever hold several moments?
        opens: Are there moments outside of visits, and others?
        groups: Long: codes counted together (their places), the most frequent one first.
        panel: Long: is one group the whole table?
        panels: Long: where codes like to stand; None where steps hold one moment.
        course: How numbers run between the last ones of steps; None where steps hold one row of a code.
        free: Long: rare codes whose numbers run along the course too, told by no step.
    """

    table: str
    per_subject: bool
    cells: tuple[Cell, ...] = ()
    repeats: tuple[Repeats, ...] = ()
    codes: tuple[CodeFold, ...] = ()
    rare: tuple[str, ...] = ()
    rare_share: tuple[float, ...] = ()
    code_laws: Mapping[str, Mapping[str, CellLaw]] = field(default_factory=dict)
    once: bool = True
    times: TimeLaw | None = None
    open_share: float = 0.0
    long: bool = False
    order: Precedence | None = None
    several: bool = False
    opens: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    panel: bool = False
    panels: Panels | None = None
    course: Course | None = None
    free: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    rare_law: RareLaw | None = None
    stems: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    beside: Mapping[str, Beside] = field(default_factory=dict)
    values: tuple[float, ...] = ()

    def names(self, codes: pl.Series) -> pl.Series:
        """Codes as the fold tells them."""
        return told(codes, [*(c.code for c in self.codes), *self.rare], self.stems)

    def facts(self, present: np.ndarray, levels: Mapping[str, np.ndarray], about: np.ndarray) -> np.ndarray:
        """Step x fact, for the law of rare codes.

        Args:
            present: Step x frequent code.
            levels: Level ids of the columns that are features of the step.
            about: Step x what is known of the patient.
        """
        width = {c.column: len(c.levels) for c in self.cells}
        one_hot = [levels[name][:, None] == np.arange(2, 2 + width[name]) for name in self.fixed]
        return np.concatenate([present, *one_hot, about], 1).astype(np.float32)

    def count_of(self, group: tuple[int, ...]) -> str:
        """Feature that counts the moments of a group of codes."""
        return f"{self.table}#n" if self.panel else self.counted(f"{self.table}.[{self.codes[group[0]].code}]")

    def counted(self, name: str) -> str:
        """Feature that counts the rows of a code, or the moments of a group."""
        return f"{name}#share" if name in self.shares else f"{name}#n"

    @property
    def grouped(self) -> dict[int, str]:
        """Code -> feature that counts the moments of its group."""
        return {code: self.count_of(group) for group in self.groups for code in group}

    @property
    def features(self) -> tuple[Feature, ...]:
        """Features of the table, in the order of the encoded columns."""
        count = {"kind": "number", "decimals": 0, "low": 0.0, "always": True}
        opens = [Feature(f"{self.table}#open", **count)] if self.opens else []
        if not self.long:
            return (*(cell.feature for cell in self.cells), Feature(f"{self.table}#n", **count), *opens)
        made = [Feature(f"{self.table}#n", **count)] if self.several else []
        made += opens
        made += [cell.feature for cell in self.cells if cell.column in self.fixed]
        share = {"kind": "number", "low": 0.0, "high": 1.0, "always": True}
        for name in (self.count_of(group) for group in self.groups if not self.panel):
            made.append(Feature(name, **(share if name.endswith("#share") else count)))
        grouped = self.grouped
        for i, code in enumerate(self.codes):
            name = f"{self.table}.{code.code}"
            if code.cell is not None:
                made.append(Feature(name, "number", (), code.cell.decimals, code.cell.low, code.cell.high))
            elif not code.counted:
                made.append(Feature(name, "category", _YES_NO, always=True))
            if code.counted:
                least = f"{name}#less" if i in grouped else self.counted(name)
                made.append(Feature(least, **(share if least.endswith("#share") else count)))
        if self.rare:
            made.append(Feature(f"{self.table}.#rare", **count))
        return tuple(made)

    def laws(self, counts: Mapping[str, QuantileTransform]) -> dict[str, QuantileTransform]:
        """Feature -> law of its numbers; those of the counts are given."""
        found = {f"{self.table}.{c.column}": c.law for c in self.cells if c.law and not self.long}
        found |= {f"{self.table}.{c.code}": c.cell.law for c in self.codes if c.cell and c.cell.law}
        names = {feature.name for feature in self.features}
        return found | {name: law for name, law in counts.items() if name in names}

    def encode(self, schema: Schema, rows: Rows) -> list[tuple[np.ndarray, np.ndarray]]:
        """Values and observed of each feature."""
        moment, of, linked = moments_of(rows)
        n_open = [_counted(of[~linked], rows.n_owners)] if self.opens else []
        if not self.long:
            columns = [_last(cell.encode(schema, rows.frame[cell.column], rows.reference), rows) for cell in self.cells]
            return [*columns, _counted(rows.owner, rows.n_owners), *n_open]
        spec = schema.tables[self.table]
        ids = code_ids(self.names(rows.frame[spec.code or ""]), [c.code for c in self.codes])
        ids = _each_once(ids, rows.owner) if self.once and self.stems else ids
        order = np.argsort(ids, kind="stable")
        bounds = np.searchsorted(ids[order], np.arange(-1, len(self.codes) + 1))
        numbers = _numbers(rows.frame, spec)
        columns = [_counted(of, rows.n_owners)] if self.several else []
        columns += n_open
        columns += [
            _last(cell.encode(schema, rows.frame[cell.column], rows.reference), rows)
            for cell in self.cells
            if cell.column in self.fixed
        ]
        sizes = {}
        for group in self.groups:
            held = np.unique(moment[np.isin(ids, group)]) if not self.panel else np.arange(len(of))
            size, always = _counted(of[held], rows.n_owners)
            for i in group if not self.panel else ():  # a code may, once in a thousand times, stand there twice
                size = np.maximum(size, np.bincount(rows.owner[ids == i], minlength=rows.n_owners))
            sizes |= dict.fromkeys(group, size)
            if not self.panel:
                columns.append((self._told(self.count_of(group), size, of), always))
        for i, code in enumerate(self.codes):
            at = order[bounds[i + 1] : bounds[i + 2]]
            owner = rows.owner[at]
            if code.cell is not None:
                columns.append(_last((numbers[at], np.isfinite(numbers[at])), rows, owner))
            elif not code.counted:
                yes = np.zeros(rows.n_owners, bool)
                yes[owner] = True
                columns.append((2.0 + yes, np.ones(rows.n_owners, bool)))
            if code.counted:
                n, always = _counted(owner, rows.n_owners)
                name = self.counted(f"{self.table}.{code.code}")
                columns.append((sizes[i] - n if i in sizes else self._told(name, n, of), always))
        if self.rare:
            columns.append(_counted(rows.owner[order[bounds[0] : bounds[1]]], rows.n_owners))
        return columns

    def _told(self, name: str, n: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Counts, or shares of the moments of each step."""
        if not name.endswith("#share"):
            return n
        return n / np.maximum(np.bincount(of, minlength=len(n)), 1)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        state = dict(self.__dict__)
        state["cells"] = [cell.to_json() for cell in self.cells]
        state["repeats"] = [r.to_json() for r in self.repeats]
        state["codes"] = [
            [c.code, c.cell.to_json() if c.cell else None, c.repeats.to_json(), c.counted, c.bare] for c in self.codes
        ]
        state["rare"], state["rare_share"] = list(self.rare), list(self.rare_share)
        state["code_laws"] = {
            column: {code: law.to_json() for code, law in laws.items()} for column, laws in self.code_laws.items()
        }
        state["times"] = self.times.to_json() if self.times else None
        state["order"] = [list(self.order.rank), self.order.share] if self.order else None
        state |= {name: list(getattr(self, name)) for name in ("free", "stems", "fixed", "values", "shares")}
        state["rare_law"] = self.rare_law.to_json() if self.rare_law else None
        state["beside"] = {column: law.to_json() for column, law in self.beside.items()}
        state["groups"] = [list(group) for group in self.groups]
        state["panels"] = self.panels.to_json() if self.panels else None
        state["course"] = self.course.to_json() if self.course else None
        return state

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Fold:
        """The fold of a state written by `to_json`."""
        state = dict(state)
        state["cells"] = tuple(Cell.from_json(c) for c in state["cells"])
        state["repeats"] = tuple(Repeats(*r) for r in state["repeats"])
        state["codes"] = tuple(
            CodeFold(code, Cell.from_json(cell) if cell else None, Repeats(*repeats), counted, bare)
            for code, cell, repeats, counted, bare in state["codes"]
        )
        state["rare"], state["rare_share"] = tuple(state["rare"]), tuple(state["rare_share"])
        state["code_laws"] = {
            column: {code: CellLaw.from_json(law) for code, law in laws.items()}
            for column, laws in state["code_laws"].items()
        }
        state["times"] = TimeLaw.from_json(state["times"]) if state["times"] else None
        state["order"] = Precedence(tuple(state["order"][0]), state["order"][1]) if state["order"] else None
        state |= {name: tuple(state[name]) for name in ("free", "stems", "fixed", "values", "shares")}
        state["rare_law"] = RareLaw.from_json(state["rare_law"]) if state["rare_law"] else None
        state["beside"] = {column: Beside.from_json(law) for column, law in state["beside"].items()}
        state["groups"] = tuple(tuple(group) for group in state["groups"])
        state["panels"] = Panels.from_json(state["panels"]) if state["panels"] else None
        state["course"] = Course.from_json(state["course"]) if state["course"] else None
        return cls(**state)


def folds_to_subject(schema: Schema, table: str) -> bool:
    """Untimed tables that hang on the subject fold into its statics."""
    spec = schema.tables[table]
    return not spec.timed and not schema.has_visit_id(table)


def code_limits(n_subjects: int, max_codes: int | None) -> tuple[int, int]:
    """Most codes with numbers and without that get a feature; few patients can't carry many columns."""
    if max_codes is not None:
        return max_codes, max_codes
    root = np.sqrt(n_subjects)
    return int(np.clip(1.5 * root, 10, 40)), int(np.clip(3 * root, 20, 100))


def rows_of(schema: Schema, table: str, frame: pl.DataFrame, steps: Steps, origin: np.ndarray, grid: int) -> Rows:
    """The rows of a table with the place where they fall."""
    subject = subject_rows(steps.ids, frame)
    notes: dict[str, int] = {}
    if folds_to_subject(schema, table):
        owner, linked, n_owners = subject, np.zeros(len(subject), bool), len(steps.length)
    else:
        owner, linked, lost = place(steps, frame, subject, grid=grid)
        n_owners = len(steps.time)
        notes |= {"rows of subjects without a step, left out": int((owner < 0).sum())}
        notes |= {"rows whose visit does not exist, placed by time": int(lost.sum())}
    keep = owner >= 0
    if not keep.all():
        frame, owner, subject, linked = frame.filter(keep), owner[keep], subject[keep], linked[keep]
    reference = origin[subject] if folds_to_subject(schema, table) else steps.time[owner]
    if "time" in frame.columns:
        time, known = ticks_of(frame["time"])
        notes |= {"rows without a time": int((~known).sum())}
        reference = np.where(known, time, reference)
    found = {f"{table}: {what}": n for what, n in notes.items() if n}
    return Rows(frame, owner, subject, linked, reference, n_owners, found)


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
        kwargs |= learned
    else:
        most = np.bincount(rows.owner, minlength=rows.n_owners)
        encoded = [cell.encode(schema, rows.frame[cell.column], rows.reference) for cell in cells]
        kwargs["repeats"] = tuple(
            Repeats.fit(rows.owner, *columns, levels=cell.kind == "category") for cell, columns in zip(cells, encoded)
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
    names, numbers = rows.frame[spec.code or ""].cast(pl.String), _numbers(rows.frame, spec)
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
    ids = _each_once(ids, rows.owner) if once and stems else ids
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
            law = CellLaw.fit(values[at], observed[at], subject, category=cell.kind == "category", k_min=k_min)
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
        cell.column: _last(cell.encode(schema, rows.frame[cell.column], rows.reference), rows)[0]
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
    numbers = _numbers(rows.frame, spec)
    values = distinct_of(numbers, rows.subject, k_min) if spec.value is not None else ()
    others = {"": (value_ids(numbers, values)[order], len(values) + 2)} if values else {}
    found = {}
    for cell in fold.cells:
        if cell.kind == "category" and cell.column not in fixed:
            ids = cell.ids(rows.frame[cell.column])[order]
            found[cell.column] = Beside.fit(ids, others, group[order], len(cell.levels) + 2)
            others = others | {cell.column: (ids, len(cell.levels) + 2)}
    return {"beside": found, "values": values}


def value_ids(numbers: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    """0 without a number, 1 for another one, then the place among the values."""
    known, grid = np.isfinite(numbers), np.asarray(values)
    at = np.searchsorted(grid, np.where(known, numbers, grid[0])).clip(0, len(grid) - 1)
    return np.where(known, np.where(grid[at] == numbers, at + 2, 1), 0)


def _each_once(ids: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Places of codes, the second row of a code in a step taken for a rare one."""
    known = np.flatnonzero(ids >= 0)
    key = owner[known] * (int(ids.max(initial=0)) + 1) + ids[known]
    _, first = np.unique(key, return_index=True)
    again = np.ones(len(known), bool)
    again[first] = False
    out = ids.copy()
    out[known[again]] = -1
    return out


def _fit_course(rows: Rows, columns: list, spec: Table, schema: Schema) -> Course:
    """Times without a clock are places in the order of a patient's rows."""
    time = rows.reference / ticks_per_day(schema) if spec.timed else place_of(rows.subject)
    return Course.fit(rows.subject, rows.owner, time, columns)


def place_of(subject: np.ndarray) -> np.ndarray:
    """0 for a patient's first row, 1 for the second, ..."""
    order = np.argsort(subject, kind="stable")
    begin = np.searchsorted(subject[order], subject[order])
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) - begin
    return place


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
    found = Panels.fit(unit.reshape(-1), moment, ids, of, moment_class(of, linked, time))
    shares = [] if panel else [f"{fold.table}.[{codes[g[0]].code}]" for g in groups if _often(moment, ids, of, g)]
    alone = set(range(n_codes)) - {i for group in groups for i in group}
    shares += [f"{fold.table}.{codes[i].code}" for i in sorted(alone) if counted[i] and _often(moment, ids, of, (i,))]
    return {"groups": tuple(groups), "panel": panel, "panels": found, "shares": tuple(shares)}


def _often(moment: np.ndarray, ids: np.ndarray, of: np.ndarray, group: tuple[int, ...]) -> bool:
    """Does a step that holds a group hold it at several moments, as a rule?"""
    n = np.bincount(of[np.unique(moment[np.isin(ids, group)])])
    return bool((n > 0).any() and np.median(n[n > 0]) >= _OFTEN)


def moments_of(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the moment of each row, in the order of step and time; step of each moment, and whether it belongs to
    the visit. Rows of one time that belong to the visit, and others, make two moments."""
    order = np.lexsort((~rows.linked, rows.reference, rows.owner))
    owner, time, linked = rows.owner[order], rows.reference[order], rows.linked[order]
    new = np.ones(len(order), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (time[1:] != time[:-1]) | (linked[1:] != linked[:-1])
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    return number, owner[new], linked[new]


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


def code_ids(names: pl.Series, codes: list[str]) -> np.ndarray:
    """Place of each cell in a list of codes; -1: another code, -2: empty."""
    if not codes:
        ids = np.full(names.len(), -1, np.int64)
    else:
        known = np.arange(len(codes))
        ids = names.replace_strict(codes, known, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()
    return np.where(names.is_null().to_numpy(), -2, ids)


def _numbers(frame: pl.DataFrame, spec: Table) -> np.ndarray:
    if spec.value is None:
        return np.full(frame.height, np.nan)
    return frame[spec.value].fill_null(float("nan")).to_numpy()


def _last(column: tuple[np.ndarray, np.ndarray], rows: Rows, owner: np.ndarray | None = None) -> tuple:
    """Last value of each step: of several writes to one place the last one stays."""
    values, observed = column
    owner = rows.owner if owner is None else owner
    out, seen = np.zeros(rows.n_owners), np.zeros(rows.n_owners, bool)
    out[owner[observed]] = values[observed]
    seen[owner[observed]] = True
    return out, seen


def _counted(owner: np.ndarray, n_owners: int) -> tuple[np.ndarray, np.ndarray]:
    return np.bincount(owner, minlength=n_owners).astype(float), np.ones(n_owners, bool)
