"""Schemas: what a cohort is made of."""

from cohortloom.schema.column import Category, Code, Column, Count, Flag, Identifier, Item, Number, Ordinal, Timestamp
from cohortloom.schema.schema import RuleSpec, Schema, Survival, Task
from cohortloom.schema.signals import Signal
from cohortloom.schema.source import CodeMap, Filter, Grid, Source, SourceTime
from cohortloom.schema.table import Table

__all__ = [
    "Category",
    "Code",
    "CodeMap",
    "Column",
    "Count",
    "Filter",
    "Flag",
    "Grid",
    "Identifier",
    "Item",
    "Number",
    "Ordinal",
    "RuleSpec",
    "Schema",
    "Signal",
    "Source",
    "SourceTime",
    "Survival",
    "Table",
    "Task",
    "Timestamp",
]
