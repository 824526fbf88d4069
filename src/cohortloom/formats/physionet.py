"""WFDB records: .hea with .dat or .mat, and annotations.

wfdb parses; what it leaves out is done here: the 16-bit checksums of the header are compared, units are brought to the
schema's, and anything that can't be read becomes a finding that names the file by its number (names may be patients').
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cohortloom.formats.waveforms import BEAT_SYMBOLS, Raw, Trouble, placed_channels, to_unit
from cohortloom.schema.wave_files import comments_of

if TYPE_CHECKING:
    from cohortloom.cohort import SignalSet
    from cohortloom.schema import Signal

__all__ = ["read_record", "write_records"]


def read_record(file: Path, spec: Signal) -> list[Raw]:
    """One header and its samples.

    Raises:
        Trouble: unreadable or truncated samples, a checksum that differs, an unknown unit.
    """
    import wfdb

    name = str(file.with_suffix(""))
    try:
        header = wfdb.rdheader(name)
        multi = isinstance(header, wfdb.MultiRecord)
        record = wfdb.rdrecord(name, physical=multi, m2s=True)
    except FileNotFoundError:
        raise Trouble(
            "no-samples", "names a sample file that does not exist", "Copy the sample file beside it."
        ) from None
    except Exception as error:  # wfdb raises many kinds for broken files; none of their texts is passed on
        raise Trouble(
            "unreadable-signal",
            f"can't be read as WFDB ({type(error).__name__})",
            "It may be truncated or not WFDB; copy it again.",
        ) from None
    if multi:
        samples = record.p_signal
    else:
        if spec.source and spec.source.verify:
            _verify(record)
        samples = record.dac()
    if samples is None or not len(samples):
        raise Trouble("no-samples", "holds no samples", "Leave it out.")
    if record.sig_len and len(samples) < record.sig_len:
        raise Trouble("truncated-signal", f"holds {len(samples)} of {record.sig_len} samples", "Copy it again.")
    units = record.units or ["mV"] * record.n_sig
    names = tuple(name or f"channel {i + 1}" for i, name in enumerate(record.sig_name or [None] * record.n_sig))
    keep = list(range(record.n_sig))
    if record.n_sig > 1:  # a pressure beside an ECG need not be in mV
        theirs = {(spec.source.channels.get(c, c) if spec.source else c).lower() for c in spec.channels}
        keep = [i for i, c in enumerate(placed_channels(names, spec)) if c in theirs] or keep
    scaled = [to_unit(samples[:, i], units[i], spec.unit) for i in keep]
    return [
        Raw(
            np.stack(scaled).astype(np.float32),
            tuple(names[i] for i in keep),
            float(record.fs),
            comments_of(record.comments or []),
            _annotations(name, spec),
        )
    ]


def _verify(record) -> None:
    """The header's checksum is the sum of the samples modulo 2^16; writers that compute none put 0."""
    wrong = []
    for i, wanted in enumerate(record.checksum or []):
        if wanted and (int(record.d_signal[:, i].sum()) - wanted) % 65536:
            wrong.append(record.sig_name[i] if record.sig_name else str(i))
    if wrong:
        raise Trouble(
            "wrong-checksum",
            f"differs from the checksum of its header in {len(wrong)} channel(s): {', '.join(wrong)}",
            "The samples were changed or damaged; copy them again, or set verify = false.",
        )


def _annotations(name: str, spec: Signal) -> pl.DataFrame | None:
    if spec.source is None or spec.source.annotations is None:
        return None
    import wfdb

    try:
        found = wfdb.rdann(name, spec.source.annotations)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise Trouble(
            "unreadable-annotation", f"has annotations that can't be read ({type(error).__name__})", "Copy them again."
        ) from None
    kind = ["beats" if s in BEAT_SYMBOLS else "rhythm" if s == "+" else "events" for s in found.symbol]
    text = [n.strip("\x00") or s for n, s in zip(found.aux_note, found.symbol)]
    symbol = [t if k == "rhythm" else s for k, s, t in zip(kind, found.symbol, text)]
    return pl.DataFrame({"sample": found.sample.astype(np.int64), "kind": kind, "symbol": symbol})


def write_records(signal: SignalSet, folder: Path) -> None:
    """One WFDB record (format 16) each, named r000001, r000002, ...; annotations as .atr; subject and label as
    comments."""
    import wfdb

    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(signal.records.iter_rows(named=True)):
        samples = np.asarray(signal.samples[i, :, : row["n_samples"]], dtype=float).T
        comments = [f"Subject: {row['subject_id']}"] + ([f"Label: {row['label']}"] if row.get("label") else [])
        name = f"r{i + 1:06d}"
        flat = np.where(np.isfinite(samples).any(axis=0), samples, 0.0)
        n = len(signal.spec.channels)
        wfdb.wrsamp(
            name,
            fs=signal.spec.fs,
            units=[signal.spec.unit] * n,
            sig_name=list(signal.spec.channels),
            p_signal=flat,
            fmt=["16"] * n,
            comments=comments,
            write_dir=str(folder),
        )
        if signal.annotations is not None:
            notes = signal.annotations.filter(pl.col("record_id") == row["record_id"])
            if notes.height:
                symbols = ["+" if k == "rhythm" else s for k, s in zip(notes["kind"], notes["symbol"])]
                aux = [s if k == "rhythm" else "" for k, s in zip(notes["kind"], notes["symbol"])]
                wfdb.wrann(name, "atr", notes["sample"].to_numpy(), symbol=symbols, aux_note=aux, write_dir=str(folder))
