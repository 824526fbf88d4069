"""What comes in: settings and cohorts checked, subjects chosen, static rows laid out one per subject."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell, Part
from cohortloom.codec.clock import DAY
from cohortloom.codec.steps import subject_rows
from cohortloom.codec.tensors import Encoded, Feature, Layout
from cohortloom.cohort import Cohort
from cohortloom.errors import DataError, Problem, SettingsError
from cohortloom.schema import Schema

__all__ = ["check_arrays", "check_schema", "check_settings", "fit_cells", "one_row_each", "slice_of"]


def check_settings(layout: Layout, k_min: int, max_codes: int | None, bounds: str, step_days: float | None) -> None:
    wrong = []
    if k_min < 1:
        wrong.append("k_min must be at least 1")
    if max_codes is not None and max_codes < 0:
        wrong.append("max_codes must be at least 0")
    if bounds not in ("schema", "data"):
        wrong.append('bounds must be "schema" or "data"')
    if step_days is not None and not step_days > 0:
        wrong.append("step_days must lie above 0")
    if layout.events:
        wrong.append("the codec has no events layout; events are folded into steps (sequence=True)")
    if wrong:
        raise SettingsError("codec: " + "; ".join(wrong))


def slice_of(cohort: Cohort, subjects: Iterable | pl.Series | slice | None) -> tuple[Cohort, pl.Series]:
    """The cohort of the wanted subjects, and their ids in order."""
    everyone = cohort.subjects
    if subjects is None:
        return cohort, everyone
    if isinstance(subjects, slice):
        ids = everyone[subjects]
    else:
        wanted = subjects if isinstance(subjects, pl.Series) else pl.Series(list(subjects), dtype=everyone.dtype)
        ids = everyone.filter(everyone.is_in(wanted.cast(everyone.dtype).implode()))
        strange = wanted.n_unique() - ids.len()
        if strange:
            raise DataError(
                "",
                [Problem("unknown-subject", "subjects", f"{strange} ids are not in the cohort",
                         "Take ids from cohort.subjects.", strange)],
            )  # fmt: skip
    return cohort.select(ids), ids


def one_row_each(cohort: Cohort, table: str, ids: pl.Series) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of a static table, one per subject (nulls where it has none), and who has one.

    Raises:
        DataError: a subject has two rows.
    """
    frame = cohort.tables[table]
    rows = subject_rows(ids, frame)
    count = np.bincount(rows, minlength=ids.len())
    if count.max(initial=0) > 1:
        twice = int((count > 1).sum())
        raise DataError(
            "",
            [Problem("two-static-rows", table, f"{twice} subjects have more than one row",
                     "A static table has one row per subject; keep one, or give the table another role.", twice)],
        )  # fmt: skip
    at = np.full(ids.len(), -1, np.int64)
    at[rows] = np.arange(frame.height)
    present = at >= 0
    gathered = frame.with_row_index("__at").join(
        pl.DataFrame({"subject_id": ids}), on="subject_id", how="right", maintain_order="right"
    )
    return gathered.drop("__at"), present


def fit_cells(
    schema: Schema,
    table: str,
    frame: pl.DataFrame,
    subject: np.ndarray,
    reference: np.ndarray,
    *,
    k_min: int,
    max_codes: int | None,
    bounds: str,
    days: bool = False,
) -> list[Cell]:
    """Cells of a table's columns. `days`: its rows have a day and a time of day, and so have its timestamps."""

    def cell(column: str, part: Part = "") -> Cell | None:
        return Cell.fit(
            schema, table, column, frame[column], subject, reference,
            k_min=k_min, max_levels=100 if max_codes is None else max_codes, bounds=bounds, part=part,
        )  # fmt: skip

    found: list[Cell | None] = []
    for column in schema.tables[table].columns:
        one = cell(column)
        if days and one is not None and one.kind == "time" and one.grid % DAY:
            found += [cell(column, "days"), cell(column, "rest")]
        else:
            found += [cell(column, "shared"), one] if one is not None and one.shared is not None else [one]
    return [one for one in found if one is not None]


def check_schema(schema: Schema, cohort: Cohort) -> None:
    """Refuse a cohort of another schema."""
    if cohort.schema.digest != schema.digest:
        what = f'the cohort has another schema than the codec ("{schema.name}")'
        fix = "Encode cohorts of the schema the codec was fitted on."
        raise DataError("", [Problem("other-schema", cohort.schema.name, what, fix)])


def check_arrays(
    encoded: Encoded,
    static: tuple[Feature, ...],
    sequence: tuple[Feature, ...],
    layout: Layout,
    n_ids: int,
) -> None:
    """Refuse arrays with other features than the codec's, or another number of subjects than ids."""
    problems = []
    for name, part, wanted, used in (
        ("static", encoded.static, static, layout.static),
        ("sequence", encoded.sequence, sequence, layout.sequence),
    ):
        if used and part is not None and [f.name for f in part.features] != [f.name for f in wanted]:
            what = "the arrays have other features than the codec"
            problems.append(Problem("other-features", name, what, f"Use codec.{name}_features."))
    if n_ids != encoded.n_subjects:
        what = f"{n_ids} ids for {encoded.n_subjects} subjects"
        problems.append(Problem("wrong-number-of-ids", "ids", what, "Give one id per subject."))
    if problems:
        raise DataError("", problems)
