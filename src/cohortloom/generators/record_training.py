"""How records are noised for training, and the loss.

Each record of a batch is put into one of two situations:

    opening   the number of visits is not known; of the course only a beginning shows (often nothing, sometimes parts of
              the first visit); the statics, number and span of visits included, are on their way
    course    the number of visits is known; the statics are clean, or on a clock of their own; the visits are on theirs

and some cells of a part that is on its way are given clean: single ones, whole columns, the first visits, parts of the
first visit. So one network draws statics, a course given statics, statics given a course, the rest of a course, and
whatever is missing between what is there, and nothing of what it is given has to be noised.

A part's clock runs through two stages: its tokens are revealed (masked diffusion), then its numbers take shape from
noise (rectified flow), all tokens known. A network that learns p(tokens) p(numbers | tokens) needs no bookkeeping of
half-known cells, and a missing value never gets a number.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cohortloom.diffusion.masked import bound_weight, hide, mask_shares
from cohortloom.diffusion.path import Path
from cohortloom.generators.record_tensors import EDGE, Part, Records
from cohortloom.nets.record_cells import Columns, Shown
from cohortloom.nets.record_denoiser import (
    CLEAN,
    NUMBERS,
    TOKENS,
    Clock,
    Output,
    RecordDenoiser,
    place_features,
)
from cohortloom.nets.tokens import CONT
from cohortloom.training.settings import Training

__all__ = ["Losses", "Noised", "Size", "losses", "show", "size_of"]

NOISIEST = 3.4  # -log(1/sigma) of the start: sigma = 30
OPENING = 0.35  # share of records whose number of visits is not known
ALONE = 0.75  # share of courses whose statics are clean
WHOLE = 0.15  # share of courses shown whole where the statics are on their way
GIVEN = 0.5  # share of records of which some cells are given


@dataclass(frozen=True)
class Size:
    """Of the network, with its training."""

    width: int
    n_layers: int
    units: int
    dropout: float
    training: Training


def size_of(n_subjects: int, n_columns: int) -> Size:
    """Sizes by number of patients.

        patients      width  layers  units  dropout  rate   batch
        below 500     64     2       16     .2       3e-3   32
        up to 3,000   96     3       16     .1       1.5e-3 48
        above         128    4       16     .1       1e-3   64

    Units halve above 60 columns. Steps: as many as show every patient 150 times, between 500 and 12,000.
    """
    small, large = n_subjects < 500, n_subjects > 3_000
    batch = 32 if small else 64 if large else 48
    steps = int(np.clip(150 * n_subjects / batch, 500, 12_000))
    training = Training(
        batch_size=batch, steps=steps, learning_rate=3e-3 if small else 1e-3 if large else 1.5e-3, weight_decay=0.02,
        ema=0.998 if large else 0.995, evaluate_every=int(np.clip(steps / 40, 50, 500)), patience=8,
    )  # fmt: skip
    units = 16 if n_columns <= 60 else 8
    return Size(64 if small else 128 if large else 96, 2 if small else 4 if large else 3, units,
                0.2 if small else 0.1, training)  # fmt: skip


@dataclass(frozen=True)
class Noised:
    """A part on its way: what shows, and what the network should say.

    Args:
        shown, clock: For the network.
        hidden: Cells whose token it should say.
        wanted: Cells whose number it should say.
        x: Clean scores.
    """

    shown: Shown
    clock: Clock
    hidden: Bool[Tensor, "*cell column"]
    wanted: Bool[Tensor, "*cell column"]
    x: Float[Tensor, "*cell column"]


def _wide(record: Tensor, like: Tensor) -> Tensor:
    return record.view(-1, *[1] * (like.ndim - 1))


def scores(columns: Columns, part: Part, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, noise, has a number, number follows from the token): drawn within intervals; repeats share their source's."""
    u = part.left + (part.right - part.left) * torch.rand(part.left.shape, generator=stream)
    x = torch.special.ndtri(u.clamp(EDGE, 1 - EDGE))
    noise = torch.randn(x.shape, generator=stream)
    spike = spiked(columns, part.token)
    x = torch.where(spike, spike_value(columns, part.token), x)
    x = torch.where(part.active, x, noise * 0)
    repeated = part.token == columns.repeats
    has = columns.is_number & ((part.token == CONT) | spike | repeated)
    if part.source is not None and len(columns):
        x, noise, spike = (t.gather(1, part.source) for t in (x, noise, spike))
    return x, noise, has, spike


def spiked(columns: Columns, token: Tensor) -> Tensor:
    return columns.is_number & (token > 0) & (token <= columns.n_spikes)


def spike_value(columns: Columns, token: Tensor) -> Tensor:
    table = columns.spike_scores
    index = token.clamp(max=table.shape[1] - 1)
    return table[torch.arange(len(columns)).expand(token.shape), index]


def show(
    columns: Columns, token: Tensor, x: Tensor, noisy_value: Tensor, has: Tensor, settled: Tensor, known: Tensor,
    hidden: Tensor, clock: Clock,
) -> Shown:  # fmt: skip
    """What the network sees. `noisy_value`: a x + b e of cells whose number is on its way."""
    stage = _wide(clock.stage, token)
    number = has & ~hidden
    clean = number & (known | settled | (stage == CLEAN))
    noisy = number & ~clean & (stage == NUMBERS)
    value = torch.where(clean, x, torch.where(noisy, noisy_value, 0.0))
    return Shown(torch.where(hidden, columns.masks, token), value, clean, noisy)


def noised(columns: Columns, part: Part, known: Tensor, clock: Clock, path: Path, stream: torch.Generator) -> Noised:
    """A part at its clock; cells of `known` stay as they are."""
    x, noise, has, settled = scores(columns, part, stream)
    filler = ~part.active & (_wide(clock.stage, x) != CLEAN) & ~known & (part.source is None)
    x = torch.where(filler, torch.randn(x.shape, generator=stream), x)
    a, b = (_wide(s, x) for s in path.scales(clock.level))
    at_tokens = _wide(clock.stage == TOKENS, x)
    free = columns.free.expand(x.shape) & ~known & at_tokens
    hidden = columns.behind(hide(free, clock.share, stream)) & free
    shown = show(columns, part.token, x, a * x + b * noise, has, settled, known, hidden, clock)
    wanted = shown.noisy & part.active & (part.token == CONT)
    return Noised(shown, clock, hidden & part.active, wanted, x)


def clocks(n: int, stages: Tensor, path: Path, stream: torch.Generator) -> Clock:
    return Clock(stages, mask_shares(n, stream), path.times(n, stream).clamp(-NOISIEST, 6.9))


@dataclass(frozen=True)
class Situation:
    """Which stage each record's parts are at, what is given, and how much of the course there is."""

    stages: tuple[Tensor, Tensor]
    known: tuple[Tensor, Tensor]
    hidden_rows: Tensor
    present: Tensor
    told: Tensor


def situations(
    net: RecordDenoiser, n_last: int, static: Part, series: Part, present: Tensor, begin: Tensor,
    stream: torch.Generator, given: float = GIVEN,
) -> Situation:  # fmt: skip
    """Draw situations. The last `n_last` statics (number of visits, span, ...) belong to the course."""
    n, steps = present.shape
    rand = lambda *shape: torch.rand(*shape, generator=stream)  # noqa: E731
    any_series = present.any(1)
    opening = ((rand(n) < OPENING) | ~any_series) & (begin == 0)
    if not len(net.static):
        opening = torch.zeros(n, dtype=torch.bool)
    alone = (~opening & (rand(n) < ALONE)) | (begin > 0)
    whole = ~opening & ~alone & (rand(n) < WHOLE)
    stage_static = torch.where(alone, CLEAN, _stage(net.static, n, rand))
    stage_series = torch.where(opening | whole, CLEAN, _stage(net.series, n, rand))
    # statics
    tail = torch.arange(len(net.static)) >= len(net.static) - n_last
    some = (rand(n, 1) < given) & (rand(n, len(net.static)) < rand(n, 1)) & ~tail
    all_but = opening[:, None] & (rand(n, 1) < 0.2) & ~tail
    known_static = some | all_but | (tail & ~opening[:, None]) | alone[:, None]
    # series
    length = present.sum(1)
    kind = rand(n)
    first = torch.arange(steps)[None, :, None]
    upto = (rand(n) * (length + 1)).long()[:, None, None]
    cells = rand(*series.token.shape) < rand(n)[:, None, None]
    columns = (rand(n, 1, series.token.shape[2]) < 0.5).expand_as(cells)
    start = (first == 0) & cells
    patterns = [(first < upto).expand_as(cells), cells, columns, start]
    known_series = torch.zeros_like(cells)
    for pattern, low, high in zip(patterns, (0, 0.3, 0.7, 0.85), (0.3, 0.7, 0.85, 1.0)):
        at = (kind >= low * given) & (kind < high * given)
        known_series = torch.where(at[:, None, None], pattern, known_series)
    known_series = known_series | whole[:, None, None]
    # of an opening: nothing, the first visit (or parts of it), or the visits up to some step
    shown = torch.where(rand(n) < 0.5, 0, torch.where(rand(n) < 0.4, 1, upto[:, 0, 0]))
    shown = torch.where(opening, shown, steps)
    partly = opening & (shown == 1) & (rand(n) < 0.6)
    hidden_rows = (partly[:, None, None] & ~cells) & (first == 0)
    known_series = torch.where(opening[:, None, None], ~hidden_rows, known_series)
    present = present & (torch.arange(steps) < shown[:, None])
    known = ~net.static.behind(~known_static), ~net.series.behind(~known_series)
    return Situation((stage_static, stage_series), known, net.series.behind(hidden_rows), present, ~opening)


def _stage(columns: Columns, n: int, rand) -> Tensor:
    """TOKENS or NUMBERS at random, as far as there are such cells."""
    has_tokens, has_numbers = bool(columns.free.any()), bool(columns.numbers)
    share = 0.5 if has_tokens and has_numbers else 0.0 if has_numbers else 1.0
    return torch.where(rand(n) < share, TOKENS, NUMBERS)


@dataclass(frozen=True)
class Losses:
    """Per record: weighted cross-entropy of tokens and squared error of numbers, of statics and series."""

    static_tokens: Float[Tensor, "record"]
    static_numbers: Float[Tensor, "record"]
    series_tokens: Float[Tensor, "record"]
    series_numbers: Float[Tensor, "record"]

    def total(self, counts: tuple[float, float, float, float]) -> Float[Tensor, "record"]:
        """Each divided by the mean number of such cells in a record."""
        return sum(part / max(count, 1.0) for part, count in zip(vars(self).values(), counts))


def losses(
    net: RecordDenoiser, static: Noised, series: Noised, tokens: tuple[Tensor, Tensor], present: Tensor,
    place: Tensor, told: Tensor,
) -> Losses:  # fmt: skip
    """Losses of a batch at its clocks."""
    out = net(static.shown, series.shown, present, place, (static.clock, series.clock), told)
    found = []
    for columns, part, output, token in zip((net.static, net.series), (static, series), out, tokens):
        law = net.log_probs(columns, output, token) if len(columns) else token * 0.0
        hidden = torch.where(part.hidden, -law, 0.0).flatten(1).sum(1) * bound_weight(part.clock.share)
        wrong = (output.number - residual(output, part.x[..., columns.numbers])).square()
        found += [hidden, torch.where(part.wanted[..., columns.numbers], wrong, 0.0).flatten(1).sum(1)]
    return Losses(*found)


def residual(output: Output, x: Tensor) -> Tensor:
    """What the number output should be: the error of the column's own process in units of its spread."""
    return ((x - output.mean) / output.variance.sqrt()).clamp(-8, 8)


def batch(
    net: RecordDenoiser, records: Records, index: Int[Tensor, "record"], n_last: int, path: Path, window: int,
    stream: torch.Generator, given: float = GIVEN,
) -> tuple[Noised, Noised, tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
    """Patients of `index`, each in a random situation: arguments of `losses` after the network."""
    n = len(index)
    length = records.length[index]
    steps = int(length.max().clamp(1, window))
    begin = (torch.rand(n, generator=stream) * ((length - window).clamp(min=0) + 1)).long()
    begin = torch.where(torch.rand(n, generator=stream) < 0.4, 0, begin)
    static = records.statics.take(index)
    series, present = records.window(index, begin, steps)
    s = situations(net, n_last, static, series, present, begin, stream, given)
    clock_static = clocks(n, s.stages[0], path, stream)
    clock_series = clocks(n, s.stages[1], path, stream)
    noised_static = noised(net.static, static, s.known[0], clock_static, path, stream)
    noised_series = noised(net.series, series, s.known[1] | ~series.active, clock_series, path, stream)
    if bool(s.hidden_rows.any()):
        shown = noised_series.shown
        gone = s.hidden_rows
        shown = Shown(
            torch.where(gone & net.series.free, net.series.masks, shown.token), torch.where(gone, 0.0, shown.value),
            shown.clean & ~gone, shown.noisy & ~gone,
        )  # fmt: skip
        noised_series = replace(noised_series, shown=shown)
    there = s.present[..., None]
    noised_series = replace(noised_series, hidden=noised_series.hidden & there, wanted=noised_series.wanted & there)
    place = place_features(begin[:, None] + torch.arange(steps)[None], length, s.told)
    return noised_static, noised_series, (static.token, series.token), s.present, place, s.told


def fit_gaussians(
    net: RecordDenoiser, records: Records, items: np.ndarray, window: int, stream: torch.Generator
) -> None:
    """Fit the Gaussian laws of statics and courses, which carry what is linear; the network starts at them."""
    items = torch.as_tensor(items)
    items = items[torch.randperm(len(items), generator=stream)]
    static = records.statics.take(items)
    x, _, has, _ = scores(net.static, static, stream)
    numbers = net.static.numbers
    net.joint.fit(x[:, numbers].double().numpy(), (has & static.active)[:, numbers].numpy())
    with_course = items[records.length[items] > 0]
    if len(with_course) and net.series.numbers:
        _fit_processes(net, records, with_course[:2000], window, stream)


def _fit_processes(net: RecordDenoiser, records: Records, items: Tensor, window: int, stream: torch.Generator) -> None:
    steps = int(records.length[items].max().clamp(1, window))
    series, present = records.window(items, torch.zeros_like(items), steps)
    x, _, has, _ = scores(net.series, series, stream)
    numbers = net.series.numbers
    seen = (has & series.active & present[..., None])[..., numbers]
    net.process.fit(x[..., numbers].double().numpy(), seen.numpy())
