"""One self-contained HTML page: verdict in words, scores with their anchors, figures, what was not tested, provenance.

No script, no request, no font from elsewhere. Everything that comes from a schema or a cohort is escaped (jinja2
autoescape; drawings escape their own text).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cohortloom.report.axis import LEGEND, axis_svg, mark_svg
from cohortloom.report.figures import figure_parts
from cohortloom.report.plain import as_tables, plain, say, verdict_word
from cohortloom.version import __version__

if TYPE_CHECKING:
    from cohortloom.report.report import Report
    from cohortloom.report.score import Score

__all__ = ["flat", "to_html"]

MARK = {True: "✓", False: "✗", None: "○"}
STATE = {True: "pass", False: "fail", None: "open"}
# short words of score names, told to those who meet them first here
TERMS = {
    "KS": "largest difference of two distribution functions; 0 the same law, 1 no value in common",
    "TV": "half the sum of the differences of shares; 0 the same shares, 1 nothing in common",
    "AUC": "chance that a judge finds a synthetic patient more synthetic than a real one; .5 it can't tell, 1 it can",
    "AUROC": "chance that a model ranks a patient with the event above one without; .5 guessing, 1 never wrong",
    "concordance": "the same for survival: of two patients, the one with the higher predicted risk has the event first",
    "skill": "share of the median's error that a model avoids; 0 no better than the median, 1 exact",
    "autocorrelation": "how alike two values of one patient are, by the time between them",
    "variogram": "how far two values of one patient lie apart, by the time between them",
    "perplexity": "how many codes a model learned from these patients hesitates between on held-out visits",
    "equalised-odds": "largest difference between subgroups in how often events are found, or falsely alarmed",
    "precision": "share of synthetic patients who lie where real patients are",
    "recall": "share of real patients who lie where synthetic patients are",
    "coverage": "share of real patients with a synthetic one among their nearest",
}
GOAL = {"low": "lower is better", "high": "higher is better", "near": "near the floor is better"}


def to_html(report: Report) -> str:
    """The page as text; equal reports give equal pages."""
    from jinja2 import Environment, StrictUndefined  # heavy: only reports need it
    from markupsafe import Markup

    here = files("cohortloom.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"say": say, "safe_svg": Markup}
    template = environment.from_string(here.joinpath("page.html.jinja").read_text(encoding="utf8"))
    groups = _groups(report)
    page = {
        "report": report,
        "style": Markup(here.joinpath("page.css").read_text(encoding="utf8")),
        "state": STATE[report.passed],
        "headline": _headline(report),
        "counts": {state: sum(s.passed is p for s in report.scores) for p, state in STATE.items()},
        "groups": groups,
        "legend": [(Markup(mark_svg(name)), words) for name, words in LEGEND],
        "terms": [(term, words) for term, words in TERMS.items() if any(term in s.name for s in report.scores)],
        "has_axes": any(g["axes"] for g in groups),
        "failed": [_row(s) for s in report.failed],
        "provenance": flat(plain(report.provenance)),
        "version": __version__,
    }
    return template.render(page)


def _headline(report: Report) -> str:
    n, failed = len(report.scores), len(report.failed)
    if report.passed is None:
        return "No verdict" if not n else "No verdict: nothing could be judged"
    judged = sum(s.passed is not None for s in report.scores)
    return f"Failed: {failed} of {judged} judged scores" if failed else f"Passed: all {judged} judged scores"


def _groups(report: Report) -> list[dict[str, Any]]:
    """Sections in order of appearance: scores first, then figures."""
    names = list(dict.fromkeys([*(s.group for s in report.scores), *(f.group for f in report.figures)]))
    groups = []
    for i, name in enumerate(names):
        scores = [s for s in report.scores if s.group == name]
        drawn = [(k, f) for k, f in enumerate(report.figures, start=1) if f.group == name]
        groups.append(
            {
                "id": f"group-{i + 1}",
                "title": (name[:1].upper() + name[1:]) or "Figures",
                "rows": [_row(s) for s in scores],
                "counts": {state: sum(s.passed is p for s in scores) for p, state in STATE.items()},
                "axes": any(s.floor is not None or s.interval or _anchors(s) for s in scores),
                "anchors": any(s.floor is not None or _anchors(s) for s in scores),
                "details": [(s.name, _tables(s)) for s in scores if s.details],
                "figures": [figure_parts(f, k) for k, f in drawn],
            }
        )
    return groups


def _row(score: Score) -> dict[str, Any]:
    from markupsafe import Markup

    unit = "" if score.unit in ("1", "") else f" {score.unit}"
    interval = f"{say(score.interval[0])} to {say(score.interval[1])}" if score.interval else ""
    return {
        "key": score.key,
        "name": score.name,
        "group": score.group,
        "state": STATE[score.passed],
        "mark": MARK[score.passed],
        "word": verdict_word(score.passed),
        "value": f"{say(score.value)}{unit if score.value is not None else ''}",
        "interval": interval,
        "n": f"{score.n:,}" if score.n else "–",
        "limit": _limit(score),
        "floor": say(score.floor),
        "bootstrap": say(score.anchors.get("bootstrap")),
        "independent": say(score.anchors.get("independent")),
        "others": {k: say(v) for k, v in score.anchors.items() if k not in ("bootstrap", "independent")},
        "goal": GOAL[score.goal.value],
        "reason": score.reason,
        "axis": Markup(axis_svg(score)),
    }


def _limit(score: Score) -> str:
    if score.limit is None:
        return "–"
    return f"{'≥' if score.goal.value == 'high' else '≤'} {say(score.limit)}"


def _anchors(score: Score) -> bool:
    return any(v is not None for v in score.anchors.values())


def _tables(score: Score) -> list[dict[str, Any]]:
    return [{"title": t, "columns": c, "rows": r} for t, c, r in as_tables(score.details)]


def flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested provenance as lines "a · b" and text."""
    lines: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{before} · {key}" if before else str(key)
        if isinstance(item, Mapping) and item:
            lines += flat(item, name)
        else:
            lines.append((name, item if isinstance(item, str) else say(item, 6)))
    return lines
