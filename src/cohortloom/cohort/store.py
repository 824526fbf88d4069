"""A cohort on disk: a folder that says what it holds, checked in full before anything of it is believed.

    schema.json                   the schema, in its own order of tables and columns
    tables/<name>.parquet         one per table, zstd
    signals/<name>/               records.parquet, samples.npy (memory-mapped on reading), annotations.parquet
    manifest.json                 written last: format number, hashes, rows, schema digest, origin

Equal cohorts give equal bytes. A folder without a manifest is not a cohort, so a broken run leaves nothing that loads.
Only files the schema calls for are opened; nothing in a folder is ever executed or unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from cohortloom.cohort.cohort import Cohort
from cohortloom.cohort.dtypes import dtypes
from cohortloom.cohort.origin import Origin
from cohortloom.cohort.signals import SignalSet
from cohortloom.errors import FileFormatError, Problem
from cohortloom.files import new_folder, read_json, sha256, write_json, write_text
from cohortloom.schema import Schema
from cohortloom.version import __version__

__all__ = ["FORMAT", "is_cohort", "lay_out", "load", "save", "schema_text"]

#: Number of the layout above; readers refuse numbers they do not know.
FORMAT = 1

_MADE = "Make the folder again with cohortloom convert, sample or simulate."


def is_cohort(path: str | Path) -> bool:
    """Does the folder claim to be a cohort of ours?"""
    return (Path(path) / "manifest.json").is_file()


def save(cohort: Cohort, path: str | Path, *, force: bool = False) -> None:
    """Write a cohort as a folder; it appears whole or not at all.

    Args:
        cohort: What is written.
        path: Folder to make.
        force: Replace what is there.

    Raises:
        FileFormatError: the path exists and `force` is not set.
    """
    with new_folder(path, force=force) as work:
        tables = {name: frame.rechunk() for name, frame in cohort.tables.items()}
        lay_out(work, cohort.schema, tables, cohort.n_subjects, cohort.origin, cohort.signals)


def lay_out(
    work: Path,
    schema: Schema,
    tables: Mapping[str, pl.DataFrame | pl.LazyFrame],
    subjects: int,
    origin: Origin,
    signals: Mapping[str, SignalSet] = MappingProxyType({}),
) -> None:
    """Fill an empty folder with a cohort, manifest last.

    Args:
        work: The folder.
        schema: Schema of the cohort.
        tables: Table -> rows in canonical form; lazy ones are streamed to the same bytes.
        subjects: Number of subjects.
        origin: Where the cohort comes from.
        signals: Its waveforms.
    """
    write_text(work / "schema.json", schema_text(schema))
    rows: dict[str, int | None] = {"schema.json": None}
    for name, frame in tables.items():
        rows[f"tables/{name}.parquet"] = _write_frame(frame, work / "tables" / f"{name}.parquet")
    for name, signal in signals.items():
        here = work / "signals" / name
        rows[f"signals/{name}/records.parquet"] = _write_frame(signal.records.rechunk(), here / "records.parquet")
        rows[f"signals/{name}/samples.npy"] = signal.samples.shape[0]
        np.save(here / "samples.npy", np.asarray(signal.samples, dtype=np.float32), allow_pickle=False)
        if signal.annotations is not None:
            notes = signal.annotations.rechunk()
            rows[f"signals/{name}/annotations.parquet"] = _write_frame(notes, here / "annotations.parquet")
    origin = origin if origin.version else replace(origin, version=__version__)
    manifest = {
        "format": FORMAT,
        "kind": "cohort",
        "name": schema.name,
        "schema_digest": schema.digest,
        "subjects": subjects,
        "origin": origin.to_dict(),
        "files": {file: {"sha256": sha256(work / file), "rows": n} for file, n in rows.items()},
    }
    write_json(work / "manifest.json", manifest)


def load(path: str | Path) -> Cohort:
    """Read a folder written by `save`.

    Raises:
        FileFormatError: not such a folder, of a newer format, or any file is absent, foreign, truncated or changed
            since it was written; all findings at once.
    """
    path = Path(path)
    manifest = _manifest(path)
    found = list(_changed(path, manifest["files"]))
    if found:
        raise FileFormatError(f"{path} can't be loaded", found)
    schema = _schema(path, manifest)
    tables, signals = {}, {}
    for name in schema.tables:
        file = f"tables/{name}.parquet"
        if file not in manifest["files"]:
            found.append(Problem("no-file", file, "the schema has this table, the folder does not", _MADE))
            continue
        frame = _read_frame(path, file, manifest["files"][file]["rows"], found)
        if frame is not None and _fits(schema, name, frame, file, found):
            tables[name] = frame
    for name, spec in schema.signals.items():
        if f"signals/{name}/records.parquet" in manifest["files"]:
            signal = _read_signal(path, name, spec, manifest["files"], found)
            if signal is not None:
                signals[name] = signal
    if found:
        raise FileFormatError(f"{path} can't be loaded", found)
    try:
        origin = Origin(**manifest["origin"])
    except TypeError:
        raise FileFormatError("", [Problem("foreign", "manifest.json", "its origin has unknown keys", _MADE)]) from None
    return Cohort(schema, tables, signals, origin)


# -- writing ---------------------------------------------------------------------------------------------------------


def schema_text(schema: Schema) -> str:
    """JSON in the schema's own order, which is the order of tables and columns."""
    return json.dumps(schema.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False) + "\n"


def _write_frame(frame: pl.DataFrame | pl.LazyFrame, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    write = frame.write_parquet if isinstance(frame, pl.DataFrame) else frame.sink_parquet
    write(path, compression="zstd", compression_level=3, row_group_size=1 << 18)
    return pl.scan_parquet(path).select(pl.len()).collect().item()


# -- reading ---------------------------------------------------------------------------------------------------------


def _manifest(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        raise FileFormatError("", [Problem("no-file", str(path), "does not exist", "Check the path.")])
    if not is_cohort(path):
        raise FileFormatError(
            "",
            [
                Problem(
                    "not-a-cohort",
                    str(path),
                    "has no manifest.json, so it is not a cohort folder or was not written to its end",
                    'Read files of another kind with format="tabular" (--from tabular) and a schema.',
                )
            ],
        )
    manifest = read_json(path / "manifest.json")
    shape = {"format": int, "kind": str, "schema_digest": str, "origin": dict, "files": dict}
    if not isinstance(manifest, dict) or manifest.get("kind") != "cohort":
        raise FileFormatError("", [Problem("foreign", f"{path}/manifest.json", "is not that of a cohort", _MADE)])
    if any(not isinstance(manifest.get(key), kind) for key, kind in shape.items()) or any(
        not isinstance(entry, dict) or not {"sha256", "rows"} <= set(entry) for entry in manifest["files"].values()
    ):
        raise FileFormatError("", [Problem("foreign", f"{path}/manifest.json", "lacks keys it must have", _MADE)])
    if manifest["format"] != FORMAT:
        raise FileFormatError(
            "",
            [
                Problem(
                    "format-number",
                    f"{path}/manifest.json",
                    f"format {manifest['format']} is not known; this library reads format {FORMAT}",
                    "Use the library version that wrote it, or make the folder again.",
                )
            ],
        )
    return manifest


def _changed(path: Path, files: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Files that are absent, or whose content is not what was written."""
    found = []
    for file, entry in files.items():
        place = path / file
        if not place.resolve().is_relative_to(path.resolve()):
            found.append(Problem("foreign", file, "lies outside the folder", _MADE))
        elif not place.is_file():
            found.append(Problem("no-file", file, "the file is absent", _MADE))
        elif sha256(place) != entry["sha256"]:
            found.append(Problem("changed", file, "is truncated or was changed after it was written", _MADE))
    if "schema.json" not in files:
        found.append(Problem("no-file", "schema.json", "the manifest does not list it", _MADE))
    return found


def _schema(path: Path, manifest: Mapping[str, Any]) -> Schema:
    try:
        schema = Schema.model_validate_json((path / "schema.json").read_bytes())
    except ValidationError as error:
        places = ", ".join(".".join(str(p) for p in e["loc"]) for e in error.errors()[:3])
        raise FileFormatError(
            "", [Problem("foreign", "schema.json", f"is not a schema this version reads ({places})", _MADE)]
        ) from None
    if schema.digest != manifest["schema_digest"]:
        raise FileFormatError(
            "", [Problem("schema-digest", "schema.json", "is not the schema the manifest names", _MADE)]
        )
    return schema


def _read_frame(path: Path, file: str, rows: int | None, found: list[Problem]) -> pl.DataFrame | None:
    try:
        frame = pl.read_parquet(path / file, glob=False)
    except BaseException as error:  # a broken file may end in polars' PanicException, which is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        found.append(Problem("not-parquet", file, "is not a Parquet file that can be read", _MADE))
        return None
    if frame.height != rows:
        found.append(Problem("rows", file, f"has {frame.height} rows, the manifest says {rows}", _MADE))
        return None
    return frame


def _fits(schema: Schema, name: str, frame: pl.DataFrame, file: str, found: list[Problem]) -> bool:
    """Columns and dtypes are those of the canonical form."""
    wanted = dtypes(schema, name)
    if frame.columns != list(wanted):
        found.append(Problem("columns", file, "its columns are not those of the schema", _MADE))
        return False
    wrong = [
        c
        for c, t in wanted.items()
        if (frame[c].dtype not in (pl.Int64, pl.String) if t is None else frame[c].dtype != t)
    ]
    found.extend(Problem("wrong-type", f"{name}.{c}", "is stored with another type", _MADE) for c in wrong)
    return not wrong


def _read_signal(path: Path, name: str, spec: Any, files: Mapping, found: list[Problem]) -> SignalSet | None:
    here = f"signals/{name}/"
    records = _read_frame(path, here + "records.parquet", files[here + "records.parquet"]["rows"], found)
    notes = None
    if here + "annotations.parquet" in files:
        notes = _read_frame(path, here + "annotations.parquet", files[here + "annotations.parquet"]["rows"], found)
    try:
        samples = np.load(path / (here + "samples.npy"), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        found.append(Problem("not-npy", here + "samples.npy", "is not an array that can be read", _MADE))
        return None
    if records is None:
        return None
    if samples.dtype != np.float32 or samples.ndim != 3 or samples.shape[0] != records.height:
        found.append(
            Problem("shape", here + "samples.npy", "is not float32 record x channel x sample for its records", _MADE)
        )
        return None
    if samples.shape[1] != len(spec.channels):
        found.append(Problem("shape", here + "samples.npy", "has other channels than the schema lists", _MADE))
        return None
    return SignalSet(spec, records, samples, notes)
