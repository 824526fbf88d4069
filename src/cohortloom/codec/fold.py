"""Child events folded into steps.

A wide table gives a step "table#n", the number of rows, and its last value of each column. A long table gives, for each
frequent code,

    with numbers      "labs.50912" (last number) and, where a step ever holds several rows, "labs.50912#n" (rows)
    without numbers   "diagnoses.I10" (no/yes), or "diagnoses.I10#n" (rows) where a step ever holds several

and "labs.#rare", the number of rows of all other codes. Where a step ever holds several moments, "labs#n" is their
number, and "labs#open" how many of them lie outside of any visit. Codes that are mostly recorded together (a panel of
tests) are counted together, so that a model need not draw one number many times over: "labs.[50912]#n" is the number of
moments that hold any code of the group around 50912, and "labs.50912#less", in place of "labs.50912#n", at how many of
them the code is missing. Where that is the whole table, "labs#n" is the count of the group. What stands at many moments
is told by its "#share" of them: a heart rate every hour is one fact about a stay, however long.

Whether there is anything is said once: by "table#n", or by "table#any" where steps hold one moment at most and some
hold nothing. The other features lie `within` it, as those of a group's codes lie within the count of the group: a
patient who was never monitored is one fact, not forty that must agree. Codes that are each seldom there do without:
drawn one by one none of them might come, and the visit would lose its rows.

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

from cohortloom.codec.beside import Beside
from cohortloom.codec.cells import RESERVED_LEVELS, Cell
from cohortloom.codec.clock import ticks_of
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.course import Course
from cohortloom.codec.gates import gates_of, shut_of
from cohortloom.codec.laws import CellLaw, Repeats
from cohortloom.codec.panels import Panels
from cohortloom.codec.precedence import Precedence
from cohortloom.codec.rare import RareLaw, told
from cohortloom.codec.stay import Stay
from cohortloom.codec.steps import Steps, place, subject_rows
from cohortloom.codec.tensors import Feature
from cohortloom.codec.times import Ends, TimeLaw
from cohortloom.schema import Schema, Table

__all__ = [
    "CodeFold",
    "Columns",
    "Fold",
    "Rows",
    "code_ids",
    "each_once",
    "folds_to_subject",
    "last_of",
    "moments_of",
    "numbers_of",
    "place_of",
    "rows_of",
    "value_ids",
]

Columns = Mapping[str, tuple[np.ndarray, np.ndarray]]  # values and observed of each feature
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
        stay: How long visits are; None where numbers of rows do not grow with them.
        paced: Features that tell a number of rows per day of the visit.
        once: Long: does a step hold a code at most once?
        times: Law of times; None for untimed tables.
        open_share: Untimed tables that name visits: share of rows that name none.
        order: Long: order of the codes (frequent, then rare ones) at one moment.
        several: Does a step ever hold several moments?
        opens: Are there moments outside of visits, and others?
        gated: Long: does a step (subject) that holds rows hold some of these codes almost surely?
        sparse: Long and gated, one moment at most: do some steps hold rows, and others none?
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
    gated: bool = False
    sparse: bool = False
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
    stay: Stay | None = None
    paced: tuple[str, ...] = ()

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
        number = {"kind": "number", "low": 0.0, "always": True}
        count, share = number | {"decimals": 0}, number | {"high": 1.0}
        yes_no = {"kind": "category", "levels": _YES_NO, "always": True, "absent": 2.0}
        made = [Feature(f"{self.table}#n", **count)] if self.several or not self.long else []
        made += [Feature(f"{self.table}#any", **yes_no)] if self.sparse else []
        said = made[0].name if made and (self.gated or not self.long) else ""
        made += [Feature(f"{self.table}#open", **count, within=said)] if self.opens else []
        for cell in self.cells:
            if not self.long or cell.column in self.fixed:
                missing = 0.0 if cell.feature.kind == "category" else np.nan
                made.append(replace(cell.feature, within=said, absent=missing))
        for name in (self.count_of(group) for group in self.groups if not self.panel):
            made.append(Feature(name, **(share if name.endswith("#share") else count), within=said))
        grouped = self.grouped
        for i, code in enumerate(self.codes):
            name, within = f"{self.table}.{code.code}", grouped.get(i, said)
            if code.cell is not None:
                low, high = code.cell.low, code.cell.high
                made.append(Feature(name, "number", (), code.cell.decimals, low, high, within=within, absent=np.nan))
                within = within if code.bare else name
            elif not code.counted:
                made.append(Feature(name, **yes_no, within=within))
            if code.counted:
                least = f"{name}#less" if i in grouped else self.counted(name)
                made.append(Feature(least, **(share if least.endswith("#share") else count), within=within))
        if self.rare:
            made.append(Feature(f"{self.table}.#rare", **count, within=said))
        return tuple(replace(f, decimals=None) if f.name in self.paced else f for f in made)

    def present(self, features: Columns) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Raw values and observed of each feature, absent where what it lies within says so."""
        own, made = self.features, dict(features)
        raw = [np.where(seen, values, feature.absent) for feature in own for values, seen in [features[feature.name]]]
        for j, shut in shut_of(raw, gates_of(own)).items():
            values, observed = made[own[j].name]
            made[own[j].name] = np.where(shut, np.nan_to_num(own[j].absent), values), observed & ~shut
        return made

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
            columns = [
                last_of(cell.encode(schema, rows.frame[cell.column], rows.reference), rows) for cell in self.cells
            ]
            return [_counted(rows.owner, rows.n_owners), *n_open, *columns]
        spec = schema.tables[self.table]
        ids = code_ids(self.names(rows.frame[spec.code or ""]), [c.code for c in self.codes])
        ids = each_once(ids, rows.owner) if self.once and self.stems else ids
        order = np.argsort(ids, kind="stable")
        bounds = np.searchsorted(ids[order], np.arange(-1, len(self.codes) + 1))
        numbers = numbers_of(rows.frame, spec)
        columns = [_counted(of, rows.n_owners)] if self.several else []
        columns += [_said(rows.owner, rows.n_owners)] if self.sparse else []
        columns += n_open
        columns += [
            last_of(cell.encode(schema, rows.frame[cell.column], rows.reference), rows)
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
                columns.append(last_of((numbers[at], np.isfinite(numbers[at])), rows, owner))
            elif not code.counted:
                columns.append(_said(owner, rows.n_owners))
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

    def paced_by(self, columns: list[tuple], steps: Steps, ends: Ends, per_day: int) -> Fold:
        """The fold that tells moments and rare rows per day of the visit, where they grow with it."""
        told = {f.name: values for f, (values, _) in zip(self.features, columns)}
        counts = {n: told[n] for n in (f"{self.table}#n", f"{self.table}.#rare") if n in told}
        stay, paced = Stay.fit(counts, steps, ends, per_day)
        return replace(self, stay=stay, paced=paced)

    def per_day(self, columns: list[tuple], steps: Steps, ends: Ends) -> list[tuple[np.ndarray, np.ndarray]]:
        """What `encode` gives, numbers that grow with their visit told per day of it."""
        if self.stay is None:
            return columns
        days = self.stay.days(steps, ends)
        named = zip(self.features, columns)
        return [(values / days, seen) if f.name in self.paced else (values, seen) for f, (values, seen) in named]

    def in_all(self, features: Columns, steps: Steps, ends: Ends) -> Columns:
        """Numbers of rows again: at least one where there are any."""
        if self.stay is None:
            return features
        days, made = self.stay.days(steps, ends), dict(features)
        for name in self.paced:
            values, seen = made[name]
            made[name] = np.where(values > 0, np.maximum(np.round(values * days), 1.0), 0.0), seen
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        state = dict(self.__dict__)
        state["stay"] = self.stay.to_json() if self.stay else None
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
        state |= {name: list(getattr(self, name)) for name in ("free", "stems", "fixed", "values", "shares", "paced")}
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
        state |= {name: tuple(state[name]) for name in ("free", "stems", "fixed", "values", "shares", "paced")}
        state["stay"] = Stay(**state["stay"]) if state["stay"] else None
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


def value_ids(numbers: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    """0 without a number, 1 for another one, then the place among the values."""
    known, grid = np.isfinite(numbers), np.asarray(values)
    at = np.searchsorted(grid, np.where(known, numbers, grid[0])).clip(0, len(grid) - 1)
    return np.where(known, np.where(grid[at] == numbers, at + 2, 1), 0)


def each_once(ids: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Places of codes, the second row of a code in a step taken for a rare one."""
    known = np.flatnonzero(ids >= 0)
    key = owner[known] * (int(ids.max(initial=0)) + 1) + ids[known]
    _, first = np.unique(key, return_index=True)
    again = np.ones(len(known), bool)
    again[first] = False
    out = ids.copy()
    out[known[again]] = -1
    return out


def place_of(subject: np.ndarray) -> np.ndarray:
    """0 for a patient's first row, 1 for the second, ..."""
    order = np.argsort(subject, kind="stable")
    begin = np.searchsorted(subject[order], subject[order])
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) - begin
    return place


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


def code_ids(names: pl.Series, codes: list[str]) -> np.ndarray:
    """Place of each cell in a list of codes; -1: another code, -2: empty."""
    if not codes:
        ids = np.full(names.len(), -1, np.int64)
    else:
        known = np.arange(len(codes))
        ids = names.replace_strict(codes, known, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()
    return np.where(names.is_null().to_numpy(), -2, ids)


def numbers_of(frame: pl.DataFrame, spec: Table) -> np.ndarray:
    if spec.value is None:
        return np.full(frame.height, np.nan)
    return frame[spec.value].fill_null(float("nan")).to_numpy()


def last_of(column: tuple[np.ndarray, np.ndarray], rows: Rows, owner: np.ndarray | None = None) -> tuple:
    """Last value of each step: of several writes to one place the last one stays."""
    values, observed = column
    owner = rows.owner if owner is None else owner
    out, seen = np.zeros(rows.n_owners), np.zeros(rows.n_owners, bool)
    out[owner[observed]] = values[observed]
    seen[owner[observed]] = True
    return out, seen


def _counted(owner: np.ndarray, n_owners: int) -> tuple[np.ndarray, np.ndarray]:
    return np.bincount(owner, minlength=n_owners).astype(float), np.ones(n_owners, bool)


def _said(owner: np.ndarray, n_owners: int) -> tuple[np.ndarray, np.ndarray]:
    """Yes or no."""
    yes = np.zeros(n_owners, bool)
    yes[owner] = True
    return 2.0 + yes, np.ones(n_owners, bool)
