"""The report in words: what is good, what is not, what can't be told."""

from __future__ import annotations

from collections.abc import Sequence

from cohortloom.evaluation.context import Context
from cohortloom.report import Goal, Score

__all__ = ["not_tested", "shortened", "verdict"]

_BLIND = 0.7  # limit of a judge from which on it sees little

# groups of scores, as a clinician would say them
WORDS = {
    "marginal": "single columns",
    "missingness": "missing values",
    "association": "associations between columns",
    "temporal": "courses over time",
    "codes": "codes and their order",
    "detection": "the patients as a whole, as judges see them",
    "utility": "usefulness for the declared tasks",
    "survival": "survival",
    "realism": "realism and variety",
    "fairness": "subgroups",
    "shift": "transfer to other sites",
    "likelihood": "memorisation by likelihood",
    "copies": "copies of training patients",
    "signals": "waveforms",
}


def verdict(ctx: Context, scores: Sequence[Score]) -> tuple[str, ...]:
    """Two to five sentences for a clinician, and up to two on what adding records does to a classifier."""
    judged = [s for s in scores if s.passed is not None]
    failed = [s for s in judged if s.passed is False]
    open_ = [s for s in scores if s.value is not None and not s.measurable]
    n, held = ctx.n, ctx.views["held_out"].n
    said = []
    if not judged:
        said.append(f"With {n:,} synthetic and {held:,} held-out patients nothing could be judged.")
    elif not failed and 3 * len(judged) < len(scores):
        said.append(
            f"Only {len(judged)} of {len(scores)} scores could be judged with {n:,} synthetic and {held:,} held-out "
            "patients. They lie within their limits, which says nothing of the rest: this is no proof of likeness."
        )
    elif not failed:
        said.append(
            f"All {len(judged)} scores that could be judged lie within their limits: {n:,} synthetic patients differ "
            f"from {held:,} held-out patients no more than a second sample of real patients might, or by too little to "
            "matter."
        )
    else:
        said.append(
            f"{len(failed)} of {len(judged)} judged scores lie beyond their limits: there the {n:,} synthetic patients "
            f"differ from {held:,} held-out patients by more than a second sample of real patients would."
        )
        good = [g for g in dict.fromkeys(s.group for s in judged) if not any(f.group == g for f in failed)]
        if good:
            said.append(f"Nothing was found against {', '.join(WORDS.get(g, g) for g in good)}.")
        named = [s for s in failed if s.key != "detection.worst"]  # a judge is named by itself
        worst = sorted(named, key=_excess, reverse=True)[:3]
        words = {Goal.HIGH: "at least"}
        faults = "; ".join(f"{s.name} ({s.value:.2g}, {words.get(s.goal, 'allowed')} {s.limit:.2g})" for s in worst)
        said.append(f"What gives it away most: {faults}.")
    said += _blind(judged, failed)
    if any(s.group == "copies" for s in judged) and not any(s.group == "copies" for s in failed):
        said.append("That no copies of training patients were found is no evidence of privacy.")
    said += _added(scores)
    said += _subgroups(scores, failed)
    if open_:
        said.append(
            f"{len(open_)} scores can't tell a good cohort from a useless one with {n:,} patients; "
            "they are no good news."
        )
    return tuple(said[:8])


def _blind(judged: Sequence[Score], failed: Sequence[Score]) -> list[str]:
    """What the judge of patients would have let pass, where patients are too few for it to see much."""
    judge = next((s for s in judged if s.key == "detection.patients"), None)
    if judge is None or judge in failed or judge.limit is None or judge.limit < _BLIND:
        return []
    told = f"{100 * judge.limit:.0f} times in 100 (50 is guessing)"
    return [
        f"Patients are few: a cohort whose patients a judge picks out beside real ones {told} would still have passed."
    ]


def _added(scores: Sequence[Score]) -> list[str]:
    """Answers on adding records to real ones, certain ones first."""
    told = [s.details for s in scores if "told" in s.details]
    return [d["told"] for d in sorted(told, key=lambda d: d["answer"] == "can't be told")[:2]]


def _subgroups(scores: Sequence[Score], failed: Sequence[Score]) -> list[str]:
    """Subgroups that were lost, and those that scores fail for."""
    mine = [s for s in scores if s.group == "fairness"]
    lost = next((s.details["lost"] for s in mine if s.details.get("lost")), [])
    found: dict[str, list[float]] = {}
    for s in failed:
        if s.group == "fairness" and s.details.get("worst"):
            found.setdefault(str(s.details["worst"]).split(" (")[0].split(": ")[0], []).append(_excess(s))
    parts = [f"no synthetic patient belongs to {shortened(lost, 3)}"] if lost else []
    if found:  # one only: with a score each, every level of sex would be the worst
        parts.append(f"it is worst for {max(found, key=lambda name: (len(found[name]), max(found[name])))}")
    return [f"By subgroup, {', and '.join(parts)}."] if parts else []


def _excess(score: Score) -> float:
    """How far beyond its limit a failed score lies: of the way to columns drawn apart, or of the limit itself where
    these would pass."""
    sign = -1 if score.goal is Goal.HIGH else 1
    value, limit, useless = (sign * float(x or 0) for x in (score.value, score.limit, score.anchors.get("independent")))
    way = useless - limit if score.anchors.get("independent") is not None else 0.0
    return (value - limit) / (way if way > 1e-9 else max(abs(limit), 1e-3))


def shortened(names: Sequence[str], most: int = 12) -> str:
    """Names in a row; of many the first and the number of the rest."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def not_tested(ctx: Context, groups: Sequence[str]) -> tuple[str, ...]:
    """What this report does not tell."""
    from cohortloom.evaluation.suite import MEASURES, ON_REQUEST

    missing = [
        "Privacy: of attacks on the cohort only one was made, by nearest neighbours, and none on its generator. A few "
        "training patients whose values were changed a little pass unseen: how many is the limit of `copies.near`.",
        "Clinical sense of single patients: let a clinician look at the timelines.",
        "Values outside the schema, and its rules: the validation report checks them.",
    ]
    if ctx.cohorts["synthetic"].origin.kind == "real":
        missing[1] = (
            "Single patients: the judged cohort's origin is real, so none is drawn. Say that it is synthetic with "
            "`cohortloom convert --synthetic`, or by its origin in Python."
        )
    left = [g for g in MEASURES if g not in (*groups, *ON_REQUEST)]
    if left:
        missing.append(f"Left out by request: {', '.join(left)}.")
    missing += [f"{why}. Left out: {shortened(names)}." for why, names in ctx.left_out.items() if names]
    if ctx.schema.signals and "signals" not in groups:
        missing.append("Waveforms.")
    return tuple(missing)
