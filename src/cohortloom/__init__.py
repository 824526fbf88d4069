"""cohortloom: synthetic patients, drawn together and judged.

The public names are loaded when first used, so `import cohortloom` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cohortloom.version import __version__

if TYPE_CHECKING:
    from cohortloom.cohort import Cohort
    from cohortloom.evaluation import evaluate, validate
    from cohortloom.formats import read, write
    from cohortloom.generators import load
    from cohortloom.generators.chain import Chain
    from cohortloom.report import Report
    from cohortloom.schema import Schema
    from cohortloom.simulation import simulate

_PLACES = {
    "Chain": "cohortloom.generators.chain",
    "Cohort": "cohortloom.cohort",
    "Report": "cohortloom.report",
    "Schema": "cohortloom.schema",
    "evaluate": "cohortloom.evaluation",
    "load": "cohortloom.generators",
    "read": "cohortloom.formats",
    "simulate": "cohortloom.simulation",
    "validate": "cohortloom.evaluation",
    "write": "cohortloom.formats",
}

__all__ = [
    "Chain",
    "Cohort",
    "Report",
    "Schema",
    "__version__",
    "evaluate",
    "load",
    "read",
    "simulate",
    "validate",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'cohortloom' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
