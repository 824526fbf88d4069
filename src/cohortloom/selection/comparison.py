"""Which generator for this cohort, and how large.

Part of the patients are kept aside, every candidate is fitted on the others for the same share of the time, draws as
many patients as it learned from (fewer where it is slow and minutes are given), and is judged by `cohortloom.evaluate`
against those kept aside. Each headline score is put between what real patients get (the floor: 0) and what columns
drawn apart get (the anchor "independent": 1),

    loss = 1/2 detection + 1/2 mean of dependences          (each (value - floor) / (independent - floor))

with detection the distance of the worst judge's AUROC from .5, and the dependences those within and between statics
and visits and over time. Dependences on which drawing columns apart does no harm are left out: they tell nothing here.
Where columns drawn apart fool the judges, 1 stands for an AUROC .1 farther from .5 than the floor. The candidate with
the smallest loss is fitted to all patients in the time that is left; within a tie of it the first one in the list is
taken: a difference that small is noise, and the list starts with what is quick and well understood. A judge's AUROC
over n patients has a standard error of about .4 / sqrt(n) and enters the loss with a weight near 1.

Copying patients (`bootstrap`) has a loss near 0 too, for the wrong reason. It stands in the table as the best that can
be seen at this number of patients and is never chosen, like any candidate that hands out copies. Where no candidate
comes near it, or none is better than columns drawn apart, the choice says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohortloom.cohort import Cohort
from cohortloom.errors import CohortloomError, DataError, Problem, SettingsError
from cohortloom.evaluation import evaluate
from cohortloom.generators import create, generator_names
from cohortloom.report import Report
from cohortloom.rng import Rng

__all__ = ["CANDIDATES", "Candidate", "Choice", "choose"]

GROUPS = ("marginal", "association", "temporal", "detection", "copies")
DEPENDENCES = (
    "association.static_static", "association.static_temporal", "association.temporal_temporal",
    "temporal.autocorrelation", "temporal.changes", "temporal.patient_sd", "temporal.transitions", "temporal.counts",
)  # fmt: skip
SHOWN = ("detection.worst", "association.static_temporal", "temporal.autocorrelation", "marginal.values")
#: Share of the patients kept aside, and the most patients a comparison uses.
HELD_OUT, MOST = 0.3, 6_000
#: Rows compared per minute that is given (judges look at all of them), from so many patients on.
ROWS_A_MINUTE, ENOUGH = 30_000, 500
#: Patients drawn to see how quick a generator is, and the fewest that are judged.
TRIED, LEAST_DRAWN = 60, 300
#: Fewest patients a comparison says anything about.
FEWEST = 40
#: Differences of the loss below this are noise, or below `NOISE` / sqrt(patients kept aside).
TIE, NOISE = 0.03, 0.4
#: Loss from which a generator is not worth its time, and distance to `bootstrap` from which it is told.
WORTHLESS, BEHIND = 0.9, 0.15
#: Distance of AUROCs that counts as 1 where columns drawn apart are hardly told from real patients.
LEAST_JUDGED = 0.1
#: Share of the minutes that goes into the comparison, and beyond which no further candidate is tried.
COMPARING, FULL = 0.5, 0.8
UNTRIED = "not tried: no time was left"


@dataclass(frozen=True)
class Candidate:
    """A generator with settings.

    Args:
        generator: Its name.
        settings: What differs from its defaults.
        least: Fewest patients from which it is tried.
    """

    generator: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    least: int = 0

    @property
    def label(self) -> str:
        return " ".join([self.generator, *(f"{k}={v}" for k, v in self.settings.items())])


#: What is compared, the quick and well understood first.
CANDIDATES = (
    Candidate("columnar-ar"),
    Candidate("columnar-ar", {"hidden": 192}, least=2_000),
    Candidate("temporal-vae"),
    Candidate("record-diffusion"),
    Candidate("timegan"),
)


@dataclass(frozen=True)
class Choice:
    """What was chosen and why.

    Args:
        generator: The winner, fitted to all patients.
        winner: Its label.
        rows: One per candidate and anchor, the best first: label, loss, headline scores, seconds, why it is out.
        words: What the comparison says, in sentences.
    """

    generator: Any
    winner: str
    rows: tuple[dict[str, Any], ...]
    words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"winner": self.winner, "rows": list(self.rows), "words": list(self.words)}

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        cells = [names, *([_shown(row.get(name)) for name in names] for row in self.rows)]
        width = [max(len(line[i]) for line in cells) for i in range(len(names))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, width)).rstrip() for line in cells]
        return "\n".join([*lines, "", *self.words])


def choose(
    cohort: Cohort,
    *,
    seed: int,
    minutes: float | None = None,
    candidates: Sequence[Candidate] = CANDIDATES,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[float, float, str], None] | None = None,
    **fit: Any,
) -> Choice:
    """Compare candidates on held-out patients and fit the best to all.

    Args:
        cohort: Training patients.
        seed: Fixes split, fits, draws and judges; without `minutes` the choice too.
        minutes: For all fits together, half of it for the comparison [min]; judging takes some seconds per candidate
            beside, off the last fit's share, and candidates that no longer fit in are left out and named. None: every
            fit takes what its defaults take.
        candidates: What is compared; generators that are not installed are left out.
        settings: Settings of every candidate, over its own, e.g. {"training": {"steps": 500}}.
        progress: Called with (done, total, note).
        fit: Passed to the final fit (checkpoint).

    Raises:
        DataError: the cohort holds no tables to learn from.
        SettingsError: no candidate could be fitted; with the reason of each.
    """
    if not cohort.schema.tables or not any(frame.height for frame in cohort.tables.values()):
        raise DataError("auto compares generators of tables; there is no row in any table of this cohort.")
    began, rng = time.monotonic(), Rng(seed).child("choose")
    usable = [c for c in candidates if c.generator in generator_names() and cohort.n_subjects >= c.least]
    if not usable:
        raise SettingsError("auto: none of the candidates is installed and made for so few patients.")
    compared, rows, words = _comparison(cohort, usable, minutes, settings or {}, rng, progress, began)
    if compared is None and rows:
        problems = [Problem("out", row["generator"], row["out"], "") for row in rows if row.get("out")]
        raise SettingsError("auto: no candidate is fit to be chosen", problems)
    winner = usable[0] if compared is None else compared
    left = None if minutes is None else max(minutes - (time.monotonic() - began) / 60, 0.2 * minutes)
    model = create(winner.generator, **{**winner.settings, **(settings or {})})
    if progress:
        progress(len(usable), len(usable) + 1, f"fitting {winner.label} to all patients")
    model.fit(cohort, seed=seed, minutes=left, **fit)
    choice = Choice(model, winner.label, tuple(rows), tuple(words))
    model.notes_ = {"chosen by": choice.to_json()}
    return choice


def _comparison(
    cohort: Cohort,
    candidates: Sequence[Candidate],
    minutes: float | None,
    settings: Mapping[str, Any],
    rng: Rng,
    progress: Callable[[float, float, str], None] | None,
    began: float,
) -> tuple[Candidate | None, list[dict[str, Any]], list[str]]:
    """(the best candidate, rows of the table, sentences)."""
    if cohort.n_subjects < FEWEST:
        words = f"{cohort.n_subjects} patients are too few to compare generators ({FEWEST} are needed)."
        return None, [], [f"{words} {candidates[0].label} is taken unseen."]
    most = MOST
    if minutes is not None:
        rows_each = sum(frame.height for frame in cohort.tables.values()) / cohort.n_subjects
        most = min(MOST, max(ENOUGH, int(ROWS_A_MINUTE * minutes / max(rows_each, 1.0))))
    if cohort.n_subjects > most:
        picks = rng.child("part").numpy.permutation(cohort.n_subjects)[:most]
        cohort = cohort.select(cohort.subjects.gather(np.sort(picks)))
    parts = cohort.split(seed=rng.integer("split"), train=1 - HELD_OUT, held_out=HELD_OUT)
    share = None if minutes is None else COMPARING * minutes / len(candidates)
    rows: list[dict[str, Any]] = []
    report, longest = None, 0.0
    for number, candidate in enumerate(candidates):
        if minutes is not None and number and time.monotonic() - began + longest > 60 * FULL * minutes:
            rows += [{"generator": c.label, "loss": None, "out": UNTRIED} for c in candidates[number:]]
            break
        if progress:
            progress(number, len(candidates) + 1, f"trying {candidate.label}")
        start, cpu = time.monotonic(), time.process_time()
        row: dict[str, Any] = {"generator": candidate.label, "loss": None}
        try:
            model = create(candidate.generator, **{**candidate.settings, **settings})
            model.fit(parts.train, seed=rng.integer("fit", number), minutes=None if share is None else 0.7 * share)
            seconds = None if share is None else 60 * 0.3 * share
            drawn = _drawn(model, parts.train.n_subjects, rng.integer("sample", number), seconds)
            row |= {"seconds": round(time.monotonic() - start, 1), "cpu_s": round(time.process_time() - cpu, 1)}
            found = evaluate(
                drawn, train=parts.train, held_out=parts.held_out, seed=rng.integer("judge"), only=GROUPS, fast=True
            )
        except CohortloomError as error:
            rows.append(row | {"out": f"{type(error).__name__}: {str(error).splitlines()[0]}"})
            continue
        report = report or found
        rows.append(_row(row, found, None))
        longest = max(longest, time.monotonic() - start)
    if report is None:
        problems = [Problem("failed", row["generator"], row["out"], "") for row in rows]
        raise SettingsError("auto: no candidate could be fitted to this cohort", problems)
    anchors = [_row({"generator": name}, report, name) for name in ("bootstrap", "independent")]
    anchors[0]["out"], anchors[1]["out"] = "copies patients: never chosen", "the other end of the scale"
    return _verdict(candidates, rows, anchors, parts.held_out.n_subjects)


def _drawn(model: Any, n: int, seed: int, seconds: float | None) -> Cohort:
    """`n` patients, or as many as are drawn in that time but at least `LEAST_DRAWN` (some need a minute a thousand)."""
    if seconds is not None and n > LEAST_DRAWN:
        start = time.monotonic()
        model.sample(TRIED, seed=seed)
        n = min(n, max(LEAST_DRAWN, int(TRIED * seconds / (time.monotonic() - start))))
    return model.sample(n, seed=seed)


def _row(row: dict[str, Any], report: Report, anchor: str | None) -> dict[str, Any]:
    """Loss and headline scores of a cohort, or of an anchor."""
    by_key = {score.key: score for score in report.scores}

    def value(key: str) -> float | None:
        score = by_key.get(key)
        return None if score is None else score.value if anchor is None else score.anchors.get(anchor)

    dependences = [_excess(by_key.get(key), value(key)) for key in DEPENDENCES]
    dependences = [x for x in dependences if x is not None]
    detection = _excess(by_key.get("detection.worst"), value("detection.worst"), near=True)
    parts = [x for x in (detection, float(np.mean(dependences)) if dependences else None) if x is not None]
    row = {**row, "loss": round(float(np.mean(parts)), 4) if parts else None}
    row |= {key: None if value(key) is None else round(float(value(key)), 4) for key in SHOWN}  # type: ignore[arg-type]
    copied = [s for s in report.scores if s.group == "copies" and s.passed is False]
    if anchor is None and copied:
        row["out"] = f"hands out copies: {', '.join(s.key for s in copied)}"
    return row


def _excess(score: Any, value: float | None, *, near: bool = False) -> float | None:
    """Where a value lies between the floor (0) and columns drawn apart (1).

    Where those hardly differ it is None, or with `near` told in units of `LEAST_JUDGED`.
    """
    if score is None or value is None or score.floor is None or score.anchors.get("independent") is None:
        return None
    value, floor, apart = (abs(x - 0.5) if near else x for x in (value, score.floor, score.anchors["independent"]))
    if not near and (apart - floor < 0.5 * abs(floor) or apart - floor < 0.01):
        return None
    return float(np.clip((value - floor) / max(apart - floor, LEAST_JUDGED if near else 0.0), -0.5, 1.5))


def _verdict(
    candidates: Sequence[Candidate], rows: list[dict[str, Any]], anchors: list[dict[str, Any]], n: int
) -> tuple[Candidate | None, list[dict[str, Any]], list[str]]:
    """The winner, the table in order, and what is to be said."""
    ranked = sorted(anchors + rows, key=lambda row: (row["loss"] is None, row["loss"]))
    fit = [(c, row) for c, row in zip(candidates, rows) if row["loss"] is not None and not row.get("out")]
    if not fit:
        first = next((c for c, row in zip(candidates, rows) if "cpu_s" in row and not row.get("out")), None)
        return first, ranked, ["No candidate gave a cohort that could be judged; the first that was fitted is taken."]
    best = min(row["loss"] for _, row in fit)
    tie = max(TIE, NOISE / n**0.5)
    winner, row = next((c, row) for c, row in fit if row["loss"] <= best + tie)
    words = [f"{winner.label} is chosen: loss {row['loss']:.2f} on {n} patients kept aside (0: as real patients, "
             "1: as columns drawn apart)."]  # fmt: skip
    if row["loss"] > best:
        words.append(f"Others are ahead by less than {tie:.2f}, which is noise at this number of patients.")
    if untried := [c.label for c, one in zip(candidates, rows) if one.get("out") == UNTRIED]:
        words.append(f"No time was left to try {', '.join(untried)}: give more minutes to compare them.")
    copies = anchors[0]["loss"]
    if row["loss"] >= WORTHLESS:
        words.append("It is no better than drawing every column apart: this cohort can't be learned in this time.")
    elif copies is not None and row["loss"] > copies + BEHIND:
        words.append(
            f"Resampled patients come nearer (loss {copies:.2f}): no generator could beat that simplicity. Copies of "
            "patients must not be shared; give more minutes or more patients."
        )
    return winner, ranked, words


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
