"""Reports on disk: HTML for people, JSON for programs, Markdown for repositories, by the suffix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cohortloom.errors import Problem, SettingsError
from cohortloom.files import write_json, write_text

if TYPE_CHECKING:
    from cohortloom.report.report import Report

__all__ = ["write_report"]


def write_report(report: Report, path: str | Path) -> None:
    """Write a report whole; equal reports give equal bytes.

    Raises:
        SettingsError: the suffix is none of .html, .json, .md.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        write_json(path, report.to_dict(), sort_keys=False)  # tables keep the order of their columns
    elif suffix == ".md":
        from cohortloom.report.markdown import to_markdown

        write_text(path, to_markdown(report))
    elif suffix in (".html", ".htm"):
        from cohortloom.report.html import to_html  # heavy: jinja2 and matplotlib

        write_text(path, to_html(report))
    else:
        what = f'reports are written as .html, .json or .md, not "{suffix}"'
        raise SettingsError("", [Problem("bad-suffix", Path(path).name, what, "Change the suffix.")])
