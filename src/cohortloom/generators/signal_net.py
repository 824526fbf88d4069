"""The network of `signal-diffusion` and its sizes: what is measured of training records, and what is built from it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from cohortloom.codec.beats import template_grid
from cohortloom.codec.wave_events import EventLaw
from cohortloom.errors import SettingsError
from cohortloom.generators.signal_events import aligned, event_net
from cohortloom.generators.signal_records import (
    N_RHYTHM,
    spectrum_centres,
    texture_centres,
    texture_edges,
)
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.beat_code import N_STRETCHES, BeatCode
from cohortloom.nets.conv1d import UNet1d
from cohortloom.nets.gaussian_start import MOST_COORDINATES, GaussianStart
from cohortloom.nets.record_code import LabelLaw, LinearCode, RecordPrior
from cohortloom.nets.rhythm import RhythmNet
from cohortloom.nets.stillness import Stillness

__all__ = ["WaveNet", "built", "condition_of", "label_sets", "level_at", "measured", "places"]

#: Guide channels that tell the place in a short record.
N_PLACES = 9
#: Most coordinates of averaged beats that follow those of the code: drawn with the record, told to nobody.
MOST_REST = 72


class WaveNet(nn.Module):
    """All that is learned of a signal: code, prior, labels, rhythm, denoiser."""

    def __init__(self, facts: Mapping[str, Any], denoiser: nn.Module) -> None:
        super().__init__()
        n_facts = facts["n_facts"]
        self.denoiser = denoiser
        self.code = _code_of(facts)
        self.prior = RecordPrior(facts["n_context"], n_facts, n_plain=n_facts - facts["n_told"])
        self.labels = LabelLaw(max(len(facts["label_sets"]), 1), facts["n_context"] - facts["n_labels"])
        self.rhythm = RhythmNet(facts["n_told"]) if facts["beats"] else None
        self.start = _start_of(facts) if facts["start"] else None
        self.still = Stillness(facts["n_channels"], facts["fs"]) if facts["beats"] else None
        self.law = EventLaw.from_json(facts["events"]) if facts["events"] else None
        told = 2 * facts["n_context"] + facts["n_told"]
        self.events = event_net(self.law, told, facts["n_told"]) if self.law is not None else None
        levels = facts.get("n_levels", 0)
        self.register_buffer("lean", torch.zeros(2, levels, dtype=torch.float64) if levels else None)
        self.register_buffer("middle", torch.zeros(n_facts, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(n_facts, dtype=torch.float64))


def measured(model: Any, data: Any) -> dict[str, Any]:
    """Sizes of a `signal-diffusion` of these training records, and which of its parts it has."""
    n, n_shape = data.shape.shape
    with_beats = data.beats is not None
    placed = not with_beats and aligned(data) and int(data.n_samples.max()) <= round(model.window * data.fs)
    if placed and model.latent:
        raise SettingsError(f"{model.name}: records of single beats are too short for latents; set latent to 0.")
    n_code = 0 if placed else max(1, min(model.code, n // 4, n_shape))
    n_rest = max(0, min(MOST_REST, n - 1 - n_code, n_shape - n_code)) * with_beats
    n_moved = N_STRETCHES * with_beats
    n_texture = len(texture_centres(data.fs)) * with_beats
    n_levels = model.codec_.samples.n_modelled * (data.pulse is not None)
    n_leaning = data.leaning.shape[1] * (n_code > 0)
    n_latent = min(model.codec_.samples.n_modelled, model.latent_channels) if model.latent else 0
    return {
        "beats": with_beats,
        "placed": placed,
        "start": model.start,
        "n_texture": n_texture,
        "n_shape": n_shape,
        "n_code": n_moved + n_code + n_rest,
        "n_leaning": n_leaning,
        "n_facts": n_leaning + n_moved + n_code + n_rest + (N_RHYTHM + n_texture + n_levels + 1) * with_beats,
        "n_told": n_leaning + n_moved + n_code + (N_RHYTHM + n_texture + n_levels + 1) * with_beats,
        "n_levels": n_levels,
        "n_context": data.context.shape[1],
        "n_labels": model.codec_.context.n_labels,
        "n_channels": model.codec_.samples.n_modelled,
        "latent": model.latent,
        "n_latent": n_latent,
        "axes_by_band": with_beats and n_latent in (0, model.codec_.samples.n_modelled),
        "n_samples": int(data.n_samples.max()),
        "fs": data.fs,
        "pulse": asdict(data.pulse) if data.pulse else None,
        "follow": data.follow,
        "events": data.law.to_json() if data.law is not None else None,
        "label_sets": list(model.label_sets_),
    }


def built(model: Any, shape: Shape) -> WaveNet:
    """The network of that shape, untrained."""
    facts = shape.facts
    stride, n_channels = facts.get("latent", 0), facts.get("n_latent", 0) or facts["n_channels"]
    n_guides = n_channels + 2 if facts["beats"] or facts["events"] else N_PLACES if facts["placed"] else 0
    n_guides += n_channels * facts["start"] * (1 + facts["placed"])  # w, and the mean of single beats
    n_condition = 2 * facts["n_context"] + facts["n_told"]
    patch = model.patch or _patch(facts["n_samples"], facts["fs"])
    if stride and not model.patch:
        patch = max(1, round(facts["fs"] / stride / 25))
    if model.denoiser != "unet":
        from cohortloom.nets.patched import PatchTransformer
        from cohortloom.nets.state_space import S4Denoiser

        kind = {"s4d": S4Denoiser, "transformer": PatchTransformer}[model.denoiser]
        net: nn.Module = kind(n_channels, width=model.width, patch=patch, n_condition=n_condition, n_guides=n_guides)
    else:
        levels = model.levels or ((1, 2) if facts["n_samples"] <= 512 else (1, 2, 2))
        net = UNet1d(
            n_channels, width=model.width, levels=levels, patch=patch, n_condition=n_condition,
            n_guides=n_guides, attention=model.attention,
        )  # fmt: skip
    return WaveNet(facts, net)


def _code_of(facts: Mapping[str, Any]) -> LinearCode:
    """Room for the code of records of this kind."""
    if facts["beats"]:
        return BeatCode(facts["n_channels"], template_grid(facts["fs"]), facts["n_code"])
    return LinearCode(facts["n_shape"], facts["n_code"])


def _start_of(facts: Mapping[str, Any]) -> GaussianStart:
    """Room for the Gaussian law of records of this kind."""
    n, channels, fs = facts["n_samples"], facts["n_channels"], facts["fs"]
    if facts["beats"]:
        centres = texture_centres(fs)
    else:
        centres = spectrum_centres(n, fs) if facts["n_code"] else ()
    return GaussianStart(
        channels, n, fs, mean=facts["placed"], n_condition=2 * facts["n_context"], centres=centres,
        whole=facts["placed"] and channels * n <= MOST_COORDINATES,
        edges=texture_edges(fs)[1:] if facts.get("axes_by_band") else (),
        stride=facts.get("latent", 0), n_latent=facts.get("n_latent", 0),
    )  # fmt: skip


def level_at(net: Any, log_size: np.ndarray) -> np.ndarray:
    """Usual level of each channel [record channel] of records whose pulses have these sizes."""
    slope, offset = net.lean.numpy()
    return np.exp(log_size)[:, None] * slope + offset


def places(start: np.ndarray, n: int, whole: int) -> torch.Tensor:
    """Where in the record each sample stands [record guide sample], for short records cut at one point (single beats).

    A convolution doesn't know; without it the complex of a beat would begin anywhere.
    """
    t = (torch.from_numpy(np.asarray(start)).float()[:, None] + torch.arange(n)) / max(whole - 1, 1)
    waves = [f(math.pi * k * t) for k in (1, 2, 4, 8) for f in (torch.sin, torch.cos)]
    return torch.stack([2 * t - 1, *waves], dim=1)


def condition_of(context: torch.Tensor, observed: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    return torch.cat([context * observed, observed, facts], dim=1)


def label_sets(labels: pl.Series) -> tuple[list[str], np.ndarray]:
    """Sets of labels that at least two records have, and each record's; a rarer set becomes its most frequent label.

    The empty text stands for a record whose label is not known.
    """
    texts = ["|".join(sorted(t.split("|"))) if t else "" for t in labels.fill_null("").to_list()]
    if not any(texts):
        return [], np.zeros(len(texts), dtype=int)
    sets = Counter(texts)
    single = Counter(part for t in texts for part in t.split("|"))
    reduced = [t if sets[t] >= 2 else max(t.split("|"), key=lambda p: (single[p], p)) for t in texts]
    known = sorted(set(reduced))
    place = {t: k for k, t in enumerate(known)}
    return known, np.array([place[t] for t in reduced])


def _patch(n_samples: int, fs: float) -> int:
    """Samples per token: 2 for single beats, else about 25 tokens a second."""
    if n_samples <= 200:
        return 2
    return 4 if fs <= 160 else 8 if fs <= 320 else 10
