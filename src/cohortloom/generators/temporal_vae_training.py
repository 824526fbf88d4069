"""Sizes, phases and the end of training of `temporal-vae`.

    patients     hidden  z   w   units  dropout  patients a batch  passes           patience  rate
    below 500    64      8   2   8      .2       32 .. 125         300              25        3e-3
    up to 3,000  96      12  4   16     .1       128               120              12        2e-3
    above        128     16  4   16     .05      256               400,000 / n, 20+ 8         2e-3

The prior is a mixture below 1,000 patients and a flow from there on. A batch holds
no more than about 768 visits (3,072 above 3,000 patients).
Courses of at most 4 visits have no w; else a segment is a sixteenth of the longest course, but at least 4 visits.

Phases:

    vae             the bound, the weight of KL rising over the first fifth of the steps (300 at most)
    statics, gaps   the laws of statics and of gaps again, latents from q as it is, each stopped by itself: visits have
                    most cells, overfit first, and would stop the rest before it has learned anything sharp
    prior           the flow on draws of the posteriors (a mixture is fitted in closed form at the end)
    guide           q(z, w | part of the cells) learns from q(z, w | all), on parts as they occur: some statics; some
                    statics and cells of the first visit; the beginning of a course; holes anywhere
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cohortloom.errors import SettingsError
from cohortloom.generators.temporal_vae_data import Courses, Frame
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.latent_prior import Flow, Mixture, kl_normal
from cohortloom.nets.spectra import SHORTEST, spectral_score
from cohortloom.nets.tokens import CONT
from cohortloom.nets.visit_vae import Batch, Net, Posterior, Visible, VisitVAE
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, Training, hold_out

if TYPE_CHECKING:
    from cohortloom.generators.temporal_vae import TemporalVAE

__all__ = ["hide_some", "net_of", "phases", "settle", "spectral_cost"]

FLOW_FROM = 1_000
VISITS_PER_BATCH = 768
SEGMENTS = 16
SPECTRA_EVERY, SPECTRA_OF = 8, 32  # steps between two looks at spectra, patients looked at
COLLAPSED = 0.01  # nats: a latent dimension below this carries nothing


def net_of(settings: TemporalVAE, shape: Shape) -> Net:
    """The table of the module docstring, with what the settings say otherwise."""
    n, longest = shape.n_subjects, int(shape.facts["frame"]["scale"]["steps"])
    size = (64, 8, 2, 8, 0.2) if n < 500 else (96, 12, 4, 16, 0.1) if n <= 3_000 else (128, 16, 4, 16, 0.05)
    width, latent, local, units, dropout = size
    local = (local if longest > 4 else 0) if settings.local_size is None else settings.local_size
    latent, prior = settings.latent_size or latent, settings.prior
    if prior == "auto":
        prior = "flow" if n >= FLOW_FROM else "mixture"
    return Net(
        latent, local, max(4, -(-longest // SEGMENTS)), settings.width or width, settings.n_components, units, dropout,
        prior, settings.residual, settings.decomposed,
    )  # fmt: skip


def training_of(asked: Training, n: int, mean_length: float) -> Training:
    batch = 256 if n > 3_000 else 128 if n >= 500 else max(32, min(128, n // 4))
    visits = VISITS_PER_BATCH if n <= 3_000 else 4 * VISITS_PER_BATCH
    batch = max(8, min(batch, int(visits / max(mean_length, 1.0)), n))
    epochs = 300.0 if n < 500 else 120.0 if n <= 3_000 else max(20.0, 400_000 / n)
    recipe = Training(
        batch_size=batch, epochs=epochs, patience=25 if n < 500 else 12 if n <= 3_000 else 8,
        learning_rate=3e-3 if n < 500 else 2e-3, weight_decay=0.05 if n < 500 else 0.01, ema=0.99,
    )  # fmt: skip
    return asked.over(recipe)


def phases(settings: TemporalVAE, net: VisitVAE, courses: Courses, shape: Shape, rng: Rng) -> list[Phase]:
    train, held = hold_out(shape.n_subjects, settings.training.validation, rng)
    training = training_of(settings.training, len(train), shape.facts["mean_length"])
    _start(net, courses, torch.from_numpy(train))
    scale = 1.0 / (1.0 + shape.facts["mean_length"])
    net.n_told = Frame.from_json(shape.facts["frame"]).n_told
    warm = max(1.0, min(0.2 * training.resolved(len(train)).steps, 300.0))

    free = _on_a_grid(net, courses) if settings.spectral else None

    def bound(index: Tensor, stream: torch.Generator) -> tuple[Tensor, Posterior]:
        batch = courses.batch(index, stream)
        q = net.posterior(batch, stream)
        return net.log_likelihood(batch, q.draw), q

    def loss(index: Tensor, stream: torch.Generator) -> Tensor:
        evidence, q = bound(index, stream)
        weight = settings.beta * float(torch.clamp((net.steps + 1) / warm, max=1.0))
        net.steps += 1
        cost = q.information.mean(0).clamp(min=settings.free_nats).sum() + q.local.mean()
        total = scale * (weight * cost - evidence.mean())
        if free is None or int(net.steps) % SPECTRA_EVERY:
            return total
        spectra = spectral_cost(net, courses, index[:SPECTRA_OF], free, stream)
        return total + SPECTRA_EVERY * settings.spectral * spectra

    def score(index: Tensor, stream: torch.Generator) -> Tensor:
        evidence, q = bound(index, stream)
        return scale * (settings.beta * (q.information.sum(1) + q.local) - evidence).mean()

    def prior_loss(index: Tensor, stream: torch.Generator) -> Tensor:
        with torch.no_grad():
            z = net.posterior(courses.batch(index, stream), stream).draw.z
        return -net.prior.log_prob(z).mean()

    def guide_loss(index: Tensor, stream: torch.Generator) -> Tensor:
        return guide_cost(net, courses.batch(index, stream), stream)

    main = [p for name, p in net.named_parameters() if not name.startswith(("prior.", "guide."))]
    second = replace(training, epochs=None, steps=max(50, (training.resolved(len(train)).steps or 1) // 3), patience=12)
    if settings.training.steps is not None:
        second = replace(second, steps=settings.training.steps)
    found = [Phase("vae", net, train, [Objective("evidence", main, loss)], held, score, training, 8.0)]
    for name, of in (("statics", ("statics",)), ("gaps", ("first_gap", "gap"))):
        if name == "statics" or any(part in net.laws for part in of):
            one = Objective(name, net.group(name), part_loss(net, courses, of))
            found.append(Phase(name, net, train, [one], held, None, second, 1.0))
    if isinstance(net.prior, Flow):
        one = Objective("flow", net.prior.parameters(), prior_loss)
        found.append(Phase("prior", net, train, [one], held, prior_loss, second, 1.0))
    one = Objective("guide", net.guide.parameters(), guide_loss)
    found.append(Phase("guide", net, train, [one], held, guide_loss, second, 2.0))
    return found


def _on_a_grid(net: VisitVAE, courses: Courses) -> Tensor:
    """Columns whose spectra can be compared [column]; an error where there are none."""
    found, length = torch.zeros(0, dtype=torch.bool), courses.length
    if courses.visits is not None and "gap" not in net.laws and bool((length == length[0]).all()):
        found = torch.from_numpy(courses.number) & courses.recorded.all(0)
    if not found.any() or length[0] < SHORTEST:
        raise SettingsError(
            f"temporal-vae: spectral needs courses of one length (at least {SHORTEST} visits) at equal gaps, with a "
            "number that is recorded at every visit. Leave it at 0."
        )
    return found


def spectral_cost(net: VisitVAE, courses: Courses, index: Tensor, free: Tensor, stream: torch.Generator) -> Tensor:
    """Mean score of the spectra of two free courses of each patient, drawn from q."""
    learning = net.training
    net.eval()  # what dropout hides would pass for noise
    batch = courses.batch(index.repeat(2), stream)
    drawn = net.run(batch, net.posterior(batch, stream).draw, free, stream)
    net.train(learning)
    real = torch.where(batch.visits.token == CONT, batch.visits.target, batch.visits.score)
    real = real.view(2 * len(index), -1, len(free))[: len(index), :, free]
    return spectral_score(real, *drawn.chunk(2)).mean()


def _start(net: VisitVAE, courses: Courses, train: Tensor) -> None:
    """Start the laws at tables and regressions of the training patients."""
    s = courses.statics
    net.laws["statics"].start_within(s.token[train], s.score[train])
    if courses.visits is None:
        return
    mine = torch.zeros(len(courses.length), dtype=torch.bool)
    mine[train] = True
    mine = mine[torch.repeat_interleave(torch.arange(len(mine)), courses.length)]
    v = courses.visits
    first = torch.nonzero(mine & (courses.position == 0)).squeeze(1)
    net.laws["first"].start_within(v.token[first], v.score[first])
    later = torch.nonzero(mine & (courses.position > 0)).squeeze(1)
    if "later" in net.laws and len(later):
        before = courses.before(later)
        net.laws["later"].start(v.token[later], before.token)
        net.laws["later"].start_within(v.token[later], v.score[later], before)


def part_loss(net: VisitVAE, courses: Courses, laws: tuple[str, ...]):
    """- log p of some laws, latents from q as it is."""

    def loss(index: Tensor, stream: torch.Generator) -> Tensor:
        batch = courses.batch(index, stream)
        with torch.no_grad():
            latents = net.posterior(batch, stream).draw
        parts = net.parts(batch, latents, only=laws)
        return -sum(parts[name].mean() for name in laws if name in parts)

    return loss


def guide_cost(net: VisitVAE, batch: Batch, stream: torch.Generator) -> Tensor:
    """KL(q(z, w | all) || q(z, w | part)) up to a constant, for a random part of each patient."""
    with torch.no_grad():
        whole = net.posterior(batch, stream)
    part = hide_some(batch, stream, net)
    segments = net.segments(batch)
    static, rows, alive = net._inputs(batch, part, net.guide)
    mean, log_var, body, read = net.guide(static, rows, alive, batch.owner)
    cost = kl_normal(whole.mean, whole.log_var, mean, log_var).sum(1).mean()
    if segments is None:
        return cost
    centre, spread = net.guide.locals(whole.draw.z, body, read, alive, segments)
    apart = 0.5 * ((whole.draw.w - centre) ** 2 * torch.exp(-spread) + spread)
    return cost + apart.sum() / max(len(batch.length), 1)


def hide_some(batch: Batch, stream: torch.Generator, net: VisitVAE) -> Visible:
    """A random part of every patient: statics, statics and first visit, beginning, or holes."""
    n, c = batch.statics.token.shape
    kind = torch.rand(n, generator=stream)
    rate = torch.rand(n, 1, generator=stream)
    static = torch.rand(n, c, generator=stream) < rate
    whole, holes = (kind >= 0.55) & (kind < 0.8), kind >= 0.8
    told = torch.arange(c) < net.n_told
    static = torch.where(whole[:, None], told, static)
    some = torch.rand(n, c, generator=stream) > 0.5 * rate
    static = torch.where(holes[:, None], some, static)
    if batch.visits is None:
        return Visible(static, torch.zeros(0, 0, dtype=torch.bool))
    shape = batch.visits.token.shape
    cells = torch.rand(shape, generator=stream)
    owner = batch.owner
    upto = torch.rand(n, generator=stream) * (batch.length + 1)
    first = ((kind >= 0.35) & (kind < 0.55))[owner] & (batch.position == 0)
    step = first[:, None] & (cells < rate[owner])
    step |= (whole[owner] & (batch.position < upto[owner].floor()))[:, None]
    step |= holes[owner][:, None] & (cells > 0.5 * rate[owner])
    return Visible(static, step)


@torch.no_grad()
def settle(net: VisitVAE, courses: Courses, rng: Rng) -> dict[str, Any]:
    """Fit the mixture prior on the posteriors of the training patients, and say what the latents carry."""
    means, spreads, local = [], [], 0.0
    stream = rng.child("posterior").torch
    n = len(courses.length)
    for index in torch.arange(n).split(512):
        q = net.posterior(courses.batch(index, stream), stream)
        means.append(q.mean)
        spreads.append(q.log_var)
        local += float(q.local.sum())
    mean, log_var = torch.cat(means), torch.cat(spreads)
    nats = kl_normal(mean, log_var).mean(0)
    facts: dict[str, Any] = {
        "nats": round(float(nats.sum()), 3),
        "active": int((nats > COLLAPSED).sum()),
        "of": len(nats),
        "local_nats": round(local / max(n, 1), 3),
    }
    if net.sizes.decomposed and courses.visits is not None:
        facts["shares"] = _shares(net, courses, stream)
    facts["collapsed"] = facts["active"] == 0
    if isinstance(net.prior, Mixture):
        facts["components"] = net.prior.fit(mean.double().numpy(), log_var.double().numpy(), rng.child("mixture").numpy)
    return facts


def _shares(net: VisitVAE, courses: Courses, stream: torch.Generator) -> dict[str, float]:
    """Share of the variance of the means, over visits and numbers, of level, trend, season and rest."""
    total: dict[str, float] = {}
    for index in torch.arange(len(courses.length)).split(512):
        batch = courses.batch(index, stream)
        if not len(batch.owner):
            continue
        q = net.posterior(batch, stream)
        context = net.context_of(q.draw.z, batch.statics)[batch.owner]
        w = net.slow_at(q.draw, net.segments(batch), len(batch.owner))
        pieces = net.pieces(context, batch.field)
        whole = net.laws["first"].level(net.state(context, w, batch.field))[:, net.step_in.numbers]
        pieces["rest"] = whole - sum(pieces.values())
        for name, piece in pieces.items():
            total[name] = total.get(name, 0.0) + float(piece.var(0, correction=0).sum()) * len(piece)
    norm = max(sum(total.values()), 1e-12)
    return {name: round(value / norm, 3) for name, value in total.items()}
