"""NPZ tables of waveforms (UCR style): one array of record x sample or record x channel x sample, others beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom.formats.waveforms import Raw, Trouble

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
    if samples.ndim != 3 or samples.shape[1] not in (len(spec.channels), len(source.channels) or len(spec.channels)):
        raise Trouble(
            "wrong-shape",
            f"has an array of shape {samples.shape} for {len(spec.channels)} channels",
            "Shape it as record x channel x sample.",
        )
    fs = source.fs or spec.fs
    names = tuple(source.channels.get(c, c) for c in spec.channels)
    scaled = samples.astype(np.float32) * np.float32(source.scale)
    return [
        Raw(scaled[i], names, fs, {name: str(values[i]) for name, values in beside.items()}, None, row=i)
        for i in range(len(scaled))
    ]


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
