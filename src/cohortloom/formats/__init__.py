"""Reading and writing cohorts in the formats people have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cohortloom.formats.base import FORMATS, OnError, find

if TYPE_CHECKING:
    from cohortloom.cohort import Cohort
    from cohortloom.schema import Schema

__all__ = ["FORMATS", "describe", "read", "write"]


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


def describe() -> dict[str, str]:
    """Name -> one line, for people."""
    return {name: entry.description for name, entry in FORMATS.items()}
