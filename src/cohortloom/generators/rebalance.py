"""Samples with fixed shares of some levels.

    sample(1_000, rebalance={"patients.diagnosis": "uniform", "patients.sex": {"F": 0.5, "M": 0.5}})

Every column gets exactly its counts (shares times patients, rounded by largest remainder). How the columns go together
is left as near as possible to what the model draws: a pilot sample gives the joint shares, iterative proportional
fitting gives them the wanted margins, and controlled rounding makes whole patients of them, margins exact. Each
combination is then drawn with its values fixed, as with `where`, so everything else follows from them as the model has
learned it. Patients are numbered in random order.

References:
    Deming, Stephan (1940). On a least squares adjustment of a sampled frequency table when the expected marginal totals
    are known. Annals of Mathematical Statistics.
    Cox (1987). A constructive procedure for unbiased controlled rounding. JASA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, SettingsError, nearest
from cohortloom.rng import Rng
from cohortloom.sharding import Shard, merge, plan

if TYPE_CHECKING:
    from cohortloom.generators.base import Generator

__all__ = ["Shares", "combined", "counts_of", "pieces", "shuffled"]

Shares = Mapping[str, Mapping[Any, float] | str]
PILOT = 2_000
FIT_ROUNDS = 1_000


def counts_of(generator: Generator, shares: Shares, n: int, where: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Column -> level -> number of patients.

    Raises:
        SettingsError: unknown columns or levels, shares that don't add up to 1; all of them.
    """
    problems, found = [], {}
    for path, wanted in shares.items():
        if path in where:
            problems.append(Problem("fixed-twice", path, "is fixed by where too", "Leave one of them out."))
            continue
        levels = generator.levels_of(path)
        if not levels:
            what = "is no label, and no category, code or flag of a static or visit table: it has no levels to balance"
            problems.append(Problem("not-a-level", path, what, ""))
            continue
        if isinstance(wanted, str):
            if wanted != "uniform":
                problems.append(Problem("bad-shares", path, "is neither shares nor uniform", 'Write "uniform".'))
                continue
            wanted = dict.fromkeys(levels, 1 / len(levels))
        named = {str(level).lower() if isinstance(level, bool) else str(level): s for level, s in wanted.items()}
        problems += [
            Problem("unknown-level", path, f'no training patient holds "{level}"', nearest(level, levels).strip())
            for level in named
            if level not in levels
        ]
        total = sum(named.values())
        if any(not s >= 0 for s in named.values()) or abs(total - 1) > 1e-6:
            what = f"shares must not be negative and add up to 1, not {total:g}"
            problems.append(Problem("bad-shares", path, what, ""))
        found[path] = named
    if problems:
        raise SettingsError("rebalance: some shares can't be met", problems)
    return {path: dict(zip(named, _largest_remainder(np.array(list(named.values())), n).tolist()))
            for path, named in found.items()}  # fmt: skip


def combined(generator: Generator, counts: Mapping[str, Mapping[str, int]], where: Mapping[str, Any], rng: Rng):
    """(values, number of patients) of every combination of levels that occurs."""
    paths = list(counts)
    groups: list[tuple[dict[str, str], int]] = [({}, sum(counts[paths[0]].values()))]
    pilot = None
    if len(paths) > 1:
        drawn = generator.sample(PILOT, seed=rng.integer("pilot"), where=where or None)
        pilot = pl.DataFrame({path: _first(drawn, path) for path in paths})
    for path in paths:
        levels, columns = list(counts[path]), np.array(list(counts[path].values()))
        rows = np.array([number for _, number in groups])
        seed = np.ones((len(groups), len(levels))) if pilot is None else _seen(pilot, groups, path, levels)
        whole = _rounded(_fitted(seed, rows, columns), rows, columns)
        groups = [
            ({**values, path: level}, int(whole[i, j]))
            for i, (values, _) in enumerate(groups)
            for j, level in enumerate(levels)
            if whole[i, j]
        ]
    return groups


def pieces(groups: list[tuple[dict[str, str], int]], *, size: int) -> list[tuple[Shard, dict[str, str]]]:
    """Shards of at most `size` patients of every combination, one after the other, with what is fixed in each."""
    out, start = [], 0
    for values, number in groups:
        for shard in plan(number, size=size):
            out.append((Shard(len(out), start + shard.start, shard.size), values))
        start += number
    return out


def shuffled(cohort: Cohort, rng: Rng) -> Cohort:
    """The patients 1, 2, ... numbered in another order."""
    n = cohort.n_subjects
    names = {"subject_id": np.arange(1, n + 1), "__id": 1 + rng.numpy.permutation(n)}
    tables = {
        name: frame.join(pl.DataFrame(names), on="subject_id", maintain_order="left")
        .drop("subject_id")
        .rename({"__id": "subject_id"})
        for name, frame in cohort.tables.items()
    }
    new = names["__id"]
    signals = {
        name: replace(
            waves, records=waves.records.with_columns(subject_id=pl.Series(new[waves.records["subject_id"] - 1]))
        )
        for name, waves in cohort.signals.items()
    }
    return merge(cohort.schema, [Cohort(cohort.schema, tables, signals)], origin=cohort.origin)


def _first(cohort: Cohort, path: str) -> pl.Series:
    """Level of each patient, at the first visit for a column of visits; null where there is none."""
    name, _, column = path.partition(".")
    frame = cohort.signals[name].records if name in cohort.signals else cohort.tables[name]
    rows = frame.unique("subject_id", keep="first", maintain_order=True).select("subject_id", column)
    both = cohort.subjects.to_frame("subject_id").join(rows, on="subject_id", how="left", maintain_order="left")
    return both[column].cast(pl.String).str.to_lowercase() if both[column].dtype == pl.Boolean else both[column]


def _seen(pilot: pl.DataFrame, groups: list[tuple[dict[str, str], int]], path: str, levels: list[str]) -> np.ndarray:
    """How often the pilot has each level in each group; a trace everywhere, so that every margin can be met."""
    on = list(groups[0][0])
    count = pilot.group_by([*on, path]).len()
    table = {tuple(row[:-1]): row[-1] for row in count.iter_rows()}
    seen = [[table.get((*values.values(), level), 0) for level in levels] for values, _ in groups]
    return np.array(seen, float) + 1e-3


def _fitted(seed: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The table with the pattern of `seed` and the wanted margins."""
    table = seed * (rows[:, None] > 0) * (columns[None] > 0)
    for _ in range(FIT_ROUNDS):
        table = table * (rows / np.maximum(table.sum(1), 1e-300))[:, None]
        table = table * (columns / np.maximum(table.sum(0), 1e-300))[None]
        if np.abs(table.sum(1) - rows).max() < 1e-9:
            break
    return table


def _rounded(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Whole numbers near the table, with exactly these margins."""
    from scipy.optimize import linear_sum_assignment

    whole = np.floor(table + 1e-6).astype(np.int64)
    for margin, axis in ((rows, 1), (columns, 0)):  # rounding noise of the fit must not leave a margin below
        while (over := whole.sum(axis) - margin).max() > 0:
            k = int(over.argmax())
            line = whole[k] if axis == 1 else whole[:, k]
            line[line.argmax()] -= 1
    row, column = (np.repeat(np.arange(len(m)), m - whole.sum(axis)) for m, axis in ((rows, 1), (columns, 0)))
    rest = table - whole
    pick = linear_sum_assignment(-rest[np.ix_(row, column)])
    np.add.at(whole, (row[pick[0]], column[pick[1]]), 1)
    return whole


def _largest_remainder(shares: np.ndarray, n: int) -> np.ndarray:
    exact = shares * n
    whole = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: n - whole.sum()]] += 1
    return whole
