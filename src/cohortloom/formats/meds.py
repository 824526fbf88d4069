"""MEDS 0.4: one row per measurement of a subject, in shards of Parquet.

    data/0.parquet ...                 subject_id, time, code, numeric_value, text_value, and our visit_id, table_row
    metadata/codes.parquet             code, description, parent_codes
    metadata/dataset.json              what it is and who made it
    metadata/subject_splits.parquet    subject_id, split
    metadata/cohortloom.json           our schema and how ids and times were written, so that nothing is lost

A subject lies in one shard, its rows together and sorted by time, rows without a time first.

Writing. A number, count or flag is a row `table//column` with its numeric_value; a category, ordinal, code or
identifier is a row `table//column//value`; the value beside the code of a long table is the numeric_value of the code's
row; a timestamp stands as text. A visit is a row `table`; so is a row without any cell. numeric_value is float32: where
that loses digits, text_value holds the number in full. Ids that are no whole numbers are numbered; offsets count from
2000-01-01, an order is days from there; both are told in cohortloom.json and undone on reading. Statics have no time.

Reading. A folder of ours comes back as it was. Any other is read by the sources of the schema given (file
"data/*.parquet", code "code", value "numeric_value"; see `CodeMap` for codes by their beginning), or, without a schema,
as static columns from the codes without a time, and one long table of all events.

References:
    Arnrich et al. (2024). Medical Event Data Standard (MEDS): Facilitating Machine Learning for Health.
    https://github.com/Medical-Event-Data-Standard/meds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from cohortloom.cohort import Cohort, Origin
from cohortloom.cohort.store import schema_text
from cohortloom.errors import DataError, FileFormatError, Problem
from cohortloom.files import new_folder, read_json, write_json
from cohortloom.formats import tabular
from cohortloom.formats.base import Findings, OnError
from cohortloom.formats.check import check_frames
from cohortloom.formats.files import from_parser, parquet, parquet_rows
from cohortloom.schema import Category, Code, Number, Schema, Table, Timestamp
from cohortloom.version import __version__

__all__ = ["files", "opened", "read", "read_splits", "write"]

ORIGIN = datetime(2000, 1, 1)
SHARD, CELLS = 20_000, 2**22  # at most so many subjects in one file, and cells
_NUMERIC = ("number", "count", "flag")
_OWN = "metadata/cohortloom.json"


def write(cohort: Cohort, path: str | Path, *, force: bool = False, splits: Mapping[str, Cohort] | None = None) -> None:
    """Write a cohort as a MEDS 0.4 dataset.

    Args:
        cohort: What is written.
        path: Folder to make.
        force: Replace what is there.
        splits: Split -> part of the cohort (`train`, `tuning`, `held_out`); without it everybody is in `train`.

    Raises:
        FileFormatError: the path exists and `force` is not set.
        DataError: the cohort has signals, or names with "//".
    """
    _check_writable(cohort)
    subjects = cohort.subjects
    numbered = subjects.dtype != pl.Int64
    ids = pl.DataFrame({"subject_id": subjects, "__id": pl.int_range(1, subjects.len() + 1, eager=True)})
    ids = ids if numbered else ids.with_columns(pl.col("subject_id").alias("__id"))
    parts = splits or {"train": cohort}
    split = [pl.DataFrame({"subject_id": c.subjects}).with_columns(pl.lit(n).alias("split")) for n, c in parts.items()]
    split = pl.concat(split).join(ids, on="subject_id").select(pl.col("__id").alias("subject_id"), "split")
    with new_folder(path, force=force) as folder:
        (folder / "data").mkdir()
        (folder / "metadata").mkdir()
        seen = []
        for i, tables in enumerate(_shards(cohort)):
            events = pl.concat([_rows_of(cohort.schema, tables, n) for n in tables]) if tables else _no_rows()
            events = events.join(ids, on="subject_id", how="left", maintain_order="left")
            events = events.drop("subject_id").rename({"__id": "subject_id"}).select(_no_rows().columns)
            events = events.with_columns(pl.col("numeric_value").cast(pl.Float32))
            events = events.sort("subject_id", "time", nulls_last=False, maintain_order=True)
            _parquet(events, folder / f"data/{i}.parquet", not_null=("subject_id", "code"))
            seen.append(events["code"].unique())
        codes = pl.concat(seen).unique().sort().to_frame()
        _parquet(split.sort("subject_id"), folder / "metadata/subject_splits.parquet", not_null=("subject_id", "split"))
        _parquet(_codes(cohort.schema, codes), folder / "metadata/codes.parquet", not_null=("code",))
        about = {
            "dataset_name": cohort.schema.name,
            "dataset_version": cohort.schema.version,
            "etl_name": "cohortloom",
            "etl_version": __version__,
            "meds_version": "0.4.1",
            "raw_source_id_columns": ["visit_id", "table_row"],
        }
        write_json(folder / "metadata/dataset.json", about)
        own = {
            "format": 1,
            "schema": schema_text(cohort.schema),
            "origin": cohort.origin.to_dict(),
            "subjects": subjects.to_list() if numbered else None,
            "visit_ids": str(_visit_dtype(cohort)),
        }
        write_json(folder / _OWN, own)


def read(path: str | Path, *, schema: Schema | None = None, on_error: OnError = "fail") -> Cohort:
    """Read a MEDS dataset: one of ours, by the sources of a schema, or as it comes (see the module's lesson).

    Raises:
        FileFormatError: the folder holds no MEDS data, or a file can't be read.
        DataError: records do not fit the schema.
    """
    path = Path(path)
    if schema is not None and any(t.source for t in schema.tables.values()):
        return tabular.read(path, schema=schema, on_error=on_error)
    findings = Findings(on_error)
    data = opened(path, schema, findings)
    frames = data.tables(data.collect(), True)
    findings.raise_if_any(path, data.schema)
    return Cohort.build(data.schema, frames, origin=data.origin())


@dataclass(frozen=True)
class Dataset:
    """A MEDS folder, opened.

    Args:
        path: The folder.
        schema: What its events become.
        events: All rows, to be read.
        tables: Events of some subjects -> tables; is it all of them?
        findings: Takes problems and notes.
        stored: Origin that the folder itself tells.
    """

    path: Path
    schema: Schema
    events: pl.LazyFrame
    tables: Callable[[pl.DataFrame, bool], dict[str, pl.DataFrame]]
    findings: Findings
    stored: Origin | None = None

    def origin(self) -> Origin:
        """Where the cohort comes from; notes are complete when all events were read."""
        return self.stored or Origin("real", "meds", version=__version__, notes=self.findings.notes)

    def collect(self) -> pl.DataFrame:
        """All events in memory.

        Raises:
            FileFormatError: a file can't be read to its end.
        """
        try:
            return self.events.collect(engine="streaming")
        except BaseException as error:
            if not from_parser(error):
                raise
            for i, file in enumerate(found := files(self.path)):
                parquet(file, f"data, file {i + 1} of {len(found)}")
            raise


def opened(path: Path, schema: Schema | None, findings: Findings) -> Dataset:
    """A dataset of ours, or any other without a schema.

    Raises:
        FileFormatError: the folder holds no MEDS data, or a file is none.
        DataError: the schema is not that of the folder, or does not say which codes its columns are.
    """
    events = _events(path)
    if (path / _OWN).is_file():
        return _stored(path, events, schema, findings)
    if schema is not None:
        raise DataError(
            "",
            [
                Problem(
                    "no-source",
                    f'schema "{schema.name}"',
                    "does not say which MEDS codes its columns are",
                    'Give its tables a source with file = "data/*.parquet", code = "code", value = "numeric_value", or '
                    "leave the schema out.",
                )
            ],
        )
    return _generic(path, events, findings)


def read_splits(path: str | Path) -> dict[str, pl.Series]:
    """Split -> subject ids, for `cohort.select`; empty if the dataset names none."""
    path = Path(path)
    for file in ("metadata/subject_splits.parquet", "subject_splits.parquet"):
        if (path / file).is_file():
            frame = parquet(path / file, file)
            if (path / _OWN).is_file() and (names := read_json(path / _OWN).get("subjects")) is not None:
                frame = frame.with_columns(pl.Series(names).gather(frame["subject_id"] - 1).alias("subject_id"))
            return {str(k[0]): g["subject_id"].sort() for k, g in frame.partition_by("split", as_dict=True).items()}
    return {}


# -- writing ---------------------------------------------------------------------------------------------------------


def _check_writable(cohort: Cohort) -> None:
    found = []
    if cohort.signals:
        fix = "Write the native format, or leave the signals out."
        found.append(Problem("signals", ", ".join(cohort.signals), "MEDS has no place for waveforms", fix))
    for name, table in cohort.schema.tables.items():
        for word in (name, *table.columns):
            if "//" in word:
                found.append(
                    Problem("bad-name", f"{name}.{word}", 'has "//" in its name, which parts MEDS codes', "Rename it.")
                )
    if found:
        raise DataError("the cohort can't be written as MEDS", found)


def _visit_dtype(cohort: Cohort) -> pl.DataType:
    dtypes = [t["visit_id"].dtype for t in cohort.tables.values() if "visit_id" in t.columns]
    return dtypes[0] if dtypes else pl.Int64()


def _no_rows() -> pl.DataFrame:
    kinds = {"time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float64, "text_value": pl.String}
    return pl.DataFrame(schema={"subject_id": pl.Int64, **kinds, "visit_id": pl.String, "table_row": pl.Int64})


def _absolute(time: pl.Expr, clock: str) -> pl.Expr:
    if clock == "timestamp":
        return time
    step = time.cast(pl.Duration("us")) if clock == "offset" else pl.duration(days=time)
    return (pl.lit(ORIGIN).cast(pl.Datetime("us")) + step).cast(pl.Datetime("us"))


def _shards(cohort: Cohort) -> Iterator[dict[str, pl.DataFrame]]:
    """Tables of `SHARD` subjects, or fewer where there is much to tell of them, with the number of each row."""
    row = pl.int_range(pl.len(), dtype=pl.Int64).alias("__row")
    tables = {n: t.select(row, pl.all()) for n, t in cohort.tables.items()}
    per = [t.group_by("subject_id").agg((pl.len() * t.width).alias("n")) for t in tables.values()]
    cells = pl.DataFrame({"subject_id": cohort.subjects})
    if per:
        per = pl.concat(per).group_by("subject_id").agg(pl.col("n").sum())
        cells = cells.join(per, on="subject_id", how="left", maintain_order="left")
        shard = pl.max_horizontal((pl.col("n").cum_sum() - 1) // CELLS, pl.int_range(pl.len()) // SHARD)
        cells = cells.with_columns(shard.alias("shard"))
    if cells.is_empty():
        yield tables
        return
    for part in cells.partition_by("shard", maintain_order=True):
        first, last = pl.lit(part["subject_id"][0]), pl.lit(part["subject_id"][-1])
        yield {n: t.filter(pl.col("subject_id").is_between(first, last)) for n, t in tables.items()}


def _rows_of(schema: Schema, tables: Mapping[str, pl.DataFrame], name: str) -> pl.DataFrame:
    """MEDS rows of one table, before ids are numbered."""
    table, frame = schema.tables[name], tables[name]
    when = pl.lit(None, dtype=pl.Datetime("us"))
    if schema.has_time(name):
        when = _absolute(pl.col("time"), schema.clock)
    elif schema.has_visit_id(name):  # an untimed event is told at its visit
        visits = tables[schema.visit_table or ""].select("subject_id", "visit_id", pl.col("time").alias("__t"))
        visits = visits.unique(["subject_id", "visit_id"], keep="first")
        frame = frame.join(visits, on=["subject_id", "visit_id"], how="left", maintain_order="left")
        when = _absolute(pl.col("__t"), schema.clock)
    visit = pl.col("visit_id").cast(pl.String) if "visit_id" in frame.columns else pl.lit(None, dtype=pl.String)
    keys = [pl.col("subject_id"), when.alias("time")]
    rest = [visit.alias("visit_id"), pl.col("__row").alias("table_row")]
    parts, told = [], pl.lit(False)
    for column, what in table.columns.items():
        here = pl.col(column).is_not_null()
        if column == table.value and table.code:
            here = here & pl.col(table.code).is_null()
        code, number, text = _meaning(name, column, what, table)
        cells = [code.alias("code"), number.alias("numeric_value"), text.alias("text_value")]
        parts.append(frame.filter(here).select(*keys, *cells, *rest))
        told = told | here
    marked = frame if table.role == "visit" else frame.filter(~told)
    nothing = [pl.lit(None, dtype=pl.Float64).alias("numeric_value"), pl.lit(None, dtype=pl.String).alias("text_value")]
    parts.insert(0, marked.select(*keys, pl.lit(name).alias("code"), *nothing, *rest))
    return pl.concat(parts)


def _meaning(name: str, column: str, what: Any, table: Table) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """code, numeric_value and text_value of the cells of one column."""
    cell, code = pl.col(column), pl.lit(f"{name}//{column}")
    nothing, silent = pl.lit(None, dtype=pl.Float64), pl.lit(None, dtype=pl.String)
    if what.kind in _NUMERIC:
        return code, cell.cast(pl.Float64), _in_full(column, getattr(what, "decimals", None))
    if what.kind == "timestamp":
        return code, nothing, cell.cast(pl.Int64).cast(pl.String)  # microseconds, or a place in the order
    code = pl.concat_str(code, pl.lit("//"), cell)
    if column == table.code and table.value:
        return code, pl.col(table.value), _in_full(table.value, table.value_column().decimals)
    return code, nothing, silent


def _in_full(column: str, decimals: int | None) -> pl.Expr:
    """The number as text where float32, rounded to the schema's decimals, does not give it back."""
    value = pl.col(column).cast(pl.Float64)
    back = value.cast(pl.Float32).cast(pl.Float64)
    back = back if decimals is None else back.round(decimals)
    return pl.when(back != value).then(pl.col(column).cast(pl.String))


def _codes(schema: Schema, seen: pl.DataFrame) -> pl.DataFrame:
    """Every code that occurs, with the words and the standard code of its column."""
    words, standard = {}, {}
    for name, table in schema.tables.items():
        words[name] = table.description or name
        for column, what in table.columns.items():
            unit = f" [{what.unit}]" if getattr(what, "unit", "1") != "1" else ""
            words[f"{name}//{column}"] = (what.description or column) + unit
            if what.code:
                standard[f"{name}//{column}"] = what.code.replace(":", "/", 1)
    stem = pl.col("code").str.splitn("//", 3)
    stem = (
        pl.when(pl.col("code").str.contains("//", literal=True))
        .then(pl.concat_str(stem.struct.field("field_0"), pl.lit("//"), stem.struct.field("field_1")))
        .otherwise(pl.col("code"))
    )
    parents = stem.replace_strict(standard, default=None, return_dtype=pl.String)
    return seen.with_columns(
        stem.replace_strict(words, default=None, return_dtype=pl.String).alias("description"),
        pl.when(parents.is_not_null()).then(pl.concat_list(parents)).alias("parent_codes"),
    )


def _parquet(frame: pl.DataFrame, path: Path, not_null: tuple[str, ...]) -> None:
    """Parquet with the Arrow types that MEDS names, key columns not nullable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        pl.String: pa.string(),
        pl.Int64: pa.int64(),
        pl.Float32: pa.float32(),
        pl.Datetime("us"): pa.timestamp("us"),
    }
    kinds[pl.List(pl.String)] = pa.list_(pa.string())
    fields = [
        pa.field(c, pa.large_string() if c == "text_value" else kinds[t], nullable=c not in not_null)
        for c, t in frame.schema.items()
    ]
    table = frame.rechunk().to_arrow()
    arrays = [table.column(f.name).cast(f.type) for f in fields]
    pq.write_table(pa.table(arrays, schema=pa.schema(fields)), path, compression="zstd")


# -- reading ---------------------------------------------------------------------------------------------------------


def files(path: Path) -> list[Path]:
    """The data files of a folder, in order."""
    found = sorted((path / "data").rglob("*.parquet")) if (path / "data").is_dir() else [path / "data.parquet"]
    return [f for f in found if f.is_file()]


def _events(path: Path) -> pl.LazyFrame:
    found = files(path)
    if not found:
        fix = "A MEDS dataset holds data/*.parquet."
        raise FileFormatError("", [Problem("no-file", str(path), "holds no MEDS data", fix)])
    parts = [parquet_rows(f, f"data, file {i + 1} of {len(found)}") for i, f in enumerate(found)]
    absent = {c for p in parts for c in ("subject_id", "time", "code") if c not in p.collect_schema().names()}
    if absent:
        said = [Problem("missing-column", f"data.{c}", "MEDS data must have this column") for c in sorted(absent)]
        raise FileFormatError(f"{path} is not MEDS", said)
    return pl.concat(parts, how="diagonal_relaxed")


def _stored(path: Path, events: pl.LazyFrame, schema: Schema | None, findings: Findings) -> Dataset:
    """A folder of ours."""
    own = read_json(path / _OWN)
    try:
        stored, origin = Schema.model_validate_json(own["schema"]), Origin(**own["origin"])
    except (KeyError, TypeError, ValueError):
        fix = "Remove the file to read the folder as any other MEDS dataset."
        raise FileFormatError("", [Problem("foreign-file", _OWN, "is not as we write it", fix)]) from None
    if schema is not None and schema.digest != stored.digest:
        what = "the folder was written with another schema"
        raise DataError("", [Problem("other-schema", str(path), what, "Leave the schema out.")])
    names = None if own.get("subjects") is None else pl.Series("subject_id", own["subjects"])
    visit_dtype = pl.Int64 if own.get("visit_ids") == "Int64" else pl.String

    def tables(rows: pl.DataFrame, whole: bool) -> dict[str, pl.DataFrame]:
        if names is not None:
            rows = rows.with_columns(names.gather(rows["subject_id"] - 1).alias("subject_id"))
        parts = pl.col("code").str.splitn("//", 3)
        rows = rows.with_columns(
            parts.struct.field("field_0").alias("__table"),
            parts.struct.field("field_1").alias("__column"),
            parts.struct.field("field_2").alias("__rest"),
            pl.col("numeric_value").cast(pl.Float64),
            pl.col("visit_id").cast(visit_dtype),
        )
        by_table = rows.partition_by("__table", as_dict=True)
        frames = {n: _table(stored, n, by_table[(n,)]) for n in stored.tables if (n,) in by_table}
        if findings.on_error == "fail":  # what was written is what comes back, valid or not; else it is checked again
            return frames
        return check_frames(stored, frames, findings, whole=whole)

    return Dataset(path, stored, events, tables, findings, origin)


def _table(schema: Schema, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    table, rows = schema.tables[name], rows.rename({"table_row": "__row"})
    keys = [k for k in ("subject_id", "visit_id") if k in schema.keys(name)]
    frame = rows.select("__row", *keys, "time").unique("__row", keep="first").sort("__row")
    if schema.has_time(name):
        frame = frame.with_columns(_relative(pl.col("time"), schema.clock).alias("time"))
    by_column = rows.drop_nulls("__column").partition_by("__column", as_dict=True)
    for column, what in table.columns.items():
        cells = by_column.get((column,))
        read = []
        if cells is not None:
            read.append(cells.select("__row", _value(what, schema.clock).alias(column)))
        if column == table.value and table.code and (table.code,) in by_column:
            beside = by_column[(table.code,)].select("__row", _value(what, schema.clock).alias(column))
            read.append(beside.drop_nulls(column))
        if read:
            frame = frame.join(pl.concat(read), on="__row", how="left", maintain_order="left")
        else:
            frame = frame.with_columns(pl.lit(None).alias(column))
    return frame.drop("__row", *([] if schema.has_time(name) else ["time"]))


def _relative(time: pl.Expr, clock: str) -> pl.Expr:
    if clock == "timestamp":
        return time
    offset = time - pl.lit(ORIGIN).cast(pl.Datetime("us"))
    return offset if clock == "offset" else offset.dt.total_days().cast(pl.Int64)


def _value(what: Any, clock: str) -> pl.Expr:
    text, number = pl.col("text_value"), pl.col("numeric_value")
    if what.kind == "timestamp":
        ticks = text.cast(pl.Int64)
        return ticks.cast({"timestamp": pl.Datetime("us"), "offset": pl.Duration("us"), "order": pl.Int64}[clock])
    if what.kind == "count":
        return pl.coalesce(text.cast(pl.Int64), number.cast(pl.Int64))
    if what.kind == "flag":
        return number != 0
    if what.kind == "number":
        decimals = what.decimals
        short = number if decimals is None else number.round(decimals)
        return pl.coalesce(text.cast(pl.Float64), short)
    return pl.col("__rest")


def _generic(path: Path, events: pl.LazyFrame, findings: Findings) -> Dataset:
    """Any MEDS dataset without a schema: tables `subjects` and `events`."""
    always = ["subject_id", "time", "code", "numeric_value", "text_value"]
    there = events.collect_schema().names()
    findings.note("columns beyond the MEDS core, left out", len(set(there) - set(always)))
    events = events.with_columns(pl.lit(None).alias(c) for c in always[3:] if c not in there).select(always)
    born = pl.col("code").is_in(["MEDS_BIRTH", "MEDS_DEATH"])
    untimed = events.filter(pl.col("time").is_null()).collect(engine="streaming")
    statics, columns = _static_columns(untimed, findings)
    for code, name in (("MEDS_BIRTH", "birth"), ("MEDS_DEATH", "death")):
        moments = events.filter((pl.col("code") == code) & pl.col("time").is_not_null())
        moments = moments.group_by("subject_id").agg(pl.col("time").min()).collect(engine="streaming")
        if moments.height:
            columns[name] = Timestamp(sensitive=name == "death", quasi_identifier=name == "birth")
            statics = statics.join(moments.rename({"time": name}), on="subject_id", how="full", coalesce=True)
    kinds = {"code": Code(system="MEDS", missing=False), "numeric_value": Number(), "text_value": Code(system="text")}
    made = {"events": Table(role="event", code="code", value="numeric_value", columns=kinds)}
    made = {"subjects": Table(role="static", columns=columns), **made} if columns else made
    schema = Schema(name="meds", description="Read from MEDS without a schema.", tables=made)

    def tables(rows: pl.DataFrame, whole: bool) -> dict[str, pl.DataFrame]:
        frames = {"events": rows.filter(pl.col("time").is_not_null() & ~born)}
        if columns:
            frames["subjects"] = rows.select(pl.col("subject_id").unique()).join(statics, on="subject_id", how="left")
        return check_frames(schema, frames, findings, whole=whole)

    return Dataset(path, schema, events, tables, findings)


def _static_columns(rows: pl.DataFrame, findings: Findings) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Codes without a time -> one column each: `GENDER//F` is level F of GENDER, a bare code is a number."""
    stem = pl.col("code").str.extract(r"^(.*)//[^/]+$").fill_null(pl.col("code"))
    rows = rows.drop_nulls("code").with_columns(
        stem.alias("stem"), pl.col("code").str.extract(r"//([^/]+)$").fill_null("yes").alias("level")
    )
    wide, columns = rows.select(pl.col("subject_id").unique()), {}
    for (name,), part in sorted(rows.partition_by("stem", as_dict=True).items()):
        once = part.unique("subject_id", keep="first", maintain_order=True)
        findings.note(f"subjects.{name}: further static rows of one subject, left out", part.height - once.height)
        if part["numeric_value"].null_count() < part.height and (part["level"] == "yes").all():
            columns[name], value = Number(), pl.col("numeric_value").cast(pl.Float64)
        else:
            columns[name], value = Category(levels=tuple(sorted(part["level"].unique()))), pl.col("level")
        wide = wide.join(once.select("subject_id", value.alias(name)), on="subject_id", how="left")
    return wide, columns
