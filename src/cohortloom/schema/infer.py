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
from cohortloom.schema.file_each import joined_files
from cohortloom.schema.guess import FEW, MAX_LEVELS, guess, item, system_of
from cohortloom.schema.infer_life import add_life
from cohortloom.schema.infer_never import add_never
from cohortloom.schema.infer_order import add_order
from cohortloom.schema.infer_rising import add_rising
from cohortloom.schema.infer_rows import add_rows
from cohortloom.schema.infer_shown import (
    about,
    abreast,
    copied,
    counts_from,
    episodes,
    from_first_value,
    is_waveform,
    names_one_to_one,
    names_rows,
    strangers,
    twin_of,
    unnamed,
    without_time,
)
from cohortloom.schema.links import (
    constant_share,
    find_codes,
    find_numbered,
    find_subject,
    find_time,
    find_visit,
    idlike,
    part_words,
    said_once,
    same_at_visit,
)
from cohortloom.schema.profile import MARKS, Profile, profile, snake
from cohortloom.schema.schema import Schema
from cohortloom.schema.sheets import MAX_ROWS, Sheet, from_pandas, has_sheets, read_sheets, sheet_of
from cohortloom.schema.text import dump_schema, parse_schema
from cohortloom.schema.toml import to_toml
from cohortloom.schema.units import ucum

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Draft", "infer_schema"]

_WARNING = (
    "A draft: every comment is a guess to be checked. It was drawn from patients (levels are real), so treat it like "
    "the data until you have read it."
)
MAX_PIVOT = 60
MAX_ITEMS = 400
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
        self._roles()
        self.head += [said for s in self.patients if s.role == "static" and (said := abreast(s))]
        clock = self._clock()
        statics = [s for s in self.patients if s.role == "static" and self._has_all(s)]
        if statics:  # the one that describes people
            self.patient_table = max(
                statics, key=lambda s: sum(bool(_PEOPLE.search(snake(c))) for c in s.profiles)
            ).name
        for sheet in sorted(self.patients, key=lambda s: (("static", "visit", "event").index(s.role), not s.visits)):
            self._table(sheet, clock)
        self._leftovers()
        data: dict[str, Any] = {"name": self.name, "clock": clock}
        extra = self._studies()
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
        add_rising(data, self.sheet_of, self.head)
        add_rows(data, self.sheet_of, self.head)
        return data

    def written(self, data: dict[str, Any]) -> Draft:
        text = to_toml(data, self.notes, "\n".join(self.head))
        return Draft(parse_schema(text, name=f"{self.name}.toml"), text)

    def _roles(self) -> None:
        """Static: one row per patient. Visit: the sheet with the visit ids, or one wide sheet with a time."""
        for sheet in self.patients:
            assert sheet.subject
            rows = sheet.frame.height
            if sheet.role != "visit":
                once = sheet.ids(sheet.subject).n_unique() == rows and not sheet.repeats
                sheet.role = "static" if once else "event"
            if sheet.role == "event":
                find_codes(sheet)
            if sheet.role != "static":
                find_time(sheet)
            if not sheet.value:
                part_words(sheet)
        home = next((s for s in self.patients if s.role == "visit" and s.visit), None)
        between = episodes(home, self.patients) if home is not None else None
        if home is not None and between is not None:
            self.head = [line for line in self.head if not line.startswith(f'"{home.visit}" numbers')]
            self.head.append(
                f'"{home.visit}" names rows of {home.file}, but rows of {between.file} lie days apart: those are the '
                f"visits, and {home.file} holds events."
            )
            home.role = "event"
            find_codes(home)
            for sheet in self.patients:
                sheet.visit = None
        if any(s.role == "visit" or s.visits for s in self.patients):
            return
        wide = []
        for sheet in self.patients:
            stream = sheet.code and sheet.profiles[sheet.code].distinct > MAX_LEVELS and len(sheet.profiles) <= 8
            given = _GIVEN_BY.search(snake(sheet.name)) or (sheet.code and _GIVEN.search(snake(sheet.code)))
            if sheet.role != "event" or stream or given or (sheet.code and (sheet.value or len(sheet.profiles) <= 4)):
                continue
            keys = [k for k in (sheet.subject, sheet.time) if k]
            filled = [
                c
                for c, p in sheet.profiles.items()
                if c not in keys and p.kind != "empty" and (constant_share(sheet, c) or 0) > 0.03
            ]
            unique = sheet.frame.select(keys).n_unique() / sheet.frame.height if sheet.time else 1.0
            per_patient = sheet.frame.height / sheet.ids(sheet.subject).n_unique()  # type: ignore[arg-type]
            if len(filled) >= 3 and unique > 0.98 and per_patient < 400:
                wide.append((len(filled) * sheet.frame.height, sheet))
        if wide:
            best = max(wide, key=lambda w: w[0])[1]
            best.role = "visit"
            best.code = None

    def _has_all(self, sheet: Sheet) -> bool:
        """Are the patients of all other files in this one, so that it can be their parent? Says so if only nearly."""
        beside = [s for s in self.patients if s is not sheet and s.subject]
        others = [s.ids(s.subject or "").drop_nulls() for s in beside]
        known = sheet.ids(sheet.subject or "").drop_nulls().unique()
        strange = [int((~o.unique().is_in(known.implode())).sum()) for o in others]
        if any(strange) and known.len() > 5 * max(strange):
            self.head.append(
                f"Some patients of other files are not in {sheet.file}, so no table hangs on it; add "
                f'parent = "{sheet.name}" to have such rows refused, or dropped with --on-error drop.'
            )
        else:
            for other, theirs, n in zip(beside, others, strange):
                if 2 * (theirs.n_unique() - n) < min(theirs.n_unique(), known.len()):
                    self.head.append(strangers(other, theirs, sheet, known, n))
        return not any(strange)

    def _clock(self) -> str:
        rows = {"timestamp": 0, "offset": 0}
        for sheet in self.patients:
            if sheet.role != "static" and sheet.time and sheet.time_unit != "order":
                rows["timestamp" if sheet.time_unit is None else "offset"] += sheet.frame.height
        if not any(rows.values()):
            moving = [s for s in self.patients if s.role != "static"]
            if moving:
                self.head.append("No file has dates or times: only the order of rows is known (clock = order).")
                return "order"
            return "timestamp"
        clock = max(rows, key=lambda k: rows[k])
        if min(rows.values()):
            self.head.append(f"Some files have dates and some numbers for times; the clock follows most rows: {clock}.")
        return clock

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
            self.patient_table = self.patient_table or (own if self._has_all(sheet) else None)
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
            said += self._units_apart(sheet, source)
        if sheet.value and role == "event" and self._pivots(sheet, wanted):
            said += " " + self._wide_codes(name, sheet, columns, source)
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

    def _pivots(self, sheet: Sheet, wanted: list[str]) -> bool:
        """A few numeric codes and nothing else in the row: better one column each, unless they are drugs."""
        if _GIVEN.search(snake(sheet.code or "")):
            return False
        rest = [
            c for c in wanted if c not in (sheet.code, sheet.value, sheet.unit) and sheet.profiles[c].kind != "empty"
        ]
        silent = sheet.frame[sheet.value or ""].cast(pl.String).str.strip_chars().fill_null("") == ""
        rows = pl.DataFrame({"c": sheet.frame[sheet.code or ""], "silent": silent})
        alone = rows.filter(pl.col("silent").mean().over("c") > 0.9).height  # a diagnosis, say: such rows would be lost
        some = alone > 0.02 * rows.height
        return not rest and not some and sheet.profiles[sheet.code or ""].distinct <= MAX_PIVOT

    def _wide_codes(self, name: str, sheet: Sheet, columns: dict, source: dict) -> str:
        names = self._lookup(sheet)
        source |= {"layout": "long", "code": sheet.code, "value": sheet.value, "codes": {}}
        for code, part in self._by_code(sheet):
            label, unit = names.get(code.split("|")[0], ("", ""))
            ours = snake(label) if label else snake(code) if not code[:1].isdigit() else f"code_{snake(code)}"
            ours = f"{ours}_{snake(code.split('|')[1])}" if label and "|" in code else ours
            ours = ours if ours not in columns else f"{ours}_{len(columns)}"
            p = profile(part[sheet.value or ""].alias(ours))
            if p.kind != "number":
                continue
            unit = ucum(self._unit(sheet, part) or unit) or "1"
            drafted = guess(p, part["__s"], part[sheet.value or ""], "offset")
            if drafted.column is None:
                continue
            if drafted.column["kind"] == "number" and unit != "1":
                drafted.column["unit"] = unit
            drafted.column.pop("missing", None)
            columns[ours] = drafted.column
            source["codes"][code] = ours
            if drafted.marks:
                source.setdefault("missing_in", {})[ours] = list(drafted.marks)
            people = part["__s"].n_unique()
            few = f"{about(people)} patients" if people >= FEW else f"fewer than {FEW} patients"
            self.notes["tables", name, "columns", ours] = (
                f"{re.sub('; (never missing|[0-9]+% missing)', '', drafted.comment)[:-1]}; {few}."
            )
        return (
            f'Long file: each "{sheet.code}" becomes a column. For an hourly grid set role = "visit" and '
            'grid = { every = "1h" } in the source.'
        )

    def _by_code(self, sheet: Sheet) -> list[tuple[str, pl.DataFrame]]:
        """Rows of each code, the codes kept apart by unit last as "code|unit"."""
        assert sheet.code and sheet.subject
        kept = [c for c in (sheet.value, sheet.unit) if c]
        frame = (
            sheet.frame.select(*kept)
            .with_columns(__c=sheet.ids(sheet.code), __s=sheet.ids(sheet.subject))
            .drop_nulls("__c")
        )
        if sheet.apart:
            both = pl.concat_str("__c", pl.lit("|"), pl.col(sheet.unit or "").cast(pl.String).str.strip_chars())
            frame = frame.with_columns(__c=pl.when(both.is_in(sheet.apart)).then(both).otherwise("__c"))
        parts = frame.partition_by("__c", as_dict=True)
        return sorted(((str(k[0]), v) for k, v in parts.items()), key=lambda kv: (-kv[1].height, kv[0]))

    def _units_apart(self, sheet: Sheet, source: dict) -> str:
        """Codes that come in several units of at least FEW patients: the rarer ones become codes of their own."""
        if not sheet.unit or not sheet.code or not sheet.subject:
            return ""
        unit = sheet.frame[sheet.unit].cast(pl.String).str.strip_chars()
        rows = pl.DataFrame({"c": sheet.ids(sheet.code), "u": unit, "s": sheet.ids(sheet.subject)}).drop_nulls()
        rows = rows.filter(pl.col("u") != "")
        rows = rows.group_by("c", "u").agg(pl.len().alias("n"), pl.col("s").n_unique()).filter(pl.col("s") >= FEW)
        same = {u: ucum(u) or u.lower() for u in rows["u"].unique()}
        rows = rows.filter(pl.col("u").replace(same) != "1")  # none, unknown
        rows = rows.with_columns(same=pl.col("u").replace(same)).sort("c", "n", "u", descending=[False, True, False])
        usual = rows.group_by("c", maintain_order=True).agg(usual=pl.col("same").first())
        rows = rows.join(usual, on="c", maintain_order="left").filter(pl.col("same") != pl.col("usual"))
        sheet.apart = [f"{c}|{u}" for c, u in rows.select("c", "u").rows()]
        if not sheet.apart:
            return ""
        source["unit"] = sheet.unit
        source["codes"] = {key: key.replace("|", " ") for key in sheet.apart} | {"*": "*"}
        return (
            f" {rows['c'].n_unique()} codes come in several units and are kept apart by them; to have one unit, "
            'give the change: codes."CODE|UNIT" = { column = "CODE", scale = ... }.'
        )

    def _unit(self, sheet: Sheet, part: pl.DataFrame) -> str:
        if not sheet.unit:
            return ""
        most = part[sheet.unit].drop_nulls().mode().sort()
        return str(most[0]) if most.len() else ""

    def _lookup(self, sheet: Sheet) -> dict[str, tuple[str, str]]:
        """Code -> (name, unit), from a file without patients that lists the codes."""
        known = sheet.ids(sheet.code or "").drop_nulls().unique()
        best: tuple[float, dict] = (0.5, {})
        for other in self.lookups:
            for key, p in other.profiles.items():
                if p.kind == "empty" or p.distinct < 0.8 * (p.rows - p.missing):
                    continue
                share = float(known.is_in(other.ids(key).drop_nulls().implode()).mean() or 0.0)
                label = next(
                    (
                        c
                        for c in other.frame.columns
                        if c != key
                        and re.search(r"label|name|desc|title", snake(c))
                        and other.profiles[c].kind == "text"
                    ),
                    None,
                )
                if share > best[0] and label:
                    unit = next(
                        (c for c in other.frame.columns if re.fullmatch(r"uom|units?|unit_name", snake(c))), None
                    )
                    rows = zip(
                        other.ids(key), other.frame[label], other.frame[unit] if unit else [""] * other.frame.height
                    )
                    best = (share, {k: (str(v or ""), str(u or "")) for k, v, u in reversed(list(rows))})  # first wins
                    other.skip = f"names the codes of {sheet.file}"
        return best[1]

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
            repeats = self._repeats(sheet, theirs) or unnamed(sheet, theirs) or self._says_static(sheet, theirs)
            repeats = "" if theirs in pair else repeats or twin_of(sheet, theirs, list(dict.fromkeys([*pair, *read])))
            drafted = guess(p, patients, sheet.frame[theirs], clock)
            timed = self._offset(sheet, p, source) if clock == "offset" else None
            if drafted.column is not None and timed is not None:
                drafted.column = {"kind": "timestamp", **({} if p.missing else {"missing": False})}
                drafted.comment = f'A moment, in the unit of "{timed.time}" (a guess, by the name).'
                drafted.format = "" if timed is sheet else timed.time_unit or ""
            if repeats or drafted.column is None:
                left.append(f'"{theirs}" ({repeats or drafted.comment})')
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
                drafted.comment = self._items(name, sheet, ours, drafted.column, role)
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
                self._above(sheet, theirs, f"{name}.{ours}")
        if sheet.value and role == "event" and "code" in table:
            value = next(o for o in columns if source.get("columns", {}).get(o, o) == sheet.value)
            table["value"] = value
        if marks:
            source["missing"] = ["", *sorted(marks)]
        return f" Left out: {', '.join(left)}." if left else ""

    def _items(self, table: str, sheet: Sheet, ours: str, column: dict, role: str) -> str:
        p = sheet.profiles[sheet.code or ""]
        said = f"{p.distinct} different codes" + ("" if column.get("system") else "; name their system")
        if not sheet.value:
            keys = pl.DataFrame({"c": sheet.ids(sheet.code or ""), "s": sheet.ids(sheet.subject or "")})
            people = (
                keys.drop_nulls().group_by("c").agg(pl.col("s").n_unique()).sort("s", "c", descending=[True, False])
            )
            if p.kind == "text" and people.height <= MAX_LEVELS and (people["s"] >= FEW).all():
                column["levels"] = people["c"].to_list()
                said += f"; listed, as each occurs in at least {FEW} patients"
            return f"{said}."
        names, items = self._lookup(sheet), {}
        for code, part in self._by_code(sheet):
            number = profile(part[sheet.value])
            if part["__s"].n_unique() < FEW or number.kind != "number" or len(items) >= MAX_ITEMS:
                continue
            label, unit = names.get(code.split("|")[0], ("", ""))
            unit = self._unit(sheet, part) or unit
            items[code.replace("|", " ")] = item(number.values["number"], unit, label)
        column["items"] = items
        return said + f"; items for the {len(items)} with numbers in at least {FEW} patients, others without bounds."

    def _repeats(self, sheet: Sheet, theirs: str) -> str:
        """Does the column only say again what another says?"""
        n = snake(theirs)
        home = next((s for s in self.patients if s.role == "visit" and s.visit), None)
        if home is not None and sheet.visit and theirs != sheet.visit and re.search(_OTHER_VISIT, n):
            ids = sheet.ids(theirs).drop_nulls()
            if ids.len() >= 20 and float(ids.is_in(home.ids(home.visit or "").implode()).mean() or 0.0) > 0.9:
                return "names another visit"
        if said := from_first_value(sheet, theirs) or names_rows(sheet, theirs, self.patients):
            return said
        if said := counts_from(sheet, theirs, self.patients):
            return said
        if sheet.role == "event" and sheet.visit and theirs not in (sheet.code, sheet.value, *self.at_visit):
            p, visits = sheet.profiles[theirs], sheet.ids(sheet.visit)
            few = visits.n_unique() * 5 < sheet.ids(sheet.subject or "").n_unique()
            if few and theirs != sheet.visit and p.distinct + bool(p.missing) > 1:  # the baseline's flag, say
                at = pl.DataFrame({"v": visits, "x": sheet.frame[theirs]}).group_by("v").agg(pl.col("x").n_unique())
                if at["x"].max() == 1:
                    return f'follows from "{sheet.visit}"'
        if theirs in sheet.again:
            return f'the numbers of "{sheet.again[theirs]}"'
        if theirs.endswith("date") and f"{theirs}time" in sheet.profiles:
            day, exact = (sheet.frame[c].cast(pl.String).str.slice(0, 10) for c in (theirs, f"{theirs}time"))
            if day.equals(exact):
                return f'says "{theirs}time" again'
        if (
            sheet.time
            and theirs != sheet.time
            and sheet.profiles[theirs].kind == "date"
            and sheet.profiles[sheet.time].kind == "date"
        ):
            mine, time = (sheet.frame[c].cast(pl.String).str.slice(0, 10) for c in (theirs, sheet.time))
            if (mine == time).all() and not sheet.profiles[theirs].clock_time:
                return "repeats the time"
        if re.search("stres[nc]$", snake(sheet.value or "")) and re.search("orresu?(_words)?$", n):
            return f'the result as reported; "{sheet.value}" is read'
        if sheet.code and theirs != sheet.code and re.search(r"desc|name|label|title|source_value|source_concept", n):
            pairs = sheet.frame.select(sheet.code, theirs).n_unique()
            if pairs <= 1.1 * sheet.profiles[sheet.code].distinct + 1:
                return f'says "{sheet.code}" again'
        return ""

    def _offset(self, sheet: Sheet, p: Profile, source: dict) -> Sheet | None:
        """Whose time a number counts like: an offset beside offsets (a discharge, when a result was revised)."""
        if p.kind != "number" or not _OFFSET.search(snake(p.name)):
            return None
        if sheet.role != "static":
            time = source.get("time")
            counts = isinstance(time, dict) and "unit" in time and _OFFSET.search(snake(time["column"]))
            return sheet if counts else None
        timed = [s for s in self.patients if s.role != "static" and s.time and s.time_unit not in (None, "order")]
        return next((s for s in timed if _OFFSET.search(snake(s.time or ""))), None)

    def _says_static(self, sheet: Sheet, theirs: str) -> str:
        """Is a column of a table with many rows per patient one of a table of patients, written out on every row?"""
        p = sheet.profiles[theirs]
        if sheet.role == "static" or p.distinct < 2 or p.kind == "empty" or not sheet.subject:
            return ""
        mine = pl.DataFrame({"s": sheet.ids(sheet.subject), "v": sheet.frame[theirs].cast(pl.String)}).unique()
        if mine.height != mine["s"].n_unique():
            return ""
        for other in self.patients:
            for name, q in other.profiles.items() if other.role == "static" and other.subject else ():
                if q.kind != p.kind or name == other.subject or q.distinct < p.distinct:
                    continue
                known = pl.DataFrame({"s": other.ids(other.subject), "w": other.frame[name].cast(pl.String)})
                both = mine.join(known, on="s")
                if both.height > 0.9 * mine.height and both["v"].eq_missing(both["w"]).all():
                    return f'says "{name}" of {other.file} again'
        return ""

    def _above(self, sheet: Sheet, theirs: str, ours: str) -> None:
        """Say so where a column of ids in the table of patients comes again: stays of one person, say."""
        p = sheet.profiles[theirs]
        filled = p.rows - p.missing
        people = re.search(r"pid$|^fid$|patient|person|subject|mrn|family|pedigree|household", snake(theirs))
        if people and idlike(p) and p.rows >= 20 and 0.1 * filled < p.distinct < filled and p.distinct > 30:
            self.head.append(
                f'"{theirs}" comes again in {sheet.file}: if it names the person, or what several rows share, keep '
                f"them on one side of every split: cohortloom split --group {ours}."
            )

    def missing_share(self, table: str, ours: str) -> float:
        source, sheet = self.tables[table]["source"], self.sheet_of[table]
        return sheet.profiles[source.get("columns", {}).get(ours, ours)].share_missing

    def _leftovers(self) -> None:
        named = [f"{s.file} ({s.skip or 'no patients in it'})" for s in self.lookups]
        named += [f"{s.file} (no rows)" for s in self.empty]
        if named:
            self.head.append(f"Files left out: {', '.join(named)}.")

    def _studies(self) -> dict[str, Any]:
        """A follow-up time and a status beside each other make a survival pair."""
        for name, table in self.tables.items():
            if table["role"] != "static":
                continue
            columns = table["columns"]
            time = next(
                (
                    c
                    for c, k in columns.items()
                    if re.search(r"^(futime|fu_|follow_?up|survival|surv_?time|(os|pfs|dfs|efs)_|time_?$|time_to)", c)
                    and k["kind"] == "number"
                    and self.missing_share(name, c) < 0.3
                ),
                None,
            )
            known = [
                c
                for c, k in columns.items()
                if k["kind"] in ("flag", "category") and (k["kind"] == "flag" or self.missing_share(name, c) < 0.3)
            ]
            event = next((c for words in _EVENTS for c in known if re.search(words, c)), None)
            if time is None or event is None:
                continue
            pair: dict[str, Any] = {"time": f"{name}.{time}", "event": f"{name}.{event}"}
            if columns[event]["kind"] == "category":
                pair["levels"] = [v for v in columns[event]["levels"] if v.lower() not in _NO_EVENT]
                self.notes["survival", 0] = (
                    "A guess, from the names. Which levels are the event? Those but the censored were taken."
                )
            else:
                self.notes["survival", 0] = "A guess, from the names."
            if pair.get("levels", True):
                return {"survival": [pair]}
        return {}


GENERAL = MARKS
#: What a survival pair's event is called, the surest words first (a receptor has a status too), and what is none.
_EVENTS = (
    r"death|died|dead|deceased|vital|mortality",
    r"event|relapse|recurrence",
    r"^((fu|follow_?up|os|pfs|dfs|end|last|final)_)?status$",
)
_NO_EVENT = {"0", "alive", "living", "censored", "lost", "no", "none"}
_OFFSET = re.compile(r"offset$|[a-z](ed|en)_?at$|^(start|stop|end)$|^date_?of")
#: Codes, and tables, of what is given at any time, so their rows are no visits.
_GIVEN = re.compile(r"drug|pharma|medic|prod|atc|ndc")
_GIVEN_BY = re.compile(r"drug|pharma|medication|medikament|medicament|prescri|infusion|transfusion|input_?events")

_OTHER_VISIT = r"(^|_)(preceding|previous|prev|prior|parent|next|linked|related|index)_|part_?of"
