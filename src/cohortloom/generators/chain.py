"""Statics from one generator, the course from another, waveforms from a third:

    p(statics) p(course | statics) p(signals | statics, course)

Any generator fills the first link; the others must take `given` patients, and the course or the signals may be left
out. Each link is fitted on the whole cohort. A model that draws statics and course together may fill both links at once
(events="joint"): p(statics, course) p(signals | statics, course). Every patient of a chain has a static row.

Continuing a patient and filling holes of the course are matters of the link that draws the course: statics are given,
and that link's law of the rest given them and what is known of the course is the chain's. Waveforms so far stay as they
are; visits to come get none. A hole in the statics would need both links at once, p(statics) p(course | statics), and
is filled only where one link draws both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort
from cohortloom.errors import Problem, SettingsError
from cohortloom.generators.base import Ability, Generator, Run
from cohortloom.generators.condition import Condition
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["Chain", "completed"]


@dataclass(kw_only=True)
class Chain(Generator):
    """Statics from one generator, then the course from another.

    Args:
        static: Draws the statics (whatever else it draws is dropped, but for events="joint"). A generator, or its name.
        events: Draws the course given statics. A generator, or its name; None: there is no course; "joint": the course
            that the first link draws together with the statics.
        signals: Draws the waveforms given all tables. A generator, or its name; None: there are none.
    """

    name: ClassVar[str] = "chain"
    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.CONDITION, Ability.EXTEND, Ability.IMPUTE})
    files: ClassVar[frozenset[str]] = frozenset({"static", "events", "signals"})

    static: Any = "columnar-ar"
    events: Any = "columnar-ar"
    signals: Any = None

    def __post_init__(self) -> None:
        self.static = _generator(self.static)
        self.events = self.events if self.events in (None, "joint") else _generator(self.events)
        self.signals = None if self.signals is None else _generator(self.signals)
        for link, model in self._links()[1:]:
            if not (Ability.GIVEN in model.abilities or not model.layout.static):
                raise SettingsError(
                    f'chain.{link}: {model.name} does not continue from given patients (ability "given").'
                )
        self.storable = all(model.storable for _, model in self._links())
        lent = set(self._course[1].abilities) - (set() if self.events else {Ability.EXTEND})
        self.abilities = type(self).abilities & (lent | {Ability.CONDITION})
        if self.signals is not None:  # waveforms of given patients, whose tables stay
            self.abilities |= {Ability.GIVEN}

    def _links(self) -> list[tuple[str, Generator]]:
        """The links there are, in the order they draw."""
        links = (("static", self.static), ("events", self.events), ("signals", self.signals))
        return [(link, model) for link, model in links if isinstance(model, Generator)]

    @property
    def notes(self) -> dict[str, int]:
        return {what: n for _, model in self._links() for what, n in model.notes.items()}

    @property
    def _course(self) -> tuple[str, Generator]:
        """The link that draws the course."""
        return ("events", self.events) if isinstance(self.events, Generator) else ("static", self.static)

    def _require(self, ability: Ability, call: str) -> None:
        self._require_fitted()
        link, model = self._course
        if ability in type(self).abilities and ability not in self.abilities:
            lacks = (
                f'its link {link}, {model.name}, lacks the ability "{ability}"' if self.events else "it has no course"
            )
            raise SettingsError(f"{self.name} can't {call}: {lacks}. cohortloom list generators names those that can.")
        super()._require(ability, call)

    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {link: {"generator": model.name, **model.settings()} for link, model in self._links()}
        return found if isinstance(self.events, Generator) else {**found, "events": self.events}

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        if not cohort.schema.statics and self.events != "joint":
            what = "has no static table, so there is nothing the second link could continue from"
            fix = 'Use the generator of the course alone, or events="joint".'
            raise SettingsError("", [Problem("no-statics", cohort.schema.name, what, fix)])
        links, end = self._links(), time.monotonic() + 60 * (run.minutes or 0.0)
        for done, (link, model) in enumerate(links):
            part = None  # what an early link leaves over is for those behind it
            if run.minutes is not None:
                part = max((end - time.monotonic()) / 60, 0.1 * run.minutes) / (len(links) - done)
            file = run.checkpoint.with_name(f"{run.checkpoint.name}.{link}") if run.checkpoint else None
            model.schema_, model.n_fitted_ = cohort.schema, cohort.n_subjects
            model._learn(cohort, rng.child(link), replace(run, minutes=part, checkpoint=file))

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        raise NotImplementedError("the links learn")

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        raise NotImplementedError("the links draw")

    def _encode_where(self, where: Mapping[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for link, model in (("static", self.static), ("events", self.events), ("signals", self.signals)):
            own = {path: value for path, value in where.items() if self._link_of(path) == link}
            model = self.static if model == "joint" else model
            if own and model is None:
                raise SettingsError(f"chain: there is no link {link}, so {', '.join(own)} can't be fixed.")
            found |= model._encode_where(own) if own else {}
        return found

    def levels_of(self, path: str) -> tuple[str, ...]:
        model = getattr(self, self._link_of(path))
        model = self.static if model == "joint" else model
        return () if model is None else model.levels_of(path)

    def _link_of(self, path: str) -> str:
        name = path.partition(".")[0]
        return "static" if name in self.schema_.statics else "signals" if name in self.schema_.signals else "events"

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        from cohortloom.generators.redraw import with_statics

        if given is not None:
            return self.signals._make(ids, given, rng.child("signals"), condition.part(self.schema_.signals))
        statics = list(self.schema_.statics)
        fixed, later = condition.part(statics), condition.part(set(self.schema_.tables) - set(statics))
        if self.events == "joint":
            fixed = condition.part(self.schema_.tables)
        whole = self.static._make(ids, None, rng.child("static"), fixed)
        first = whole
        if statics:
            only = Cohort.build(self.schema_, {name: whole.tables[name] for name in statics})
            first = fixed.part(statics).write_into(only)
        ids = first.subjects.to_numpy()  # who has no static row is nobody to continue from, and is drawn again
        course = first
        if self.events == "joint":
            course = with_statics(fixed.write_into(whole).select(first.subjects), first, ids)
        elif self.events is not None:
            drawn = self.events._make(ids, first, rng.child("events"), later)
            course = later.write_into(with_statics(drawn, first, ids))
        if self.signals is None:
            return course
        waves = condition.part(self.schema_.signals)
        return with_statics(self.signals._make(ids, course, rng.child("signals"), waves), first, ids)

    def avoided(self, drawn: Cohort) -> pl.Series:
        return pl.concat([model.avoided(drawn) for _, model in self._links()]).unique(maintain_order=True)

    def _extend(self, prefix: Cohort, until: timedelta | int, draws: int, rng: Rng) -> Cohort:
        link, model = self._course
        longer = model._extend(prefix, until, draws, rng.child(link))
        source = f"{prefix.origin.source} continued by {self.name}".strip()
        return replace(longer, origin=replace(longer.origin, source=source))

    def _impute(self, cohort: Cohort, rng: Rng, columns: Sequence[str] | None = None) -> Cohort:
        """Cells by the link that draws the course, given statics; then gaps of waveforms, where their link can."""
        from cohortloom.generators.impute import fillable

        link, model = self._course
        wanted = [f"{name}.{column}" for name, own in fillable(self.schema_, columns).items() for column in own]
        if link == "events":
            statics = [path for path in wanted if path.partition(".")[0] in self.schema_.statics]
            if columns is not None and statics:
                raise SettingsError(
                    f"{self.name}: {', '.join(statics)} can't be filled given the course, for statics and course come "
                    'from two links. Use events="joint", or impute with a model of both.'
                )
            wanted = [path for path in wanted if path not in statics]
        full = model._impute(cohort, rng.child(link), wanted)
        if self.signals is not None and columns is None and cohort.signals and Ability.IMPUTE in self.signals.abilities:
            full = self.signals._impute(full, rng.child("signals"))
        source = f"{cohort.origin.source} imputed by {self.name}".strip()
        notes = {**full.origin.notes, "imputed by": self.name}
        return replace(full, origin=replace(full.origin, source=source, notes=notes))

    def _write(self, folder: Path) -> dict[str, Any]:
        for link, model in self._links():
            model.save(folder / link)
        return {}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        from cohortloom.generators.store import load

        for link, _ in self._links():
            setattr(self, link, load(folder / link))


def completed(model: Generator, schema: Schema) -> Generator:
    """A model of waveforms alone with one of the tables before it, where the schema has tables; others as they are."""
    alone = model.layout.signals and not (model.layout.static or model.layout.sequence)
    return Chain(static="columnar-ar", events="joint", signals=model) if alone and schema.tables else model


def _generator(link: Any) -> Generator:
    """A generator from a name or from plain settings with the key "generator"."""
    from cohortloom.generators import create

    if isinstance(link, Generator):
        return link
    if isinstance(link, str):
        return create(link)
    settings = dict(link)
    return create(settings.pop("generator"), **settings)
