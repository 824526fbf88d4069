"""What the headers of waveform files say: channels, units, sampling frequency, length, comments.

Headers are read here and no library is needed, so that a draft can be made where only the schema layer is installed.
Nothing of the samples is looked at but the shape; of a table of rows, its first column.

References:
    Kemp et al. (1992, 2003). EDF and EDF+. WFDB header files: physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

from cohortloom.schema.profile import is_number
from cohortloom.schema.signals import STANDARD_12

__all__ = [
    "MISSING", "MOST_FILES", "SUFFIXES", "TEXTS", "Wave", "columns_of", "comments_of", "is_rows", "label_of",
    "marks_of", "record_keys", "rows_of", "samples_first", "separator_of", "standard_names", "wave_files",
]  # fmt: skip

SUFFIXES = {".edf": "edf", ".bdf": "edf", ".hea": "wfdb", ".npz": "npz"}
TEXTS = (".tsv", ".csv", ".txt", ".ts")
#: Headers that are looked at; of more files every n-th is.
MOST_FILES = 2000
#: Least samples of a row that is taken for a waveform.
LEAST_SAMPLES = 16
#: Least rows of a file with a column per channel, and what stands for a missing sample in it.
LEAST_ROWS, MISSING = 100, ["", "nan", "NaN", "NA"]
_LEADS = {c.lower(): c for c in (*STANDARD_12, "V7", "V8", "V9", "V3R", "V4R", "V5R", "V6R", "Vx", "Vy", "Vz")}
_FIRST = ("Fp", "AF", "FT", "FC", "CP", "TP", "PO", "F", "T", "C", "P", "O", "I", "A", "M")
_ELECTRODE = rf"({'|'.join(_FIRST)})(z|\d{{1,2}})"
_REFERENCE = r"[-_ ]?(ref|le|ar|avg?|car)?"


@dataclass(frozen=True)
class Wave:
    """The channels of one file.

    Args:
        file: Path below the folder.
        format: Of the source: edf, wfdb, npz, rows, csv.
        channels, units, rates: Of each channel; rates in Hz, 0 where the file does not say.
        seconds: Length, 0 where the file does not say; of `rows` and `npz` in samples.
        comments: Header comments, lower-case keys.
        arrays: NPZ: shape and kind of each array.
        annotated: Is a WFDB annotation file beside it?
    """

    file: str
    format: str
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rates: tuple[float, ...]
    seconds: float
    comments: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    annotated: bool = False


def wave_files(root: Path) -> tuple[list[Wave], int, int]:
    """Waveform files in a folder (or the one given).

    Returns:
        What their headers say, how many files there are, how many headers can't be read.
    """
    base = root if root.is_dir() else root.parent
    paths = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    paths = [p for p in paths if not p.name.startswith(".")]
    known = [p for p in paths if p.suffix.lower() in SUFFIXES]
    texts = {p: "rows" if is_rows(p) else "csv" if is_columns(p) else "" for p in paths if p.suffix.lower() in TEXTS}
    known += [p for p, kind in texts.items() if kind]
    found, broken = [], 0
    for path in known[:: max(1, -(-len(known) // MOST_FILES))]:
        kind = SUFFIXES.get(path.suffix.lower()) or texts[path]
        try:
            read = {"edf": _edf, "wfdb": _wfdb, "npz": _npz, "rows": _rows, "csv": _columns}[kind]
            wave = read(path, path.relative_to(base).as_posix())
        except (OSError, ValueError, IndexError, KeyError, zipfile.BadZipFile):
            broken += 1
            continue
        if wave is not None:
            found.append(wave)
    return found, len(known), broken


def standard_names(channels: Iterable[str]) -> tuple[str, ...]:
    """Channels by the names everyone knows: "Lead aVR" is aVR, "EEG FP1-REF" Fp1, and C1 to C6 beside limb leads are
    V1 to V6. What has no such name, or would have that of another channel, keeps its own.
    """
    own = [c.strip().rstrip(".,:;").rstrip() for c in channels]
    found = [_lead(c) or _electrode(c) or c for c in own]
    if {"I", "II"} <= set(found):
        found = [f"V{c[1]}" if re.fullmatch(r"[Cc][1-6]", c) else f for c, f in zip(own, found)]
    return tuple(f if found.count(f) == 1 else c for f, c in zip(found, own))


def _lead(name: str) -> str | None:
    return _LEADS.get(re.sub(r"^(ecg|ekg)?[-_ ]*(lead)?[-_ ]*", "", name.lower()).replace(" ", ""))


def _electrode(name: str) -> str | None:
    found = re.fullmatch(rf"(eeg[-_ ]*)?{_ELECTRODE}{_REFERENCE}", name, re.IGNORECASE)
    if found is None:
        return re.sub(r"^eeg[-_ ]+", "", name, flags=re.IGNORECASE) if re.fullmatch(
            rf"eeg[-_ ]+{_ELECTRODE}-{_ELECTRODE}", name, re.IGNORECASE) else None  # fmt: skip
    return {f.lower(): f for f in _FIRST}[found[2].lower()] + found[3].lower()


def record_keys(text: str) -> list[str]:
    """What a record may be called by: its path without suffix, then without its folders, one by one."""
    parts = [p for p in re.split(r"[/\\]", text.strip()) if p not in ("", ".")]
    if parts:
        parts[-1] = re.sub(r"\.(hea|dat|mat|edf|bdf|npz|csv|tsv|txt)$", "", parts[-1], flags=re.IGNORECASE)
    return ["/".join(parts[i:]) for i in range(len(parts))]


def comments_of(lines: Iterable[str]) -> dict[str, str]:
    """Header comments by their key in lower case; of a line with several of them ("age: 69  sex: M") each one."""
    found = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip(" <>").lower()] = value.strip()
        if line.count(":") > 1:
            found |= {k.lower(): v for k, v in re.findall(r"<?\b(age|sex|gender)\b>?\s*:\s*([^\s:<,;]+)", line, re.I)}
    return found


def is_rows(path: Path) -> bool:
    """Does a text file hold numbers alone, a record a row (UCR style)?"""
    try:
        lines = list(islice(rows_of(path), 2))
    except OSError:
        return False
    return bool(lines) and all(len(c) > LEAST_SAMPLES and all(map(is_number, c)) for c in lines)


def separator_of(line: str) -> str:
    """What stands between the cells of a line."""
    return max(",;\t", key=line.count)


def is_columns(path: Path) -> bool:
    """Does a text file hold one record, a channel a column and a sample a row, with its time or index in front?"""
    try:
        columns_of(path)
    except (OSError, ValueError):
        return False
    return True


_NAMES_SOMEONE = re.compile(
    r"(^|_)p?id$|(stay|visit|hadm|encounter|admission|patient|subject|person|participant)\w*(id|no|nr)$"
)


def columns_of(path: Path) -> tuple[list[str], float]:
    """Channels of such a file and its sampling frequency [Hz] (0: it only counts the samples).

    Raises:
        ValueError: it is none.
    """
    with path.open(encoding="utf8", errors="replace") as file:
        head = file.readline().lstrip("\ufeff").rstrip("\r\n")
        cut = separator_of(head)
        names = [c.strip().strip('"') for c in head.split(cut)]
        rows = [line.rstrip("\r\n").split(cut) for line in islice(file, LEAST_ROWS)]
    if len(rows) < LEAST_ROWS or len(names) < 2 or len(set(names)) < len(names) or any(map(is_number, names)):
        raise ValueError
    if names[0].lower().endswith("id") or any(_NAMES_SOMEONE.search(n.lower()) for n in names):  # a table
        raise ValueError
    if any(len(r) != len(names) or not all(is_number(c) or c.strip() in MISSING for c in r) for r in rows):
        raise ValueError
    time = [float(r[0]) for r in rows]
    steps = [b - a for a, b in pairwise(time)]
    step = (time[-1] - time[0]) / len(steps)
    if step <= 0 or max(abs(d - step) for d in steps) > 0.05 * step:
        raise ValueError
    name = names[0].lower()
    if re.search(r"index|sample|frame|^n$|^$|unnamed", name) or (step == 1 and not re.search(r"time|ms|^t$", name)):
        return names[1:], 0.0
    rate = (1000.0 if re.search(r"ms\b|_ms|milli", name) or step >= 1 else 1.0) / step
    if rate < 10:  # hours of a chart are no waveform
        raise ValueError
    return names[1:], round(rate, 3)


def held_values(path: Path, channels: list[str], least: int) -> set[float]:
    """Values that channels of such a file hold for so many samples or more; a channel that never changes holds none."""
    import polars as pl  # heavy

    with path.open(encoding="utf8", errors="replace") as file:
        cut = separator_of(file.readline())
    frame = pl.read_csv(path, separator=cut, infer_schema_length=None, ignore_errors=True, truncate_ragged_lines=True)
    found: set[float] = set()
    for channel in (c for c in frame.columns if c.strip().strip('"') in channels):
        x = frame[channel].cast(pl.Float64, strict=False)
        runs = pl.DataFrame({"x": x, "run": x.rle_id()}).drop_nulls().group_by("run").agg(pl.len(), pl.col("x").first())
        found |= set(runs.filter(pl.col("len") >= least)["x"]) if runs.height > 1 else set()
    return found


def rows_of(path: Path) -> Iterator[list[str]]:
    """Cells of each row, separated by tabs, commas, semicolons or blanks. Files `.ts` have a header of @ and # and
    their label at the end, behind a colon: it comes first here.
    """
    ts = path.suffix.lower() == ".ts"
    with path.open(encoding="utf8", errors="replace") as file:
        for line in file:
            if not line.strip() or (ts and line.lstrip()[0] in "@#"):
                continue
            if ts:
                values, _, label = line.rpartition(":")
                line = f"{label.strip()},{values}"
            yield [c for c in re.split(r"[\t,;]\s*|\s+", line.strip()) if c]


def label_of(cell: str) -> str:
    """A label without the .0 that a table of numbers gives it."""
    return re.sub(r"\.0+(e[+]?0+)?$", "", cell)


def _edf(path: Path, name: str) -> Wave | None:
    with path.open("rb") as file:
        head = file.read(256).decode("latin1")
        n, n_records, seconds = int(head[252:256]), int(head[236:244]), float(head[244:252])
        body = file.read(256 * n).decode("latin1")

    def column(start: int, width: int) -> list[str]:
        return [body[start * n + width * i : start * n + width * (i + 1)].strip() for i in range(n)]

    labels, units, samples = column(0, 16), column(96, 8), column(216, 8)
    rows = [(lab, unit, int(s) / seconds) for lab, unit, s in zip(labels, units, samples)
            if seconds > 0 and not re.search("annotations|status", lab.lower())]  # fmt: skip
    if not rows:
        return None
    names, theirs, rates = zip(*rows)
    return Wave(name, "edf", standard_names(names), theirs, rates, max(n_records, 0) * seconds)


def marks_of(path: Path) -> list[tuple[str, float]]:
    """Text and length [s] of the annotations of an EDF+ file that have a length."""
    found = re.findall(rb"[+-]\d+(?:\.\d*)?\x15(\d+(?:\.\d*)?)\x14([^\x14\x00]{1,60})\x14", path.read_bytes())
    return [(text.decode("utf8", "replace").strip(), float(seconds)) for seconds, text in found if float(seconds) > 0]


def _wfdb(path: Path, name: str) -> Wave | None:
    text = path.read_text(encoding="utf8", errors="replace").splitlines()
    lines = [line for line in text if line.strip() and not line.startswith("#")]
    first = lines[0].split()
    if "/" in first[0]:  # several segments, which stand beside it
        return None
    n, rate = int(first[1]), float(re.split("[/(]", first[2])[0]) if len(first) > 2 else 250.0
    length = int(first[3]) if len(first) > 3 else 0
    channels, units = [], []
    for i, line in enumerate(lines[1 : n + 1]):
        parts = line.split(maxsplit=8)
        gain = re.search(r"/([^\s]+)", parts[2]) if len(parts) > 2 else None
        units.append(gain[1] if gain else "mV")
        channels.append(parts[8].strip() if len(parts) > 8 else f"channel {i + 1}")
    comments = comments_of(line.lstrip("# ") for line in text if line.startswith("#"))
    annotated = path.with_suffix(".atr").exists()
    if not channels:
        return None
    named = standard_names(channels)
    return Wave(name, "wfdb", named, tuple(units), (rate,) * n, length / rate, comments, annotated=annotated)


def _npz(path: Path, name: str) -> Wave | None:
    import numpy as np

    arrays: dict[str, tuple[tuple[int, ...], str]] = {}
    with zipfile.ZipFile(path) as file:
        for member in file.namelist():
            with file.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
                shape, _, dtype = read(stream)
                arrays[member.removesuffix(".npy")] = (shape, dtype.kind)
    waves = {
        k: s for k, (s, kind) in arrays.items() if kind in "fiu" and len(s) in (2, 3) and max(s[1:]) >= LEAST_SAMPLES
    }
    if not waves:
        return None
    shape = max(waves.values(), key=lambda s: float(np.prod(s)))
    if samples_first(shape):
        shape = (shape[0], shape[2], shape[1])
    n, rate, names = shape[1] if len(shape) == 3 else 1, 0.0, ()
    with np.load(path, allow_pickle=False) as file:
        for k, (size, kind) in arrays.items():
            if size in ((), (1,)) and kind in "fiu" and re.search(r"^s?fs|rate|freq|hz$", k.lower()):
                rate = float(file[k].reshape(-1)[0])
            if (size, kind) == ((n,), "U") and re.search(r"channel|ch_?names|leads?(_|$)|electrode|montage", k.lower()):
                names = standard_names(str(c) for c in file[k])
    names = names or (("x",) if n == 1 else tuple(f"x{i + 1}" for i in range(n)))
    return Wave(name, "npz", names, ("",) * n, (rate,) * n, float(shape[-1]), arrays=arrays)


def _columns(path: Path, name: str) -> Wave:
    names, rate = columns_of(path)
    with path.open("rb") as file:
        n = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1
    n_channels = len(names)
    return Wave(name, "csv", standard_names(names), ("",) * n_channels, (rate,) * n_channels, n / (rate or 1.0))


def samples_first(shape: tuple[int, ...]) -> bool:
    """Is an array record x sample x channel rather than record x channel x sample? Few channels stand last."""
    return len(shape) == 3 and shape[2] < LEAST_SAMPLES <= shape[1]


def _rows(path: Path, name: str) -> Wave:
    return Wave(name, "rows", ("x",), ("",), (0.0,), float(len(next(rows_of(path)))))
