"""What a format is, and how findings in the input are answered.

A reader turns files into a cohort and answers every finding in the way the user chose:

    "fail"  nothing is read; one message lists every problem (the default)
    "drop"  a cell that can't be used becomes missing; a row that can't be used is left out: its key is absent or
            double, it hangs on nothing, or a cell that must not be missing is
    "keep"  whatever a cohort can hold stays as it is (unknown levels, values out of range, rows without their patient);
            a cell that can't be read becomes missing, a link to an unknown visit is cut, and only rows whose key is
            absent or double are left out

What was dropped, cut, settled or kept is counted in `origin.notes`, which travels in the manifest. A file that can't be
read and a column that is absent are never passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cohortloom.errors import DataError, FileFormatError, Problem, SettingsError, nearest

if TYPE_CHECKING:
    from cohortloom.cohort import Cohort
    from cohortloom.schema import Schema

__all__ = ["FORMATS", "Findings", "Format", "OnError", "find"]

OnError = Literal["fail", "drop", "keep"]

#: Problems with a file as such; if there are no others, the error is a FileFormatError.
FILE_CODES = {
    *("no-file", "unreadable-file", "cut-file", "not-text", "empty-file", "outside-folder", "foreign-file"),
    "ragged-rows",
}


@dataclass(frozen=True)
class Format:
    """One way of laying a cohort out in files.

    Args:
        description: One line for `cohortloom list formats`.
        module: Module of this package with `read(path, *, schema, on_error)` and `write(cohort, path, *, force)`.
        writer: Name of the write function.
    """

    description: str
    module: str
    writer: str = "write"

    def reader(self) -> Callable[..., Cohort]:
        from importlib import import_module

        return import_module(f"cohortloom.formats.{self.module}").read

    def write(self, cohort: Cohort, path: str | Path, *, force: bool) -> None:
        from importlib import import_module

        getattr(import_module(f"cohortloom.formats.{self.module}"), self.writer)(cohort, path, force=force)


#: Name -> format. A new format is one module and one line here.
FORMATS: dict[str, Format] = {
    "native": Format("our own folder: Parquet with a manifest, checked on reading", "native"),
    "tabular": Format("CSV or Parquet files, found and mapped by the schema's sources; written as CSV", "tabular"),
    "parquet": Format("as tabular, written as Parquet", "tabular", "write_parquet"),
    "meds": Format("MEDS 0.4: data shards of subject, time, code and value, with metadata", "meds"),
    "wfdb": Format(
        "WFDB records (.hea, .dat or .mat, .atr) by the schema's signal sources", "signal_files", "write_wfdb"
    ),
    "edf": Format("EDF and EDF+ files by the schema's signal sources", "signal_files", "write_edf"),
    "npz": Format("NPZ arrays of waveforms by the schema's signal sources", "signal_files", "write_npz"),
    "csv": Format(
        "text files with a record each, a column per channel and a row per sample; read only",
        "signal_files",
        "write_rows",
    ),
    "rows": Format("text tables of numbers with a record a row (UCR style); read only", "signal_files", "write_rows"),
}


def find(name: str) -> Format:
    """Format of a name.

    Raises:
        SettingsError: there is no such format.
    """
    if name not in FORMATS:
        raise SettingsError(f'format "{name}" is not known; there are {", ".join(FORMATS)}.{nearest(name, FORMATS)}')
    return FORMATS[name]


@dataclass
class Findings:
    """Problems and notes gathered while one input is read; `numbered` counts the visits that were given an id."""

    on_error: OnError = "fail"
    problems: list[Problem] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    numbered: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "drop", "keep"):
            raise SettingsError(f'on_error is "fail", "drop" or "keep", not "{self.on_error}"')

    def stop(self, code: str, where: str, what: str, fix: str = "", count: int = 1, rows: tuple[int, ...] = ()) -> None:
        """A problem no setting passes over."""
        self.problems.append(Problem(code, where, what, fix, count, rows))

    def settle(self, problem: Problem, *, drop: str, keep: str) -> bool:
        """A problem that `on_error` decides on; True if what it names is to be dropped.

        Args:
            problem: What was found.
            drop: Words of the note where it is dropped, e.g. "rows dropped".
            keep: Words of the note where it is kept.
        """
        if self.on_error == "fail":
            self.problems.append(problem)
            return False
        words = drop if self.on_error == "drop" else keep
        self.note(f"{problem.where}: {words} ({problem.code})", problem.count)
        return self.on_error == "drop"

    def note(self, text: str, count: int) -> None:
        """Count a plain fact, such as rows put in order."""
        if count:
            self.notes[text] = self.notes.get(text, 0) + int(count)

    def raise_if_any(self, path: object, schema: Schema) -> None:
        """Raise all problems at once.

        Raises:
            FileFormatError: files can't be read.
            DataError: records do not fit the schema.
        """
        if not self.problems:
            return
        if all(p.code in FILE_CODES for p in self.problems):
            raise FileFormatError(f"{path} can't be read", self.problems)
        way = ' Read with on_error="drop" or "keep" (--on-error) to go on without or with them.'
        open_ = self.on_error == "fail" and any(p.code not in FILE_CODES for p in self.problems)
        raise DataError(
            f'{path} does not fit schema "{schema.name}"; values are not shown.{way if open_ else ""}', self.problems
        )
