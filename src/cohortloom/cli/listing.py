"""cohortloom list"""

from __future__ import annotations

from enum import StrEnum


class What(StrEnum):
    generators = "generators"
    formats = "formats"
    rules = "rules"


def run(what: What) -> None:
    """What there is: generators, formats, rules."""
    if what is What.generators:
        from cohortloom.generators import describe
    elif what is What.formats:
        from cohortloom.formats import describe
    else:
        from cohortloom.rules import KINDS

        def describe() -> dict[str, str]:
            return {name: (rule.__doc__ or "").strip().splitlines()[0] for name, rule in sorted(KINDS.items())}

    for name, text in describe().items():
        print(f"{name:22s} {text}")
