"""Splits by subject, with groups (families, sites) kept together.

Each group gets a fixed pseudo-random number from the seed and its own position in the sorted list; groups are dealt in
that order to the part that is furthest below its share of subjects. Shares below a sum of 1 leave a rest unused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom.errors import DataError, Problem, SettingsError
from cohortloom.rng import Rng

if TYPE_CHECKING:
    from cohortloom.cohort.cohort import Cohort

__all__ = ["Splits", "split"]


@dataclass(frozen=True)
class Splits(Mapping):
    """Named disjoint cohorts; `splits.train` and `splits["train"]` are the same."""

    parts: Mapping[str, Cohort]

    def __getitem__(self, name: str) -> Cohort:
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getattr__(self, name: str) -> Cohort:
        if name.startswith("_") or name not in self.parts:
            raise AttributeError(f'there is no part "{name}"; the parts are {", ".join(self.parts)}')
        return self.parts[name]


def split(cohort: Cohort, *, seed: int, group: str | None = None, **shares: float) -> Splits:
    """Cut a cohort into disjoint parts by subject.

    Args:
        cohort: What is split.
        seed: Fixes the assignment.
        group: "table.column" of a static table; subjects with one value stay in one part. Subjects without a value are
            groups of their own.
        **shares: Part -> share of subjects, each above 0, together at most 1.

    Raises:
        SettingsError: shares are not usable.
        DataError: fewer groups than parts, or a group column that is not static.
    """
    if not shares or any(s <= 0 for s in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise SettingsError(
            "split: each share must lie above 0 and all together at most at 1, "
            "e.g. train=0.6, held_out=0.2, reference=0.2"
        )
    subjects = cohort.subjects
    members = pl.DataFrame({"subject_id": subjects}).with_row_index("row")
    if group is None:
        labels = np.arange(subjects.len())
    else:
        table = group.partition(".")[0]
        cohort.schema.column(group)
        if cohort.schema.tables[table].role != "static":
            raise DataError(
                "",
                [
                    Problem(
                        "group-not-static",
                        group,
                        "groups must come from a static table",
                        'Name a column of a table with role "static".',
                    )
                ],
            )
        values = (
            cohort.tables[table]
            .select("subject_id", pl.col(group.partition(".")[2]).alias("group"))
            .unique("subject_id", keep="first")
        )
        joined = members.join(values, on="subject_id", how="left", maintain_order="left")
        key = joined["group"].cast(pl.String)
        own = pl.Series([f"\0{i}" for i in range(subjects.len())])
        labels = pl.select(pl.coalesce(key, own)).to_series().rank("dense").to_numpy().astype(int) - 1
    sizes = np.bincount(labels) if len(labels) else np.zeros(0, int)
    names = list(shares)
    if len(sizes) < len(names):
        what = "groups" if group else "subjects"
        raise DataError(
            "",
            [
                Problem(
                    "too-few-to-split",
                    "split",
                    f"{len(sizes)} {what} can't fill {len(names)} parts",
                    "Ask for fewer parts.",
                    len(sizes),
                )
            ],
        )
    order = Rng(seed).child("split").numpy.permutation(len(sizes))
    target = np.array([shares[n] for n in names]) * subjects.len()
    rest = max(subjects.len() - target.sum(), 0.0)
    target = np.append(target, rest if rest >= 0.5 else 0.0)
    filled = np.zeros(len(target))
    part = np.zeros(len(sizes), int)
    for g in order:
        gap = np.where(target > 0, (target - filled) / np.maximum(target, 1e-9), -np.inf)
        part[g] = int(np.argmax(gap))
        filled[part[g]] += sizes[g]
    chosen = part[labels]
    return Splits({name: cohort.select(subjects.filter(pl.Series(chosen == i))) for i, name in enumerate(names)})
