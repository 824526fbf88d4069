"""Histograms that are compared cell by cell.

A *cell* is one histogram (of a column, or of a column at the third visit, or of what follows state B). Two cohorts
differ in a cell by the Kolmogorov-Smirnov distance if its bins are ordered, else by the total variation distance

    KS = max_x |F(x) - G(x)|,      TV = 1/2 sum_k |p_k - q_k|

and a component (a column) differs by the weighted mean over its cells, weights fixed by the real patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.intervals import FEWEST_GROUPS, Measure, support_of
from cohortloom.evaluation.views import View, tally

__all__ = ["Cells"]


@dataclass
class Cells:
    """Collects cells and turns them into a `Measure`.

    `add` takes a function View -> (patient, bin) whose bins run from 0 to cells x size - 1, cell-major; -1 is left out.
    """

    components: list[str] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ordered: list[bool] = field(default_factory=list)
    parts: list[tuple[int, Callable[[View], tuple[np.ndarray, np.ndarray]]]] = field(default_factory=list)

    def add(
        self,
        component: str,
        size: int,
        find: Callable[[View], tuple[np.ndarray, np.ndarray]],
        *,
        ordered: bool,
        cells: int = 1,
    ) -> None:
        """Add `cells` histograms with `size` bins each to a component."""
        if component not in self.components:
            self.components.append(component)
        k = self.components.index(component)
        self.of += [k] * cells
        self.sizes += [size] * cells
        self.ordered += [ordered] * cells
        self.parts.append((size * cells, find))

    def sums(self, view: View) -> np.ndarray:
        """Counts, group x (all bins of all cells)."""
        blocks = [tally(view, *find(view), size) for size, find in self.parts]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((view.n_groups, 0))

    def measure(
        self,
        ctx: Context,
        key: str,
        name: str,
        *,
        at_least: int = 20,
        tolerance: tuple[float, float] = (0.02, 0.05),
        useless: float | None = 0.5,
    ) -> Measure:
        """The measure; cells with fewer than `at_least` real values on average per side are left out."""
        sums = ctx.sums(self.sums)
        starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(int)
        cell_of_bin = np.repeat(np.arange(len(self.sizes)), self.sizes)
        ordered = np.asarray(self.ordered, dtype=bool)
        first = starts[:-1]

        def total(x: np.ndarray) -> np.ndarray:
            return np.add.reduceat(x, first, axis=-1) if len(first) else x[..., :0]

        held, train = total(sums["held_out"].sum(0)), total(sums["train"].sum(0))
        sides = [total(sums[k]) for k in ("held_out", "train")]
        enough = (np.minimum(held, train) >= at_least) & (support_of(sides) >= FEWEST_GROUPS)
        weight = np.where(enough, held + train, 0.0)
        of = np.asarray(self.of, dtype=int)
        per_component = np.zeros((len(self.sizes), len(self.components)))
        per_component[np.arange(len(of)), of] = weight
        mass = per_component.sum(0)
        per_component = per_component / np.where(mass > 0, mass, 1)

        def curve(s: np.ndarray) -> np.ndarray:
            n = total(s)[..., cell_of_bin]
            return np.where(n > 0, s / np.where(n > 0, n, 1), np.nan)

        def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            gap = a - b
            absent = np.isnan(a) | np.isnan(b)
            neither = np.isnan(a) & np.isnan(b)
            gap = np.where(absent, 0.0, gap)
            run = np.cumsum(gap, axis=-1)  # each cell sums to 0, so that the sum of all before it is 0
            ks = np.maximum.reduceat(np.abs(run), first, axis=-1)
            tv = np.add.reduceat(np.abs(gap), first, axis=-1) / 2
            d = np.where(ordered, ks, tv)
            lacking = (absent & ~neither)[..., first]
            return np.where(lacking, 1.0, d) @ per_component

        labels = tuple(self.components)
        return Measure(key, name, labels, sums, curve, distance, mass > 0, tolerance, useless)
