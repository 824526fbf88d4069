"""Metadata JSON of the Synthetic Data Vault, read and written without importing it.

Forms read: one table (SINGLE_TABLE_V1), several (MULTI_TABLE_V1, V1), and V2 with ranges. What its terms become here:

    primary key without a parent  the patient; the table is static
    sequence key, sequence index  the patient, and the time of the row; the table is the visit table
    child of the patient table    the visit table if it has children or is the first with a time, else events
    child of the visit table      events of a visit

Units, coding systems, roles and rules are unknown to it, so a schema from metadata is a start. Ranges in it are minima
and maxima of real people: they are rounded outwards here, and none is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cohortloom.errors import Problem, SchemaError
from cohortloom.files import read_json
from cohortloom.schema.profile import outward, snake
from cohortloom.schema.schema import Schema
from cohortloom.schema.text import parse_schema
from cohortloom.schema.toml import to_toml

__all__ = ["from_sdv_metadata", "to_sdv_metadata"]


def from_sdv_metadata(source: dict[str, Any] | str | Path, name: str = "schema") -> Schema:
    """Read SDV metadata.

    Args:
        source: The metadata as a dict, or the path of its JSON file.
        name: Name of the schema.

    Raises:
        SchemaError: it is no SDV metadata, or no table has a key that could be the patient.
        FileFormatError: the file is no JSON.
    """
    data = source if isinstance(source, dict) else read_json(source)
    tables = data.get("tables", {"records": data} if "columns" in data else None) if isinstance(data, dict) else None
    if not isinstance(tables, dict) or not all(
        isinstance(t, dict) and isinstance(t.get("columns"), dict) for t in tables.values()
    ):
        what, fix = 'has no "tables" with "columns"', "Save it with Metadata.save_to_json."
        raise SchemaError("", [Problem("not-sdv-metadata", name, what, fix)])
    plan = _Plan(tables, [r for r in data.get("relationships", []) if r.get("parent_table_name") in tables])
    out: dict[str, Any] = {"name": name, "clock": plan.clock, "tables": {}}
    for table in sorted(plan.roles, key=lambda t: ("static", "visit", "event").index(plan.roles[t])):
        made = plan.table(table)
        if made["columns"]:
            out["tables"][snake(table)] = made
    for made in out["tables"].values():
        if made.get("parent") not in (None, *out["tables"]):
            del made["parent"]
    return parse_schema(to_toml(out), name=name)


class _Plan:
    """Roles, patient, visit and time columns of the tables."""

    def __init__(self, tables: dict[str, dict], links: list[dict]) -> None:
        self.tables, self.links = tables, links
        self.subject: dict[str, str | None] = {}
        self.roles: dict[str, str] = {}
        children = {link["child_table_name"] for link in links}
        roots = [t for t in tables if t not in children]
        for t in roots:
            sequence = tables[t].get("sequence_key")
            self.subject[t] = sequence or tables[t].get("primary_key")
            self.roles[t] = (
                "visit" if sequence and "visit" not in self.roles.values() else "event" if sequence else "static"
            )
        if not any(self.subject.values()):
            what = "no table has a primary key or sequence key, so patients can't be told apart"
            raise SchemaError("", [Problem("no-subject", "metadata", what, "Set the key in the metadata.")])
        self.roles |= {t: "event" for t in roots if self.subject[t] is None}
        root = max(roots, key=lambda t: sum(link["parent_table_name"] == t for link in links))
        below = {link["child_table_name"]: link for link in links if link["parent_table_name"] == root}
        parents = {link["parent_table_name"] for link in links}
        for t, link in below.items():
            self.subject[t] = link["child_foreign_key"]
            visit = (
                "visit" not in self.roles.values()
                and self.time(t) is not None
                and (t in parents or not parents & set(below))
            )
            self.roles[t] = "visit" if visit and tables[t].get("primary_key") else "event"
        for t in tables:
            self.roles.setdefault(t, "event")
        self.visit = next((t for t, r in self.roles.items() if r == "visit"), None)
        timed = [self.kind(t, self.time(t)) for t in tables if self.roles[t] != "static" and self.time(t)]
        self.clock = "timestamp" if "datetime" in timed or not timed else "order"

    def kind(self, table: str, column: str | None) -> str:
        return self.tables[table]["columns"].get(column, {}).get("sdtype", "") if column else ""

    def time(self, table: str) -> str | None:
        index = self.tables[table].get("sequence_index")
        dates = [c for c, v in self.tables[table]["columns"].items() if v.get("sdtype") == "datetime"]
        return index or next(iter(dates), None)

    def table(self, name: str) -> dict[str, Any]:
        plain, role = self.tables[name], self.roles[name]
        subject, time = self.subject.get(name), self.time(name) if role != "static" else None
        if time and (self.kind(name, time) == "datetime") != (self.clock == "timestamp"):
            time = None
        made: dict[str, Any] = {"role": role}
        source: dict[str, Any] = {"file": f"{name}.csv"}
        keys = {subject, time}
        to_visit = next(
            (
                link
                for link in self.links
                if link["child_table_name"] == name and link["parent_table_name"] == self.visit
            ),
            None,
        )
        if role == "visit" and plain.get("primary_key") and plain["primary_key"] != subject:
            source["visit"] = plain["primary_key"]
        if role == "event" and to_visit:
            made["parent"], source["visit"] = snake(self.visit or ""), to_visit["child_foreign_key"]
        keys.add(source.get("visit"))
        if role == "event" and time is None:
            made["timed"] = False
        if role == "visit" and time is None and self.clock != "order":
            made["role"], made["timed"] = "event", False
            source.pop("visit", None)
        made["columns"] = {}
        renamed = {}
        for column, facts in plain["columns"].items():
            if column in keys:
                continue
            ours = snake(column)
            while ours in made["columns"]:
                ours += "_"
            made["columns"][ours] = _column(facts)
            if ours != column:
                renamed[ours] = column
        if subject:  # a grandchild names its visit only, which no file of ours can be read by
            form = plain["columns"].get(time, {}).get("datetime_format") if time else None
            when = {"column": time, "format": form} if form else time
            made["source"] = {
                **source,
                "subject": subject,
                **({"time": when} if time else {}),
                **({"columns": renamed} if renamed else {}),
            }
        return made


def _column(facts: dict[str, Any]) -> dict[str, Any]:
    sdtype = facts.get("sdtype")
    rest = {"missing": False} if facts.get("range_is_nullable") is False else {}
    if sdtype == "numerical":
        out: dict[str, Any] = {"kind": "number"}
        low, high = facts.get("range_min"), facts.get("range_max")
        if isinstance(low, (int, float)) and isinstance(high, (int, float)):
            out["low"], out["high"] = outward(float(low), float(high))
        places = (
            0
            if str(facts.get("computer_representation", "")).startswith(("Int", "UInt"))
            else facts.get("decimal_places")
        )
        if isinstance(places, int) and 0 <= places <= 6:
            out["decimals"] = places
        return out | rest
    if sdtype == "categorical":
        order = facts.get("order") or []
        levels = [str(v) for v in (order or facts.get("range_values") or []) if v is not None]
        if levels:
            return {"kind": "ordinal" if order else "category", "levels": list(dict.fromkeys(levels))} | rest
        return {"kind": "code"} | rest
    if sdtype == "boolean":
        return {"kind": "flag"} | rest
    if sdtype == "datetime":
        return {"kind": "timestamp"} | rest
    what = "" if sdtype in ("id", "unknown", None) else f"{sdtype} in the metadata"
    return {"kind": "identifier", **({"description": what} if what else {})} | rest


def to_sdv_metadata(schema: Schema) -> dict[str, Any]:
    """SDV metadata (V1) of a cohort's frames: keys, sdtypes and relationships; no ranges, no levels.

    Offsets are numbers there. A lone table becomes a sequence; several without a patient table get one, "subjects", as
    the relationships need a parent.
    """
    statics = list(schema.statics)
    others = [t for t in schema.tables if t not in statics]
    tables: dict[str, Any] = {}
    links: list[dict[str, str]] = []
    root = statics[0] if statics else None
    if root is None and len(schema.tables) > 1:
        root = "subjects" if "subjects" not in schema.tables else "subjects_"
        tables[root] = {"columns": {"subject_id": {"sdtype": "id"}}, "primary_key": "subject_id"}
    for name in [*statics, *others]:
        tables[name] = made = {"columns": _written(schema, name)}
        if name == root:
            made["primary_key"] = "subject_id"
            continue
        if schema.tables[name].role == "visit":
            made["primary_key"] = "visit_id"
        if root is None:
            made["sequence_key"] = "subject_id"
            if schema.has_time(name):
                made["sequence_index"] = "time"
            made.pop("primary_key", None)
            continue
        visits = schema.visit_table
        up = visits if visits and name != visits and schema.has_visit_id(name) else root
        key = "visit_id" if up == visits and up != root else "subject_id"
        links.append(
            {"parent_table_name": up, "child_table_name": name, "parent_primary_key": key, "child_foreign_key": key}
        )
    return {"tables": tables, "relationships": links, "METADATA_SPEC_VERSION": "V1"}


def _written(schema: Schema, table: str) -> dict[str, dict[str, Any]]:
    moment = (
        {"sdtype": "datetime", "datetime_format": "%Y-%m-%d %H:%M:%S"}
        if schema.clock == "timestamp"
        else {"sdtype": "numerical"}
    )
    out: dict[str, dict[str, Any]] = {}
    for key in schema.keys(table):
        out[key] = dict(moment) if key == "time" else {"sdtype": "id"}
    plain = {
        "number": {"sdtype": "numerical"},
        "count": {"sdtype": "numerical"},
        "category": {"sdtype": "categorical"},
        "ordinal": {"sdtype": "categorical"},
        "code": {"sdtype": "categorical"},
        "flag": {"sdtype": "boolean"},
        "timestamp": moment,
        "identifier": {"sdtype": "id"},
    }
    for name, column in schema.tables[table].columns.items():
        out[name] = dict(plain[column.kind])
    return out
