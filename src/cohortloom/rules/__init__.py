"""Rules a cohort keeps: compiled from its schema, checked, repaired."""

from cohortloom.rules.base import Finding, Rule, Violation
from cohortloom.rules.engine import (
    KINDS,
    broken_subjects,
    check,
    compile_rules,
    implied_rules,
    repair,
    rule_problems,
)

__all__ = [
    "KINDS",
    "Finding",
    "Rule",
    "Violation",
    "broken_subjects",
    "check",
    "compile_rules",
    "implied_rules",
    "repair",
    "rule_problems",
]
