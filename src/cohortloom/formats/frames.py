"""pandas and polars frames in and out.

Frames come with our column names and are checked as files are (`formats/check.py`). pandas says missing in many ways
(NaN, None, NaT, NA); all become null. Going out, whole numbers and flags with missing cells take pandas' nullable
dtypes, so that 3 stays 3 and True stays True.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from cohortloom.cohort import Cohort, Origin
from cohortloom.errors import SettingsError
from cohortloom.formats.base import Findings, OnError
from cohortloom.formats.check import check_frames
from cohortloom.schema.sheets import from_pandas
from cohortloom.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from cohortloom.schema import Schema

__all__ = ["from_frames", "from_pandas", "to_pandas"]


def from_frames(schema: Schema, tables: Mapping[str, Any], *, on_error: OnError = "fail") -> Cohort:
    """A cohort of frames in memory.

    Args:
        schema: What they should fit.
        tables: Table -> pandas or polars frame with our column names; a table that is absent is empty. `visit_id` of
            the visit table may be absent: visits are numbered then. Or the frames a schema was drafted from
            (`infer_schema({"patients": frame, ...})`), as they are: its sources say what is what.
        on_error: "fail", "drop" or "keep", see `formats/base.py`.

    Raises:
        DataError: records do not fit the schema; all problems in one message.

    Example:
        >>> import polars as pl
        >>> from cohortloom.schema import Number, Schema, Table
        >>> schema = Schema(name="s", tables={"patients": Table(role="static", columns={"age": Number()})})
        >>> from_frames(schema, {"patients": pl.DataFrame({"subject_id": [1, 2], "age": [40, 50]})}).n_subjects
        2
    """
    findings = Findings(on_error)
    frames = {name: _polars(name, frame) for name, frame in tables.items()}
    if _as_drafted(schema, frames):
        from cohortloom.formats.tabular import from_sources

        checked = from_sources(schema, frames, findings)
    else:
        checked = check_frames(schema, frames, findings)
    findings.raise_if_any("the frames", schema)
    return Cohort.build(schema, checked, origin=Origin("real", "frames", version=__version__, notes=findings.notes))


def _as_drafted(schema: Schema, frames: Mapping[str, pl.DataFrame]) -> bool:
    """Are these the frames a schema was drafted from, rather than tables under our names?"""
    ours = all(
        name in schema.tables
        and {"subject_id", *schema.tables[name].columns} <= set(frame.columns)
        and (not schema.has_time(name) or "time" in frame.columns)
        for name, frame in frames.items()
    )
    drafted = all(t.source and t.source.file.removesuffix(".parquet") in frames for t in schema.tables.values())
    return drafted and not ours


def to_pandas(cohort: Cohort) -> dict[str, pd.DataFrame]:
    """Table -> pandas frame; columns with missing whole numbers or flags are of dtype Int64 or boolean."""
    out = {}
    for name, frame in cohort.tables.items():
        nullable = {c: {pl.Int64: "Int64", pl.Boolean: "boolean"}.get(t) for c, t in frame.schema.items()}
        holes = {c: t for c, t in nullable.items() if t and frame[c].null_count()}
        made = frame.drop(list(holes)).to_pandas()
        for c, dtype in holes.items():
            made[c] = _nullable(frame[c], dtype)
        out[name] = made[frame.columns]
    return out


def _polars(name: str, frame: Any) -> pl.DataFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame
    if type(frame).__module__.partition(".")[0] == "pandas":
        return from_pandas(frame)
    raise SettingsError(f'table "{name}" is a {type(frame).__name__}; pass a pandas or polars frame')


def _nullable(column: pl.Series, dtype: str) -> Any:
    import numpy as np
    import pandas as pd  # heavy

    void = column.is_null().to_numpy()
    if dtype == "Int64":
        return pd.arrays.IntegerArray(column.fill_null(0).to_numpy().astype(np.int64), void)
    return pd.arrays.BooleanArray(column.fill_null(False).to_numpy().astype(bool), void)
