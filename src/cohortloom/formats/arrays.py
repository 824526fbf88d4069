"""Tables of waveforms: an NPZ with an array of record x sample or record x channel x sample and others beside it, or a
text file of numbers with a record a row, its label in one of the columns (UCR style); or a text file for each record,
with a column per channel.

Where records differ in length, missing samples at a record's end are what fills its row, not a gap.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom.formats.waveforms import Raw, Trouble
from cohortloom.schema.wave_files import MISSING, columns_of, label_of, rows_of, samples_first, separator_of

if TYPE_CHECKING:
    from cohortloom.cohort import SignalSet
    from cohortloom.schema import Signal

__all__ = ["read_record", "write_records"]


def read_record(file: Path, spec: Signal) -> list[Raw]:
    """All records of one file.

    Raises:
        Trouble: not an NPZ, no such array, an array of objects, or a shape that does not fit the channels.
    """
    source = spec.source
    assert source is not None
    if source.format == "rows":
        return _rows(file, spec)
    if source.format == "csv":
        return _columns(file, spec)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if source.array not in arrays.files:
                raise Trouble(
                    "no-array",
                    f'has no array "{source.array}"; it has {", ".join(arrays.files)}',
                    "Name it with source.array.",
                )
            samples = arrays[source.array]
            wanted = [source.subject] if source.subject in arrays.files else []
            wanted += (
                [source.labels.column]
                if source.labels and source.labels.file is None and source.labels.column in arrays.files
                else []
            )
            beside = {name: arrays[name] for name in wanted}
    except Trouble:
        raise
    except Exception as error:  # numpy raises many kinds for damaged zips and arrays of objects
        raise Trouble(
            "unreadable-signal",
            f"can't be read as NPZ ({type(error).__name__})",
            "Write it with numpy.savez, without objects.",
        ) from None
    if samples.ndim == 2 and len(spec.channels) == 1:
        samples = samples[:, None]
    if samples_first(samples.shape) and samples.shape[1] != len(spec.channels):
        samples = samples.transpose(0, 2, 1)
    if samples.ndim != 3 or samples.shape[1] not in (len(spec.channels), len(source.channels) or len(spec.channels)):
        raise Trouble(
            "wrong-shape",
            f"has an array of shape {samples.shape} for {len(spec.channels)} channels",
            "Shape it as record x channel x sample.",
        )
    fs = source.fs or spec.fs
    names = tuple(source.channels.get(c, c) for c in spec.channels)
    scaled = samples.astype(np.float32) * np.float32(source.scale)
    facts = [{name: str(values[i]) for name, values in beside.items()} for i in range(len(scaled))]
    return [Raw(_trimmed(x, spec), names, fs, facts[i], None, row=i) for i, x in enumerate(scaled)]


def _trimmed(x: np.ndarray, spec: Signal) -> np.ndarray:
    """A record without the missing samples at its end, unless all records have one length."""
    seen = np.flatnonzero(np.isfinite(x).any(axis=0))
    return x if spec.n_samples is not None or not len(seen) else x[:, : seen[-1] + 1]


def _rows(file: Path, spec: Signal) -> list[Raw]:
    """Records of a text file, one a row; shorter rows end early."""
    source = spec.source
    assert source is not None
    if len(spec.channels) > 1:
        raise Trouble("wrong-shape", f"holds one channel, the schema names {len(spec.channels)}", "Name one channel.")
    found, place = [], None
    if source.labels and source.labels.file is None:
        if not source.labels.column.isdigit() or source.labels.column == "0":
            raise Trouble("no-labels", "has columns without names", "Give the number of the label's column, from 1.")
        place = int(source.labels.column) - 1
    for row in rows_of(file):
        try:
            label = None if place is None else row.pop(place)
            x = np.array([np.nan if c == "?" else float(c) for c in row], dtype=np.float32)
        except (ValueError, IndexError):
            raise Trouble(
                "unreadable-signal", f"has a row that is not numbers alone (row {len(found) + 1})",
                "Take header and names out, or write it as NPZ.",
            ) from None  # fmt: skip
        facts = {} if label is None else {source.labels.column: label_of(label)}
        x = _trimmed(x[None] * np.float32(source.scale), spec)
        found.append(Raw(x, spec.channels, source.fs or spec.fs, facts, None, row=len(found)))
    if not found:
        raise Trouble("no-samples", "holds no samples", "Leave it out.")
    return found


def _columns(file: Path, spec: Signal) -> list[Raw]:
    """The record of a text file with a column per channel; a column of even steps in front is the time [s]."""
    source = spec.source
    assert source is not None
    try:
        names, rate = columns_of(file)
        with file.open(encoding="utf8", errors="replace") as lines:
            cut = separator_of(lines.readline())
        table = pl.read_csv(file, separator=cut, schema_overrides=dict.fromkeys(names, pl.Float32), null_values=MISSING)
        samples = table[names].to_numpy().T.astype(np.float32)
    except (ValueError, pl.exceptions.PolarsError):
        what = "is no table of numbers with a column per channel"
        raise Trouble("unreadable-signal", what, "Take other columns out, or write it as NPZ.") from None
    return [Raw(samples * np.float32(source.scale), tuple(names), source.fs or rate or spec.fs, {})]


def write_records(signal: SignalSet, folder: Path) -> None:
    """samples.npz with samples (record x channel x sample, NaN behind the end), subject_id, label, fs and channels."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.str_ if signal.records["subject_id"].dtype == pl.String else np.int64
    np.savez(
        folder / "samples.npz",
        samples=np.asarray(signal.samples),
        subject_id=signal.records["subject_id"].to_numpy().astype(ids),
        label=signal.records["label"].fill_null("").to_numpy().astype(str),
        n_samples=signal.records["n_samples"].to_numpy(),
        fs=np.array(signal.spec.fs),
        channels=np.array(signal.spec.channels),
    )
