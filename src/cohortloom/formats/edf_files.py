"""EDF and EDF+ files, with annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom.formats.waveforms import Raw, Trouble, placed_channels, to_unit

if TYPE_CHECKING:
    from cohortloom.cohort import SignalSet
    from cohortloom.schema import Signal

__all__ = ["read_record", "write_records"]


def _library():
    try:
        import pyedflib
    except ImportError:
        raise Trouble("no-library", "EDF needs the package pyedflib", 'pip install "cohortloom[signals]"') from None
    return pyedflib


def read_record(file: Path, spec: Signal) -> list[Raw]:
    """One file; channels of another rate than the wanted ones are left aside.

    Raises:
        Trouble: unreadable file, no channel, channels of several sampling frequencies, an unknown unit.
    """
    library = _library()
    try:
        reader = library.EdfReader(str(file))
    except Exception as error:  # pyedflib raises OSError and others, with the path in their text
        raise Trouble(
            "unreadable-signal", f"can't be read as EDF ({type(error).__name__})", "It may be truncated; copy it again."
        ) from None
    try:
        labels = [label.strip() for label in reader.getSignalLabels()]
        rates = reader.getSampleFrequencies()
        theirs = {v.lower() for v in (spec.source.channels.values() if spec.source else ())} | {
            c.lower() for c in spec.channels
        }
        names = placed_channels(tuple(label.rstrip(".") for label in labels), spec)
        wanted = [i for i, (label, name) in enumerate(zip(labels, names)) if {name, label.lower()} & theirs]
        if not wanted and len(spec.channels) == len(labels) == 1:
            wanted = [0]  # the only channel, whatever its name
        if not wanted:
            raise Trouble(
                "missing-channel", f"has {len(labels)} channels, none of them wanted", "Map them with source.channels."
            )
        if len({float(rates[i]) for i in wanted}) > 1:
            raise Trouble(
                "mixed-rates", "has wanted channels of different sampling frequencies", "Read them as two signals."
            )
        samples = np.stack([to_unit(reader.readSignal(i), reader.getPhysicalDimension(i), spec.unit) for i in wanted])
        onset, seconds, text = reader.readAnnotations()
    finally:
        reader.close()
    fs = float(rates[wanted[0]])
    notes = pl.DataFrame(
        {
            "sample": np.rint(np.asarray(onset, float) * fs).astype(np.int64),
            "kind": ["events"] * len(onset),
            "symbol": [str(t) for t in text],
            "length": np.rint(np.maximum(np.asarray(seconds, float), 0.0) * fs).astype(np.int64),
        },
        schema={"sample": pl.Int64, "kind": pl.String, "symbol": pl.String, "length": pl.Int64},
    )
    given = tuple(labels[i].rstrip(".") for i in wanted)
    return [Raw(samples.astype(np.float32), given, fs, {}, notes)]


def write_records(signal: SignalSet, folder: Path) -> None:
    """One EDF+ file each, named r000001.edf, ...; missing samples are written as 0, which EDF can't tell apart."""
    library = _library()
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(signal.records.iter_rows(named=True)):
        samples = np.nan_to_num(np.asarray(signal.samples[i, :, : row["n_samples"]], dtype=float))
        n, notes = len(signal.spec.channels), pl.DataFrame({"sample": [], "symbol": []})
        if signal.annotations is not None:
            notes = signal.annotations.filter(pl.col("record_id") == row["record_id"])
        writer = library.EdfWriter(str(folder / f"r{i + 1:06d}.edf"), n, file_type=library.FILETYPE_EDFPLUS)
        try:
            heads = []
            for c, channel in enumerate(signal.spec.channels):
                # the header has eight characters for a bound
                top = float(np.ceil(1000 * max(np.abs(samples[c]).max(initial=0.0), 1e-3)) / 1000)
                heads.append(
                    {
                        "label": channel, "dimension": signal.spec.unit, "sample_frequency": signal.spec.fs,
                        "physical_min": -top, "physical_max": top, "digital_min": -32768, "digital_max": 32767,
                        "transducer": "", "prefilter": "",
                    }
                )  # fmt: skip
            # one annotation channel holds one annotation a second
            seconds = max(1.0, row["n_samples"] / signal.spec.fs)
            writer.set_number_of_annotation_signals(int(min(64, 1 + np.ceil(notes.height / seconds))))
            writer.setSignalHeaders(heads)
            writer.setPatientCode(str(row["subject_id"]))
            writer.writeSamples([np.ascontiguousarray(x) for x in samples])
            for sample, symbol in zip(notes["sample"], notes["symbol"]):
                writer.writeAnnotation(sample / signal.spec.fs, -1, symbol)
        finally:
            writer.close()
