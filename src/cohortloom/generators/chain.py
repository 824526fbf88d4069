"""Statics from one generator, the course from another: p(statics) p(course | statics).

Any generator fills the first link; the second must take `given` patients. Each link is fitted on the whole cohort, so a
jointly trained model may fill either. Every patient of a chain has a static row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.generators.base import Ability, Generator, Run
from cohortloom.generators.condition import Condition
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["Chain"]


@dataclass(kw_only=True)
class Chain(Generator):
    """Statics from one generator, then the course from another.

    Args:
        static: Draws the statics (whatever else it draws is dropped). A generator, or its name.
        events: Draws the course given statics. A generator, or its name.
    """

    name: ClassVar[str] = "chain"
    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.CONDITION})
    files: ClassVar[frozenset[str]] = frozenset({"static", "events"})

    static: Any = "independent"
    events: Any = "columnar-ar"

    def __post_init__(self) -> None:
        self.static, self.events = _generator(self.static), _generator(self.events)
        if not (Ability.GIVEN in self.events.abilities or not self.events.layout.static):
            raise SettingsError(
                f'chain.events: {self.events.name} does not continue from given patients (ability "given").'
            )

    def settings(self) -> dict[str, Any]:
        return {
            link: {"generator": model.name, **model.settings()}
            for link, model in (("static", self.static), ("events", self.events))
        }

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        half = run.minutes / 2 if run.minutes is not None else None
        for link, model in (("static", self.static), ("events", self.events)):
            file = run.checkpoint.with_name(f"{run.checkpoint.name}.{link}") if run.checkpoint else None
            model.schema_, model.n_fitted_ = cohort.schema, cohort.n_subjects
            model._learn(cohort, rng.child(link), replace(run, minutes=half, checkpoint=file))

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        raise NotImplementedError("the links learn")

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        raise NotImplementedError("the links draw")

    def _encode_where(self, where: Mapping[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for model, is_static in ((self.static, True), (self.events, False)):
            own = {p: v for p, v in where.items() if (p.partition(".")[0] in self.schema_.statics) == is_static}
            found |= model._encode_where(own) if own else {}
        return found

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        from cohortloom.generators.redraw import with_statics

        statics = list(self.schema_.statics)
        fixed, later = condition.part(statics), condition.part(set(self.schema_.tables) - set(statics))
        whole = self.static._make(ids, None, rng.child("static"), fixed)
        first = fixed.write_into(Cohort.build(self.schema_, {name: whole.tables[name] for name in statics}))
        ids = first.subjects.to_numpy()  # who has no static row is nobody to continue from, and is drawn again
        return with_statics(self.events._make(ids, first, rng.child("events"), later), first, ids)

    def _write(self, folder: Path) -> dict[str, Any]:
        self.static.save(folder / "static")
        self.events.save(folder / "events")
        return {}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        from cohortloom.generators.store import load

        self.static, self.events = load(folder / "static"), load(folder / "events")


def _generator(link: Any) -> Generator:
    """A generator from a name or from plain settings with the key "generator"."""
    from cohortloom.generators import create

    if isinstance(link, Generator):
        return link
    if isinstance(link, str):
        return create(link)
    settings = dict(link)
    return create(settings.pop("generator"), **settings)
