"""Sequences of events (sharp waves and bursts of an EEG), one record at a time: a marked point process.

An LSTM over the events so far, told of the record, gives

    p(gap to the next event)     mixture of Gaussians in log(gap + .05 s); no event before the end has the chance that
                                 the gap is longer than what is left, so records without any count as well
    p(burst | gap)               which kind it is
    p(marks | gap, kind)         mixture of Gaussians with diagonal covariances

Rate, regularity (discharges three times a second, lonely spindles), clusters, and a form that a record keeps are all
laws of this kind.

References:
    Shchur, Bilos, Günnemann (2020). Intensity-free learning of temporal point processes. arXiv:1909.12127.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["EventNet", "log_gap"]

LIMIT, OFFSET, PARTS, MOST = 6.0, 0.05, 4, 2000
#: Least log deviation of a part [gap, marks]; chance that a fact of a record, and a unit, is hidden in training.
FINEST, HIDDEN = (-2.5, -1.5), (0.5, 0.1)
#: Share of events, in the loss, that follow no law (normal, twice as wide as all): one stray event must not decide.
STRAY = 0.03


def log_gap(seconds: Tensor) -> Tensor:
    """What gaps are counted in."""
    return (seconds.clamp(min=0) + OFFSET).log()


class EventNet(nn.Module):
    """p(events | condition) over a record's length.

    Args:
        n_condition: Size of the condition vector.
        n_marks: Marks of a sharp wave and of a burst.
        n_facts: The last of the condition, which come from the record itself: its events follow from them more closely
            in training than they would from drawn ones, so half are hidden at a time.
        width: Size of the LSTM.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, n_condition: int, n_marks: tuple[int, int], *, n_facts: int = 0, width: int = 32) -> None:
        super().__init__()
        self.n_marks, self.n_facts = n_marks, n_facts
        self.condition = nn.Linear(n_condition, width)
        self.lstm = nn.LSTM(width + 3 + sum(n_marks), width, batch_first=True)
        self.hide_told, self.hide_unit = (nn.Dropout(p) for p in HIDDEN)
        self.gap = nn.Linear(2 * width, 3 * PARTS)
        self.kind = nn.Linear(2 * width + 1, 1)
        self.marks = nn.ModuleList(nn.Linear(2 * width + 1, PARTS * (1 + 2 * n)) for n in n_marks)
        self.register_buffer("middle", torch.zeros(1 + sum(n_marks)))
        self.register_buffer("spread", torch.ones(1 + sum(n_marks)))
        with torch.no_grad():
            self.gap.bias[PARTS : 2 * PARTS] = torch.linspace(-2, 2, PARTS)
            for head, n in zip(self.marks, n_marks):
                head.bias[PARTS : PARTS + PARTS * n] = torch.randn(
                    PARTS * n, generator=torch.Generator().manual_seed(0)
                )

    def measure(
        self, gap: Float[Tensor, "record event"], marks: Float[Tensor, "record event mark"],
        burst: Bool[Tensor, "record event"], real: Bool[Tensor, "record event"],
    ) -> None:  # fmt: skip
        """Keep mean and spread of log gaps and of each kind's marks."""
        own = [log_gap(gap)[real]]
        for which, part in zip((~burst, burst), marks.split(list(self.n_marks), dim=2)):
            own += list(part[real & which].T)
        if burst[real].all() or not burst[real].any():  # what is only trained not to be will be now and then
            with torch.no_grad():
                self.kind.weight.zero_()
                self.kind.bias.fill_(20.0 if burst[real].any() else -20.0)
        for k, values in enumerate(own):
            if len(values) > 1:
                self.middle[k], self.spread[k] = values.mean(), values.std().clamp(min=0.05)

    def loss(
        self,
        gap: Float[Tensor, "record event"],
        marks: Float[Tensor, "record event mark"],
        burst: Bool[Tensor, "record event"],
        real: Bool[Tensor, "record event"],
        left: Float[Tensor, "record"],
        condition: Float[Tensor, "record condition"],
    ) -> Tensor:
        """Mean negative log-likelihood of a record.

        Args:
            gap: Time from the event before, or from the record's start [s].
            marks: Those of sharp waves, then those of bursts.
            burst, real: Which events are bursts, and which there are.
            left: Time from the last event (or the start) to the end [s].
            condition: What is told of the record.
        """
        u, v = self._scaled(gap, marks)
        v = v * torch.cat([(~burst)[..., None].expand(-1, -1, self.n_marks[0]),
                           burst[..., None].expand(-1, -1, self.n_marks[1])], dim=2)  # fmt: skip
        past = torch.cat([u[..., None], burst[..., None].float(), torch.ones_like(u)[..., None], v], dim=2)
        h, _ = self._run(nn.functional.pad(past, (0, 0, 1, 0)), condition, None)
        last = h.gather(1, real.sum(dim=1)[:, None, None].expand(-1, 1, h.shape[2]))[:, 0]
        h, beside = h[:, :-1], torch.cat([h[:, :-1], u[..., None]], dim=2)
        found = _density(self.gap(h), u[..., None], 1)
        found = found - nn.functional.binary_cross_entropy_with_logits(
            self.kind(beside)[..., 0].clamp(-5, 5), burst.float(), reduction="none"
        )
        for head, which, part in zip(self.marks, (~burst, burst), v.split(list(self.n_marks), dim=2)):
            found = found + _density(head(beside), part, part.shape[2]) * which
        weight, mean, log_sd = (p[..., 0] for p in _mixture(self.gap(last), 1))
        far = ((log_gap(left) - self.middle[0]) / self.spread[0])[:, None]
        none = torch.logsumexp(weight + torch.special.log_ndtr((mean - far) * (-log_sd).exp()), dim=1)
        none = torch.logaddexp(none + math.log(1 - STRAY), none.new_tensor(math.log(STRAY / 2)))
        return -((found * real).sum(dim=1) + none).mean()

    def draw(
        self, condition: Float[Tensor, "record condition"], length: Float[Tensor, "record"], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(time [s], marks, burst, real) of records so long [s]."""
        n = len(condition)
        past, state, now = torch.zeros(n, 1, 3 + sum(self.n_marks)), None, torch.zeros(n)
        found: list[tuple[Tensor, ...]] = []
        while len(found) < MOST:
            h, state = self._run(past, condition, state)
            h = h[:, 0]
            u = _drawn(self.gap(h), 1, generator)
            now = now + ((u[:, 0] * self.spread[0] + self.middle[0]).exp() - OFFSET).clamp(min=0.0)
            beside = torch.cat([h, u], dim=1)
            burst = torch.rand(n, generator=generator) < self.kind(beside)[:, 0].sigmoid()
            v = [_drawn(head(beside), k, generator) for head, k in zip(self.marks, self.n_marks)]
            v = torch.cat([v[0] * ~burst[:, None], v[1] * burst[:, None]], dim=1)
            past = torch.cat([u, burst[:, None].float(), torch.ones(n, 1), v], dim=1)[:, None]
            found.append((now, v * self.spread[1:] + self.middle[1:], burst, now < length))
            if not (now < length).any():
                break
        return tuple(torch.stack(parts, dim=1) for parts in zip(*found))  # type: ignore[return-value]

    def _scaled(self, gap: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
        u = (log_gap(gap) - self.middle[0]) / self.spread[0]
        v = (marks - self.middle[1:]) / self.spread[1:]
        return u.clamp(-LIMIT, LIMIT), v.clamp(-LIMIT, LIMIT)

    def _run(self, past: Tensor, condition: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        context, facts = condition.split([condition.shape[1] - self.n_facts, self.n_facts], dim=1)
        told = torch.cat([context, self.hide_told(facts)], dim=1)
        known = torch.tanh(self.condition(told))[:, None].expand(-1, past.shape[1], -1)
        h, state = self.lstm(torch.cat([past, known], dim=2), state)
        return torch.cat([self.hide_unit(h), known], dim=2), state


def _mixture(out: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights [... part 1], means and log deviations [... part mark]."""
    weight, mean, log_sd = out.split([PARTS, PARTS * n, PARTS * n], dim=-1)
    mean, log_sd = (p.reshape(*p.shape[:-1], PARTS, n) for p in (mean, log_sd))
    return weight.log_softmax(dim=-1)[..., None], mean, log_sd.clamp(FINEST[n > 1], 2.0)


def _density(out: Tensor, value: Tensor, n: int) -> Tensor:
    weight, mean, log_sd = _mixture(out, n)
    z = (value[..., None, :] - mean) * (-log_sd).exp()
    each = (-log_sd - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
    stray = -0.125 * value.square().sum(dim=-1) - 0.5 * n * math.log(8 * math.pi)
    own = torch.logsumexp(weight[..., 0] + each, dim=-1)
    return torch.logaddexp(own + math.log(1 - STRAY), stray + math.log(STRAY))


def _drawn(out: Tensor, n: int, generator: torch.Generator) -> Tensor:
    weight, mean, log_sd = _mixture(out, n)
    part = torch.multinomial(weight[..., 0].exp(), 1, generator=generator)[..., None].expand(-1, 1, n)
    noise = torch.randn(len(out), n, generator=generator)
    return (mean.gather(1, part)[:, 0] + log_sd.gather(1, part)[:, 0].exp() * noise).clamp(-LIMIT, LIMIT)
