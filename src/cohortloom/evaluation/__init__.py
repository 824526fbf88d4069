"""Judging cohorts: `validate` against their schema, `evaluate` against real patients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cohortloom.evaluation.suite import evaluate
    from cohortloom.evaluation.validity import validate

__all__ = ["evaluate", "validate"]

_PLACES = {"evaluate": "suite", "validate": "validity"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"cohortloom.evaluation.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'cohortloom.evaluation' has no attribute '{name}'")
