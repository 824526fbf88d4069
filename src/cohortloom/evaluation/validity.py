"""Does a cohort keep the rules of its schema?

`validate` counts, for every rule, the rows and patients that break it. It looks at one cohort only and says nothing
about how close it is to another one; that is `evaluate`. Every row is looked at, so a share has no sampling error and
no interval.
"""

from cohortloom.cohort import Cohort
from cohortloom.report import Figure, Goal, Report, Score
from cohortloom.rules import Rule, compile_rules

__all__ = ["validate"]

FAMILIES = {
    "links": "keys and links",
    "values": "values",
    "time": "times",
    "sequence": "sequences",
    "clinical": "clinical rules",
}
NOT_TESTED = (
    "Whether the cohort resembles real patients: that is evaluate.",
    "Whether it gives real patients away: that is audit.",
    "Sampling error: every row was looked at, so shares have no interval.",
    "Anything the schema has no rule for; implausible but permitted combinations pass.",
)


def validate(cohort: Cohort) -> Report:
    """Check every rule of the schema, implied and written.

    Args:
        cohort: Real or synthetic.

    Returns:
        Report with one score per rule: the share of rows that break it, limit 0 for rules of severity "error". A rule
        that met no row has no value and says so; a warning has a value but no verdict.

    Raises:
        SchemaError: the schema's rules can't be compiled.
    """
    rules = compile_rules(cohort.schema)
    scores = _unique_keys([_score(cohort, rule) for rule in rules])
    if cohort.signals:
        from cohortloom.evaluation.signals_validity import signal_scores  # heavy: filters

        scores += signal_scores(cohort)
    return Report(
        title=f"Validation of {cohort.schema.name}",
        scores=tuple(scores),
        figures=(_counts(cohort),),
        provenance={
            "schema": {"name": cohort.schema.name, "version": cohort.schema.version, "digest": cohort.schema.digest},
            "subjects": cohort.n_subjects,
            "rows": {name: frame.height for name, frame in cohort.tables.items()},
            "records": {name: signal.records.height for name, signal in cohort.signals.items()},
            "origin": cohort.origin.to_dict(),
        },
        verdict=_verdict(cohort, scores),
        not_tested=NOT_TESTED + tuple(_blind(cohort)),
    )


def _blind(cohort: Cohort) -> list[str]:
    """Signals of which the checks know less than they might seem to."""
    found = []
    for name, signal in cohort.signals.items():
        if signal.spec.kind not in ("ecg", "eeg"):
            found.append(
                f"{name}: nothing is known of how {signal.spec.kind} signals look; only gaps, flat and clipped "
                "stretches, seams and the like were looked for, not beats, rates or sizes."
            )
        elif signal.spec.unit.lower() not in ("v", "mv", "uv", "nv"):
            found.append(f'{name}: its unit is "{signal.spec.unit}", so sizes of the waveform were not checked.')
    return found


def _score(cohort: Cohort, rule: Rule) -> Score:
    findings = list(rule.find(cohort))
    n, broken = sum(f.n for f in findings), sum(f.count for f in findings)
    places = [v for f in findings if f.count for v in [rule.violation(f)]]
    details: dict = {"rule": rule.words, "kind": rule.kind, "held by": ", ".join(sorted(rule.holds_by))}
    reason = ""
    if broken:
        subjects = rule.broken_subjects(cohort).len()
        details["broken"] = [{"place": v.where, "rows": v.count, "of": v.n, "first rows": list(v.rows)} for v in places]
        reason = f"{broken:,} of {n:,} rows, {subjects:,} of {cohort.n_subjects:,} patients"
    if not n:
        reason = "no row to which the rule applies"
    elif rule.severity == "warning":
        reason = "; ".join(filter(None, [reason, "a warning, without a verdict"]))
    return Score(
        name=rule.label,
        group=FAMILIES.get(rule.family, rule.family),
        value=broken / n if n else None,
        n=n,
        goal=Goal.LOW,
        limit=0.0 if rule.severity == "error" else None,
        reason=reason,
        details=details,
    )


def _unique_keys(scores: list[Score]) -> list[Score]:
    """The same scores; where two rules share a name, the later key gets a number."""
    from dataclasses import replace

    seen: dict[str, int] = {}
    out = []
    for score in scores:
        seen[score.key] = seen.get(score.key, 0) + 1
        times = seen[score.key]
        out.append(score if times == 1 else replace(score, key=f"{score.key}_{times}"))
    return out


def _counts(cohort: Cohort) -> Figure:
    rows = []
    for name, frame in cohort.tables.items():
        cells = frame.height * max(frame.width, 1)
        missing = sum(frame.null_count().row(0)) if frame.width else 0
        role, subjects = cohort.schema.tables[name].role, frame["subject_id"].n_unique() if frame.height else 0
        rows.append([name, role, frame.height, subjects, frame.width, round(missing / cells, 4) if cells else None])
    for name, signal in cohort.signals.items():
        records = signal.records
        rows.append([name, f"signal, {signal.spec.kind}", records.height, records["subject_id"].n_unique(), None, None])
    columns = ["table", "role", "rows", "patients", "columns", "share of empty cells"]
    return Figure("table", "What was checked", {"columns": columns, "rows": rows}, group="contents")


def _verdict(cohort: Cohort, scores: list[Score]) -> tuple[str, ...]:
    failed = [s for s in scores if s.passed is False]
    warned = [s for s in scores if s.limit is None and s.value]
    idle = [s for s in scores if s.value is None]
    rows = sum(frame.height for frame in cohort.tables.values())
    records = sum(signal.records.height for signal in cohort.signals.values())
    what = f"{rows:,} rows" + (f" and {records:,} waveform records" if records else "")
    said = [f"{len(scores)} rules were checked on {what} of {cohort.n_subjects:,} patients."]
    rows += records
    if not scores or not rows:
        said.append("There was nothing to check, so this is no verdict.")
    elif failed:
        worst = max(failed, key=lambda s: s.value or 0.0)
        named = f"{len(failed)} rules are" if len(failed) > 1 else "1 rule is"
        said.append(f'{named} broken; the worst is "{worst.name}" ({worst.reason.split(";")[0]}).')
    else:
        said.append("Every rule holds.")
    if warned:
        said.append(f"{len(warned)} more give{'s' if len(warned) == 1 else ''} a warning.")
    if idle and rows:
        said.append(f"{len(idle)} rule{'s' if len(idle) > 1 else ''} met no row and could not be judged.")
    if blind := _blind(cohort):
        said.append("Not checked: " + " ".join(blind))
    return tuple(said)
