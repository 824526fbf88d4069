"""From R peaks and averaged beats to guides at full rate.

    bumps      exp(-(n - R_k)^2 / (2 s^2)) at every beat, and the same at odd beats only
    train      each normal beat's averaged shape, placed at its R peak: the record as it would be if all of its beats
               were alike and there were no noise. Where the next beat begins before the last has ended, the jump decays

A denoiser that sees them need not guess where beats are nor what this record's beats look like; it adds what is left.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["bumps", "render", "with_neighbours"]

#: Time in which a jump between beats decays [s].
DECAY = 0.05
#: Nothing is stretched nearer to R [s], as in `codec/beats.py`.
CORE = 0.05


def bumps(
    place: Float[Tensor, "record beat"], use: Bool[Tensor, "record beat"], n_samples: int, fs: float
) -> Float[Tensor, "record sample"]:
    """A Gaussian bump of 12 ms (at least 1.2 samples) at every used beat."""
    width = max(1.2, 0.012 * fs)
    known = torch.where(use, place, torch.inf).sort(dim=1).values
    known = torch.nn.functional.pad(known, (1, 1), value=torch.inf)
    known[:, 0] = -torch.inf
    n = torch.arange(n_samples, dtype=place.dtype).expand(len(place), n_samples).contiguous()
    after = torch.searchsorted(known, n).clamp(max=known.shape[1] - 1)
    near = torch.minimum(known.gather(1, after) - n, n - known.gather(1, (after - 1).clamp(min=0)))
    return torch.exp(-0.5 * (near / width).square())


def with_neighbours(
    place: Float[Tensor, "record beat"], real: Bool[Tensor, "record beat"], odd: Bool[Tensor, "record beat"],
    n_samples: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Beats with the one before the record and the one behind it, a mean interval away, where that lies outside.

    The heart has beaten before: the fall of a pulse whose rise has not been recorded is, as is the rise of the next.
    """
    count = real.sum(dim=1, keepdim=True)
    last = (count - 1).clamp(min=0)
    first, final = place[:, :1], place.gather(1, last)
    mean = (final - first) / (count - 1).clamp(min=1)
    early, late = first - mean, final + mean
    known = count > 2
    before, behind = known & (early < 0) & (first >= 0), known & (late >= n_samples) & (final < n_samples)
    n = place.shape[1]
    wide = torch.nn.functional.pad
    place, real, odd = wide(place, (1, 1)), wide(real, (1, 1)), wide(odd, (1, 1))
    place[:, :1], real[:, :1] = torch.where(before, early, 0.0), before
    place = place.scatter(1, last + 2, torch.where(behind, late, place.gather(1, last + 2)))
    real = real.scatter(1, last + 2, behind)
    # without one before, the first column is none: move it behind all
    order = torch.arange(n + 2).expand(len(place), -1)
    order = torch.where(before, order, (order + 1) % (n + 2))
    return place.gather(1, order), real.gather(1, order), odd.gather(1, order)


def render(
    template: Float[Tensor, "record channel point"],
    place: Float[Tensor, "record beat"],
    real: Bool[Tensor, "record beat"],
    odd: Bool[Tensor, "record beat"],
    n_samples: int,
    fs: float,
    rate: float,
    before: float,
    stretches: tuple[Float[Tensor, "record beat"], Float[Tensor, "record beat"]] | None = None,
) -> Float[Tensor, "record channel sample"]:
    """The beat train.

    Args:
        template: Averaged beat of each record; point p lies at p / rate - before [s] from R.
        place: R peaks [samples], rising; those that are not `real` are ignored.
        real, odd: Which beats there are, and which of them are odd (left empty).
        n_samples: Length.
        fs: Sampling frequency [Hz].
        rate: Points of the template per second.
        before: Span before R [s].
        stretches: How far each beat is stretched before and behind R; None: none is.
    """
    far = torch.where(real, place, torch.inf)
    gap = torch.diff(place, dim=1, prepend=place[:, :1] - fs) / fs
    if place.shape[1] > 1:
        gap[:, 0] = torch.where(real[:, 1], gap[:, 1], gap[:, 0])
    lead = (0.4 * gap.clamp(min=0.1)).clamp(max=before)
    starts = torch.where(real, place - lead * fs, torch.inf)
    n = torch.arange(n_samples, dtype=place.dtype).expand(len(place), n_samples).contiguous()
    owner = torch.searchsorted(starts.contiguous(), n, right=True) - 1
    first = owner.clamp(min=0)
    r = torch.where(real.any(dim=1, keepdim=True), far.gather(1, first), 0.0)
    since = (n - r) / fs
    shown = (owner >= 0) | (since >= -before)
    shown = shown & real.any(dim=1, keepdim=True) & ~odd.gather(1, first)
    ahead, behind = (torch.ones_like(place),) * 2 if stretches is None else stretches
    own = (ahead.gather(1, first), behind.gather(1, first))
    wave = _at(template, _common(since, *own), rate, before) * shown[:, None]
    # where a beat begins before the last has ended (a T wave cut short, an odd beat) the jump decays
    use = (real & ~odd).to(place.dtype)[:, None]
    ends = _at(template, _common(gap - lead, ahead, behind.roll(1, 1))[:, 1:], rate, before) * use[:, :, :-1]
    begins = _at(template, _common(-lead, ahead, behind), rate, before)[:, :, 1:] * use[:, :, 1:]
    jump = (ends - begins) * real[:, None, 1:]
    jump = torch.nn.functional.pad(jump, (1, 0)).gather(2, first[:, None].expand(-1, template.shape[1], -1))
    late = ((n - starts.gather(1, first)) / fs).clamp(min=0)
    return wave + jump * (torch.exp(-late / DECAY) * (owner >= 0))[:, None]


def _common(since: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
    """Times since R on the averaged beat."""
    return since.clamp(-CORE, CORE) + (since - CORE).clamp(min=0) / behind + (since + CORE).clamp(max=0) / ahead


def _at(
    template: Float[Tensor, "record channel point"], since: Float[Tensor, "record time"], rate: float, before: float
) -> Float[Tensor, "record channel time"]:
    """The averaged beat at times since R [s]; beyond its ends the last value fades within .1 s."""
    at, last = (since + before) * rate, template.shape[2] - 1
    i = at.floor().clamp(0, last - 1)
    u = (at - i).clamp(0, 1)[:, None]
    i = i.long()

    def point(k: int) -> Tensor:
        index = (i + k).clamp(0, last)[:, None].expand(-1, template.shape[1], -1)
        return template.gather(2, index)

    a, b, c, d = point(-1), point(0), point(1), point(2)
    wave = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    beyond = torch.maximum(at - last, -at).clamp(min=0) / rate
    return wave * torch.exp(-0.5 * (beyond / 0.05).square())[:, None]
