"""Large tabular files to a folder of ours, a range of patients at a time, so that memory does not grow with the files.

One pass over every file counts the rows of each patient; ids, in the order a cohort has them, are cut into ranges of
about `CELLS` cells. A second pass copies the rows to the folder that is made, with the number of their range. Then
each range is read and checked as a small folder would be, and at the end the ranges stand behind one another. The bytes
are those of reading the files whole.

Problems are told of files, not of ranges: where there are any, or ids of one range are numbers and those of another
text, the caller reads the files whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from cohortloom.cohort import Cohort
from cohortloom.cohort.store import lay_out
from cohortloom.cohort.summary import tables_text
from cohortloom.files import new_folder
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
    schema: Schema | None = None,
    on_error: OnError = "fail",
    synthetic: bool = False,
    force: bool = False,
) -> str | None:
    """Read tabular files and write them as a folder of ours, without holding more than a range of patients.

    Args:
        path: Folder, or the one file all sources read from.
        out: Folder to make.
        schema: Schema with the sources; may be left out for a folder that `write` made.
        on_error: What becomes of records that do not fit, see `formats/base.py`.
        synthetic: The patients are synthetic.
        force: Replace what is there.

    Returns:
        The cohort in lines of counts (`cohort/summary.py`). None, and nothing written, where files are small or should
        be read whole: there is something to tell of them, or one range holds them all.

    Raises:
        FileFormatError: the path exists and `force` is not set.
        SettingsError: a schema is needed.
    """
    path, findings = Path(path), Findings(on_error)
    schema, own = schema_of(path, schema)
    raws = opened(path, schema, own, findings)
    if findings.problems or len(raws) < len(schema.tables) or _bytes(raws) < LARGE:
        return None
    try:
        with new_folder(out, force=force) as work:
            spill = work / "ranges"
            ranges, ids = _spilled(raws, spill)
            subjects = sum(_read_range(schema, raws, own, findings, spill, k, ids) for k in range(ranges))
            read = {n: pl.scan_parquet([spill / f"{n}.{k}.parquet" for k in range(ranges)]) for n in schema.tables}
            for name, frame in read.items():
                rows = frame.select(pl.len()).collect().item()
                if rows == 0:
                    nothing(name, schema.tables[name].role, findings)
            _stop_if(bool(findings.problems))
            origin = origin_of(path, own, findings)
            origin = replace(origin, kind="synthetic") if synthetic else origin
            lay_out(work, schema, read, subjects, origin)
            text = tables_text(schema, read, subjects, origin)
            shutil.rmtree(spill)
    except _ReadWhole:
        return None
    except BaseException as error:
        if from_parser(error):
            return None
        raise
    return text


def _bytes(raws: Mapping[str, Raw]) -> int:
    files = {file for raw in raws.values() for file in raw.files}
    return sum(f.stat().st_size * (PACKED if f.suffix in (".gz", ".parquet") else 1) for f in files)


def _stop_if(wrong: bool) -> None:
    if wrong:
        raise _ReadWhole


def _spilled(raws: Mapping[str, Raw], spill: Path) -> tuple[int, pl.DataType]:
    """Copy the rows of every table, each with the number of its range; the number of ranges, the dtype of ids."""
    spill.mkdir()
    rows = {n: _of_source(raw) for n, raw in raws.items()}
    counted = {n: _patients(raws[n], frame) for n, frame in rows.items()}
    ids = one_type({n: c.select("subject_id") for n, c in counted.items()}, has_plain_text(raws))
    counted = {n: c.with_columns(ids[n]["subject_id"]) for n, c in counted.items()}
    per = pl.concat([c.select("subject_id", "cells") for c in counted.values()]).drop_nulls("subject_id")
    per = per.group_by("subject_id").agg(pl.col("cells").sum()).sort("subject_id")
    per = per.with_columns(((pl.col("cells").cum_sum() - 1) // CELLS).cast(pl.Int32).alias(_RANGE))
    _stop_if(per.is_empty() or per[_RANGE][-1] == 0)
    last = per[_RANGE][-1]
    for name, frame in rows.items():
        number = counted[name].join(per.select("subject_id", _RANGE), on="subject_id", how="inner")
        number = number.select(pl.col(_RAW).alias(raws[name].source.subject), _RANGE).lazy()
        numbered = frame.join(number, on=raws[name].source.subject, how="left", maintain_order="left")
        numbered = numbered.with_columns(pl.col(_RANGE).fill_null(last))  # rows that name no patient come last
        numbered.sink_parquet(spill / f"{name}.parquet", compression="lz4", row_group_size=1 << 16)
    return last + 1, per["subject_id"].dtype


def _of_source(raw: Raw) -> pl.LazyFrame:
    """Rows the source asks for, those it leaves out among them: they are counted."""
    return filtered(raw.rows, raw.source, "include")


def _patients(raw: Raw, rows: pl.LazyFrame) -> pl.DataFrame:
    """Every way a patient's id is written, the id, and the cells of its rows."""
    subject, types = raw.source.subject, rows.collect_schema()
    there = filtered(rows, raw.source, "exclude")
    found = there.group_by(pl.col(subject).alias(_RAW)).agg(pl.len().cast(pl.Int64).alias("cells"))
    found = found.with_columns(pl.col("cells") * len(types))
    reading = Reading(marks=("", *raw.source.missing))
    own = text_of(_RAW, types[subject], reading) if types[subject] == pl.String else pl.col(_RAW)
    return found.with_columns(own.alias("subject_id")).collect(engine="streaming")


def _read_range(
    schema: Schema, raws: Mapping[str, Raw], own: bool, findings: Findings, spill: Path, k: int, ids: pl.DataType
) -> int:
    """Read and check one range of patients and write its tables; how many patients it has."""
    part = {}
    for name, raw in raws.items():
        rows = pl.scan_parquet(spill / f"{name}.parquet").filter(pl.col(_RANGE) == k).drop(_RANGE)
        part[name] = replace(raw, rows=rows)
    frames = tables(schema, part, own, findings, whole=False)
    _stop_if(bool(findings.problems) or len(frames) < len(schema.tables))
    cohort = Cohort.build(schema, frames)
    _stop_if(cohort.subjects.dtype != ids)  # then ranges would stand in another order
    for name, frame in cohort.tables.items():
        frame.write_parquet(spill / f"{name}.{k}.parquet", compression="lz4")
    return cohort.n_subjects
