"""From waveform files to a signal set: channels by name, one unit, one sampling frequency, windows that know their
patient.

Each file format gives `Raw` records; everything after that is common: lead order by name, declared filters, polyphase
resampling, windows, labels. Records are packed into one array; above 256 MB it lives in a temporary file and is mapped,
so a hundred thousand records never need to be in memory.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Float

from cohortloom.cohort import SignalSet
from cohortloom.errors import Problem, nearest
from cohortloom.formats.wave_gaps import SUSPECT, gaps_in
from cohortloom.schema import Signal
from cohortloom.schema.units import ucum
from cohortloom.schema.wave_files import record_keys, standard_names

if TYPE_CHECKING:
    from cohortloom.formats.base import Findings
    from cohortloom.schema.signals import Fact, Filtering, SignalSource

__all__ = ["BEAT_SYMBOLS", "Raw", "Trouble", "by_record", "placed_channels", "read_signal", "resample", "to_unit"]

#: WFDB codes that mark a beat. Source: PhysioNet, "Annotation codes".
BEAT_SYMBOLS = frozenset("NLRBAaJSVrFejnE/fQ?")

_VOLT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_UNKNOWN = frozenset(("", "nan", "na", "n/a", "nd", "none", "null", "unknown", "unk", "?"))
_MAPPED_ABOVE = 256 << 20


class Trouble(Exception):
    """One file can't be used; becomes a Problem with the number of the file."""

    def __init__(self, code: str, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.fix = code, what, fix


@dataclass(frozen=True)
class Raw:
    """One record as its file gives it.

    Args:
        samples: In the signal's unit.
        channels: Names in the file.
        fs: Sampling frequency of the file [Hz].
        facts: Header comments (lower-case keys), or arrays beside it.
        notes: Annotations: sample, kind, symbol, and length [samples] where the file has it.
        row: Row in a file of many records.
    """

    samples: Float[np.ndarray, "channel sample"]
    channels: tuple[str, ...]
    fs: float
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: pl.DataFrame | None = None
    row: int = 0


def to_unit(samples: np.ndarray, theirs: str, ours: str) -> np.ndarray:
    """Samples in our unit.

    Raises:
        Trouble: a unit that can't be converted.
    """
    a, b = theirs.strip().lower(), ours.strip().lower()
    if a == b or a in ("", "nu", "adu") or ucum(theirs) == ucum(ours) is not None:
        return samples
    if a in _VOLT and b in _VOLT:
        return samples * (_VOLT[a] / _VOLT[b])
    raise Trouble(
        "unknown-unit",
        f'has samples in "{theirs}", the schema says "{ours}"',
        "Set the signal's unit to it, or convert the file.",
    )


def resample(x: Float[np.ndarray, "channel sample"], fs: float, wanted: float) -> Float[np.ndarray, "channel other"]:
    """Polyphase resampling with an anti-aliasing filter; gaps (NaN) stay gaps."""
    if fs == wanted:
        return x
    from fractions import Fraction

    from scipy.signal import resample_poly  # heavy

    ratio = Fraction(wanted / fs).limit_denominator(1000)
    gaps = ~np.isfinite(x)
    y = resample_poly(np.where(gaps, 0.0, x), ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    if gaps.any():
        place = np.minimum((np.arange(y.shape[-1]) * fs / wanted).astype(int), x.shape[-1] - 1)
        y[gaps[:, place]] = np.nan
    return y.astype(np.float32)


def read_signal(
    folder: Path, name: str, spec: Signal, findings: Findings
) -> tuple[SignalSet | None, list[dict[str, Any]]]:
    """Read a signal by its source.

    Args:
        folder: Folder that is read.
        name: Name of the signal in the schema.
        spec: The signal, with a source.
        findings: Takes problems and notes.

    Returns:
        The records, and one row of facts (subject_id and the header comments asked for) per patient file.
    """
    source, where = spec.source, f"signals.{name}"
    assert source is not None
    files = sorted(p for p in folder.glob(source.file) if p.is_file())
    if source.labels is not None and source.labels.file is not None:
        files = [p for p in files if p != folder / source.labels.file]
    if not files:
        findings.stop(
            "no-file", where, f'no file matches "{source.file}"', "Check the path and the pattern of the source."
        )
        return None, []
    labels = _label_table(folder, source, where, findings)
    pieces: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    notes: list[pl.DataFrame] = []
    facts: list[dict[str, Any]] = []
    n_rows = n_short = n_held = 0
    last = ""
    for number, file in enumerate(files):
        try:
            found = _reader(source.format)(file, spec)
            shaped, held = zip(*(_shape(raw, spec, source) for raw in found)) if found else ((), ())
            subjects = [None if source.index else _subject(file, folder, raw, source, n_rows) for raw in found]
            n_rows += len(found)
            n_held += sum(held)
        except Trouble as trouble:
            problem = Problem(
                trouble.code, where, f"file {number + 1} of {len(files)} {trouble.what}", trouble.fix, 1, ()
            )
            if trouble.code == "no-library":
                findings.stop(trouble.code, where, trouble.what, trouble.fix)
                return None, []
            last = f"The last one {trouble.what}. {trouble.fix}"
            findings.settle(problem, drop="records dropped", keep="records left out, they can't be read")
            continue
        for raw, samples, subject in zip(found, shaped, subjects):
            label = _label(file, raw, source, labels)
            facts.append({"subject_id": subject, **{to: _fact(raw, fact) for to, fact in source.facts.items()}})
            by_mark = source.labels is not None and source.labels.annotations
            windows = _windows(samples, spec, source)
            n_short += not windows
            for start, piece in windows:
                record = len(rows)
                rows.append(
                    {
                        "record_id": record,
                        "subject_id": subject,
                        "file": file.relative_to(folder).as_posix(),
                        "start": start / spec.fs,
                        "n_samples": piece.shape[1],
                        "label": _covering(raw, start, piece.shape[1], spec) if by_mark else label,
                    }
                )
                pieces.append(piece)
                if raw.notes is not None and raw.notes.height:
                    notes.append(_notes(raw, record, start, piece.shape[1], spec.fs, source.start))
    findings.note(f"{where}: records shorter than a window, left out", n_short)
    told = "records of the files with runs of one value, read as missing"
    if source.gaps is None:
        told = f"records of the files in which a value stays the same for {SUSPECT.shortest:g} s or more (if these are "
        told += f"gaps, set gaps = {{ shortest = {SUSPECT.shortest:g} }} in the source)"
    findings.note(f"{where}: {told}", n_held)
    if not pieces:
        fix = "Shorten source.window." if n_short else last or "See the problems above."
        findings.stop("no-record", where, "none of its files gave a record", fix)
        return None, facts
    flat = sum(int((np.ptp(p[np.isfinite(p).all(axis=1)], axis=1) == 0).any()) for p in pieces if np.isfinite(p).any())
    findings.note(f"{where}: records with a flat channel", flat)
    findings.note(f"{where}: records with missing samples", sum(int(not np.isfinite(p).all()) for p in pieces))
    return _assemble(spec, rows, pieces, notes), facts


def _reader(format: str):
    from cohortloom.formats import arrays, edf_files, physionet

    return {"wfdb": physionet, "edf": edf_files, "npz": arrays, "rows": arrays, "csv": arrays}[format].read_record


def placed_channels(channels: tuple[str, ...], spec: Signal) -> list[str]:
    """A file's channels in lower case: by their own name where the schema wants it, else by their standard name."""
    wanted = {c.lower() for c in spec.channels}
    if spec.source is not None:
        wanted = {spec.source.channels.get(c, c).lower() for c in spec.channels}
    own = [c.strip().lower() for c in channels]
    return [a if a in wanted else b if (b := known.lower()) in wanted and b not in own else a
            for a, known in zip(own, standard_names(channels))]  # fmt: skip


def _shape(raw: Raw, spec: Signal, source: SignalSource) -> tuple[np.ndarray, bool]:
    """Channels in our order, our sampling frequency, declared gaps and filters; and were there runs of one value?"""
    there = placed_channels(raw.channels, spec)
    twice = sorted({c for c in there if there.count(c) > 1})
    wanted = [source.channels.get(c, c).lower() for c in spec.channels]
    if any(c in twice for c in wanted):
        raise Trouble(
            "duplicate-channel", f"has channel {', '.join(c for c in twice if c in wanted)} twice", "Keep one of them."
        )
    absent = [ours for ours, theirs in zip(spec.channels, wanted) if theirs not in there]
    if len(spec.channels) == 1 and len(there) == 1:
        absent, wanted = [], there
    if absent and (source.missing_channels == "fail" or len(absent) == len(wanted)):
        hint = nearest(absent[0], raw.channels)
        raise Trouble(
            "missing-channel", f"lacks channel {', '.join(absent)}; it has {', '.join(raw.channels)}",
            f'Map it with source.channels, or set missing_channels = "missing".{hint}',
        )  # fmt: skip
    if raw.fs != spec.fs and not source.resample:
        raise Trouble(
            "wrong-fs",
            f"is sampled at {raw.fs:g} Hz, the schema says {spec.fs:g} Hz",
            "Set resample = true, or correct fs.",
        )
    x = np.full((len(wanted), raw.samples.shape[1]), np.nan, dtype=np.float32)
    for i, channel in enumerate(wanted):
        if channel in there:
            x[i] = raw.samples[there.index(channel)]
    x = x[:, round(source.start * raw.fs) :]
    held = gaps_in(x, raw.fs, source.gaps or SUSPECT)
    if source.gaps is not None:
        x[held] = np.nan
    for step in source.filters:
        x = _filtered(x, raw.fs, step)
    return resample(x, raw.fs, spec.fs), bool(held.any())


def _filtered(x: np.ndarray, fs: float, step: Filtering) -> np.ndarray:
    from scipy.signal import butter, iirnotch, sosfiltfilt, tf2sos  # heavy

    edges = [e for e in (step.low, step.high) if e is not None]
    if max(edges) >= fs / 2:
        raise Trouble(
            "filter-above-nyquist",
            f"is sampled at {fs:g} Hz, too slowly for a filter at {max(edges):g} Hz",
            "Lower the edge.",
        )
    if step.kind == "notch":
        sos = tf2sos(*iirnotch(edges[0], 30.0, fs))
    else:
        kind = {"highpass": "highpass", "lowpass": "lowpass", "bandpass": "bandpass"}[step.kind]
        sos = butter(step.order, edges if kind == "bandpass" else edges[0], kind, fs=fs, output="sos")
    gaps = ~np.isfinite(x)
    y = sosfiltfilt(sos, np.where(gaps, 0.0, x), axis=-1, padlen=min(3 * int(fs), x.shape[1] - 1))
    y[gaps] = np.nan
    return y.astype(np.float32)


def _windows(x: np.ndarray, spec: Signal, source: SignalSource) -> list[tuple[int, np.ndarray]]:
    if source.window is not None:
        n = round(source.window * spec.fs)
        step = round((source.step or source.window) * spec.fs)
        return [(s, x[:, s : s + n]) for s in range(0, x.shape[1] - n + 1, step)]
    if spec.n_samples is not None and x.shape[1] != spec.n_samples:
        if x.shape[1] < spec.n_samples:
            x = np.pad(x, ((0, 0), (0, spec.n_samples - x.shape[1])), constant_values=np.nan)
        return [(0, x[:, : spec.n_samples])]
    return [(0, x)]


def _subject(file: Path, folder: Path, raw: Raw, source: SignalSource, before: int) -> str:
    """The patient of a record; `before` is the number of rows in the files before this one."""
    if source.format in ("npz", "rows") and "(?P<subject>" not in source.subject:
        return raw.facts.get(source.subject, str(before + raw.row + 1))
    found = re.search(source.subject, file.relative_to(folder).with_suffix("").as_posix())
    if not found or "subject" not in found.groupdict():
        raise Trouble(
            "no-subject",
            "has a path that does not match source.subject",
            "Correct the regular expression; it needs the group 'subject'.",
        )
    return found["subject"]


def _label_table(folder: Path, source: SignalSource, where: str, findings: Findings) -> dict[str, str] | None:
    if source.labels is None or source.labels.file is None:
        return None
    try:
        table = pl.read_csv(
            folder / source.labels.file, infer_schema=False, separator=_separator(folder / source.labels.file)
        )
        return by_record(table[source.labels.record], table[source.labels.column])
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError):
        findings.stop(
            "no-labels",
            where,
            f'labels can\'t be read from "{source.labels.file}"',
            "Check file, record and column of source.labels.",
        )
        return None


def _separator(file: Path) -> str:
    with file.open(encoding="utf8", errors="replace") as text:
        head = text.readline()
    return max(",;\t", key=head.count)


def by_record(names: pl.Series, values: Iterable[Any]) -> dict[str, Any]:
    """Values by all that their record may be called; what two records may be called tells neither."""
    found: dict[str, Any] = {}
    often = Counter(key for name in names.drop_nulls() for key in record_keys(str(name)))
    for name, value in zip(names, values, strict=True):
        found |= {key: value for key in record_keys(str(name)) if often[key] == 1} if name is not None else {}
    return found


def _fact(raw: Raw, fact: Fact | str) -> str | None:
    text = raw.facts.get((fact if isinstance(fact, str) else fact.comment).lower())
    if isinstance(fact, str) and text is not None and text.strip().lower() in _UNKNOWN:
        return None
    return text if isinstance(fact, str) or not fact.values else fact.values.get(text or "")


def _label(file: Path, raw: Raw, source: SignalSource, table: dict[str, str] | None) -> str | None:
    if source.labels is None:
        return None
    text = (
        next((table[k] for k in record_keys(file.as_posix()) if k in table), None)
        if table is not None
        else raw.facts.get(source.labels.column.lower(), raw.facts.get(source.labels.column))
    )
    if text is None:
        return None
    parts = [p.strip() for p in text.split(source.labels.separator)]
    if source.labels.values:
        parts = [source.labels.values[p] for p in parts if p in source.labels.values]
    return "|".join(dict.fromkeys(parts)) or None


def _covering(raw: Raw, start: int, n: int, spec: Signal) -> str | None:
    """The annotation that covers most of a window: half of it at least, or half of the annotation lies within. One
    without a length lasts until the next."""
    assert spec.source is not None and spec.source.labels is not None
    if raw.notes is None:
        return None
    marks = raw.notes.filter(pl.col("kind") != "beats").sort("sample", maintain_order=True)
    begin = marks["sample"].to_numpy().astype(float)
    length = marks["length"].to_numpy().astype(float) if "length" in marks.columns else np.zeros(len(begin))
    end = np.where(length > 0, begin + length, np.append(begin[1:], raw.fs * 1e9))
    begin, end = ((x / raw.fs - spec.source.start) * spec.fs for x in (begin, end))
    shared = np.clip(np.minimum(end, start + n) - np.maximum(begin, start), 0, None)
    total: dict[str, float] = {}
    for symbol, samples, whole in zip(marks["symbol"], shared, end - begin):
        if samples > 0 and 2 * samples >= min(n, whole):
            total[symbol] = total.get(symbol, 0.0) + samples
    if not total:
        return None
    text, values = max(total, key=lambda t: total[t]).strip(), spec.source.labels.values
    return (values.get(text) if values else text.lstrip("(")) or None


def _notes(raw: Raw, record: int, start: int, n: int, fs: float, cut: float) -> pl.DataFrame:
    assert raw.notes is not None
    place = ((pl.col("sample") / raw.fs - cut) * fs).round().cast(pl.Int64) - start
    inside = raw.notes.with_columns(place.alias("sample")).filter(pl.col("sample").is_between(0, n - 1))
    return inside.select(pl.lit(record, pl.Int64).alias("record_id"), "sample", "kind", "symbol")


def _assemble(
    spec: Signal, rows: list[dict[str, Any]], pieces: list[np.ndarray], notes: list[pl.DataFrame]
) -> SignalSet:
    longest = max(p.shape[1] for p in pieces)
    shape = (len(pieces), len(spec.channels), longest)
    if 4 * np.prod(shape) > _MAPPED_ABOVE:
        file = tempfile.TemporaryFile(prefix="cohortloom-")  # noqa: SIM115 (lives as long as the array)
        samples = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    else:
        samples = np.empty(shape, dtype=np.float32)
    for i, piece in enumerate(pieces):
        samples[i, :, : piece.shape[1]] = piece
        samples[i, :, piece.shape[1] :] = np.nan
    records = pl.DataFrame(rows, infer_schema_length=None)
    ids = records["subject_id"].cast(pl.Int64, strict=False)
    if spec.source is None or spec.source.index is None:
        records = records.drop("file")
    if not ids.has_nulls() and (ids.cast(pl.String) == records["subject_id"]).all():
        records = records.with_columns(ids)
    records = records.select(
        "record_id",
        "subject_id",
        *(["file"] if "file" in records.columns else []),
        pl.lit(None, pl.Int64).alias("visit_id"),
        pl.duration(microseconds=pl.col("start") * 1e6).alias("time"),
        "n_samples",
        pl.col("label").cast(pl.String),
    )
    table = pl.concat(notes) if notes else None
    return SignalSet(spec, records, samples, table)
