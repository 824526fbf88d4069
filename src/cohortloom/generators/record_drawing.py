"""Drawing records with a denoiser: statics, then the course, either part given whatever is there.

Both parts go the same two stages: tokens are revealed in `steps` passes, then numbers follow the flow in `steps` steps
of DPM-Solver++(2M). Cells that are given are clean from the start and never change.

A course longer than the window is drawn window by window; the last quarter of one window is given to the next.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cohortloom.diffusion.masked import reveal_times, unmask
from cohortloom.diffusion.path import Path
from cohortloom.diffusion.sampler import SAMPLERS, grid
from cohortloom.generators.record_training import NOISIEST, show, spike_value, spiked
from cohortloom.nets.record_cells import Columns, Shown
from cohortloom.nets.record_denoiser import CLEAN, NUMBERS, TOKENS, Clock, Output, RecordDenoiser, place_features
from cohortloom.nets.tokens import CONT

__all__ = ["Cells", "Draw", "sources"]

QUIET = 9.0  # level of a part that isn't at its numbers
LIMIT = 3.6  # largest score


@dataclass
class Cells:
    """Cells of a part, given or drawn.

    Args:
        token, x: Tokens and scores.
        known: Cells that are given.
        never: A token that must not be drawn there, -1 for none.
    """

    token: Int[Tensor, "*cell column"]
    x: Float[Tensor, "*cell column"]
    known: Bool[Tensor, "*cell column"]
    never: Int[Tensor, "*cell column"]

    @classmethod
    def blank(cls, columns: Columns, *lead: int) -> "Cells":
        """Nothing is given."""
        token = columns.only.expand(*lead, len(columns)).clone()
        nothing = torch.zeros(token.shape)
        return cls(token, nothing, nothing.bool(), torch.full(token.shape, -1))

    def take(self, index: Tensor) -> "Cells":
        return Cells(self.token[index], self.x[index], self.known[index], self.never[index])

    def steps(self, begin: int, end: int) -> "Cells":
        return Cells(*[part[:, begin:end] for part in vars(self).values()])


def sources(columns: Columns, token: Int[Tensor, "record step column"]) -> Int[Tensor, "record step column"]:
    """Step whose value a cell holds: its own, or for REPEAT that of the last recorded one."""
    steps = token.shape[1]
    step = torch.arange(steps)[None, :, None].expand(token.shape)
    repeated = token == columns.repeats
    fresh = columns.is_number & ~repeated & (token <= columns.n_spikes)
    last = torch.where(fresh, step, -1).cummax(1).values if steps else step
    return torch.where(repeated & (last >= 0), last, step)


@dataclass
class Draw:
    """One network, one stream.

    Args:
        steps: Passes of each stage.
        window: Longest course drawn at once [visits].
        n_last: Statics at the end that belong to the course (number of visits, span, ...).
    """

    net: RecordDenoiser
    path: Path
    stream: torch.Generator
    steps: int
    window: int
    n_last: int
    sampler: str = "dpm2m"

    # --- statics ---

    def statics(
        self, cells: Cells, series: Cells, present: Bool[Tensor, "record step"], length: Int[Tensor, "record"],
        told: bool, begin: int = 0,
    ) -> Cells:  # fmt: skip
        """Draw the statics that are not given, given those that are and what shows of the course.

        Args:
            series: Beginning of the course (the whole of it if `told`); unknown cells stay hidden.
            length: Number of visits, used if `told`.
            begin: Place of the first visit that shows.
        """
        static, net = self.net.static, self.net
        n = len(cells.token)
        if not len(static) or bool(cells.known.all()):
            return cells
        if not present.any():
            series, present = series.steps(0, 0), present[:, :0]
        shown = self._still(series, present)
        tell = torch.full((n,), told)
        place = place_features(begin + torch.arange(present.shape[1]).expand(n, -1), length, tell)
        hidden_share = ((~series.known & net.series.free) & present[..., None]).any() and told
        other = self._clock(n, TOKENS if hidden_share else CLEAN, share=1.0)

        def outputs(part: Shown, clock: Clock, rows: Tensor, stage: int) -> Output:
            clocks = clock, _rows(other, rows)
            return net(part, _rows(shown, rows), present[rows], place[rows], clocks, tell[rows], 0, stage)[0]

        return self._stages(static, cells, outputs)

    # --- series ---

    def series(self, statics: Cells, cells: Cells, length: Int[Tensor, "record"]) -> Cells:
        """Draw the cells of the course that are not given; `length` visits each, window by window."""
        steps = cells.token.shape[1]
        out = Cells(cells.token.clone(), cells.x.clone(), cells.known.clone(), cells.never)
        begin = 0
        while True:
            end = min(begin + self.window, steps)
            alive = torch.nonzero(length > begin)[:, 0] if begin else torch.arange(len(length))
            part = out.take(alive).steps(begin, end)
            drawn = self._window(statics.take(alive), part, length[alive], begin)
            out.token[alive, begin:end], out.x[alive, begin:end] = drawn.token, drawn.x
            out.known[alive, begin:end] = True
            if end >= steps:
                return out
            begin = end - self.window // 4

    def _window(self, statics: Cells, cells: Cells, length: Tensor, begin: int) -> Cells:
        net = self.net
        n, steps, _ = cells.token.shape
        if not len(net.series) or not steps:
            return cells
        index = begin + torch.arange(steps).expand(n, -1)
        present = index < length[:, None]
        tell = torch.ones(n, dtype=torch.bool)
        place = place_features(index, length, tell)
        shown = self._still(statics, None)
        other = self._clock(n, CLEAN)

        def outputs(part: Shown, clock: Clock, rows: Tensor, stage: int) -> Output:
            clocks = _rows(other, rows), clock
            return net(_rows(shown, rows), part, present[rows], place[rows], clocks, tell[rows], 1, stage)[1]

        return self._stages(net.series, cells, outputs, present)

    # --- both ---

    def _clock(self, n: int, stage: int, *, share: float = 0.0, level: Tensor | None = None) -> Clock:
        level = torch.full((n,), QUIET) if level is None else level
        return Clock(torch.full((n,), stage), torch.full((n,), share), level)

    def _still(self, cells: Cells, present: Tensor | None) -> Shown:
        """A part that stays as it is: what is given shows clean, the rest is hidden."""
        columns = self.net.static if present is None else self.net.series
        hidden = ~cells.known & columns.free
        token = torch.where(hidden, columns.masks, cells.token)
        number = cells.known & has_number(columns, cells.token)
        return Shown(token, torch.where(number, cells.x, 0.0), number, torch.zeros_like(number))

    def _stages(self, columns: Columns, cells: Cells, outputs, present: Tensor | None = None) -> Cells:
        """Tokens, then numbers."""
        n = len(cells.token)
        there = torch.ones_like(cells.known) if present is None else present[..., None].expand(cells.known.shape)
        hidden = columns.free & ~cells.known & there
        token = torch.where(cells.known, cells.token, columns.only)

        def draw(token: Tensor, hidden: Tensor, now: Tensor, share: float) -> Tensor:
            rows, out = now.flatten(1).any(1).nonzero()[:, 0], token.clone()
            part, now, hidden = replace(cells.take(rows), token=token[rows]), now[rows], hidden[rows]
            has = has_number(columns, part.token)
            x, settled, _ = self._settled(columns, part, present is not None)
            clock = self._clock(len(rows), TOKENS, share=share)
            shown = show(columns, part.token, x, x, has, settled, part.known, hidden, clock)
            never = self._never(columns, part.token, hidden, part.never)
            drawn = self.net.draw_tokens(columns, outputs(shown, clock, rows, TOKENS), now, self.stream, never)
            told = torch.where(now, drawn, torch.where(hidden, columns.masks, part.token))
            out[rows] = torch.where(columns.shut(told), columns.masks, drawn)
            return out

        if hidden.any():
            time = torch.zeros(hidden.shape)
            shape = (n, hidden.shape[1] if hidden.ndim == 3 else 1, int(columns.free.sum()))
            time[..., columns.free] = reveal_times(shape, self.stream).view(*hidden.shape[:-1], -1)
            time = columns.after_gates(torch.where(hidden, time, 0.0))
            # statics are few and cheap: one by one; a course as the setting says, twice as many where rows are wide
            wide = max(self.steps, min(shape[2], 2 * self.steps))
            passes = shape[2] if hidden.ndim == 2 else min(wide, shape[1] * shape[2])
            token = unmask(draw, token, hidden, time, passes)
        if present is not None:
            token = _without_orphans(columns, token)
        return self._numbers(columns, replace(cells, token=token), outputs, there, present is not None)

    def _settled(self, columns: Columns, cells: Cells, in_time: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """(scores as far as they follow from tokens, which do, source of each cell)."""
        settled = spiked(columns, cells.token) & ~cells.known
        x = torch.where(settled, spike_value(columns, cells.token), cells.x)
        if not in_time:
            return x, settled, None
        source = sources(columns, cells.token)
        follows = (cells.token == columns.repeats) & ~cells.known
        x = torch.where(follows, x.gather(1, source), x)
        return x, settled | (follows & (settled | cells.known).gather(1, source)), source

    def _never(self, columns: Columns, token: Tensor, hidden: Tensor, never: Tensor) -> Tensor:
        """REPEAT can't be drawn where nothing was, or may yet be, recorded before."""
        if token.ndim == 2:
            return never[..., None]
        recorded = (columns.is_number & (token <= columns.n_spikes)) | hidden
        before = recorded.int().cumsum(1) - recorded.int()
        repeat = torch.where((before == 0) & (columns.repeats >= 0), columns.repeats, -1)
        return torch.stack([never, repeat], -1)

    def _numbers(self, columns: Columns, cells: Cells, outputs, there: Tensor, in_time: bool) -> Cells:
        free = (cells.token == CONT) & columns.is_number & ~cells.known & there
        rows, everyone = free.flatten(1).any(1).nonzero()[:, 0], cells
        out, settled, source = self._settled(columns, everyone, in_time)
        if not len(rows):
            return replace(everyone, x=out)
        cells, free, x, settled = everyone.take(rows), free[rows], out[rows], settled[rows]
        source = None if source is None else source[rows]
        token, known, numbers = cells.token, cells.known, columns.numbers
        has = has_number(columns, token)
        follows = (token == columns.repeats) & ~known
        none = torch.zeros_like(known)

        def shared(values: Tensor) -> Tensor:
            return values if source is None else torch.where(follows, values.gather(1, source), values)

        def denoise(y: Tensor, sigma: Tensor) -> Tensor:
            level = -sigma.log()
            wide = level.view(-1, *[1] * (y.ndim - 1))
            z = self.path.scales(wide)[0] * y
            clock = self._clock(len(rows), NUMBERS, level=level.clamp(-6.9, 6.9))
            shown = show(columns, token, x, z, has, settled, known, none, clock)
            clean = torch.zeros_like(y)
            clean[..., numbers] = outputs(shown, clock, rows, NUMBERS).clean
            return shared(torch.where(free, clean, x))

        levels = grid(self.steps, high=math.exp(NOISIEST))
        start = shared(levels[0] * torch.randn(x.shape, generator=self.stream))
        drawn = SAMPLERS[self.sampler](denoise, start, levels).clamp(-LIMIT, LIMIT)
        out[rows] = shared(torch.where(free, drawn, x))
        return replace(everyone, x=out)


def _rows(part: Any, rows: Tensor) -> Any:
    """The same dataclass of tensors for some records."""
    return type(part)(*[value[rows] for value in vars(part).values()])


def has_number(columns: Columns, token: Tensor) -> Tensor:
    """Cells that hold a number."""
    return columns.is_number & ((token <= columns.n_spikes) | (token == columns.repeats))


def _without_orphans(columns: Columns, token: Tensor) -> Tensor:
    """A REPEAT before anything was recorded becomes a number of its own."""
    source = sources(columns, token)
    step = torch.arange(token.shape[1])[None, :, None]
    orphan = (token == columns.repeats) & (source == step)
    return torch.where(orphan, CONT, token)
