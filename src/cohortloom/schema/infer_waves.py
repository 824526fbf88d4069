"""A draft of signals from the headers of waveform files.

Channels that share a rate and a kind (ECG, EEG, ...) become one signal; channels that few files have are left out, of
several rates the most frequent is taken and the others are resampled to it; long records are cut into windows. Labels
come from a table with a row per record, from header comments, or from an array or column beside the samples. Whose a
record is, a file's name tells; ids of tables decide how to read it where there are any. Every guess carries a comment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cohortloom.schema.profile import snake
from cohortloom.schema.units import ucum
from cohortloom.schema.wave_files import TEXTS, Wave, held_values, label_of, marks_of, record_keys, rows_of, wave_files

if TYPE_CHECKING:
    from cohortloom.schema.sheets import Sheet

__all__ = ["WaveDraft", "draft_waves"]

WINDOW, LONG, MOST_WINDOWS, MOST_LABELS = 10.0, 60.0, 60, 30
#: Fewer files may be one patient's.
MANY = 20
#: Files whose annotations are looked at.
MARKED = 10
#: Samples a channel holds one value for, if that is to be a gap.
HELD = 50
_LABELS = "label|class|rhythm|diag|dx|type|group|condition|scp|code|event|stage|target|outcome"
#: Share of files a channel must stand in.
MOST_HAVE = 0.8
_VOLTS = {"v": "V", "mv": "mV", "uv": "uV", "µv": "uV", "μv": "uV", "nv": "nV"}
_KINDS = {
    "ecg": r"ecg|ekg|(lead )?(i{1,3}|av[rlf]|v[1-9]r?|v[xyz]?|ml(i{1,3}|v\d)|mcl\d?|c[ms]\d)",
    "eeg": r"eeg.*|(fp|af|f|fc|ft|c|cp|t|tp|p|po|o|a|m|iz?)(z|\d{1,2})([-_ ].*)?",
    "ppg": r"ppg|pleth.*", "resp": r"resp.*|thor.*|abdo.*|airflow|flow", "emg": r"emg.*|chin.*|leg.*",
}  # fmt: skip
_SUBJECTS = (r"(?P<subject>[^/]+)$", r"^(?P<subject>[^/]+)/", r"(?P<subject>[^/]+)/[^/]+$",
             r"(?P<subject>[A-Za-z]*\d+)[^/\d][^/]*$", r"(?P<subject>\d+)[^/\d]*$")  # fmt: skip
_SEX = {"Male": "M", "Female": "F", "M": "M", "F": "F", "male": "M", "female": "F"}


@dataclass
class WaveDraft:
    """Waveform files of a folder, and the signals drafted of them."""

    source: Path
    waves: list[Wave]
    unread: str
    row_files: set[str]
    labels: dict[str, tuple[Sheet, str, str]] = field(default_factory=dict)
    listed: dict[str, list[str]] = field(default_factory=dict)

    def label_files(self, sheets: Iterable[Sheet]) -> set[str]:
        """Tables that say no more than each record's label."""
        self._labels(sheets)
        return {file for file, (sheet, *_) in self.labels.items() if sheet.frame.width <= 2}

    def _labels(self, sheets: Iterable[Sheet]) -> None:
        """Tables with a row per record, the column that names it, and the one with few values."""
        for sheet in sheets:
            for record in self._record_columns(sheet):
                values = {c: sheet.frame[c].drop_nulls().cast(str) for c in sheet.frame.columns if c != record}
                few = [c for c, v in values.items() if 2 <= len(_parts(v)[1]) <= min(MOST_LABELS, 0.5 * len(v))]
                named = [c for c in few if re.search(_LABELS, c.lower())]
                if named or (len(few) == 1 and sheet.frame.width == 2):
                    self.labels[sheet.file] = sheet, record, (named or few)[0]
                    break
                if record not in self.listed.setdefault(sheet.file, []):
                    self.listed[sheet.file].append(record)

    def _record_columns(self, sheet: Sheet) -> list[str]:
        """Columns whose words are the names of the files, each once."""
        stems = [set(record_keys(w.file)) for w in self.waves]
        found = []
        for column in sheet.frame.columns:
            rows = sheet.frame[column].drop_nulls().cast(str)
            if sheet.frame.is_empty() or rows.n_unique() < sheet.frame.height:
                continue
            named = {key for row in rows for key in record_keys(row)[:1]}
            if sum(not named.isdisjoint(keys) for keys in stems) >= 0.8 * len(stems):
                found.append(column)
        return found

    def draft(
        self, data: dict[str, Any], notes: dict[tuple, str], head: list[str], ids: set[str], patients: str | None
    ) -> None:
        """Put signals (and a table of what header comments say) into a draft.

        Args:
            data: Plain schema.
            notes, head: Its comments.
            ids: Patients of its tables, as text.
            patients: Its static table.
        """
        head += [self.unread] if self.unread else []
        signals: dict[str, Any] = {}
        groups = _groups(self.waves)
        if slow := _unused(self.waves, groups):
            head.append(
                f"Channels left out, as they are slower than 10 Hz or than others of their kind: {', '.join(slow)}."
            )
        for group in groups.values():
            one = _Signal(self, group, ids, notes)
            found = one.drafted(data)
            if found is None:
                head.append(f"{len(group)} files have no channel in common; no signal was drafted of them.")
                continue
            name = next(n for k in range(1, 99) if (n := one.name if k == 1 else f"{one.name}_{k}") not in signals)
            if ids and patients:
                found["parent"] = one.found_by or patients
            signals[name] = found
            notes |= {("signals", name, *path): text for path, text in one.notes.items()}
        data["signals"] = signals


def draft_waves(source: Path) -> WaveDraft | None:
    """What there is to draft of a folder (or one file), None if it holds no waveform."""
    waves, n_files, broken = wave_files(source)
    if not waves:
        return None
    unread = f"{broken} of {n_files} waveform files have no readable header." if broken else ""
    return WaveDraft(source, waves, unread, {w.file for w in waves if w.format in ("rows", "csv")})


def _groups(waves: list[Wave]) -> dict[tuple[str, ...], list[Wave]]:
    """Files with the channels of one kind each, by (format, kind, unit if no name tells the kind).

    Of channels of one kind at two rates the faster are taken.
    """
    found: dict[tuple[str, ...], list[Wave]] = {}
    for w in waves:
        kinds = [_kind(c, u) for c, u in zip(w.channels, w.units)]
        if len(known := set(kinds) - {"other"}) == 1 and len(set(w.rates)) == 1 and len(set(map(_unit, w.units))) == 1:
            kinds = [*known] * len(kinds)  # one recorder: a channel without a telling name goes with the rest
        keys = [(k, _unit(u) if k == "other" else "") for k, u in zip(kinds, w.units)]  # a signal has one unit
        for kind in dict.fromkeys(keys):
            rate = max(r for r, k in zip(w.rates, keys) if k == kind)
            keep = [i for i, k in enumerate(keys) if k == kind and w.rates[i] == rate]
            beside = rate <= 1 or max(w.rates) >= 10
            if rate < 10 and beside and w.format in ("edf", "wfdb"):
                continue  # a number a second, or one beside waveforms; at 4 Hz alone it is a cardiotocogram
            part = replace(w, **{a: tuple(getattr(w, a)[i] for i in keep) for a in ("channels", "units", "rates")})
            found.setdefault((w.format, *kind), []).append(part)
    return found


def _unused(waves: list[Wave], groups: dict[tuple[str, ...], list[Wave]]) -> list[str]:
    """Channels of no group."""
    used = {c for group in groups.values() for w in group for c in w.channels}
    return sorted({c for w in waves for c in w.channels} - used)


def _kind(channel: str, unit: str) -> str:
    name = channel.strip().lower()
    for kind, pattern in _KINDS.items():
        if re.fullmatch(pattern, name) or re.match(rf"{kind}\b|{kind}[\d_ ]", name):
            return kind
    return {"mv": "ecg"}.get(unit.strip().lower(), "other")


def _parts(values: Iterable[str]) -> tuple[str, set[str]]:
    """What stands between several labels of one record, and the labels."""
    words = {v.strip() for v in values} - {""}
    for cut in (";", "|", ","):
        parts = {p.strip() for w in words for p in w.split(cut)} - {""}
        if any(cut in w for w in words) and len(parts) < len(words) + 1:
            return cut, parts
    return ",", words


def _unit(text: str) -> str:
    return _VOLTS.get(text.strip().lower(), text.strip())


@dataclass
class _Signal:
    """One signal in the making; comments by path below it."""

    draft: WaveDraft
    waves: list[Wave]
    ids: set[str]
    above: dict[tuple, str]
    name: str = ""
    said: list[str] = field(default_factory=list)
    notes: dict[tuple, str] = field(default_factory=dict)
    signal: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    found_by: str | None = None

    def drafted(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """The signal as plain data; None if its files share no channel."""
        waves, form = self.waves, self.waves[0].format
        kind = Counter(_kind(c, u) for w in waves for c, u in zip(w.channels, w.units)).most_common(1)[0][0]
        self.name = "wave" if kind == "other" else kind
        seen = Counter(c for w in waves for c in w.channels if w.channels.count(c) == 1)
        channels = [c for c in seen if seen[c] >= MOST_HAVE * len(waves)]
        if all(len(w.channels) == 1 for w in waves):
            channels = [seen.most_common(1)[0][0]]  # the only channel is read whatever its name
        if not channels:
            return None
        rates = Counter(w.rates[0] for w in waves)
        rate = rates.most_common(1)[0][0]
        unit = Counter(_unit(u) for w in waves for u in w.units).most_common(1)[0][0]
        unit = "1" if unit.lower() in ("nu", "adu") else (ucum(unit) or unit) if unit else ""
        usual = "1" if form in ("npz", "rows", "csv") else "mV"
        self.signal |= {"kind": kind, "channels": channels, "fs": rate or 100.0, "unit": unit or usual}
        self.source |= {"format": form, "file": _glob([w.file for w in waves])}
        self.said.append(f"{len(waves)} files; the kind is guessed from names and units of channels.")
        if not rate:
            self.notes["fs",] = "WARNING: the files do not say their sampling frequency; 100 Hz is made up."
        if not unit:
            self.notes["unit",] = "The files do not say their unit."
        if len(rates) > 1:
            self.source["resample"] = True
            self.said.append(f"Sampled at {', '.join(f'{r:g}' for r in sorted(rates))} Hz; brought to {rate:g} Hz.")
        if any(seen[c] < len(waves) for c in channels) and len(channels) > 1:
            self.source["missing_channels"] = "missing"
            self.said.append("Some files lack some channels.")
        if dropped := len({c for w in waves for c in w.channels}) - len(channels):
            self.said.append(f"{dropped} channels that some files lack (or have twice) are left out.")
        self._lengths()
        if form == "csv" and kind in ("ecg", "eeg", "ppg", "emg") and rate:
            self._gaps(rate)
        if form in ("npz", "rows"):
            self.source["subject"] = "row"
            (self._beside_rows if form == "rows" else self._beside_array)()
        else:
            if not self._index(data):
                self.source["subject"], told = _subject([w.file for w in waves], self.ids)
                self.said.append(told)
            self._labels()
            self._facts(data)
        if form == "wfdb" and sum(w.annotated for w in waves) > 0.5 * len(waves):
            self.source["annotations"] = "atr"
            self.signal["annotations"] = ["beats", "rhythm"] if kind == "ecg" else ["events"]
        self.notes[()] = " ".join(self.said)
        return {**self.signal, "source": self.source}

    def _lengths(self) -> None:
        fs = self.signal["fs"]
        counted = [w.format in ("npz", "rows") or not w.rates[0] for w in self.waves]
        seconds = [w.seconds / fs if c else w.seconds for w, c in zip(self.waves, counted)]
        shortest, longest = min(seconds), max(seconds)
        between = f"{longest:g} s" if shortest == longest else f"{shortest:g} to {longest:g} s"
        slower = 60 if fs < 10 else 1  # a cardiotocogram of 4 Hz is read by the ten minutes
        if longest > slower * LONG:
            window = self.source["window"] = self.signal["duration"] = slower * WINDOW
            step = max(window, round(longest / MOST_WINDOWS / 10) * 10.0)
            self.source |= {"step": step} if step > window else {}
            self.said.append(
                f"Records of {between}: cut into windows of {window:g} s, one every {step:g} s; "
                "shorter records are left out."
            )
        elif shortest == longest and longest > 0:
            self.signal["duration"] = round(longest, 9)
        else:
            self.said.append(f"Records of {between}.")

    def _gaps(self, rate: float) -> None:
        """Do channels hold one value for a second, as no heart or brain does?"""
        least = max(round(rate), HELD)
        each = [held_values(self._folder() / w.file, self.signal["channels"], least) for w in self.waves[:MARKED]]
        values, n = set().union(*each), sum(map(bool, each))
        if not values:
            return
        self.source["gaps"] = {"shortest": 1.0} | ({"value": values.pop()} if len(values) == 1 else {})
        self.notes["source", "gaps"] = (
            f"In {n} of {len(each)} files a channel stays the same for a second or more: taken for gaps (a guess)."
        )

    def _index(self, data: dict[str, Any]) -> bool:
        """Is there a drafted table of the patients with a row per record?"""
        for name, table in data["tables"].items():
            file, columns = table.get("source", {}).get("file"), table.get("source", {}).get("columns", {})
            label = self.draft.labels.get(file)
            for theirs in [*([label[1]] if label else []), *self.draft.listed.get(file, [])]:
                ours = next((o for o, t in columns.items() if t == theirs), theirs)
                if ours not in table["columns"]:
                    continue
                self.source["index"] = {"table": name, "record": ours}
                self.found_by = name if table["role"] == "visit" else None
                self.said.append(f'Whose a record is, and when it was taken, is told by "{theirs}" of {file}.')
                return True
        return False

    def _labels(self) -> None:
        """A header comment, or a table with a row per record."""
        told = [w.comments for w in self.waves]
        few = {key: {c[key] for c in told if key in c} for key in sorted({k for c in told for k in c} - {"age", "sex"})}
        few = {k: v for k, v in few.items() if sum(k in c for c in told) >= 0.5 * len(told)}
        keys = [k for k in ("dx", "label", "rhythm", "diagnosis") if k in few]
        often = {k: v for k, v in few.items() if 2 <= len(v) <= min(MOST_LABELS, 0.5 * len(told))}
        keys += [k for k in often if re.search(_LABELS + "|reason|activity|stage", k)]
        if keys:
            cut, words = _parts(few[keys[0]])
            self.source["labels"] = {"column": keys[0]} | ({"separator": cut} if cut != "," else {})
            self.signal |= {"labels": sorted(words)} if 2 <= len(words) <= MOST_LABELS else {}
            self.notes["source", "labels"] = f'The header comment "{keys[0]}".'
            return
        for file, (sheet, record, column) in self.draft.labels.items():
            cut, words = _parts(sheet.frame[column].drop_nulls().cast(str))
            self.source["labels"] = {"file": file, "record": record, "column": column}
            self.source["labels"] |= {"separator": cut} if cut != "," else {}
            self.signal["labels"] = sorted(words)
            self.notes["labels",] = f'Column "{column}" of {file}.'
            return
        self._marks()

    def _marks(self) -> None:
        """Annotations of EDF+ that last: a window has the label that covers most of it, and the length of most."""
        files = [w.file for w in self.waves[:MARKED]] if self.waves[0].format == "edf" else []
        marks = [m for f in files for m in marks_of(self._folder() / f)]
        texts = sorted({text for text, _ in marks})
        if not 1 <= len(texts) <= MOST_LABELS:
            return
        self.source["labels"] = {"annotations": True}
        self.signal["labels"] = texts
        self.notes["source", "labels"] = "The annotation that covers most of a window; none: no label."
        length, often = Counter(seconds for _, seconds in marks).most_common(1)[0]
        if "window" in self.source and often > 0.5 * len(marks) and 2 <= length <= LONG:
            longest = max(w.seconds for w in self.waves)
            step = max(length, round(longest / MOST_WINDOWS / length) * length)
            self.source["window"] = self.signal["duration"] = length
            self.source.pop("step", None)
            self.source |= {"step": step} if step > length else {}
            self.said.append(f"Most annotations last {length:g} s, so windows do, one every {step:g} s.")

    def _facts(self, data: dict[str, Any]) -> None:
        """Age and sex that header comments tell, unless there are tables of the patients."""
        told = {key for w in self.waves for key in w.comments if key in ("age", "sex")}
        if data["tables"] or not told:
            return
        columns: dict[str, Any] = {}
        if "age" in told:
            columns["age"] = {"kind": "number", "unit": "a", "low": 0, "high": 120, "quasi_identifier": True}
            self.source.setdefault("facts", {})["patients.age"] = "age"
        if "sex" in told:
            columns["sex"] = {"kind": "category", "levels": ["F", "M"], "quasi_identifier": True}
            self.source.setdefault("facts", {})["patients.sex"] = {"comment": "sex", "values": _SEX}
        data["tables"]["patients"] = {"role": "static", "columns": columns}
        self.above["tables", "patients"] = "From header comments."
        self.signal["parent"] = "patients"

    def _folder(self) -> Path:
        return self.draft.source if self.draft.source.is_dir() else self.draft.source.parent

    def _beside_rows(self) -> None:
        """Is the first column a label?"""
        column, lengths = [], set()
        for row in rows_of(self._folder() / self.waves[0].file):
            column.append(row[0])
            lengths.add(max((i for i, c in enumerate(row) if c.lower() not in ("nan", "?")), default=0))
        if len(lengths) > 1:
            self.signal.pop("duration", None)
            self.said.append("Records differ in length.")
        if 2 <= len(set(column)) <= min(MOST_LABELS, 0.5 * len(column)):
            self.source["labels"] = {"column": "1"}
            self.signal["labels"] = sorted({label_of(v) for v in column})
            self.notes["labels",] = "The first column has few values: labels, as in the UCR archive."
            if "duration" in self.signal:
                self.signal["duration"] = round((self.waves[0].seconds - 1) / self.signal["fs"], 9)

    def _beside_array(self) -> None:
        """The array of samples, and those of labels and patients."""
        import numpy as np

        first = self.waves[0]
        shapes = {k: s for k, (s, kind) in first.arrays.items() if kind in "fiu" and len(s) in (2, 3)}
        self.source["array"] = max(shapes, key=lambda k: float(np.prod(shapes[k])))
        n = shapes[self.source["array"]][0]
        kind = _kind(self.source["array"], "")
        if self.signal["kind"] == "other" and kind != "other":
            self.name = self.signal["kind"] = kind
        if len(self.signal["channels"]) > 1:
            self.notes["channels",] = "Name them; the standard 12 leads (I, II, III, aVR, ...) are known by name."
        flat = [
            k for k, (s, kind) in first.arrays.items() if s == (n,) and kind in "iuUfb" and k != self.source["array"]
        ]
        who = next((k for k in flat if re.search("subject|patient", k.lower()) or snake(k) in ("id", "pid")), None)
        self.source["subject"] = who or "row"
        if who is None and len(self.waves) > 1:  # a file for each patient, or for a few
            self.source["subject"] = _SUBJECTS[0]
            self.said.append("Each file is taken for a patient; correct source.subject if that is wrong.")
        elif who is None:
            self.said.append("WARNING: no array tells patients apart; each record is taken for a patient of its own.")
        with np.load(self._folder() / first.file, allow_pickle=False) as file:
            values = {k: {str(v) for v in file[k]} for k in flat if k not in (who, "n_samples")}
        few = [k for k, v in values.items() if 2 <= len(v) <= min(MOST_LABELS, 0.5 * n)]
        named = [k for k in few if k.lower() in ("y", "label", "labels", "target", "class")]
        if named or few:
            column = (named or few)[0]
            self.source["labels"] = {"column": column}
            self.signal["labels"] = sorted(values[column] - {""})
            self.notes["labels",] = f'Values of the array "{column}".'


def _glob(files: list[str]) -> str:
    """A pattern for the files: their suffix, and their folder if they have one in common."""
    paths = [PurePosixPath(f) for f in files]
    if len(paths) == 1:
        return files[0]
    suffix = Counter(p.suffix for p in paths).most_common(1)[0][0]
    folders = {p.parent.as_posix() for p in paths}
    if len(folders) > 1:
        return f"**/*{suffix}"
    folder = folders.pop()
    start = ""
    if suffix in TEXTS:  # tables may stand beside them; by characters, not by folders
        start = commonprefix([p.name for p in paths]).rstrip("0123456789")  # noqa: RUF071
    start = start if start.isidentifier() else ""
    return f"{start}*{suffix}" if folder == "." else f"{folder}/{start}*{suffix}"


def _subject(files: list[str], ids: set[str]) -> tuple[str, str]:
    """Regular expression of the patient in a file's path, and what was seen."""
    stems = [PurePosixPath(f).with_suffix("").as_posix() for f in files]
    found = {p: [m["subject"] for s in stems if (m := re.search(p, s))] for p in _SUBJECTS}
    if ids:
        best = max(_SUBJECTS, key=lambda p: sum(s in ids for s in found[p]))
        share = sum(s in ids for s in found[best]) / len(stems)
        if share > 0.5:
            return best, f"{share:.0%} of the files belong to a patient of the tables by their name."
        return _SUBJECTS[0], "WARNING: the files' names hold no id of the tables; correct source.subject."
    for pattern in _SUBJECTS[1:4]:
        each = Counter(found[pattern])
        if (
            len(found[pattern]) == len(stems)
            and len(each) <= 0.67 * len(stems)
            and (len(each) > 1 or len(stems) < MANY)
        ):
            return pattern, f"Names tell {len(each)} patients with {len(stems) / len(each):.1f} files each (a guess)."
    return _SUBJECTS[0], "Each file is taken for a patient of its own; correct source.subject if that is wrong."
