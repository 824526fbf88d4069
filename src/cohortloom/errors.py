"""Exceptions, and the one place where a message about many problems is built.

A message has three parts: what was found and where; why it can't be used; what to do. All problems of one input come
at once. A patient's value or id never stands in a message: tables, columns, row numbers and counts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "CohortloomError",
    "DataError",
    "FileFormatError",
    "NotFittedError",
    "Problem",
    "SamplingError",
    "SchemaError",
    "SettingsError",
    "TrainingError",
    "nearest",
    "rows_text",
]


@dataclass(frozen=True)
class Problem:
    """One finding in an input.

    Args:
        code: Stable short name of the kind of problem, such as "duplicate-key" or "unknown-level".
        where: Place in the user's words: file, "table.column", or line of a schema file.
        what: What was found, with counts and row numbers but never a value.
        fix: What to do, if possible a line to paste.
        count: Number of rows, patients or places affected.
        rows: First few row numbers (0-based row of the table as read), may be empty.
    """

    code: str
    where: str
    what: str
    fix: str = ""
    count: int = 1
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}{rows_text(self.rows, self.count)}."
        return f"{text} {self.fix}" if self.fix else text


class CohortloomError(Exception):
    """Base of all errors a user can meet. `problems` holds every finding, the message lists them all."""

    def __init__(self, message: str = "", problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        lines = [message] if message else []
        bullet = "" if not message and len(self.problems) == 1 else "  - "
        lines += [f"{bullet}[{p.code}] {p}" for p in self.problems]
        super().__init__("\n".join(lines))


class SchemaError(CohortloomError, ValueError):
    """A schema contradicts itself or can't be read."""


class DataError(CohortloomError, ValueError):
    """Records do not fit their schema."""


class FileFormatError(CohortloomError, ValueError):
    """A file is unreadable, truncated, or of a kind we refuse."""


class SettingsError(CohortloomError, ValueError):
    """A setting is unknown or out of range."""


class NotFittedError(CohortloomError, RuntimeError):
    """A generator was asked to sample before it was fitted."""


class SamplingError(CohortloomError, RuntimeError):
    """The asked-for number of valid patients could not be drawn."""


class TrainingError(CohortloomError, RuntimeError):
    """Training diverged or can't start."""


def rows_text(rows: Sequence[int], count: int) -> str:
    """Text such as " (rows 3, 8, 11, ...)"; empty if no rows are known."""
    if not rows:
        return ""
    shown = ", ".join(str(r) for r in rows[:5])
    more = ", ..." if count > min(len(rows), 5) else ""
    return f" (row{'s' if count != 1 else ''} {shown}{more})"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ' Did you mean "visits"?', or the empty string."""
    import difflib

    known = list(known)
    inside = [k for k in known if k.rpartition(".")[2] == name]  # "type" for "patients.type"
    found = inside if len(inside) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f' Did you mean "{found[0]}"?' if found else ""
