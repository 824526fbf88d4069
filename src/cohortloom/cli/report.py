"""cohortloom report"""

from __future__ import annotations

from pathlib import Path

from cohortloom.cli.options import Out, say


def run(file: Path, out: Out) -> None:
    """Turn the JSON of a report into an HTML page or Markdown, by the suffix of --out."""
    from cohortloom.files import read_json
    from cohortloom.report.parse import report_from_dict

    report_from_dict(read_json(file), file=file.name).save(out)
    say(f"written: {out}")
