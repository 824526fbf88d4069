"""`evaluate`: a synthetic cohort against held-out patients.

The suite is a table of measure modules. Each has functions that take the prepared context and return scores or figures;
a new measure is one module and one line in `MEASURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError, nearest
from cohortloom.report import Figure, Report, Score
from cohortloom.schema import Schema

if TYPE_CHECKING:
    from cohortloom.evaluation.likelihood import Scorer

__all__ = ["MEASURES", "evaluate"]

# group -> (modules with `scores(ctx)`, modules with `figures(ctx)`), in the order of the report
MEASURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "marginal": (("marginal", "dates"), ()),
    "missingness": (("missingness",), ()),
    "association": (("association", "never"), ()),
    "temporal": (("temporal",), ()),
    "codes": (("codes",), ()),
    "detection": (("detection",), ("detection",)),
    "utility": (("utility",), ("utility",)),
    "survival": (("survival",), ("survival",)),
    "realism": (("realism", "strata"), ("strata",)),
    "fairness": (("fairness",), ("fairness",)),
    "shift": (("shift",), ("shift",)),
    "likelihood": (("likelihood",), ("likelihood",)),
    "copies": (("copies", "nearness"), ()),
    "signals": (("signals",), ("signals",)),
    "legacy": (("legacy",), ()),
    "scarcity": ((), ()),
}
# measured only when asked for by name
ON_REQUEST = ("legacy",)
STAGES_BESIDE_GROUPS = 6  # the independent anchor, four cohorts, figures


def evaluate(
    synthetic: Cohort,
    *,
    train: Cohort,
    held_out: Cohort,
    seed: int = 0,
    only: Iterable[str] | str | None = None,
    fast: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    scorer: Scorer | None = None,
    shift: str | None = None,
) -> Report:
    """Compare a cohort with held-out real patients.

    Args:
        synthetic: What is judged; any cohort of the same schema, made here or elsewhere.
        train: Real patients it was made from (floor, anchors, copies).
        held_out: Real patients it has not seen.
        seed: Fixes subsamples, draws and judges.
        only: Groups to measure; None: all.
        fast: At most 2,000 patients a side, fewer draws and smaller judges.
        progress: Called at each stage with the stages done, their number and a few words.
        scorer: The generator, or whatever can `score(cohort)`: shows what it memorised.
        shift: Static column "table.column" of sites or periods; default the schema's `site`.

    Returns:
        Scores with floor, anchors and limits, figures, and a verdict in words.

    Raises:
        DataError: a cohort without patients, or of another schema.
        SettingsError: unknown group or `shift` column.
    """
    from cohortloom.evaluation import scarcity
    from cohortloom.evaluation.context import prepare
    from cohortloom.evaluation.figures_core import figures as figures_core
    from cohortloom.evaluation.verdict import not_tested, verdict
    from cohortloom.version import __version__

    groups, site = _groups(only), _site(train.schema, shift)  # wrong use is told before any work
    stages = _Stages(progress, len(groups) + STAGES_BESIDE_GROUPS)
    ctx = prepare(synthetic, train=train, held_out=held_out, seed=seed, fast=fast, tell=stages.begin)
    ctx.tell, ctx.scorer, ctx.site = stages.say, scorer, site
    scores: list[Score] = []
    figures: list[Figure] = []
    for group in groups:
        stages.begin(f"measuring {group}")
        measures, drawings = MEASURES[group]
        for name in measures:
            scores += import_module(f"cohortloom.evaluation.{name}").scores(ctx)
        for name in drawings:
            figures += import_module(f"cohortloom.evaluation.{name}").figures(ctx)
    if "scarcity" in groups:
        figures += scarcity.figures(ctx, scores)
        scores += scarcity.scores(ctx, scores)
    stages.begin("preparing figures")
    figures = [*figures_core(ctx, groups), *figures]
    provenance = {
        "schema": train.schema.name,
        "schema_digest": train.schema.digest,
        "synthetic": synthetic.origin.to_dict(),
        "patients": {
            "synthetic": synthetic.n_subjects,
            "train": train.n_subjects,
            "held_out": held_out.n_subjects,
            "compared": ctx.n,
        },
        "seed": seed,
        "groups": groups,
        "fast": fast,
        "version": __version__,
    }
    title = f"Evaluation of {train.schema.name}"
    return Report(title, tuple(scores), tuple(figures), provenance, verdict(ctx, scores), not_tested(ctx, groups))


class _Stages:
    """Tells progress(stages done, their number, words)."""

    def __init__(self, progress: Callable[[int, int, str], None] | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, -1

    def begin(self, words: str) -> None:
        """A stage begins."""
        self.done += 1
        self.say(words)

    def say(self, words: str) -> None:
        """Words within a stage."""
        if self.progress:
            self.progress(self.done, self.total, words)


def _groups(only: Iterable[str] | str | None) -> list[str]:
    if only is None:
        return [g for g in MEASURES if g not in ON_REQUEST]
    wanted = [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in MEASURES:
            hint = nearest(name, MEASURES)
            raise SettingsError(f'evaluate: there is no group "{name}"; the groups are {", ".join(MEASURES)}.{hint}')
    return [g for g in MEASURES if g in wanted]


def _site(schema: Schema, shift: str | None) -> str | None:
    if shift is None:
        return schema.site
    statics = [f"{t}.{c}" for t, table in schema.statics.items() for c in table.columns]
    if shift not in statics:
        hint = nearest(shift, statics)
        raise SettingsError(f'evaluate: shift = "{shift}" is no static column.{hint}')
    return shift
