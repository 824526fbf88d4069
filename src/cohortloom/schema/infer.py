"""A first draft of a schema, from files, frames or SDV metadata.

    read as text -> profile columns -> patient, visit, time and code columns -> roles -> columns -> TOML with comments

Every guess carries a comment that says what was seen and how sure we are; a person mends the draft. It is sound and its
`source` entries read the files as they are. It is drawn from patients: bounds are round and outside the data, levels of
fewer than five patients are named in comments, but treat a draft like the data until somebody has read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from cohortloom.errors import FileFormatError, Problem
from cohortloom.schema.drafted import column_of
from cohortloom.schema.file_each import joined_files
from cohortloom.schema.guess import guess, system_of
from cohortloom.schema.infer_life import add_life
from cohortloom.schema.infer_long import add_items, pivots, units_apart, wide_codes
from cohortloom.schema.infer_never import add_never
from cohortloom.schema.infer_numbers import add_numbers
from cohortloom.schema.infer_order import add_order
from cohortloom.schema.infer_repeats import names_one_to_one, repeats, says_static, twin_of, unnamed
from cohortloom.schema.infer_rising import add_rising
from cohortloom.schema.infer_roles import clock_of, has_all, set_roles
from cohortloom.schema.infer_rows import add_rows
from cohortloom.schema.infer_shown import about, abreast, copied, is_waveform, without_time
from cohortloom.schema.infer_survival import survival_of
from cohortloom.schema.links import find_numbered, find_subject, find_visit, idlike, same_at_visit
from cohortloom.schema.profile import MARKS, Profile, snake
from cohortloom.schema.schema import Schema
from cohortloom.schema.sheets import MAX_ROWS, Sheet, from_pandas, has_sheets, read_sheets, sheet_of
from cohortloom.schema.text import dump_schema, parse_schema
from cohortloom.schema.time_column import constant_share, said_once
from cohortloom.schema.toml import to_toml

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Draft", "infer_schema"]

_WARNING = (
    "A draft: every comment is a guess to be checked. It was drawn from patients (levels are real), so treat it like "
    "the data until you have read it."
)
GENERAL = MARKS
_OFFSET = re.compile(r"offset$|[a-z](ed|en)_?at$|^(start|stop|end)$|^date_?of")
_PEOPLE = re.compile(r"^(sex|gender|age|race|birth|dob|ethnic|geschlecht|alter|edad)|birth|geburt|nacimiento|naissance")
_GROUPS = re.compile(r"sex|gender|race|ethnicity|age_group|geschlecht|altersgruppe|sexo|sexe|grupo_de_edad")


@dataclass(frozen=True)
class Draft:
    """A drafted schema and its commented TOML text (write the text to a file, mend it, read it)."""

    schema: Schema
    text: str


def infer_schema(
    source: str | Path | Sequence[str | Path] | Mapping[str, pl.DataFrame | pd.DataFrame] | Mapping[str, Any],
    *,
    name: str,
) -> Draft:
    """Draft a schema.

    Args:
        source: Folder or list of CSV/TSV/Parquet files (also .gz); folder with WFDB, EDF or NPZ files, or text files of
            numbers with a record a row; frames by name; SDV metadata (dict or .json file).
        name: Name of the schema.

    Raises:
        FileFormatError: nothing readable is there, or no file has a column that tells patients apart.
    """
    if isinstance(source, (str, Path)) and Path(source).suffix == ".json":
        from cohortloom.schema.sdv_metadata import from_sdv_metadata

        return _from_metadata(from_sdv_metadata(source, name))
    if isinstance(source, Mapping):
        if "columns" in source or ("tables" in source and not hasattr(source["tables"], "columns")):
            from cohortloom.schema.sdv_metadata import from_sdv_metadata

            return _from_metadata(from_sdv_metadata(dict(source), name))
        sheets = [
            sheet_of(str(n), f"{n}.parquet", f if isinstance(f, pl.DataFrame) else from_pandas(f))
            for n, f in source.items()
        ]
    elif isinstance(source, (str, Path)) and Path(source).exists():
        return _from_files(Path(source), name)
    else:
        sheets = joined_files(read_sheets(source))
    drafter = _Drafter(sheets, name)
    return drafter.written(drafter.data())


def _from_files(source: Path, name: str) -> Draft:
    """Tables, waveforms or both of a folder (or of one file)."""
    from cohortloom.schema.infer_waves import draft_waves

    waves = draft_waves(source)
    if waves is None or has_sheets(source, waves.row_files):
        sheets = joined_files([s for s in read_sheets(source) if waves is None or s.file not in waves.row_files])
    else:
        sheets = []
    ids: set[str] = set()
    if waves is not None:
        sheets = [s for s in sheets if s.file not in waves.label_files(sheets)]
        if sheets and find_subject(sheets):
            ids = {v for s in sheets if s.subject for v in s.ids(s.subject).drop_nulls()}
    drafter = _Drafter(sheets if waves is None or ids else [], name)
    data = drafter.data() if waves is None or ids else {"name": name, "clock": "offset", "tables": {}}
    if waves is not None:
        drafter.head += [_WARNING] if not ids else []
        drafter.head += [f"{s.file} has no column that tells patients apart; left out." for s in sheets if not ids]
        waves.draft(data, drafter.notes, drafter.head, ids, drafter.patient_table)
    return drafter.written(data)


def _from_metadata(schema: Schema) -> Draft:
    head = "Drafted from SDV metadata, which says nothing of units, and of roles only what keys say: look at both."
    text = f"# {head}\n\n{dump_schema(schema)}"
    return Draft(parse_schema(text), text)


class _Drafter:
    """Takes the sheets through roles and columns, collecting data and comments."""

    def __init__(self, sheets: list[Sheet], name: str) -> None:
        self.name, self.sheets = name, [s for s in sheets if not s.frame.is_empty()]
        self.empty = [s for s in sheets if s.frame.is_empty()]
        self.tables: dict[str, Any] = {}
        self.sheet_of: dict[str, Sheet] = {}
        self.notes: dict[tuple, str] = {}
        self.head: list[str] = []
        self.patient_table: str | None = None
        self.visit_table: str | None = None
        self.at_visit: set[str] = set()

    def data(self) -> dict[str, Any]:
        """The schema as plain data; comments go to `notes`, the first ones to `head`."""
        said = find_subject(self.sheets) if self.sheets else ""
        self.patients = [s for s in self.sheets if s.subject]
        if not self.patients:
            what = "no column tells patients apart"
            fix = 'Name it "subject_id" or "patient_id", or write the schema by hand.'
            if self.sheets and all(is_waveform(s) for s in self.sheets):
                what = "each file is a course of numbers in even steps, as of a waveform, and names no patient"
                fix = "Save the records as NPZ, EDF or WFDB (one file each), or as a text file with one record per row."
            raise FileFormatError("", [Problem("no-subject", self.name, what, fix)])
        self.lookups = [s for s in self.sheets if not s.subject]
        for sheet in self.patients:
            sheet.without_copies()
        visits = find_visit(self.patients) or find_numbered(self.patients)
        self.head += [
            _WARNING,
            said[:1].upper() + said[1:] + ".",
            *([visits + "."] if visits else []),
            *(f"LOOK HERE: {s.file} ends within its last row; fetch it again." for s in self.sheets if s.broken),
            *(copied(s) for s in self.patients if s.copies),
        ]
        set_roles(self.patients, self.head)
        self.head += [said for s in self.patients if s.role == "static" and (said := abreast(s))]
        clock = clock_of(self.patients, self.head)
        statics = [s for s in self.patients if s.role == "static" and has_all(s, self.patients, self.head)]
        if statics:  # the one that describes people
            self.patient_table = max(
                statics, key=lambda s: sum(bool(_PEOPLE.search(snake(c))) for c in s.profiles)
            ).name
        for sheet in sorted(self.patients, key=lambda s: (("static", "visit", "event").index(s.role), not s.visits)):
            self._table(sheet, clock)
        left = [f"{s.file} ({s.skip or 'no patients in it'})" for s in self.lookups] + [
            f"{s.file} (no rows)" for s in self.empty
        ]
        self.head += [f"Files left out: {', '.join(left)}."] if left else []
        data: dict[str, Any] = {"name": self.name, "clock": clock}
        extra = survival_of(self.tables, self.sheet_of, self.notes)
        groups = [
            f"{t}.{c}"
            for t, v in self.tables.items()
            if v["role"] == "static"
            for c, k in v["columns"].items()
            if _GROUPS.fullmatch(c) and k["kind"] in ("category", "ordinal")
        ]
        data |= {"subgroups": groups} if groups else {}
        data |= {"tables": self.tables, **extra}
        add_life(data, self.sheet_of, self.notes)
        add_order(data, self.sheet_of, self.head)
        add_never(data, self.sheet_of, self.head)
        add_rising(data, self.sheet_of, self.notes, self.head)
        add_rows(data, self.sheet_of, self.head)
        add_numbers(data, self.sheet_of, self.head)
        return data

    def written(self, data: dict[str, Any]) -> Draft:
        text = to_toml(data, self.notes, "\n".join(self.head))
        return Draft(parse_schema(text, name=f"{self.name}.toml"), text)

    def _table(self, sheet: Sheet, clock: str) -> None:
        name = sheet.name
        while name in self.tables:
            name += "_"
        moving = [c for c in sheet.frame.columns if c not in (sheet.subject, sheet.visit)]
        if sheet.visits:
            same = same_at_visit(sheet, sheet.visit or "")
            named = any(names_one_to_one(sheet, c, sheet.visit or "") for c in same)
            said = f'One row for all rows of {sheet.file} with one "{sheet.visit}".'
            self.at_visit = set(same)
            self._add("visits", sheet, [*([] if named else [sheet.visit or ""]), *same], clock, "visit", said)
            if "visits" in self.tables:
                self.tables["visits"]["source"]["repeated"] = True
        if sheet.role == "event" and sheet.visit and self.at_visit:
            moving = [c for c in moving if c not in self.at_visit or c not in same_at_visit(sheet, sheet.visit)]
        still: list[str] = []
        if sheet.role != "static" and not sheet.value:
            shares = {c: constant_share(sheet, c) for c in moving if c != sheet.time}
            still = [c for c, v in shares.items() if v is not None and v <= 0.03]
            still += [c for c in moving if c not in still and c != sheet.time and said_once(sheet, c)]
            has_statics = any(s.role == "static" for s in self.patients)
            if has_statics and (len(still) < 3 or sheet.visit):
                still = []
        if still:
            own = "patients" if "patients" not in self.tables else f"{name}_patients"
            said = (
                f"Columns of {sheet.file} that (nearly) never change within a patient; contradictions are settled "
                "by the most frequent value."
            )
            self._add(own, sheet, still, clock, "static", said)
            self.tables[own]["source"]["repeated"] = True
            self.patient_table = self.patient_table or (own if has_all(sheet, self.patients, self.head) else None)
        self._add(name, sheet, [c for c in moving if c not in still], clock, sheet.role, "")

    def _add(self, name: str, sheet: Sheet, wanted: list[str], clock: str, role: str, said: str) -> None:
        assert sheet.subject
        source: dict[str, Any] = {"file": sheet.file, "subject": sheet.subject}
        if sheet.where:
            source["where"] = list(sheet.where)
            if any("exclude" in rule for rule in sheet.where):
                said += " Rows that repeat the header or hold totals are passed over."
        if sheet.copies:
            source["repeated"] = True
        self.sheet_of[name] = sheet
        table: dict[str, Any] = {"role": role}
        if sheet.visit and role == "visit":
            source["visit"] = sheet.visit
        if role == "visit":
            self.visit_table = name
        if role == "event" and sheet.visit and self.visit_table:
            table["parent"], source["visit"] = self.visit_table, sheet.visit
        elif role != "static" and self.patient_table:
            table["parent"] = self.patient_table
        if role != "static":
            said = " ".join(filter(None, [said, self._time(sheet, table, source, clock, role)]))
            said += without_time(sheet, source)
        if sheet.time in wanted and ("time" in source or role == "static"):
            wanted = [c for c in wanted if c != sheet.time]
        for key, usual in (("separator", ","), ("encoding", "utf8"), ("decimal", ".")):
            if getattr(sheet, key) != usual:
                source[key] = getattr(sheet, key)
        columns: dict[str, Any] = {}
        if sheet.value and role == "event":
            said += units_apart(sheet, source)
        if sheet.value and role == "event" and pivots(sheet, wanted):
            long, comments = wide_codes(sheet, self.lookups, columns, source)
            self.notes |= {("tables", name, "columns", ours): comment for ours, comment in comments.items()}
            said += " " + long
        else:
            said += self._columns(name, sheet, wanted, clock, role, table, columns, source)
        if sheet.cut:
            said += f" Only the first {MAX_ROWS:,} rows were looked at."
        if not columns:
            self.head.append(f"{sheet.file} ({role}) has no columns beyond keys and is left out.")
            self.visit_table = None if self.visit_table == name else self.visit_table
            return
        self.tables[name] = {**table, "columns": columns, "source": source}
        rows, people = sheet.frame.height, sheet.ids(sheet.subject).n_unique()
        self.notes["tables", name] = (
            f"{sheet.file}: {about(rows)} rows, {about(people)} patients. {said.strip()}".strip()
        )

    def _time(self, sheet: Sheet, table: dict, source: dict, clock: str, role: str) -> str:
        fits = sheet.time and (sheet.time_unit is None) == (clock == "timestamp") and (sheet.time_unit != "order")
        if sheet.time and clock == "order" and sheet.time_unit == "order":
            source["time"] = sheet.time
            return f'Order from "{sheet.time}".'
        if clock == "order":
            p = sheet.profiles.get(sheet.visit or "")
            if p is not None and p.kind == "number" and role == "visit":
                source["time"] = sheet.visit
                return f'Order of visits from "{sheet.visit}" (a guess: numbers given out in time).'
            if role == "event":
                table["timed"] = False
            return "Order of rows as in the file (a guess)." if role == "visit" else "No time."
        if fits and clock == "timestamp":
            p = sheet.profiles[sheet.time]  # type: ignore[index]
            source["time"] = {"column": sheet.time, "format": p.format} if p.format else sheet.time
            said = f" Dates look like {p.format}." if p.format else ""
            return f'Time from "{sheet.time}".{said}' + (f" {p.said[:1].upper()}{p.said[1:]}." if p.said else "")
        if fits:
            source["time"] = {"column": sheet.time, "unit": sheet.time_unit}
            return f'Time from "{sheet.time}" in unit "{sheet.time_unit}" since the patient\'s origin' + (
                f" ({sheet.time_note})." if sheet.time_note else "."
            )
        if role == "event":
            table["timed"] = False
            return "No time on the clock of this schema was found: timed = false."
        sheet.role = table["role"] = "event"
        table["timed"] = False
        self.visit_table = None
        return "No time was found, so these can't be visits: timed = false."

    def _columns(
        self,
        name: str,
        sheet: Sheet,
        wanted: list[str],
        clock: str,
        role: str,
        table: dict,
        columns: dict,
        source: dict,
    ) -> str:
        assert sheet.subject
        patients, left, marks = sheet.ids(sheet.subject), [], set()
        read: list[str] = []
        for theirs in wanted:
            p = sheet.profiles[theirs]
            told = re.search(r"(^|_)units?_(source_)?concept(_id)?$", snake(theirs))
            if role == "event" and (theirs == sheet.unit or (sheet.unit and told)) and sheet.value:
                left.append(f'"{theirs}" (the unit stands at each code)')
                continue
            pair = [c for c in (sheet.code, sheet.value) if c and role == "event" and sheet.value]
            again = repeats(sheet, theirs, self.patients, self.at_visit) or unnamed(sheet, theirs)
            again = again or says_static(sheet, theirs, self.patients)
            again = "" if theirs in pair else again or twin_of(sheet, theirs, list(dict.fromkeys([*pair, *read])))
            drafted = guess(p, patients, sheet.frame[theirs], clock)
            timed = _offset(sheet, p, source, self.patients) if clock == "offset" else None
            if drafted.column is not None and timed is not None:
                drafted.column = {"kind": "timestamp", **({} if p.missing else {"missing": False})}
                drafted.comment = f'A moment, in the unit of "{timed.time}" (a guess, by the name).'
                drafted.format = "" if timed is sheet else timed.time_unit or ""
            if again or drafted.column is None:
                left.append(f'"{theirs}" ({again or drafted.comment})')
                continue
            ours = snake(theirs)
            while ours in columns:
                ours += "_"
            if theirs == sheet.value and role == "event":
                drafted.column = {"kind": "number"}
                drafted.comment = "What it means, its unit and bounds stand at each code."
            if theirs == sheet.code and role == "event":
                drafted.column = {
                    "kind": "code",
                    "missing": bool(p.missing),
                    **({"sensitive": True} if drafted.column.get("sensitive") else {}),
                }
                system = system_of(p)
                drafted.column |= {"system": system} if system else {}
                drafted.comment = add_items(sheet, self.lookups, drafted.column)
                table["code"] = ours
            columns[ours] = drafted.column
            read.append(theirs)
            if ours != (named := sheet.virtual.get(theirs, theirs)):
                source.setdefault("columns", {})[ours] = named
            if theirs in sheet.mixed:
                source.setdefault("mixed", {})[ours] = sheet.mixed[theirs]
                kind = "pairs (120/80)" if sheet.mixed[theirs] in ("above", "below") else "numbers and words"
                drafted.comment = f"The {sheet.mixed[theirs]} of a column of {kind}. {drafted.comment}"
            if p.kind == "text" or drafted.column["kind"] in ("number", "count"):
                marks |= {m for m in p.marks if m in GENERAL}
            special = [m for m in (*drafted.marks, *p.marks) if m not in GENERAL]
            if special:
                source.setdefault("missing_in", {})[ours] = list(dict.fromkeys(special))
            if drafted.values:
                source.setdefault("values", {})[ours] = drafted.values
            if drafted.extract:
                source.setdefault("extract", []).append(ours)
            told = isinstance(source.get("time"), dict) and "format" in source["time"]  # stands for all, unless named
            if drafted.format or (told and drafted.column["kind"] == "timestamp"):
                source.setdefault("formats", {})[ours] = drafted.format
            twin = re.fullmatch(r"(.+)_duplicated_\d+", theirs)
            twice = f'The file has "{twin[1]}" more than once. ' if twin and twin[1] in sheet.profiles else ""
            self.notes["tables", name, "columns", ours] = f"{twice}{drafted.comment[:1].upper()}{drafted.comment[1:]}"
            if sheet.role == "static":
                self.head += _shared(sheet, theirs, f"{name}.{ours}")
        if sheet.value and role == "event" and "code" in table:
            value = next(o for o in columns if column_of({"source": source}, o) == sheet.value)
            table["value"] = value
        if marks:
            source["missing"] = ["", *sorted(marks)]
        return f" Left out: {', '.join(left)}." if left else ""


def _offset(sheet: Sheet, p: Profile, source: dict, patients: list[Sheet]) -> Sheet | None:
    """Whose time a number counts like: an offset beside offsets (a discharge, when a result was revised)."""
    if p.kind != "number" or not _OFFSET.search(snake(p.name)):
        return None
    if sheet.role != "static":
        time = source.get("time")
        counts = isinstance(time, dict) and "unit" in time and _OFFSET.search(snake(time["column"]))
        return sheet if counts else None
    timed = [s for s in patients if s.role != "static" and s.time and s.time_unit not in (None, "order")]
    return next((s for s in timed if _OFFSET.search(snake(s.time or ""))), None)


def _shared(sheet: Sheet, theirs: str, ours: str) -> list[str]:
    """Say so where a column of ids in the table of patients comes again: stays of one person, say."""
    p = sheet.profiles[theirs]
    filled = p.rows - p.missing
    people = re.search(r"pid$|^fid$|patient|person|subject|mrn|family|pedigree|household", snake(theirs))
    if people and idlike(p) and p.rows >= 20 and 0.1 * filled < p.distinct < filled and p.distinct > 30:
        return [
            f'"{theirs}" comes again in {sheet.file}: if it names the person, or what several rows share, keep '
            f"them on one side of every split: cohortloom split --group {ours}."
        ]
    return []
