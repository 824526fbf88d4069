"""Cohorts whose waveforms lie in WFDB, EDF, NPZ or text files.

Every signal is read by its source. Static tables without a source of their own are filled from header comments
(`facts`); tables with one are read as tabular files of the same folder. Writing puts each signal into a folder of its
name and the tables beside it as CSV.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from cohortloom.cohort import Cohort, Origin, SignalSet
from cohortloom.errors import Problem, SettingsError
from cohortloom.files import new_folder
from cohortloom.formats import arrays, edf_files, physionet, tabular
from cohortloom.formats.base import Findings, OnError
from cohortloom.formats.check import check_frames
from cohortloom.formats.waveforms import Trouble, by_record, read_signal
from cohortloom.schema import Schema
from cohortloom.schema.wave_files import record_keys
from cohortloom.version import __version__

__all__ = ["read", "write_edf", "write_npz", "write_rows", "write_wfdb"]


def read(path: str | Path, *, schema: Schema | None = None, on_error: OnError = "fail") -> Cohort:
    """Read a folder of waveforms, with the tables that belong to them.

    Raises:
        SettingsError: no schema, or none of its signals has a source.
        FileFormatError, DataError: files can't be read or do not fit; all problems in one message.
    """
    path, findings = Path(path), Findings(on_error)
    if schema is None or not any(s.source for s in schema.signals.values()):
        raise SettingsError("waveform files need a schema with [signals.NAME.source]: pass schema=... (--schema FILE)")
    signals: dict[str, SignalSet] = {}
    facts: list[dict[str, Any]] = []
    for name, spec in schema.signals.items():
        if spec.source is None:
            continue
        found, rows = read_signal(path, name, spec, findings)
        facts += rows
        if found is not None:
            signals[name] = found
    findings.raise_if_any(path, schema)
    frames = {}
    if any(t.source for t in schema.tables.values()):
        apart = schema.model_copy(update={"tables": {n: t for n, t in schema.tables.items() if t.source}})
        frames = dict(tabular.read(path, schema=apart, on_error=on_error).tables)
    for name, signal in list(signals.items()):
        if signal.spec.source and signal.spec.source.index:
            signals[name] = _indexed(name, signal, schema, frames, findings)
    findings.raise_if_any(path, schema)
    ids = pl.concat([s.records["subject_id"].cast(pl.String) for s in signals.values()])
    for name, table in schema.statics.items():
        if table.source is None:
            frames[name] = _from_facts(name, list(table.columns), facts, ids)
    frames = check_frames(schema, frames, findings)
    frames, signals = _one_type(frames, signals)
    for name, signal in signals.items():
        parent = signal.spec.parent
        if parent in frames and schema.tables[parent].source is not None and frames[parent].height:
            signals[name] = _with_patients(name, parent, signal, frames[parent]["subject_id"], findings)
    findings.raise_if_any(path, schema)
    kinds = {s.source.format for s in schema.signals.values() if s.source}
    origin = Origin("real", "+".join(sorted(kinds)), version=__version__, notes=findings.notes)
    return Cohort.build(schema, frames, signals=signals, origin=origin)


def _indexed(
    name: str, signal: SignalSet, schema: Schema, frames: dict[str, pl.DataFrame], findings: Findings
) -> SignalSet:
    """Patient, visit and time of every record, from the table that lists the files; records it lacks are left out."""
    assert signal.spec.source is not None and signal.spec.source.index is not None
    index, records = signal.spec.source.index, signal.records
    frame = frames[index.table]
    row_of = by_record(frame[index.record], range(frame.height))
    found = [next((row_of[k] for k in record_keys(f) if k in row_of), None) for f in records["file"]]
    listed = pl.Series([row is not None for row in found])
    if lost := int((~listed).sum()):
        text = f"{lost} of {len(found)} records are not listed in {index.table}.{index.record}"
        fix = "Complete the table, or leave them out with --on-error drop."
        words = "records left out, nobody knows whose they are"
        findings.settle(Problem("unlisted-record", f"signals.{name}", text, fix, lost), drop=words, keep=words)
    at = frame[[row for row in found if row is not None]]
    keep = listed.to_numpy()
    records = records.filter(listed).drop("file").with_columns(at["subject_id"])
    if "visit_id" in at.columns:
        records = records.with_columns(at["visit_id"])
    if "time" in at.columns:
        start = pl.lit(0) if schema.clock == "order" else records["time"]
        records = records.with_columns((at["time"] + start).alias("time"))
    notes = signal.annotations
    if notes is not None:
        notes = notes.join(records.select("record_id"), on="record_id", how="semi")
    return SignalSet(signal.spec, records, signal.samples if keep.all() else signal.samples[keep], notes)


def _one_type(
    frames: dict[str, pl.DataFrame], signals: dict[str, SignalSet]
) -> tuple[dict[str, pl.DataFrame], dict[str, SignalSet]]:
    """Ids of patients as whole numbers where all of them are, in tables and file names alike, else as text."""
    ids = [f["subject_id"] for f in (*frames.values(), *(s.records for s in signals.values()))]
    if len({i.dtype for i in ids}) == 1:
        return frames, signals
    text = pl.concat([i.cast(pl.String) for i in ids]).drop_nulls()
    numbers = text.cast(pl.Int64, strict=False)
    whole = not numbers.has_nulls() and (numbers.cast(pl.String) == text).all()
    own = pl.col("subject_id").cast(pl.Int64 if whole else pl.String)
    return (
        {n: f.with_columns(own) for n, f in frames.items()},
        {n: SignalSet(s.spec, s.records.with_columns(own), s.samples, s.annotations) for n, s in signals.items()},
    )


def _with_patients(name: str, parent: str, signal: SignalSet, known: pl.Series, findings: Findings) -> SignalSet:
    """Records of patients whom the parent table lacks, settled as rows of tables are."""
    ids = signal.records["subject_id"]
    lost = int((~ids.is_in(known.implode())).sum())
    if not lost:
        return signal
    problem = Problem(
        "no-parent", f"signals.{name}", f"{lost} of {len(ids)} records are of patients who are not in {parent}",
        "Correct source.subject (or source.index), or complete the table.", lost,
    )  # fmt: skip
    gone = findings.settle(problem, drop="records dropped", keep="records kept, without a row of their patient")
    return signal.select(known.unique()) if gone else signal


def _from_facts(name: str, columns: list[str], facts: list[dict[str, Any]], ids: pl.Series) -> pl.DataFrame:
    """One row per subject; the first file that knows a fact settles it."""
    known = pl.DataFrame(
        [{"subject_id": row["subject_id"], **{c: row.get(f"{name}.{c}") for c in columns}} for row in facts],
        schema={"subject_id": pl.String, **dict.fromkeys(columns, pl.String)},
    )
    merged = known.group_by("subject_id", maintain_order=True).agg(pl.col(c).drop_nulls().first() for c in columns)
    everyone = pl.DataFrame({"subject_id": ids.unique(maintain_order=True)})
    return everyone.join(merged, on="subject_id", how="left", maintain_order="left")


def write_wfdb(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """WFDB records (format 16) and .atr annotations."""
    _write(cohort, path, force, physionet.write_records)


def write_edf(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """EDF+ files."""
    _write(cohort, path, force, edf_files.write_records)


def write_npz(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """One NPZ per signal."""
    _write(cohort, path, force, arrays.write_records)


def write_rows(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """Never: text holds no patient and no label."""
    raise SettingsError('waveforms are not written as text; write them as "npz"')


def _write(cohort: Cohort, path: str | Path, force: bool, records: Callable[[SignalSet, Path], None]) -> None:
    if not cohort.signals:
        raise SettingsError('this cohort has no signal; write it as "native", "tabular" or "meds"')
    with new_folder(path, force=force) as folder:
        for name, signal in cohort.signals.items():
            try:
                records(signal, folder / name)
            except Trouble as trouble:
                raise SettingsError(f"{trouble.what}. {trouble.fix}") from None
            _write_csv(signal.records, folder / f"{name}_records.csv")
        for name, frame in cohort.tables.items():
            _write_csv(frame, folder / f"{name}.csv")


def _write_csv(frame: pl.DataFrame, file: Path) -> None:
    """Durations as days, which `tabular` reads back."""
    days = [pl.col(c).dt.total_microseconds() / 86_400e6 for c, t in frame.schema.items() if t == pl.Duration]
    frame.with_columns(days).write_csv(file)
