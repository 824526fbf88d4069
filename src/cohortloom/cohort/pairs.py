"""Pairs of values that never meet: a man with a code of pregnancy, a tablet given into a vein.

A column of few levels decides: a category (of ten levels or fewer), the quartiles of a number of a static table, or
whether a long table has a value beside a code. Its levels are crossed with the values of other columns: of all columns
if it is static - a patient holds a value if any row does - and of its own rows if it stands in a table over time. A
number counts as one value, "recorded", where some cells are empty. Chance would show a pair in

    expected(a, v) = patients who hold v x mean over patients of the share of their rows with a

patients, a lower bound where a patient has v in several rows. What chance would show in many and nobody has is hardly
chance: for independent columns P(none) = exp(-expected).

Quartiles are rounded to three digits, and a value is only named if `expected` patients hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from cohortloom.cohort.cohort import Cohort
from cohortloom.schema import Schema

__all__ = ["Column", "Crossing", "Never", "Ruler", "crossings", "numbered", "read_columns", "rulers"]

FEW_LEVELS, QUARTILES = 10, 4
MOST_DECIDING = 24  # of a table
EXPECTED = (6, 8, 11, 15, 20, 30)  # patients, of a pair that generators avoid: the first that will do
ALONE = 0.01  # of training patients, at most, are the only ones with a pair that chance would show in so many
MOST_ALONE = 100  # rows of a pair that one patient may have
_NUMBERS = ("number", "count", "timestamp")
_RECORDED = "recorded"


@dataclass(frozen=True)
class Ruler:
    """How the cells of a column are read as values.

    Args:
        table, column: Whose cells.
        static: Is it a row per patient?
        deciding: Is it crossed with others?
        labels: Values, in words for quartiles.
        cuts: Right ends of all quartiles but the last; empty for levels.
    """

    table: str
    column: str
    static: bool
    deciding: bool
    labels: tuple[str, ...]
    cuts: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"

    def words(self, code: int) -> str:
        """A value as the report says it."""
        between = " " if self.cuts or self.labels == (_RECORDED,) else " = "
        return f"{self.name}{between}{self.labels[code]}"

    def read(self, cells: pl.Series) -> np.ndarray:
        """Place of each cell among the labels, -1 for none of them."""
        if self.cuts:
            x = cells.cast(pl.Float64).to_numpy()
            return np.where(np.isfinite(x), np.searchsorted(self.cuts, np.nan_to_num(x), side="left"), -1)
        if self.labels == (_RECORDED,):
            return -cells.is_null().to_numpy().astype(np.int64)
        codes = cells.cast(pl.String).cast(pl.Enum(self.labels), strict=False).to_physical()
        return codes.cast(pl.Int64).fill_null(-1).to_numpy()


@dataclass(frozen=True)
class Column:
    """A column as read: patient and code of each row."""

    ruler: Ruler
    patient: np.ndarray
    code: np.ndarray

    def of(self, n: int) -> np.ndarray:
        """Code of each of n patients, of a static column; -1 without a row."""
        out = np.full(n, -1)
        out[self.patient] = self.code
        return out


@dataclass(frozen=True)
class Crossing:
    """Two columns crossed.

    Args:
        first, then: The one that decides, and the other.
        patient, pair: Of each row that has both; a pair is level x number of the other's labels + value.
        expected: Of each pair, among the patients taken.
    """

    first: Ruler
    then: Ruler
    patient: np.ndarray
    pair: np.ndarray
    expected: np.ndarray

    def words(self, pair: int) -> str:
        a, v = divmod(pair, len(self.then.labels))
        return f"{self.first.words(a)} {'with' if self.first.static else 'in one row with'} {self.then.words(v)}"


def rulers(schema: Schema, cohorts: Sequence[Cohort]) -> list[Ruler]:
    """How columns are read, by the cells of some cohorts; those of a table that come after many others don't decide."""
    found: list[Ruler] = []
    for table, spec in schema.tables.items():
        static, mine = spec.role == "static", []
        for c, column in spec.columns.items():
            if column.kind == "identifier":
                continue
            cells = pl.concat([cohort.tables[table][c] for cohort in cohorts])
            if column.kind not in _NUMBERS:
                labels = tuple(cells.drop_nulls().cast(pl.String).unique().sort())
                if labels:
                    mine.append(Ruler(table, c, static, 1 < len(labels) <= FEW_LEVELS, labels))
                continue
            if cells.null_count():
                mine.append(Ruler(table, c, static, spec.is_long and c == spec.value, (_RECORDED,)))
            if static and column.kind != "timestamp" and (cuts := _cuts(cells)):
                ends = [f"{cut:g}" for cut in cuts]
                labels = (f"up to {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"above {ends[-1]}")
                mine.append(Ruler(table, c, True, True, labels, cuts))
        late = [r for r in mine if r.deciding][MOST_DECIDING:]
        found += [replace(r, deciding=False) if r in late else r for r in mine]
    return found


def _cuts(cells: pl.Series) -> tuple[float, ...]:
    """Quartiles of three digits, distinct ones."""
    x = cells.drop_nulls().cast(pl.Float64).to_numpy()
    if not len(x):
        return ()
    cuts = np.quantile(x, np.arange(1, QUARTILES) / QUARTILES, method="inverted_cdf")
    return tuple(sorted({float(f"{cut:.3g}") for cut in cuts}))


def read_columns(known: Sequence[Ruler], frames: Mapping[str, pl.DataFrame]) -> list[Column]:
    """Columns of tables; `__who` numbers the patients of their rows."""
    patients = {table: frame["__who"].to_numpy() for table, frame in frames.items()}
    return [Column(r, patients[r.table], r.read(frames[r.table][r.column])) for r in known]


def numbered(cohort: Cohort, subjects: pl.Series, start: int = 0) -> dict[str, pl.DataFrame]:
    """Rows of some patients, `__who` counting them from `start`."""
    who = pl.int_range(start, start + len(subjects), eager=True).alias("__who")
    taken = pl.DataFrame({"subject_id": subjects, "__who": who})
    return {name: frame.join(taken, on="subject_id", how="inner") for name, frame in cohort.tables.items()}


def crossings(columns: Sequence[Column], taken: np.ndarray) -> Iterator[Crossing]:
    """All pairs of columns, each once.

    Args:
        columns: Of all patients.
        taken: Which patients count.
    """
    n, shares, levels = max(int(taken.sum()), 1), {}, {}
    for i, first in enumerate(columns):
        if first.ruler.deciding:
            levels[i] = first.of(len(taken)) if first.ruler.static else first.code
            rows = np.bincount(first.patient, minlength=len(taken))
            kept = (first.code >= 0) & taken[first.patient]
            weight, size = 1 / rows[first.patient[kept]], len(first.ruler.labels)
            shares[i] = np.bincount(first.code[kept], weights=weight, minlength=size) / n
    for j, then in enumerate(columns):
        rows = np.flatnonzero((then.code >= 0) & taken[then.patient])
        wide = len(then.ruler.labels)
        held = np.unique(then.patient[rows].astype(np.int64) * wide + then.code[rows])
        patient, value = held // wide, held % wide
        holders = np.bincount(value, minlength=wide)
        for i, share in shares.items():
            first = columns[i]
            if not _cross(first.ruler, then.ruler) or (
                then.ruler.deciding and _cross(then.ruler, first.ruler) and j < i
            ):
                continue
            if first.ruler.static:
                who, what, code = patient, value, levels[i][patient]
            else:
                who, what, code = then.patient[rows].astype(np.int64), then.code[rows], levels[i][rows]
            both = code >= 0
            pair = code[both].astype(np.int64) * wide + what[both]
            yield Crossing(first.ruler, then.ruler, who[both], pair, np.outer(share, holders).ravel())


def _cross(first: Ruler, then: Ruler) -> bool:
    """Does the one decide about the other?"""
    return first.name != then.name and (first.static or (not then.static and first.table == then.table))


@dataclass(frozen=True)
class Never:
    """Pairs that no patient of a cohort has though chance would show them in several.

    Args:
        rulers: Of the columns.
        pairs: (place of the deciding ruler, place of the other) -> pairs, as in `Crossing`.
    """

    rulers: tuple[Ruler, ...] = ()
    pairs: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, cohort: Cohort) -> Never:
        """The pairs of a cohort of training patients.

        The least of `EXPECTED` is asked for at which hardly any training patient is the only one with such a pair: as
        many will be the first with one among patients to come (Good, Turing), and they are no mistake. None is named
        where no threshold does.

        References:
            Good (1953). The population frequencies of species and the estimation of population parameters.
            doi:10.1093/biomet/40.3-4.237
        """
        known, n = rulers(cohort.schema, [cohort]), cohort.n_subjects
        columns = read_columns(known, numbered(cohort, cohort.subjects))
        place = {r: i for i, r in enumerate(known)}
        pairs, alone = {}, {least: np.zeros(n, bool) for least in EXPECTED}
        for crossing in crossings(columns, np.ones(n, bool)):
            size = len(crossing.expected)
            met, often = np.bincount(crossing.pair, minlength=size), crossing.expected >= EXPECTED[0]
            never = np.flatnonzero((met == 0) & often)
            if len(never):
                pairs[place[crossing.first], place[crossing.then]] = never, crossing.expected[never]
            keep = (often & (met <= MOST_ALONE))[crossing.pair]
            entry = np.unique(crossing.pair[keep] * n + crossing.patient[keep])
            pair, patient = entry // n, entry % n
            single = np.bincount(pair, minlength=size)[pair] == 1
            for least, found in alone.items():
                found[patient[single & (crossing.expected[pair] >= least)]] = True
        least = next((x for x in EXPECTED if alone[x].mean() <= ALONE), np.inf)
        chosen = {at: tuple(never[chance >= least].tolist()) for at, (never, chance) in pairs.items()}
        return cls(*_needed(known, {at: never for at, never in chosen.items() if never}))

    def held_by(self, cohort: Cohort) -> pl.Series:
        """Ids of the patients that hold such a pair."""
        subjects = cohort.subjects
        frames = numbered(cohort, subjects) if self.pairs else {}
        columns = read_columns(self.rulers, frames)
        found = np.zeros(len(subjects), bool)
        for (i, j), pairs in self.pairs.items():
            first, then = columns[i], columns[j]
            wide = len(then.ruler.labels)
            never = np.zeros((len(first.ruler.labels) + 1, wide + 1), bool)  # the last ones for none
            never[np.asarray(pairs) // wide, np.asarray(pairs) % wide] = True
            rows = np.flatnonzero(np.any(never, axis=0)[then.code])
            code = first.of(len(subjects))[then.patient[rows]] if first.ruler.static else first.code[rows]
            found[then.patient[rows[never[code, then.code[rows]]]]] = True
        return subjects.filter(pl.Series(found))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        return {
            "rulers": [asdict(r) for r in self.rulers],
            "pairs": [[i, j, list(pairs)] for (i, j), pairs in self.pairs.items()],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Never:
        """The pairs from their JSON state."""
        known = [{**r, "labels": tuple(r["labels"]), "cuts": tuple(r["cuts"])} for r in state["rulers"]]
        return cls(tuple(Ruler(**r) for r in known), {(i, j): tuple(pairs) for i, j, pairs in state["pairs"]})


def _needed(
    known: Sequence[Ruler], pairs: dict[tuple[int, int], tuple[int, ...]]
) -> tuple[tuple[Ruler, ...], dict[tuple[int, int], tuple[int, ...]]]:
    """Rulers that pairs ask for, of the labels that pairs name; the pairs by their new places."""
    named: dict[int, set[int]] = {}
    for (i, j), some in pairs.items():
        wide = len(known[j].labels)
        named.setdefault(i, set()).update(pair // wide for pair in some)
        named.setdefault(j, set()).update(pair % wide for pair in some)
    kept = sorted(named)
    labels = {k: range(len(known[k].labels)) if known[k].cuts else sorted(named[k]) for k in kept}
    fewer = tuple(replace(known[k], labels=tuple(known[k].labels[c] for c in labels[k])) for k in kept)
    at = {k: {c: place for place, c in enumerate(labels[k])} for k in kept}
    moved = {}
    for (i, j), some in pairs.items():
        wide, new = len(known[j].labels), len(labels[j])
        moved[kept.index(i), kept.index(j)] = tuple(at[i][p // wide] * new + at[j][p % wide] for p in some)
    return fewer, moved
