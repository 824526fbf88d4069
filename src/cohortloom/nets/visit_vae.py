"""A patient's statics and course from one latent vector, a coarser course of latents, and noise that remembers.

    z           ~ prior                                  the patient
    w_1, w_2, . ~ w_s = a w_(s-1) + sqrt(1 - a^2) e      one for every `segment` visits
    statics     ~ law(body(z))                           number of visits and span among them
    gap_t       ~ law(clock(z, statics, w(t), visits and time left)) given the gap before
    visit_t     ~ law(field(z, statics, w(t), time, gap, time left)) given the visit before

w(t) is interpolated between the middles of segments, so segments have no seams. `field` is a function of time, not a
recurrence: all visits of all patients are one flat batch, nothing is padded, a course of 512 visits costs 512 rows, and
drawing needs one pass of the network; only the noise (`nets.row_law`) is drawn visit by visit. Trends and levels of a
patient lie in z, slow wandering in w, what is left is an autoregression of the noise.

With `decomposed` the means of numbers are sums that can be read,

    m_c(t) = level_c + sum_p trend_cp P_p(2 tau - 1) + sum_k season_ck (sin, cos)(2 pi k tau) + rest_c(t)

tau = t / longest, with coefficients from z and statics alone, P_1 .. P_3 Legendre polynomials and k from 2 on (what
comes back only once is no season); rest is what `field` adds. The energy of season and rest costs `REST` per visit, so
that what a level and a trend can say is said by them.

The encoder sums what it reads in each visit over segments and over the course; it may be given a part of the cells
only (`visible`). A second one of the same shape, the guide, learns q(z, w | part) from q(z, w | all) afterwards: it
proposes latents for patients of whom a part is known (fixed values, the beginning of a course, missing cells).

References:
    Kingma, Welling (2014). Auto-encoding variational Bayes. arXiv:1312.6114.
    Desai et al. (2021). TimeVAE. arXiv:2111.08095.
    Zaheer et al. (2017). Deep sets. arXiv:1703.06114.
    Ma et al. (2019). EDDI: partial variational autoencoder. arXiv:1809.11142.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cohortloom.nets.columnar import ColumnShape
from cohortloom.nets.latent_prior import Flow, Mixture, Standard, kl_normal, log_normal
from cohortloom.nets.row_law import Before, Dense, RowCursor, RowLaw

#: Weight of the energy of the rest of a decomposed mean [nat].
REST = 0.1
TREND = 3

__all__ = ["Batch", "Cells", "Latents", "Net", "Posterior", "Segments", "Visible", "VisitVAE"]


@dataclass(frozen=True)
class Net:
    """Sizes.

    Args:
        latent, local: Size of z, and of w (0: none).
        segment: Visits per segment.
        width: Hidden units.
        n_components: Components of the innovations of a number.
        units: Units of a column's own.
        dropout: Of the hidden layers.
        prior: "normal", "mixture" or "flow".
        residual: Autoregression of residuals.
        decomposed: Means are a sum of level, trend, season and rest.
    """

    latent: int
    local: int
    segment: int
    width: int
    n_components: int
    units: int
    dropout: float
    prior: str
    residual: bool = True
    decomposed: bool = False


@dataclass
class Cells:
    """Some rows [row column]; see `RowLaw.log_prob`."""

    token: Tensor
    score: Tensor
    target: Tensor
    hidden: Tensor


@dataclass
class Visible:
    """Cells an encoder may read."""

    static: Tensor
    step: Tensor


@dataclass
class Batch:
    """Some patients; their visits are flat, one patient after the other.

    Args:
        statics, visits: Cells.
        first_gap, gap: Cells of the time to the first and to later visits (one column), None without.
        clock, field: What the gap's and the visit's network know of time [visit feature].
        owner: Patient of each visit, counted within the batch.
        position: 0 for a first visit.
        before: What visits know of those before; `base` is filled in by the network. Rows of first visits are ignored.
        gap_before: The same for gaps.
        last: Row within the batch of the last recorded value, -1 for none [visit column].
        length: Visits of each patient.
    """

    statics: Cells
    visits: Cells | None
    first_gap: Cells | None
    gap: Cells | None
    clock: Tensor
    field: Tensor
    owner: Tensor
    position: Tensor
    before: Before | None
    gap_before: Before | None
    last: Tensor
    length: Tensor


@dataclass
class Segments:
    """Segments of the patients of a batch, flat."""

    of_visit: Tensor  # segment of each visit
    left: Tensor  # w(t) = (1 - part) w[left] + part w[right]
    right: Tensor
    part: Tensor
    owner: Tensor  # patient of each segment
    first: Tensor  # is it a patient's first?

    @classmethod
    def of(cls, length: Tensor, owner: Tensor, position: Tensor, size: int) -> Segments:
        count = torch.div(length + size - 1, size, rounding_mode="floor")
        start = torch.cumsum(count, 0) - count
        at = (position.float() + 0.5) / size - 0.5
        left = at.floor().clamp(min=0).long()
        last = count[owner] - 1
        whose = torch.repeat_interleave(torch.arange(len(length)), count)
        base = start[owner]
        return cls(
            base + torch.div(position, size, rounding_mode="floor"),
            base + torch.minimum(left, last),
            base + torch.minimum(left + 1, last),
            (at - left).clamp(0, 1)[:, None],
            whose,
            torch.arange(len(whose)) == start[whose],
        )


@dataclass
class Latents:
    """z [patient latent] and w [segment local]."""

    z: Tensor
    w: Tensor


@dataclass
class Posterior:
    """Draws of q with what the bound needs.

    Args:
        draw: Latents.
        mean, log_var: Of q(z).
        log_q: Log-density of the draw [patient], z and w together.
        information: KL of z from N(0, I) [patient latent].
        local: KL of w from its prior [patient].
    """

    draw: Latents
    mean: Tensor
    log_var: Tensor
    log_q: Tensor
    information: Tensor
    local: Tensor


class Encoder(nn.Module):
    """q(z, w | cells)."""

    def __init__(self, static_width: int, step_width: int, n_past: int, net: Net) -> None:
        super().__init__()
        h = net.width
        self.row = nn.Sequential(nn.Linear(step_width + n_past, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU())
        self.body = nn.Sequential(
            nn.Linear(static_width + h + 2, h), nn.SiLU(), nn.Dropout(net.dropout), nn.Linear(h, h), nn.SiLU()
        )
        self.to_z = nn.Linear(h, 2 * net.latent)
        if net.local:
            self.to_w = nn.Sequential(nn.Linear(2 * h + net.latent + 1, h), nn.SiLU(), nn.Linear(h, 2 * net.local))
            nn.init.zeros_(self.to_w[-1].weight)
        with torch.no_grad():
            self.to_z.weight.mul_(0.3)
            self.to_z.bias.zero_()

    def forward(
        self, static: Tensor, rows: Tensor, alive: Tensor, owner: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mean and log-variance of z, summary of the patient, what was read in each visit); `alive`: visits that may
        be read [visit] 0 or 1."""
        n = len(static)
        read = self.row(rows) * alive[:, None]
        count = alive.new_zeros(n).index_add(0, owner, alive)
        pooled = read.new_zeros(n, read.shape[1]).index_add(0, owner, read) / count.clamp(min=1)[:, None]
        known = torch.stack([torch.log1p(count) / 3, (count > 0).to(count.dtype)], 1)
        body = self.body(torch.cat([static, pooled, known], 1))
        mean, log_var = self.to_z(body).chunk(2, -1)
        return mean, log_var.clamp(-8, 2), body, read

    def locals(self, z: Tensor, body: Tensor, read: Tensor, alive: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of w [segment local], given z, the summary and what was read in the visits."""
        k = len(segments.owner)
        count = alive.new_zeros(k).index_add(0, segments.of_visit, alive)
        pooled = read.new_zeros(k, read.shape[1]).index_add(0, segments.of_visit, read) / count.clamp(min=1)[:, None]
        inputs = [pooled, body[segments.owner], z[segments.owner], torch.log1p(count)[:, None]]
        mean, log_var = self.to_w(torch.cat(inputs, 1)).chunk(2, -1)
        return mean, log_var.clamp(-8, 1)


def _block(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU())


class VisitVAE(nn.Module):
    """The network of the model above.

    Args:
        shapes: Columns of "statics", "first_gap", "gap" (one column each), "first" and "later"; what is absent is not
            modelled.
        persistence: Start of the autocorrelation of the numbers of "later" and of "gap".
        n_clock, n_field: Features of time.
        n_past: So many of `field`, the first ones, say nothing of what comes later; encoders see only these.
        net: Sizes.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[ColumnShape]],
        persistence: Mapping[str, Sequence[float]],
        n_clock: int,
        n_field: int,
        n_past: int,
        net: Net,
    ) -> None:
        super().__init__()
        self.n_past = n_past
        self.sizes, h = net, net.width
        local = net.local
        self.static_in = Dense(shapes["statics"])
        self.has_visits = "first" in shapes
        self.step_in = Dense(shapes["first"]) if self.has_visits else Dense([])
        widths = self.static_in.width, self.step_in.width
        self.encoder, self.guide = Encoder(*widths, n_past, net), Encoder(*widths, n_past, net)
        self.body = nn.Sequential(nn.Linear(net.latent, h), nn.SiLU())
        self.laws = nn.ModuleDict()
        for name, columns in shapes.items():
            options = {"n_components": net.n_components, "units": net.units, "dropout": net.dropout}
            if name in ("gap", "later"):
                options |= {"before": True, "persistence": persistence[name], "residual": net.residual}
            options["told"] = net.decomposed and name in ("first", "later")
            self.laws[name] = RowLaw(columns, h, **options)
        self.context, self.pace = (nn.Sequential(nn.Linear(net.latent + widths[0], h), nn.SiLU()) for _ in range(2))
        self.clock = _block(h + local + n_clock, h, net.dropout)
        self.field = _block(h + local + n_field, h, net.dropout)
        if net.decomposed and self.has_visits:
            self.course = nn.Linear(h, len(self.step_in.numbers) * (1 + TREND + n_past - 8))
            nn.init.zeros_(self.course.weight)
            nn.init.zeros_(self.course.bias)
        self.slow = nn.Parameter(torch.full((local,), 1.0))
        self.prior: Standard = {"mixture": Mixture, "flow": Flow, "normal": Standard}[net.prior](net.latent)
        self.register_buffer("steps", torch.zeros(()))

    # -- encoding ------------------------------------------------------------------------------------------------

    def segments(self, batch: Batch) -> Segments | None:
        if not self.sizes.local or not len(batch.owner):
            return None
        return Segments.of(batch.length, batch.owner, batch.position, self.sizes.segment)

    def posterior(
        self,
        batch: Batch,
        stream: torch.Generator,
        *,
        visible: Visible | None = None,
        encoder: Encoder | None = None,
        noise: float = 1.0,
    ) -> Posterior:
        """Draw from q(z, w | the cells that are visible)."""
        encoder = encoder or self.encoder
        segments = self.segments(batch)
        inputs = self._inputs(batch, visible, encoder)
        mean, log_var, body, read = encoder(*inputs, batch.owner)
        z = mean + noise * torch.exp(0.5 * log_var) * torch.randn(mean.shape, generator=stream)
        log_q, local, w = log_normal(z, mean, log_var), z.new_zeros(len(z)), z.new_zeros(0, self.sizes.local)
        if segments is not None:
            centre, spread = encoder.locals(z, body, read, inputs[2], segments)
            w = centre + noise * torch.exp(0.5 * spread) * torch.randn(centre.shape, generator=stream)
            log_q = log_q.index_add(0, segments.owner, log_normal(w, centre, spread))
            expected, log_width = self._slow_law(w, segments)
            local = local.index_add(0, segments.owner, kl_normal(centre, spread, expected, log_width).sum(1))
        return Posterior(Latents(z, w), mean, log_var, log_q, kl_normal(mean, log_var), local)

    def _inputs(self, batch: Batch, visible: Visible | None, encoder: Encoder) -> tuple[Tensor, Tensor, Tensor]:
        """Statics, visits, and which visits may be read."""
        seen = visible or Visible(None, None)  # type: ignore[arg-type]
        static = self.static_in(batch.statics.token, batch.statics.score, seen.static)
        rows, alive = batch.field.new_zeros(0, encoder.row[0].in_features), batch.field.new_zeros(0)
        if batch.visits is not None and len(batch.owner):
            dense = self.step_in(batch.visits.token, batch.visits.score, seen.step)
            rows = torch.cat([dense, batch.field[:, : self.n_past]], 1)
            alive = torch.ones(len(rows)) if seen.step is None else seen.step.any(1).float()
        return static, rows, alive

    def _slow_law(self, w: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of w given the segment before."""
        a = torch.sigmoid(self.slow)
        previous = torch.cat([w[:1], w[:-1]]) * (~segments.first[:, None])
        log_var = torch.where(segments.first[:, None], torch.zeros_like(w), torch.log1p(-a.square()).expand_as(w))
        return a * previous, log_var

    def log_prior(self, latents: Latents, segments: Segments | None) -> Tensor:
        """Log-density of latents under the prior that is drawn from [patient]."""
        total = self.prior.log_prob(latents.z)
        if segments is None:
            return total
        return total.index_add(0, segments.owner, log_normal(latents.w, *self._slow_law(latents.w, segments)))

    def draw_slow(self, length: Tensor, stream: torch.Generator) -> Tensor:
        """w of courses of these lengths from the prior."""
        count = torch.div(length + self.sizes.segment - 1, self.sizes.segment, rounding_mode="floor")
        start = torch.cumsum(count, 0) - count
        w = torch.randn(int(count.sum()), self.sizes.local, generator=stream)
        a = torch.sigmoid(self.slow)
        for s in range(1, int(count.max()) if len(count) else 0):
            rows = start[count > s] + s
            w[rows] = a * w[rows - 1] + torch.sqrt(1 - a.square()) * w[rows]
        return w

    # -- decoding ------------------------------------------------------------------------------------------------

    def context_of(self, z: Tensor, statics: Cells, net: str = "field") -> Tensor:
        """What a network knows of the patient [patient width]."""
        context = self.context if net == "field" else self.pace
        return context(torch.cat([z, self.static_in(statics.token, statics.score)], 1))

    def group(self, name: str) -> list[nn.Parameter]:
        """Parameters of "statics" or "gaps" that nothing else uses."""
        nets = {"statics": [self.body, self.laws["statics"]]}
        nets["gaps"] = [self.pace, self.clock, *(self.laws[n] for n in ("first_gap", "gap") if n in self.laws)]
        return [p for net in nets[name] for p in net.parameters()]

    def at(self, net: nn.Module, context: Tensor, w: Tensor, features: Tensor) -> Tensor:
        """What the decoder says of some visits [visit width]; everything is per visit already."""
        return net(torch.cat([context, w, features], 1))

    def state(self, context: Tensor, w: Tensor, features: Tensor) -> Tensor:
        """What the laws of visits are given: `field`, and the told parts of the means where they are decomposed."""
        h = self.at(self.field, context, w, features)
        if not self.sizes.decomposed:
            return h
        return torch.cat([h, sum(self.pieces(context, features).values())], 1)

    def pieces(self, context: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Level, trend and season of the means [visit number]."""
        x, waves = 2 * features[:, 3] - 1, features[:, 8 : self.n_past]
        each = self.course(context).view(len(context), len(self.step_in.numbers), -1)
        powers = torch.stack([x, 1.5 * x**2 - 0.5, 2.5 * x**3 - 1.5 * x], 1) * torch.tensor([3.0, 5.0, 7.0]).sqrt()
        return {
            "level": each[:, :, 0],
            "trend": (each[:, :, 1 : 1 + TREND] * powers[:, None]).sum(2),
            "season": (each[:, :, 1 + TREND :] * waves[:, None]).sum(2),
        }

    def slow_at(self, latents: Latents, segments: Segments | None, n: int) -> Tensor:
        """w(t) of each visit [visit local]."""
        if segments is None:
            return latents.z.new_zeros(n, self.sizes.local)
        return torch.lerp(latents.w[segments.left], latents.w[segments.right], segments.part)

    def log_likelihood(self, batch: Batch, latents: Latents, *, cells: Visible | None = None) -> Tensor:
        """log p(cells | z, w) [patient]; `cells`: those that count, None for all."""
        return torch.stack(list(self.parts(batch, latents, cells).values())).sum(0)

    def parts(
        self,
        batch: Batch,
        latents: Latents,
        cells: Visible | None = None,
        only: Sequence[str] | None = None,
        w: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The same for each law by itself, or for some laws `only`; `w`: w(t) of each visit, if known."""  # fmt: skip
        s, laws = batch.statics, {n: law for n, law in self.laws.items() if only is None or n in only}
        out = {}
        if "statics" in laws:
            each = laws["statics"].log_prob(self.body(latents.z), s.token, s.score, s.target, s.hidden)
            out["statics"] = (each if cells is None else each * cells.static).sum(1)
        if not self.has_visits or not len(batch.owner):
            return out
        counts = None if cells is None else cells.step
        w = self.slow_at(latents, self.segments(batch), len(batch.owner)) if w is None else w
        first, later = (torch.nonzero(found).squeeze(1) for found in (batch.position == 0, batch.position > 0))

        def put(name: str, each: Tensor, rows: Tensor) -> None:
            if counts is not None:  # a gap counts where anything of its visit does
                each = each * (counts[rows] if name in ("first", "later") else counts[rows].any(1, keepdim=True))
            out[name] = each.new_zeros(len(batch.length)).index_add(0, batch.owner[rows], each.sum(1))

        if "first_gap" in laws or "gap" in laws:
            clock = self.at(self.clock, self.context_of(latents.z, s, "clock")[batch.owner], w, batch.clock)
        if "first_gap" in laws:
            put("first_gap", laws["first_gap"].log_prob(clock[first], *_rows(batch.first_gap, first)), first)
        if "gap" in laws and len(later):
            before = _take(batch.gap_before, later)
            before.base = laws["gap"].level(clock)[later - 1] * before.has
            put("gap", laws["gap"].log_prob(clock[later], *_rows(batch.gap, later), before), later)
        if "first" not in laws:
            return out
        h = self.state(self.context_of(latents.z, s)[batch.owner], w, batch.field)
        if self.sizes.decomposed and self.training:
            out["rest"] = -REST * self._energy(h, latents, batch)
        put("first", laws["first"].log_prob(h[first], *_rows(batch.visits, first)), first)
        if "later" in laws and len(later):
            before = _take(batch.before, later)
            before.base = laws["later"].level(h).gather(0, batch.last[later].clamp(min=0)) * before.has
            put("later", laws["later"].log_prob(h[later], *_rows(batch.visits, later), before), later)
        return out

    def run(self, batch: Batch, latents: Latents, free: Tensor, stream: torch.Generator) -> Tensor:
        """Courses of equal length drawn freely, with gradients [patient step free column].

        Tokens stay as they are, and so do all cells but the plain numbers of the `free` columns [column], which are
        recorded at every visit; each follows from what was drawn before, repeats included.
        """
        n, steps = len(batch.length), len(batch.owner) // len(batch.length)
        w = self.slow_at(latents, self.segments(batch), len(batch.owner))
        h = self.state(self.context_of(latents.z, batch.statics)[batch.owner], w, batch.field)
        level = self.laws["later"].level(h)
        token, score = batch.visits.token, batch.visits.score
        first, none = torch.arange(n) * steps, torch.full((n,), -1)
        drawn = []
        for k in range(steps):
            rows, law, before = first + k, self.laws["later" if k else "first"], None
            if k:
                before = _take(batch.before, rows)
                before.base = level.gather(0, batch.last[rows].clamp(min=0)) * before.has
                before.score = torch.where(free, drawn[-1], before.score)
                before.mean = torch.where(free, torch.stack(drawn).mean(0), before.mean)
            cursor, now = RowCursor(law, h[rows], before), []
            for j in range(len(law.columns)):
                now.append(score[rows, j])
                if free[j]:
                    weight, mean, log_sd = cursor.column(j, none)[1]
                    u = torch.rand(n, 1, generator=stream) * weight.exp().sum(1, keepdim=True)
                    at = (weight.exp().cumsum(1) < u).sum(1, keepdim=True).clamp(max=law.k - 1)
                    x = mean + log_sd.exp() * torch.randn(mean.shape, generator=stream)
                    now[j] = torch.where(token[rows, j] == 0, x.gather(1, at)[:, 0], now[j])
                    if k:
                        now[j] = torch.where(token[rows, j] == law.columns[j].repeat, drawn[-1][:, j], now[j])
                cursor.push(j, token[rows, j], now[j])
            drawn.append(torch.stack(now, 1))
        return torch.stack(drawn, 1)[..., free]

    def _energy(self, h: Tensor, latents: Latents, batch: Batch) -> Tensor:
        """Energy of season and rest [patient]."""
        law, n = self.laws["first"], len(self.step_in.numbers)
        bias = law.out.bias[self.step_in.n_tokens : self.step_in.n_tokens + n]
        rest = law.level(h)[:, self.step_in.numbers] - law.split(h)[1] - bias if n else h[:, :0]
        context = self.context_of(latents.z, batch.statics)[batch.owner]
        each = rest.square().sum(1) + self.pieces(context, batch.field)["season"].square().sum(1)
        return each.new_zeros(len(batch.length)).index_add(0, batch.owner, each)

    def log_weight(self, batch: Batch, stream: torch.Generator) -> Tensor:
        """log p(patient, z, w) - log q(z, w | patient) at one draw: its mean exp is the likelihood [patient]."""
        q = self.posterior(batch, stream)
        return self.log_likelihood(batch, q.draw) + self.log_prior(q.draw, self.segments(batch)) - q.log_q


def _rows(cells: Cells, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return cells.token[rows], cells.score[rows], cells.target[rows], cells.hidden[rows]


def _take(before: Before, rows: Tensor) -> Before:
    return Before(*[getattr(before, name)[rows] for name in Before.__dataclass_fields__])
