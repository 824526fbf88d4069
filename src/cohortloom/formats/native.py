"""Our own folder, as a format like the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cohortloom.cohort import store
from cohortloom.errors import DataError, Problem
from cohortloom.formats.base import OnError

if TYPE_CHECKING:
    from cohortloom.cohort import Cohort
    from cohortloom.schema import Schema

__all__ = ["read", "write"]


def read(path: Path, *, schema: Schema | None = None, on_error: OnError = "fail") -> Cohort:
    """Read a folder written by `Cohort.save`. A given schema must be that of the folder.

    Raises:
        FileFormatError: see `cohort/store.py`. Nothing is passed over, whatever `on_error` says: the folder was checked
            when it was written.
        DataError: the folder has another schema than the one given.
    """
    cohort = store.load(path)
    if schema is not None and schema.digest != cohort.schema.digest:
        raise DataError(
            "",
            [
                Problem(
                    "other-schema",
                    str(path),
                    f'was written with schema "{cohort.schema.name}", which differs from the one given',
                    "Leave the schema out, or convert the source files again with the one you want.",
                )
            ],
        )
    return cohort


def write(cohort: Cohort, path: Path, *, force: bool = False) -> None:
    store.save(cohort, path, force=force)
