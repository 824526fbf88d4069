"""CSV and Parquet files, found and mapped by the sources of a schema.

A table is read in one lazy query: scan, row filters, our names, types, checks. What needs several rows comes after:
codes of a long file, bins of a grid, statics repeated on every row. Links between tables come last.

A table without a source is looked for as `<table>.csv`, `.csv.gz` or `.parquet` with our own column names: the layout
`write` makes. There, offsets are seconds, dates are ISO 8601, flags true and false, missing is an empty cell; a
`schema.json` beside the files says what they are, so that the folder can be read without anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from cohortloom.cohort import Cohort, Origin
from cohortloom.cohort.store import schema_text
from cohortloom.errors import DataError, FileFormatError, Problem, SettingsError, nearest
from cohortloom.files import new_folder, read_json, write_json, write_text
from cohortloom.formats.base import Findings, OnError
from cohortloom.formats.cells import Reading, text_of
from cohortloom.formats.check import ROW, Spec, linked, read_types, specs, typed
from cohortloom.formats.files import collect, locate, scan
from cohortloom.formats.grid import aggregate, binned, fill_bins, one_per_key, problem_of
from cohortloom.schema import CodeMap, Schema, Source, SourceTime, Table
from cohortloom.schema.source import TIME_UNITS
from cohortloom.version import __version__

__all__ = ["read", "write", "write_parquet"]

ORIGIN = "origin.json"  #: Says beside files we write what they hold.
_DATED = {"day": ("1d", "%Y-%m-%d"), "month": ("1mo", "%Y-%m"), "year": ("1y", "%Y")}


def read(path: str | Path, *, schema: Schema | None = None, on_error: OnError = "fail") -> Cohort:
    """Read the files of a folder into a cohort.

    Args:
        path: Folder, or the one file all sources read from.
        schema: Schema with the sources; may be left out for a folder that `write` made.
        on_error: What becomes of records that do not fit, see `formats/base.py`.

    Raises:
        FileFormatError: files are absent or can't be read.
        DataError: records do not fit the schema. All problems come in one message.
        SettingsError: a schema is needed.
    """
    path, findings = Path(path), Findings(on_error)
    schema, own = schema_of(path, schema)
    frames = tables(schema, opened(path, schema, own, findings), own, findings)
    findings.raise_if_any(path, schema)
    return Cohort.build(schema, frames, origin=origin_of(path, own, findings))


def schema_of(path: Path, schema: Schema | None) -> tuple[Schema, bool]:
    """The schema to read by, and whether `write` made the folder.

    Raises:
        SettingsError: a schema is needed.
    """
    own = path.is_dir() and (path / "schema.json").is_file()
    if schema is not None:
        return schema, own
    if not own:
        raise SettingsError(
            "tabular files need a schema that says what they hold: pass schema=... (--schema FILE). "
            "`cohortloom schema infer FOLDER` drafts one."
        )
    return Schema.model_validate_json((path / "schema.json").read_bytes()), own


@dataclass(frozen=True)
class Raw:
    """Rows of a table as they stand in its files, with `ROW`, and the source that says how to read them."""

    source: Source
    files: list[Path]
    rows: pl.LazyFrame


def opened(path: Path, schema: Schema, own: bool, findings: Findings) -> dict[str, Raw]:
    """The files of every table, found and opened; what is absent or can't be read goes to `findings`."""
    if not path.exists():
        findings.stop("no-file", str(path), "does not exist", "Check the path.")
        findings.raise_if_any(path, schema)
    found = {}
    for name, table in schema.tables.items():
        source = (None if own else table.source) or _own(path, schema, name)
        files = locate(path, source, name, findings)
        rows = scan(files, source, name, findings) if files else None
        if rows is not None:
            found[name] = Raw(source, files, rows)
    return found


def tables(
    schema: Schema, raws: Mapping[str, Raw], own: bool, findings: Findings, *, whole: bool = True
) -> dict[str, pl.DataFrame]:
    """Rows of the files -> checked tables a cohort can be built of.

    Args:
        schema: What they should fit.
        raws: What was opened.
        own: Did `write` make the files?
        findings: Takes problems and notes.
        whole: All patients are there, not a range of them: an empty table is worth a word.
    """
    frames = {n: _mapped(r.rows, r.files, schema, n, r.source, findings) for n, r in raws.items()}
    read = _from_first_row(schema, {n: f for n, f in frames.items() if f is not None}, findings)
    if schema.clock == "order" and not own:
        read = _ranked(schema, read)
    if len(read) < len(schema.tables):
        return read
    return linked(schema, read, findings, parse_ids=has_plain_text(raws), whole=whole)


def has_plain_text(raws: Mapping[str, Raw]) -> bool:
    """Is any of the files without types?"""
    return any(not r.source.file.endswith(".parquet") for r in raws.values() if r.files)


def origin_of(path: Path, own: bool, findings: Findings) -> Origin:
    """What `write` says of the cohort: a synthetic one stays so, with its release status."""
    read = Origin("real", "tabular", version=__version__, notes=findings.notes)
    if not own or not (path / ORIGIN).is_file():
        return read
    said = read_json(path / ORIGIN)
    if not isinstance(said, dict) or said.get("kind") not in ("real", "synthetic"):
        raise FileFormatError("", [Problem("origin", ORIGIN, "does not say what the cohort is", "Write it again.")])
    if said["kind"] == "real":
        return read
    kept = {key: said[key] for key in ("source", "seed", "release") if key in said}
    return replace(read, kind="synthetic", **kept)


def from_sources(schema: Schema, frames: Mapping[str, pl.DataFrame], findings: Findings) -> dict[str, pl.DataFrame]:
    """Tables of frames in memory, each read by the source that names its frame (NAME.parquet)."""
    raws = {}
    for name, table in schema.tables.items():
        assert table.source
        rows = frames[table.source.file.removesuffix(".parquet")].lazy().with_row_index(ROW)
        raws[name] = Raw(table.source, [], rows)
    return tables(schema, raws, False, findings)


# -- one table -------------------------------------------------------------------------------------------------------


def _own(path: Path, schema: Schema, name: str) -> Source:
    """The layout `write` makes."""
    known = (f"{name}.csv", f"{name}.csv.gz", f"{name}.parquet")
    file = next((f for f in known if (path / f).is_file()), known[0])
    keys = schema.keys(name)
    return Source(file=file, visit="visit_id" if "visit_id" in keys else None, time="time" if "time" in keys else None)


def _mapped(
    raw: pl.LazyFrame, files: list[Path], schema: Schema, name: str, source: Source, findings: Findings
) -> pl.DataFrame | None:
    """A table of what its source reads from rows with `ROW`."""
    if problem_of(source, schema.tables[name], name, findings):
        return None
    theirs = _names(schema, name, source)
    if not _all_there(raw, name, theirs, source, findings):
        return None
    asked = filtered(raw, source, "include")
    raw = filtered(asked, source, "exclude")

    def run() -> pl.DataFrame | None:
        if any(rule.exclude is not None for rule in source.where):
            n, left = (frame.select(pl.len()).collect().item() for frame in (asked, raw))
            findings.note(f"{name}: rows left out, as the source asks (exclude)", n - left)
        if source.layout == "long":
            return _long(raw, schema, name, source, findings)
        unit = [pl.col(source.unit).alias("__unit")] if source.unit else []
        wide = raw.select(ROW, *(pl.col(t).alias(ours) for ours, t in theirs.items()), *unit)
        return _wide(wide, schema, name, source, findings)

    return collect(run, files, source, name, findings)


def _names(schema: Schema, name: str, source: Source) -> dict[str, str]:
    """Ours -> theirs of every column that is read from the file."""
    found = {"subject_id": source.subject}
    if schema.has_visit_id(name) and source.visit:
        found["visit_id"] = source.visit
    if schema.has_time(name) and source.when:
        found["time"] = source.when.column
    if source.layout == "long":
        return found
    return found | {c: source.columns.get(c, c) for c in schema.tables[name].columns}


def _all_there(raw: pl.LazyFrame, name: str, theirs: dict[str, str], source: Source, findings: Findings) -> bool:
    there = raw.collect_schema().names()
    wanted = [(f"{name}.{ours}", column) for ours, column in theirs.items()]
    wanted += [
        (f"{name}.{what}", column) for what, column in (("code", source.code), ("value", source.value)) if column
    ]
    wanted += [(f"{name}.where", f.column) for f in source.where]
    before = len(findings.problems)
    wanted += [(f"{name}.unit", source.unit)] if source.unit else []
    for where, column in wanted:
        if column not in there:
            fix = f'Say where it stands in the source: columns = {{ {where.split(".")[-1]} = "their name" }}.'
            what = f'the file has no column "{column}"'
            findings.stop("missing-column", where, what, fix + nearest(column, there))
        elif f"{column}_duplicated_0" in there and f"{column}_duplicated_0" not in theirs.values():
            findings.stop(
                "duplicate-column", where, f'the file has "{column}" twice', "Rename one of them in the file."
            )
    return len(findings.problems) == before


def filtered(raw: pl.LazyFrame, source: Source, key: Literal["include", "exclude"]) -> pl.LazyFrame:
    types = raw.collect_schema()
    for rule in source.where:
        values = getattr(rule, key)
        if values is not None:
            text = text_of(rule.column, types[rule.column], Reading(marks=()))
            also = [f"{v}.0" for v in values if v.lstrip("-").isdigit()]
            hit = text.fill_null("").is_in([*values, *also])  # an empty cell is ""
            raw = raw.filter(hit if key == "include" else ~hit)
    return raw


def _reading(source: Source, column: str, code: CodeMap | None = None) -> Reading:
    scale, shift = source.scale.get(column, (1.0, 0.0))
    if code is not None:
        scale, shift = scale * code.scale, scale * code.shift + shift
    when = source.when or SourceTime(column="")
    layout = source.formats.get(column, when.format)
    return Reading(
        marks=("", *source.missing, *source.missing_in.get(column, ())),
        values=source.values.get(column, {}),
        scale=scale,
        shift=shift,
        out_of_range=source.out_of_range,
        unit=layout if layout in TIME_UNITS else when.unit,
        extract=column in source.extract or source.mixed.get(column) == "numbers",
        mixed=source.mixed.get(column),
        format=None if layout in TIME_UNITS else layout,
        origin=when.origin,
    )


def _readings(source: Source, columns: Iterable[str]) -> dict[str, Reading]:
    return {c: _reading(source, c) for c in columns}


def _clock(schema: Schema, source: Source) -> str:
    """The clock the file is on: dates that become offsets later are read as dates."""
    when = source.when
    from_dates = schema.clock == "offset" and when is not None and when.origin == "first" and when.unit is None
    return "timestamp" if from_dates else schema.clock


def _wide(raw: pl.LazyFrame, schema: Schema, name: str, source: Source, findings: Findings) -> pl.DataFrame | None:
    table = schema.tables[name]
    raw = _marked_keys(raw, source)
    readings = _readings(source, ["time", *table.columns])
    if table.code and source.codes:
        raw = _our_codes(raw, table, readings[table.code], name, source, findings)
        readings[table.code] = Reading()
    wanted = specs(schema, name, readings)
    if source.grid is not None or source.repeated:
        wanted = {c: _may_be_empty(s) for c, s in wanted.items()}
    frame = typed(raw, name, wanted, _clock(schema, source), findings)
    if frame is None:
        return None
    if source.grid is not None:
        keys = ["subject_id", *(["visit_id"] if "visit_id" in frame.columns else []), "time"]
        frame = aggregate(binned(frame, source.grid.every), keys, table.columns, source)
        frame = _on_grid(frame, schema, name, source, findings)
    if source.repeated:
        keys = ["subject_id", *(["visit_id"] if table.role == "visit" else [])]
        frame = one_per_key(frame, keys, list(table.columns), source, name, findings)
        frame = _again(frame, schema, name, source, findings)
    return frame


def _may_be_empty(spec: Spec) -> Spec:
    """Where several rows become one, a cell is only missing if it is missing in all of them."""
    return replace(spec, column=spec.column.model_copy(update={"missing": True}))


def _again(frame: pl.DataFrame, schema: Schema, name: str, source: Source, findings: Findings) -> pl.DataFrame:
    """What only shows after rows were put together: cells that must not be missing, sums against the bounds."""
    columns = schema.tables[name].columns
    summed = {c for c, how in (source.grid.aggregate if source.grid else {}).items() if how in ("sum", "count")}
    reading = Reading(marks=(), out_of_range=source.out_of_range)
    chosen = {c: Spec(what, reading) for c, what in columns.items() if c in summed or not what.missing}
    checked = typed(frame.lazy(), name, chosen, _clock(schema, source), findings) if chosen else None
    return frame if checked is None else checked


def _our_codes(
    raw: pl.LazyFrame, table: Table, reading: Reading, name: str, source: Source, findings: Findings
) -> pl.LazyFrame:
    """Rows of a long table under our codes, their numbers in our units; rows with other codes are passed over."""
    assert table.code
    types = raw.collect_schema()
    maps = {c: m if isinstance(m, CodeMap) else CodeMap(column=m) for c, m in source.codes.items()}
    code = text_of(table.code, types[table.code], reading)
    code = code.str.strip_suffix(".0") if types[table.code].is_float() else code
    code = _with_unit(code, maps, source)
    if any(key.endswith("*") for key in maps):
        seen = raw.select(code.unique().alias("code")).collect(engine="streaming")["code"].drop_nulls()
        under = {c: match(c, maps) for c in seen}
        maps = {
            c: maps[key].model_copy(update={"column": maps[key].column.replace("*", rest)})
            for c, (key, rest) in under.items()
            if key is not None
        }
    known = code.is_in(list(maps)).fill_null(False)
    passed = raw.select((~known & code.is_not_null()).sum()).collect(engine="streaming").item()
    findings.note(f"{name}: rows passed over, as the source does not map their code", passed)
    raw = raw.filter(known)
    changed = {c: m for c, m in maps.items() if (m.scale, m.shift) != (1.0, 0.0)}
    if changed and table.value:
        text = text_of(table.value, types[table.value], Reading(marks=("", *source.missing)))
        number = text.cast(pl.Float64, strict=False)
        scale = code.replace_strict({c: m.scale for c, m in changed.items()}, default=1.0, return_dtype=pl.Float64)
        shift = code.replace_strict({c: m.shift for c, m in changed.items()}, default=0.0, return_dtype=pl.Float64)
        ours = (number * scale + shift).cast(pl.String)
        value = pl.when(code.is_in(list(changed)) & number.is_not_null()).then(ours).otherwise(text)
        raw = raw.with_columns(value.alias(table.value))
    raw = raw.with_columns(code.replace({c: m.column for c, m in maps.items()}).alias(table.code))
    return raw.drop("__unit", strict=False)


def _with_unit(code: pl.Expr, maps: Mapping[str, CodeMap], source: Source) -> pl.Expr:
    """The code as "CODE|UNIT" where the source names it so."""
    if source.unit is None:
        return code
    both = pl.concat_str(code, pl.lit("|"), pl.col("__unit").cast(pl.String).str.strip_chars())
    return pl.when(both.is_in(list(maps))).then(both).otherwise(code)


def _marked_keys(raw: pl.LazyFrame, source: Source) -> pl.LazyFrame:
    """Keys with the marks for missing turned to null."""
    types, reading = raw.collect_schema(), Reading(marks=("", *source.missing))
    keys = [k for k in ("subject_id", "visit_id") if k in types.names() and types[k] == pl.String]
    return raw.with_columns(text_of(k, types[k], reading).alias(k) for k in keys)


def match(code: str | None, maps: Mapping[str, CodeMap]) -> tuple[str | None, str]:
    """Key of the map a code falls under, the exact one before the longest beginning, and what follows the beginning."""
    if code is None:
        return None, ""
    if code in maps:
        return code, ""
    begun = [k for k in maps if k.endswith("*") and code.startswith(k[:-1])]
    if not begun:
        return None, ""
    key = max(begun, key=len)
    return key, code[len(key) - 1 :]


def _long(raw: pl.LazyFrame, schema: Schema, name: str, source: Source, findings: Findings) -> pl.DataFrame | None:
    """Rows of code and value -> one row per key with a column per code."""
    table = schema.tables[name]
    assert source.code and source.value
    maps = {c: m if isinstance(m, CodeMap) else CodeMap(column=m) for c, m in source.codes.items()}
    keyed = {"subject_id": source.subject}
    if schema.has_visit_id(name) and source.visit:
        keyed["visit_id"] = source.visit
    if source.when:
        keyed["time"] = source.when.column
    raw = raw.select(
        ROW,
        *(pl.col(t).alias(o) for o, t in keyed.items()),
        pl.col(source.code).alias("__code"),
        pl.col(source.value).alias("__value"),
        *([pl.col(source.unit).alias("__unit")] if source.unit else []),
    )
    raw, types = read_types(raw, name, findings)
    code = text_of("__code", types["__code"], Reading(marks=("",))).str.strip_suffix(".0")
    code = _with_unit(code, maps, source)
    raw = _marked_keys(raw.with_columns(code.alias("__code")), source)
    wanted = {k: s for k, s in specs(schema, name, _readings(source, ["time"])).items() if k == "time"}
    base = typed(raw, name, wanted, _clock(schema, source), findings)
    if base is None:
        return None
    parts = base.partition_by("__code", as_dict=True, include_key=False)
    keys = [k for k in ("subject_id", "visit_id", "time") if k in base.columns]
    found: dict[str, list[pl.DataFrame]] = {}
    unknown = 0
    for (theirs,), part in parts.items():
        key, rest = match(theirs, maps)
        if key is None:
            unknown += part.height
            continue
        column = maps[key].column
        what = table.columns[column]
        if key.endswith("*") and what.kind not in ("number", "count"):
            part = part.with_columns(pl.lit(rest).alias("__value"))
        spec = _may_be_empty(Spec(what, _reading(source, column, maps[key])))
        part = typed(part.lazy().rename({"__value": column}), name, {column: spec}, schema.clock, findings)
        if part is not None:
            found.setdefault(column, []).append(part.drop_nulls(column))
    findings.note(f"{name}: rows passed over, as the source does not map their code", unknown)
    del base, parts
    return _assembled(found, keys, schema, name, source, findings)


def _assembled(
    found: dict[str, list[pl.DataFrame]], keys: list[str], schema: Schema, name: str, source: Source, findings: Findings
) -> pl.DataFrame:
    """One narrow frame per column, aggregated to its keys, joined to one wide frame."""
    table, narrow = schema.tables[name], {}
    for column, several in found.items():
        part = pl.concat(several)
        n = part.height
        part = binned(part, source.grid.every) if source.grid is not None else part
        part = aggregate(part, keys, {column: table.columns[column]}, source)
        if source.grid is None:
            findings.note(f"{name}.{column}: values at one time put together", n - part.height)
        narrow[column] = part
    if not narrow:
        empty = {k: pl.String for k in keys if k != "time"}
        return pl.DataFrame(schema={ROW: pl.UInt32, **empty, **{c: pl.Null for c in table.columns}})
    index = pl.concat([p.select(*keys, ROW) for p in narrow.values()]).group_by(keys).agg(pl.col(ROW).min())
    index = index.sort("subject_id", *keys[1:], nulls_last=True)
    for column in table.columns:
        if column in narrow:
            index = index.join(narrow[column].drop(ROW), on=keys, how="left", nulls_equal=True, maintain_order="left")
        else:
            index = index.with_columns(pl.lit(None).alias(column))
    return _on_grid(index, schema, name, source, findings)


def _on_grid(frame: pl.DataFrame, schema: Schema, name: str, source: Source, findings: Findings) -> pl.DataFrame:
    """Empty bins where asked for, rows in order, and the checks that only now can be made."""
    if source.grid is not None:
        frame = fill_bins(frame, source.grid.every) if source.grid.empty_bins else frame
        frame = frame.sort("subject_id", "time", nulls_last=True)
    return _again(frame, schema, name, source, findings)


# -- time across tables ----------------------------------------------------------------------------------------------


def _from_first_row(schema: Schema, frames: dict[str, pl.DataFrame], findings: Findings) -> dict[str, pl.DataFrame]:
    """Dates under an offset clock, counted from the subject's first row in any table."""
    if schema.clock != "offset":
        return frames
    dated = {n: [c for c, t in f.schema.items() if isinstance(t, pl.Datetime)] for n, f in frames.items()}
    rows = [frames[n].select("subject_id", "time") for n, cs in dated.items() if "time" in cs]
    if not rows:
        return frames
    if any(f["time"].dtype == pl.Duration for f in frames.values() if "time" in f.columns):
        fix = 'Give every table dates with origin = "first", or offsets.'
        findings.stop("mixed-clocks", "time", "some tables have dates and others offsets", fix)
        return frames
    rows = [r.with_columns(pl.col("subject_id").cast(pl.String).alias("key")).drop("subject_id") for r in rows]
    first = pl.concat(rows).group_by("key").agg(pl.col("time").min().alias("__first"))
    out = {}
    for name, frame in frames.items():
        if dated[name]:
            keyed = frame.with_columns(pl.col("subject_id").cast(pl.String).alias("key"))
            keyed = keyed.join(first, on="key", how="left", maintain_order="left")
            frame = keyed.with_columns(pl.col(c) - pl.col("__first") for c in dated[name]).drop("key", "__first")
        out[name] = frame
    return out


def _ranked(schema: Schema, frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Under the clock "order" a number that grows with time becomes 0, 1, 2, ... within each subject."""
    out = {}
    for name, frame in frames.items():
        if schema.has_time(name) and "time" in frame.columns:
            rank = pl.col("time").rank("ordinal").over("subject_id").cast(pl.Int64) - 1
            frame = frame.with_columns(rank.alias("time"))
        out[name] = frame
    return out


# -- writing ---------------------------------------------------------------------------------------------------------


def write(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """Write one CSV file per table, and beside them `schema.json` and `origin.json` (synthetic? released?).

    Raises:
        FileFormatError: the path exists and `force` is not set.
        DataError: the cohort has signals, which tables can't hold.
    """
    _write(cohort, path, force, "csv")


def write_parquet(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """As `write`, with one Parquet file per table."""
    _write(cohort, path, force, "parquet")


def _write(cohort: Cohort, path: str | Path, force: bool, suffix: str) -> None:
    if cohort.signals:
        what = f"the cohort has {len(cohort.signals)} signals, which {suffix} files can't hold"
        raise DataError("", [Problem("signals", ", ".join(cohort.signals), what, "Write the native format.")])
    with new_folder(path, force=force) as folder:
        write_text(folder / "schema.json", schema_text(cohort.schema))
        write_json(folder / ORIGIN, cohort.origin.to_dict())
        for name, frame in cohort.tables.items():
            if suffix == "parquet":
                frame.rechunk().write_parquet(folder / f"{name}.parquet", compression="zstd", row_group_size=1 << 18)
                continue
            waits = [c for c, t in frame.schema.items() if t == pl.Duration]
            frame = frame.with_columns(pl.col(c).dt.total_microseconds() / 1e6 for c in waits)
            frame = frame.with_columns(_as_dated(frame[c], cohort.schema.granularity(name, c)) for c in frame.columns)
            frame.write_csv(folder / f"{name}.csv", datetime_format="%Y-%m-%d %H:%M:%S%.f")


def _as_dated(column: pl.Series, grain: str) -> pl.Series:
    """Dates as text that names no more than the day, month or year, where that is all they hold."""
    every, layout = _DATED.get(grain, ("", ""))
    if column.dtype != pl.Datetime or not every or (column != column.dt.truncate(every)).any():
        return column
    return column.dt.strftime(layout)
