"""Reading and writing cohorts in the formats people have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cohortloom.formats.base import FORMATS, OnError, find

if TYPE_CHECKING:
    from cohortloom.cohort import Cohort
    from cohortloom.schema import Schema

__all__ = ["FORMATS", "convert", "describe", "read", "write"]


def read(
    path: str | Path,
    *,
    format: str = "native",
    schema: Schema | str | Path | None = None,
    on_error: OnError = "fail",
) -> Cohort:
    """Read a cohort.

    Args:
        path: Folder, or the one file there is.
        format: One of `FORMATS`.
        schema: Schema or its file; needed unless the format carries one (native, or a folder written by `write`).
        on_error: "fail", "drop" or "keep", see `formats/base.py`.

    Raises:
        FileFormatError: files are absent or can't be read.
        DataError: records do not fit the schema; all problems in one message.
        SettingsError: no such format, or a schema is needed.
    """
    from cohortloom.schema import Schema

    if isinstance(schema, (str, Path)):
        schema = Schema.from_file(schema)
    return find(format).reader()(Path(path), schema=schema, on_error=on_error)


def write(cohort: Cohort, path: str | Path, *, format: str = "native", force: bool = False) -> None:
    """Write a cohort; the folder appears whole or not at all.

    Args:
        cohort: What is written.
        path: Folder to make.
        format: One of `FORMATS`.
        force: Replace what is there.

    Raises:
        FileFormatError: the path exists and `force` is not set.
        DataError: the format can't hold this cohort.
    """
    find(format).write(cohort, Path(path), force=force)


def convert(
    path: str | Path,
    out: str | Path,
    *,
    read_as: str = "native",
    write_as: str = "native",
    schema: Schema | str | Path | None = None,
    on_error: OnError = "fail",
    synthetic: bool = False,
    force: bool = False,
) -> str:
    """Read a cohort in one format and write it in another; large tables without holding them in memory.

    Args:
        path: Folder, or the one file there is.
        out: Folder to make.
        read_as: One of `FORMATS`.
        write_as: One of `FORMATS`.
        schema: As for `read`.
        on_error: As for `read`.
        synthetic: Say that the patients are synthetic: a file made elsewhere does not tell.
        force: Replace what is there.

    Returns:
        The cohort in lines of counts.

    Raises:
        FileFormatError, DataError, SettingsError: as `read` and `write`.
    """
    from cohortloom.cohort.summary import summary_text
    from cohortloom.formats import in_ranges
    from cohortloom.schema import Schema

    if isinstance(schema, (str, Path)):
        schema = Schema.from_file(schema)
    if read_as in ("tabular", "parquet", "meds") and write_as == "native":
        options = {"read_as": read_as, "schema": schema, "on_error": on_error, "synthetic": synthetic, "force": force}
        if (text := in_ranges.convert(path, out, **options)) is not None:
            return text
    cohort = read(path, format=read_as, schema=schema, on_error=on_error)
    if synthetic:
        cohort = replace(cohort, origin=replace(cohort.origin, kind="synthetic"))
    write(cohort, out, format=write_as, force=force)
    return summary_text(cohort)


def describe() -> dict[str, str]:
    """Name -> one line, for people."""
    return {name: entry.description for name, entry in FORMATS.items()}
