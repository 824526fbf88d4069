"""Short waveforms by the generators of records: each piece of a few samples is a step.

A record of n samples is handed to `timegan`, `temporal-vae` or any other generator of courses as a patient of its own

    static row   the record's set of labels
    steps        samples 0 .. p-1, p .. 2p-1, ... of every channel as number columns, on an order clock

with p so that there are at most 64 steps, and what it draws is read back. So the families can be compared on single
beats. Which records a patient gets is drawn by the plan of `signal-diffusion`. Not looked at: the patient's tables,
annotations, R peaks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from cohortloom.codec.tensors import Encoded
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import DataError, Problem, SettingsError, nearest
from cohortloom.generators.base import Ability, Generator, Run
from cohortloom.generators.condition import Condition
from cohortloom.generators.signal_plan import RecordPlan
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["LONGEST", "SignalSteps"]

#: Longest record [samples], and most steps it is cut into.
LONGEST, MOST_STEPS = 512, 64


@dataclass(kw_only=True)
class SignalSteps(Generator):
    """Short waveforms (at most 512 samples, all of one length) by a generator of records such as timegan.

    Args:
        generator: Draws the steps: a generator, its name, or settings with the key "generator".
        signal: Name of the signal; may be left out if the cohort has one.
        patch: Samples of a step; None: so that there are at most 64 steps.
    """

    name: ClassVar[str] = "signal-steps"
    abilities: ClassVar[frozenset[Ability]] = frozenset({Ability.CONDITION})
    files: ClassVar[frozenset[str]] = frozenset({"steps"})

    generator: Any = "timegan"
    signal: str = ""
    patch: int | None = None

    def __post_init__(self) -> None:
        from cohortloom.generators.chain import _generator

        self.generator = _generator(self.generator)
        if not {Ability.CONDITION} <= self.generator.abilities or not self.generator.layout.static:
            raise SettingsError(f"{self.name}: {self.generator.name} does not draw whole patients under conditions.")
        if self.patch is not None and self.patch < 1:
            raise SettingsError(f"{self.name}: patch out of range.")

    def settings(self) -> dict[str, Any]:
        inner = {"generator": self.generator.name, **self.generator.settings()}
        return {"generator": inner, "signal": self.signal, "patch": self.patch}

    # -- learning ------------------------------------------------------------------------------------------------

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        known = [n for n, s in cohort.signals.items() if s.records.height]
        name = self.signal or (known[0] if len(known) == 1 else "")
        if name not in known:
            what = f"signal must be one of {', '.join(known) or 'those with records, and there is none'}"
            raise DataError("", [Problem("no-records", name or "signals", what, "Set signal, or read some records.")])
        waves = cohort.signals[name]
        lengths = waves.records["n_samples"]
        if lengths.n_unique() > 1 or lengths.max() > LONGEST:  # type: ignore[operator]
            what = f"records must have one length of at most {LONGEST} samples"
            raise DataError(
                "", [Problem("long-records", name, what, "Cut them into windows, or use signal-diffusion.")]
            )
        n, channels = int(lengths.max()), len(waves.spec.channels)  # type: ignore[arg-type]
        sets = sorted({_sorted(t) for t in waves.records["label"].drop_nulls()})
        self.facts_ = {
            "signal": name, "n_samples": n, "channels": channels, "sets": sets,
            "patch": self.patch or math.ceil(n / MOST_STEPS),
        }  # fmt: skip
        self.plan_ = RecordPlan.fit(cohort, name)
        self.generator.fit(self._steps(waves), seed=rng.integer("steps"), progress=run.progress, minutes=run.minutes)

    def _schema(self) -> Schema:
        facts = self.facts_
        columns = {f"s{k}": {"kind": "number"} for k in range(facts["channels"] * facts["patch"])}
        label = {"kind": "category", "levels": facts["sets"]} if facts["sets"] else {"kind": "flag"}
        tables = {"record": {"role": "static", "columns": {"label": label}},
                  "steps": {"role": "visit", "columns": columns}}  # fmt: skip
        return Schema.model_validate({"name": "steps", "clock": "order", "tables": tables})

    def _steps(self, waves: SignalSet) -> Cohort:
        """Every record as a patient."""
        facts = self.facts_
        n, width = len(waves.samples), facts["channels"] * facts["patch"]
        count = math.ceil(facts["n_samples"] / facts["patch"])
        x = np.asarray(waves.samples)[:, :, : facts["n_samples"]]
        padded = np.full((n, facts["channels"], count * facts["patch"]), np.nan)
        padded[..., : x.shape[2]] = x
        flat = padded.reshape(n, facts["channels"], count, facts["patch"]).transpose(0, 2, 1, 3).reshape(-1, width)
        owner, place = np.repeat(np.arange(n), count), np.tile(np.arange(count), n)
        numbers = {f"s{k}": pl.Series(flat[:, k]).fill_nan(None) for k in range(width)}
        steps = pl.DataFrame({"subject_id": owner, "visit_id": np.arange(n * count), "time": place, **numbers})
        labels = pl.Series([None if t is None else _sorted(t) for t in waves.records["label"]], dtype=pl.String)
        own = labels if facts["sets"] else pl.Series([False] * n)
        record = pl.DataFrame({"subject_id": np.arange(n), "label": own})
        return Cohort.build(self._schema(), {"record": record, "steps": steps})

    def _fit(self, data: Encoded, context: Encoded | None, rng: Rng, run: Run) -> None:
        raise NotImplementedError("the generator of steps learns")

    # -- drawing -------------------------------------------------------------------------------------------------

    def _encode_where(self, where: Mapping[str, Any]) -> dict[str, Any]:
        self._require(Ability.CONDITION, "fix values with where")
        path, sets = f"{self.facts_['signal']}.label", self.facts_["sets"]
        unknown = [p for p in where if p != path]
        if unknown:
            raise SettingsError(f"{self.name}: {unknown[0]} can't be fixed; it takes {path}.")
        asked = _sorted(str(where[path]))
        if asked not in sets:
            raise SettingsError(f"{self.name}: {path} has no such label.{nearest(asked, sets)}")
        return {path: asked}

    def levels_of(self, path: str) -> tuple[str, ...]:
        return tuple(self.facts_["sets"]) if path == f"{self.facts_['signal']}.label" else ()

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        raise NotImplementedError("records are drawn by _make")

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        facts, name = self.facts_, self.facts_["signal"]
        people = Cohort.build(self.schema_, {})
        records = self.plan_.draw(people, pl.Series("subject_id", ids), rng.child("plan"), at_least=1)
        asked = condition.features.get(f"{name}.label")
        where = None if asked is None else {"record.label": asked}
        drawn = self.generator.sample(records.height, seed=rng.integer("steps"), where=where)
        label = drawn.tables["record"]["label"].cast(pl.String) if facts["sets"] else [None] * records.height
        records = records.with_columns(
            pl.lit(facts["n_samples"]).cast(records["n_samples"].dtype).alias("n_samples"),
            pl.Series("label", label, dtype=pl.String),
        )
        waves = SignalSet(self.schema_.signals[name], records, self._samples(drawn))
        return Cohort.build(self.schema_, {}, signals={name: waves})

    def _samples(self, drawn: Cohort) -> np.ndarray:
        """Samples of drawn records; what a course is too short for stays missing."""
        facts = self.facts_
        patch, count = facts["patch"], math.ceil(facts["n_samples"] / facts["patch"])
        steps = drawn.tables["steps"].sort("subject_id", "time")
        row = pl.DataFrame({"subject_id": drawn.subjects}).with_row_index("row")
        steps = steps.join(row, on="subject_id", how="left", maintain_order="left")
        place = steps.select(pl.int_range(pl.len()).over("subject_id")).to_series().to_numpy()
        keep, owner = place < count, steps["row"].to_numpy()
        values = steps.select(f"s{k}" for k in range(facts["channels"] * patch)).to_numpy()
        out = np.full((drawn.n_subjects, count, facts["channels"], patch), np.nan, np.float32)
        out[owner[keep], place[keep]] = values[keep].reshape(-1, facts["channels"], patch)
        return out.transpose(0, 2, 1, 3).reshape(len(out), facts["channels"], -1)[..., : facts["n_samples"]]

    # -- on disk -------------------------------------------------------------------------------------------------

    def _write(self, folder: Path) -> dict[str, Any]:
        self.generator.save(folder / "steps")
        return {"steps": self.facts_, "plan": self.plan_.to_json()}

    def _read(self, folder: Path, facts: Mapping[str, Any], schema: Schema) -> None:
        from cohortloom.generators.store import load

        self.facts_, self.plan_ = dict(facts["steps"]), RecordPlan.from_json(facts["plan"])
        self.generator = load(folder / "steps")


def _sorted(labels: str) -> str:
    return "|".join(sorted(labels.split("|")))
