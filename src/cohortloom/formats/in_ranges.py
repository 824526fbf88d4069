"""Large files to a folder of ours, a range of patients at a time, so that memory does not grow with the files.

Ids, in the order a cohort has them, are cut into ranges of about `CELLS` cells; each range is read and checked as a
small folder would be, and at the end the ranges stand behind one another. The bytes are those of reading the files
whole. Tabular files take two passes: one counts the rows of each patient, one copies the rows to the folder that is
made, with the number of their range. MEDS keeps the rows of a subject together, so its files are read in place.

Problems are told of files, not of ranges: where there are any, or ids of one range are numbers and those of another
text, the caller reads the files whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl

from cohortloom.cohort import Cohort, Origin
from cohortloom.cohort.store import lay_out
from cohortloom.cohort.summary import tables_text
from cohortloom.files import new_folder
from cohortloom.formats import meds
from cohortloom.formats.base import Findings, OnError
from cohortloom.formats.cells import Reading, text_of
from cohortloom.formats.check import nothing, one_type
from cohortloom.formats.files import from_parser
from cohortloom.formats.tabular import Raw, filtered, has_plain_text, opened, origin_of, schema_of, tables
from cohortloom.schema import Schema

__all__ = ["convert"]

CELLS = 2**21  #: cells of a range, as read
LARGE = 2**24  #: bytes of all files from which on ranges are worth it
PACKED = 8  #: times as much holds a compressed file

_RANGE, _RAW = "__range__", "__raw__"


class _ReadWhole(Exception):
    """Ranges would not do."""


def convert(
    path: str | Path,
    out: str | Path,
    *,
    read_as: str = "tabular",
    schema: Schema | None = None,
    on_error: OnError = "fail",
    synthetic: bool = False,
    force: bool = False,
) -> str | None:
    """Read files and write them as a folder of ours, without holding more than a range of patients.

    Args:
        path: Folder, or the one file all sources read from.
        out: Folder to make.
        read_as: "tabular", "parquet" or "meds".
        schema: As for `read` of that format.
        on_error: What becomes of records that do not fit, see `formats/base.py`.
        synthetic: The patients are synthetic.
        force: Replace what is there.

    Returns:
        The cohort in lines of counts (`cohort/summary.py`). None, and nothing written, where files are small or should
        be read whole: there is something to tell of them, or one range holds them all.

    Raises:
        FileFormatError: the path exists and `force` is not set; files are absent or not of this format.
        DataError, SettingsError: the schema does not go with the files, or is needed.
    """
    path, findings = Path(path), Findings(on_error)
    sourced = schema is not None and any(t.source for t in schema.tables.values())
    kind = _Meds if read_as == "meds" and not sourced else _Tabular
    files = kind(path, schema, findings)
    if findings.problems or files.size() < LARGE:
        return None
    try:
        with new_folder(out, force=force) as work:
            files.copies = work / "ranges"
            files.copies.mkdir()
            ranges = files.cut()
            _stop_if(ranges < 2)
            subjects = sum(_copied(files, k) for k in range(ranges))
            made = {n: pl.scan_parquet([files.copy(n, k) for k in range(ranges)]) for n in files.schema.tables}
            for name, frame in made.items():
                if files.checked and frame.select(pl.len()).collect().item() == 0:
                    nothing(name, files.schema.tables[name].role, findings)
            _stop_if(bool(findings.problems))
            origin = files.origin()
            origin = replace(origin, kind="synthetic") if synthetic else origin
            lay_out(work, files.schema, made, subjects, origin)
            text = tables_text(files.schema, made, subjects, origin)
            shutil.rmtree(files.copies)
    except _ReadWhole:
        return None
    except BaseException as error:
        if from_parser(error):
            return None
        raise
    return text


class _Files:
    """Files that were opened, read range by range.

    `schema` is what their rows become, `checked` whether they are held against it, `ids` the dtype of subject ids and
    `copies` the folder of what is kept on the way.
    """

    schema: Schema
    checked = True
    ids: pl.DataType | None = None
    copies: Path

    def size(self) -> int:
        """Bytes of all files, unpacked."""
        raise NotImplementedError

    def cut(self) -> int:
        """Cut the ids into ranges; how many."""
        raise NotImplementedError

    def read(self, k: int) -> dict[str, pl.DataFrame]:
        """The tables of one range."""
        raise NotImplementedError

    def origin(self) -> Origin:
        """Where the patients come from, once all ranges were read."""
        raise NotImplementedError

    def copy(self, name: str, k: int) -> Path:
        """Where the table of a range is kept."""
        return self.copies / f"{name}.{k}.parquet"


def _copied(files: _Files, k: int) -> int:
    """Read and check one range and keep its tables; how many patients it has."""
    frames = files.read(k)
    cohort = Cohort.build(files.schema, frames)
    files.ids = files.ids or cohort.subjects.dtype
    _stop_if(cohort.subjects.dtype != files.ids)  # ranges would stand in another order
    for name, frame in cohort.tables.items():
        frame.write_parquet(files.copy(name, k), compression="lz4")
    return cohort.n_subjects


def _stop_if(wrong: bool) -> None:
    if wrong:
        raise _ReadWhole


def _unpacked(files: Iterable[Path]) -> int:
    return sum(f.stat().st_size * (PACKED if f.suffix in (".gz", ".parquet") else 1) for f in set(files))


def _ranges(cells: pl.DataFrame) -> pl.DataFrame:
    """subject_id and cells -> every id once, in order, and the number of its range."""
    per = cells.drop_nulls("subject_id").group_by("subject_id").agg(pl.col("cells").sum()).sort("subject_id")
    return per.select("subject_id", ((pl.col("cells").cum_sum() - 1) // CELLS).cast(pl.Int32).alias(_RANGE))


class _Tabular(_Files):
    def __init__(self, path: Path, schema: Schema | None, findings: Findings) -> None:
        self.path, self.findings = path, findings
        self.schema, self.own = schema_of(path, schema)
        self.raws = opened(path, self.schema, self.own, findings)
        self.last = 0

    def size(self) -> int:
        return _unpacked(file for raw in self.raws.values() for file in raw.files)

    def cut(self) -> int:
        rows = {n: filtered(raw.rows, raw.source, "include") for n, raw in self.raws.items()}
        counted = {n: _patients(self.raws[n], frame) for n, frame in rows.items()}
        ids = one_type({n: c.select("subject_id") for n, c in counted.items()}, has_plain_text(self.raws))
        counted = {n: c.with_columns(ids[n]["subject_id"]) for n, c in counted.items()}
        per = _ranges(pl.concat([c.select("subject_id", "cells") for c in counted.values()]))
        _stop_if(per.is_empty() or per[_RANGE][-1] == 0)
        self.ids, last = per["subject_id"].dtype, per[_RANGE][-1]
        for name, frame in rows.items():
            subject = self.raws[name].source.subject
            number = counted[name].join(per, on="subject_id", how="inner").select(pl.col(_RAW).alias(subject), _RANGE)
            numbered = frame.join(number.lazy(), on=subject, how="left", maintain_order="left")
            numbered = numbered.with_columns(pl.col(_RANGE).fill_null(last))  # rows that name no patient come last
            numbered.sink_parquet(self.copies / f"{name}.parquet", compression="lz4", row_group_size=1 << 16)
        return last + 1

    def read(self, k: int) -> dict[str, pl.DataFrame]:
        part = {}
        for name, raw in self.raws.items():
            rows = pl.scan_parquet(self.copies / f"{name}.parquet").filter(pl.col(_RANGE) == k).drop(_RANGE)
            part[name] = replace(raw, rows=rows)
        frames = tables(self.schema, part, self.own, self.findings, whole=False)
        _stop_if(bool(self.findings.problems) or len(frames) < len(self.schema.tables))
        return frames

    def origin(self) -> Origin:
        return origin_of(self.path, self.own, self.findings)


def _patients(raw: Raw, rows: pl.LazyFrame) -> pl.DataFrame:
    """Every way a patient's id is written, the id, and the cells of its rows."""
    subject, types = raw.source.subject, rows.collect_schema()
    there = filtered(rows, raw.source, "exclude")
    found = there.group_by(pl.col(subject).alias(_RAW)).agg((pl.len().cast(pl.Int64) * len(types)).alias("cells"))
    reading = Reading(marks=("", *raw.source.missing))
    own = text_of(_RAW, types[subject], reading) if types[subject] == pl.String else pl.col(_RAW)
    return found.with_columns(own.alias("subject_id")).collect(engine="streaming")


class _Meds(_Files):
    def __init__(self, path: Path, schema: Schema | None, findings: Findings) -> None:
        self.path, self.findings = path, findings
        self.data = meds.opened(path, schema, findings)
        self.schema = self.data.schema
        self.checked = self.data.stored is None or findings.on_error != "fail"

    def size(self) -> int:
        return _unpacked(meds.files(self.path))

    def cut(self) -> int:
        width = len(self.data.events.collect_schema())
        cells = self.data.events.group_by("subject_id").agg((pl.len().cast(pl.Int64) * width).alias("cells"))
        cells = cells.collect(engine="streaming")
        _stop_if(cells["subject_id"].null_count() > 0)
        per = _ranges(cells).group_by(_RANGE, maintain_order=True)
        self.bounds = per.agg(first=pl.col("subject_id").first(), last=pl.col("subject_id").last())
        return self.bounds.height

    def read(self, k: int) -> dict[str, pl.DataFrame]:
        first, last = (pl.lit(self.bounds[end][k]) for end in ("first", "last"))
        rows = self.data.events.filter(pl.col("subject_id").is_between(first, last)).collect(engine="streaming")
        frames = self.data.tables(rows, False)
        _stop_if(bool(self.findings.problems))
        return frames

    def origin(self) -> Origin:
        return self.data.origin()
