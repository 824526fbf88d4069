"""Waveforms by diffusion, from the top down.

A plain diffusion model draws single beats well, but in a record of many beats they stand wherever the noise looked like
a QRS, and each has another shape. So a record is drawn as

    p(labels | c)  p(rhythm, texture, code | c, labels)  p(RR | rhythm)  p(samples | RR, code, texture, c, labels)

c is what the patient's own record says (statics, values nearest in time, diagnoses). The first two factors are in
closed form (`nets/record_code.py`), the RR series is a small LSTM (`nets/rhythm.py`), and the samples are a rectified
flow whose U-Net sees, beside the noisy record, a bump at every R peak and the train of averaged beats of that size and
code. What is left to the network is what differs from beat to beat: noise, wander, P and T as they ride on each
other.

Pressures, photoplethysmograms and breathing are drawn pulse by pulse likewise (`codec/pulses.py`). EEG is drawn with a
code of its spectrum and no guides; single beats are told where in the record they are.

All start from the Gaussian law of their kind (`nets/gaussian_start.py`): the network adds what is not Gaussian.

References:
    Liu, Gong, Liu (2023). arXiv:2209.03003. Karras et al. (2022). arXiv:2206.00364. Alcaraz, Strodthoff (2023).
    Diffusion-based conditional ECG generation. arXiv:2301.08227. Ho, Salimans (2022). Classifier-free diffusion
    guidance. arXiv:2207.12598.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch
from torch import nn

from cohortloom.codec.beats import Beats, template_grid
from cohortloom.codec.pulses import Pulse
from cohortloom.codec.record_context import RecordContext
from cohortloom.codec.signals import CLIP, SignalCodec
from cohortloom.codec.tensors import Encoded, Layout
from cohortloom.codec.wave_events import Events
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.diffusion.path import PATHS
from cohortloom.diffusion.sampler import SAMPLERS, grid, stochastic
from cohortloom.errors import DataError, Problem, SettingsError, nearest
from cohortloom.generators.base import Ability, Run
from cohortloom.generators.bootstrap import with_ids
from cohortloom.generators.condition import Condition
from cohortloom.generators.signal_codec import WaveCodec
from cohortloom.generators.signal_events import drawn_events, event_guides, event_phase
from cohortloom.generators.signal_net import built, condition_of, label_sets, level_at, measured, places
from cohortloom.generators.signal_plan import RecordPlan
from cohortloom.generators.signal_quiet import STILL_SHARE, between_beats, fit_stillness
from cohortloom.generators.signal_records import (
    N_RHYTHM,
    WaveRecords,
    guides,
    stretches_of,
)
from cohortloom.generators.signal_training import diffusion_loss, fit_facts, rhythm_phase
from cohortloom.generators.torch_base import Shape, TorchGenerator
from cohortloom.nets.beat_train import with_neighbours
from cohortloom.nets.gaussian_start import Start
from cohortloom.nets.precision import has_bfloat16, quick
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, Training, hold_out

__all__ = ["SignalDiffusion"]

_BATCH = 32
#: Single beats learn at this share of the rate: little is left of them after the Gaussian start.
SLOWER = 1 / 3


@dataclass(kw_only=True)
class SignalDiffusion(TorchGenerator):
    """Diffusion model of waveforms given the patient's record: rhythm, then beat shape, then samples.

    Args:
        signal: Name of the signal; may be left out if the cohort has one.
        path: Process: rectified flow, EDM, or variance preserving (DDPM's, with a cosine schedule).
        sampler: "dpm2m" (one evaluation a step, second order), "heun" (two), "euler", "ddim" or "stochastic".
        sampling_steps: Steps of the sampler; 16 reach the texture, 8 are a preview.
        guidance: Weight of classifier-free guidance; 1 for none, above 1 tightens to the labels at the cost of variety.
        denoiser: "unet", "s4d" (bidirectional state-space layers) or "transformer"; the last two on patches.
        width: Features of the first level.
        levels: Width of each level in units of `width`; None: (1, 2), and (1, 2, 2) above 512 samples.
        patch: Samples per token; None: by sampling rate and length (about 25 tokens a second).
        attention: Self-attention at the coarsest level.
        latent: Samples per latent; 0: the network sees samples. For long or many-channel records.
        latent_channels: Most axes of the channels that latents follow.
        window: Longest piece of a record that is trained on [s].
        code: Most numbers in the code of a record.
        top_down: Draw rhythm and code first; False gives the plain recipe, for comparison.
        start: Begin from the Gaussian law of the records; False leaves all to the network, for comparison.
        drop: Chance that a record's context is hidden in training.
        records_per_patient: Records of each patient drawn; None: as in training.
        distilled_from: Of a student (`cohortloom distill`): steps of the grid that its own are taken from; else None.
        precision: Of the denoiser. "auto" takes bfloat16 where the processor has it, else float32.
    """

    name: ClassVar[str] = "signal-diffusion"
    layout: ClassVar[Layout] = Layout(static=False, sequence=False, signals=True)
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.GIVEN, Ability.CONDITION, Ability.IMPUTE, Ability.RESUME}
    )
    codec_class: ClassVar[Any] = WaveCodec

    signal: str = ""
    path: Literal["flow", "edm", "vp"] = "flow"
    sampler: Literal["dpm2m", "heun", "euler", "ddim", "stochastic"] = "dpm2m"
    sampling_steps: int = 16
    guidance: float = 1.0
    denoiser: Literal["unet", "s4d", "transformer"] = "unet"
    width: int = 64
    levels: tuple[int, ...] | None = None
    patch: int | None = None
    attention: bool = False
    latent: int = 0
    latent_channels: int = 16
    window: float = 10.0
    code: int = 24
    top_down: bool = True
    start: bool = True
    drop: float = 0.1
    records_per_patient: int | None = None
    distilled_from: int | None = None
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    training: Training = field(
        default_factory=lambda: Training(
            steps=4000, batch_size=32, optimizer="muon", learning_rate=3e-3, final_rate=0.02, warm_up=100,
            ema_power=18.0, evaluate_every=250, patience=0, validation=0.1,
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [n for n in ("sampling_steps", "width", "code", "latent_channels") if getattr(self, n) < 1]
        wrong += [n for n in ("latent",) if getattr(self, n) < 0]
        wrong += [n for n in ("window",) if not self.window > 0] + [n for n in ("drop",) if not 0 <= self.drop < 1]
        wrong += [n for n in ("patch", "records_per_patient") if (v := getattr(self, n)) is not None and v < 1]
        if self.distilled_from is not None and self.distilled_from % self.sampling_steps:
            wrong += ["distilled_from"]
        if self.denoiser == "transformer" and self.width % 8:
            raise SettingsError(f"{self.name}: width must be a multiple of 8 for a transformer (4 heads).")
        if wrong:
            raise SettingsError(f"{self.name}: {', '.join(wrong)} out of range.")
        if self.latent and not self.start:
            raise SettingsError(f"{self.name}: latents are decoded by the Gaussian start; set start to true.")

    # -- learning ------------------------------------------------------------------------------------------------

    def _learn(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        name = self._signal_of(cohort)
        signals = cohort.signals[name]
        self.codec_ = WaveCodec(
            name, SignalCodec.fit(signals), RecordContext.fit(cohort, name), RecordPlan.fit(cohort, name)
        )
        context, observed = self.codec_.context.encode(cohort, signals.records)
        _, subject = np.unique(signals.records["subject_id"].to_numpy(), return_inverse=True)
        self.label_sets_, which = label_sets(signals.records["label"])
        data = WaveRecords(signals, self.codec_.samples, subject, context, observed, which)
        data.describe(self.top_down, rng.child("events"), turned=self.start)
        if data.beats is not None and run.minutes is not None:
            run = replace(run, minutes=(1 - STILL_SHARE) * run.minutes)
        self._fit(data, None, rng.child("model"), run)  # type: ignore[arg-type]
        if data.beats is not None:
            fit_stillness(self, data, rng.child("stillness"), run)

    def _signal_of(self, cohort: Cohort) -> str:
        known = [n for n, s in cohort.signals.items() if s.records.height]
        if self.signal and self.signal not in cohort.schema.signals:
            raise SettingsError(
                f'{self.name}: the schema has no signal "{self.signal}".{nearest(self.signal, cohort.schema.signals)}'
            )
        if not self.signal and len(known) > 1:
            raise SettingsError(
                f"{self.name}: the cohort has several signals; set signal to one of {', '.join(known)}."
            )
        name = self.signal or next(iter(known), "")
        if name not in known:
            problem = Problem(
                "no-records", name or "signals", "the cohort has no waveform record", "Read or simulate some."
            )
            raise DataError("", [problem])
        return name

    def _shape(self, facts: Mapping[str, Any], n_subjects: int) -> Shape:
        return Shape((), (), n_subjects, facts)

    def _fingerprint(self, data: Any, context: Encoded | None, rng: Rng) -> str:
        digest = hashlib.blake2b(digest_size=16)
        settings = json.dumps([self.name, self.settings(), self.schema_.digest, str(rng.seed)], sort_keys=True)
        digest.update(settings.encode())
        for array in (data.shape, data.context, data.subject, data.label_set):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def measure(self, data: Any, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        return measured(self, data)

    def build(self, shape: Shape) -> nn.Module:
        return built(self, shape)

    def phases(self, net: Any, data: Any, context: Encoded | None, rng: Rng) -> list[Phase]:
        fit_facts(self, net, data, rng)
        keep, aside = hold_out(data.n_subjects, self.training.validation, rng)
        rows = np.flatnonzero(np.isin(data.subject, keep))
        held = np.flatnonzero(np.isin(data.subject, aside))
        held = held[:: max(1, len(held) // 256)]  # a few hundred are enough to see the loss turn
        found = []
        if net.rhythm is not None:
            found.append(rhythm_phase(self, net, data, rows, held))
        if net.events is not None:
            found.append(event_phase(self, net, data, rows, held))
        loss = diffusion_loss(self, net, data)
        training = None
        if self.shape_.facts["placed"] and net.start is not None:
            training = replace(self.training, learning_rate=SLOWER * self.training.learning_rate)
        found.append(
            Phase("diffusion", net.denoiser, rows, [Objective("diffusion", net.denoiser.parameters(), loss)],
                  held_out=held, share=0.95, training=training, judge_start=net.start is not None)
        )  # fmt: skip
        return found

    # -- the denoiser and what it is shown -------------------------------------------------------------------------

    def _guides(
        self, net: Any, z: torch.Tensor, sizes: tuple[np.ndarray, np.ndarray], beats: Beats, n: int, fs: float, *,
        start: np.ndarray | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Guide channels for codes, (log sizes, levels) and beats; `start` is where each piece begins [samples]."""
        log_size, level = sizes
        n_channels = self.codec_.samples.n_modelled
        size = torch.from_numpy(np.asarray(log_size)).float().exp()[:, None]
        template = (net.code.decode(z) * size).reshape(len(z), n_channels, len(template_grid(fs)))
        place = torch.from_numpy(beats.place).float()
        if start is not None:
            place = place - torch.from_numpy(start)[:, None].float()
        marks = place, torch.from_numpy(beats.real), torch.from_numpy(beats.odd)
        known = self.shape_.facts
        pulse = Pulse(**known["pulse"]) if known["pulse"] else None
        if pulse:
            marks = with_neighbours(*marks, n)
        stretches = stretches_of(marks[0].numpy(), marks[1].numpy(), fs, known["follow"], pulse)
        found = guides(template, *marks, n, fs, stretches)
        found[:, : level.shape[1]] += torch.from_numpy(np.asarray(level)).float()[..., None]
        return found

    def _network(self, net: Any, condition: torch.Tensor, guide: torch.Tensor | None) -> Any:
        """The denoiser under the run's precision; float32 outside of it."""

        def network(z: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            with self._autocast():
                return net.denoiser(z, level, condition, guide).float()

        return network

    def _autocast(self) -> AbstractContextManager[None]:
        wanted = self.precision == "bfloat16" or (self.precision == "auto" and has_bfloat16())
        return quick(wanted and self.denoiser != "s4d")  # whose transform has no bfloat16

    def _start(
        self, net: Any, condition: torch.Tensor, facts: torch.Tensor, guide: torch.Tensor | None, n: int
    ) -> Start | None:
        """The Gaussian law of a batch; `facts` are standardised."""
        if net.start is None:
            return None
        known = self.shape_.facts
        raw = facts * net.spread.float() + net.middle.float()
        train = guide[:, : known["n_channels"]] if known["beats"] or known["events"] else None  # type: ignore[index]
        if known["beats"]:
            return net.start.start(train, condition, raw[:, N_RHYTHM : N_RHYTHM + known["n_texture"]], n)
        k = known["n_code"]
        bands = net.code.decode(raw[:, -k:]).reshape(len(raw), known["n_channels"], -1) if k else None
        return net.start.start(train, condition, bands, n)

    def _clean(
        self, net: Any, path: Any, condition: torch.Tensor, guide: torch.Tensor | None, law: Start | None,
        y: torch.Tensor, sigma: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """x^ of noisy records."""
        if law is None:
            return path.denoise(self._network(net, condition, guide), y, sigma)
        level = -sigma.log()
        seen = [g for g in (guide, law.mean if self.shape_.facts["placed"] else None) if g is not None]
        network = self._network(net, condition, torch.cat([*seen, law.whitened(y, sigma)], dim=1))
        return law.clean(y, sigma, network(path.scales(level)[0][:, None, None] * y, level.clamp(-9, 9)))

    def _denoise(self, condition: torch.Tensor, guide: torch.Tensor | None, law: Start | None) -> Any:
        """denoise(y, sigma) -> x^, with guidance."""
        path, facts = PATHS[self.path](), self.shape_.facts
        blank, plain_law = condition.clone(), law
        limit = CLIP if law is None else CLIP * law.reach
        blank[:, : 2 * facts["n_context"]] = 0.0
        if facts["placed"] and law is not None:
            plain_law = self._start(self.net_, blank, condition[:, :0], guide, law.mean.shape[2])

        def denoise(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            clean = self._clean(self.net_, path, condition, guide, law, y, sigma)
            if self.guidance != 1.0:
                plain = self._clean(self.net_, path, blank, guide, plain_law, y, sigma)
                clean = plain + self.guidance * (clean - plain)
            return clean.clamp(-limit, limit)

        return denoise

    # -- drawing -------------------------------------------------------------------------------------------------

    def _encode_where(self, where: Mapping[str, Any]) -> dict[str, Any]:
        self._require(Ability.CONDITION, "fix values with where")
        name, found, problems = self.codec_.signal, {}, []
        for path, value in where.items():
            if path == f"{name}.label":
                parts = [p for p in str(value).split("|") if p]
                unknown = [p for p in parts if p not in self.codec_.context.labels]
                hint = nearest(unknown[0], self.codec_.context.labels) if unknown else ""
                if unknown or not parts:
                    problems.append(Problem("unknown-label", path, "is not a label of the training records", hint))
                found[path] = "|".join(parts)
            elif path == f"{name}.heart_rate" and self.shape_.facts["beats"]:
                rate, pace = _number(value), self._pace
                if rate is None or not 15 <= rate * pace <= 350:
                    what = f"must lie between {15 / pace:.3g} and {350 / pace:.3g} per minute"
                    problems.append(Problem("out-of-range", path, what, ""))
                found[path] = rate
            else:
                known = f"{name}.label" + (f" and {name}.heart_rate" if self.shape_.facts["beats"] else "")
                what = f"can't be fixed by {self.name}; it takes {known}"
                problems.append(Problem("no-condition", path, what, "Fix statics in the link that draws them."))
        if problems:
            raise SettingsError("", problems)
        return found

    def _make(self, ids: np.ndarray, given: Cohort | None, rng: Rng, condition: Condition) -> Cohort:
        from cohortloom.training import drawing_from, few_threads

        people = _people(self.schema_, given, ids)
        alone = given is None or any(people.tables[t].height == 0 for t in people.tables)
        at_least = 1 if alone or not people.tables or condition.features else 0
        records = self.codec_.plan.draw(
            people, pl.Series("subject_id", ids), rng.child("plan"), per_patient=self.records_per_patient,
            at_least=at_least,
        )  # fmt: skip
        with few_threads(self.net_, self.training.threads), torch.no_grad(), drawing_from(rng.child("layers").torch):
            signals = self._draw_signals(people, records, rng, condition.features)
        return Cohort.build(self.schema_, people.tables, signals={self.codec_.signal: signals}, origin=people.origin)

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        raise NotImplementedError("records are drawn by _make")

    def _draw_signals(self, people: Cohort, records: pl.DataFrame, rng: Rng, where: Mapping[str, Any]) -> SignalSet:
        """Labels, facts, rhythm and samples of records."""
        name = self.codec_.signal
        records = records.with_columns(
            pl.Series("label", self._labels(people, records, rng, where.get(f"{name}.label")), dtype=pl.String)
        )
        context, observed = self.codec_.context.encode(people, records)
        _, subject = np.unique(records["subject_id"].to_numpy(), return_inverse=True)
        drawn = self.net_.prior.draw(context, observed, subject, rng.child("facts"))
        rate = where.get(f"{name}.heart_rate")
        if rate is not None:
            drawn[:, 0] = (math.log(60 / rate / self._pace) - float(self.net_.middle[0])) / float(self.net_.spread[0])
        beats = self._marks(drawn, context, observed, records["n_samples"].to_numpy(), rng)
        samples = self._samples(drawn, context, observed, beats, records["n_samples"].to_numpy(), rng.child("samples"))
        notes = _notes(records, beats) if isinstance(beats, Beats) else None
        return SignalSet(self.schema_.signals[name], records, samples, notes)

    def _labels(self, people: Cohort, records: pl.DataFrame, rng: Rng, fixed: str | None) -> list[str | None]:
        sets, n_labels = self.shape_.facts["label_sets"], self.shape_.facts["n_labels"]
        if fixed is not None:
            return [fixed] * records.height
        if not sets:
            return [None] * records.height
        context, observed = self.codec_.context.encode(people, records)
        which = self.net_.labels.draw(np.where(observed, context, 0.0)[:, n_labels:], rng.child("labels"))
        return [sets[k] or None for k in which]

    @property
    def _pace(self) -> float:
        """How much faster time runs in the model than in the records."""
        pulse = self.shape_.facts.get("pulse")
        return pulse["pace"] if pulse else 1.0

    def _marks(
        self, drawn: np.ndarray, context: np.ndarray, observed: np.ndarray, n_samples: np.ndarray, rng: Rng
    ) -> Beats | Events | None:
        """Beats or events of each record."""
        if self.shape_.facts["beats"]:
            return self._beats(drawn, n_samples, rng.child("rhythm"))
        if self.shape_.facts["events"]:
            return drawn_events(self, drawn, context, observed, n_samples, rng.child("rhythm"))
        return None

    def _beats(self, drawn: np.ndarray, n_samples: np.ndarray, rng: Rng) -> Beats:
        """R peaks of each record: the RR series has exactly the drawn mean."""
        fs, n = self.shape_.facts["fs"], len(drawn)
        middle, spread = self.net_.middle.numpy(), self.net_.spread.numpy()
        mean = np.exp(np.clip(drawn[:, 0] * spread[0] + middle[0], math.log(0.17), math.log(4.0)))
        scale = np.exp(np.clip(drawn[:, 1] * spread[1] + middle[1], -7, 0))
        inside = np.maximum(np.rint(n_samples / fs / mean).astype(int), 1) if n else np.zeros(0, int)
        n_beats = int(2 * inside.max(initial=1)) + 4
        told = torch.from_numpy(drawn[:, : self.shape_.facts["n_told"]]).float()
        u, odd = self.net_.rhythm.draw(told, n_beats, rng.torch)
        rr = np.exp(np.clip(u.numpy() * scale[:, None], -1.6, 1.6)).astype(np.float64)
        among = np.arange(n_beats) < inside[:, None]
        rr *= (mean * inside / np.maximum((rr * among).sum(axis=1), 1e-6))[:, None]
        rr = np.maximum(rr, 0.2)
        first = rng.child("phase").numpy.random(n) * mean
        place = (np.concatenate([first[:, None], first[:, None] + np.cumsum(rr, axis=1)], axis=1) * fs).round(3)
        odd = np.concatenate([np.zeros((n, 1), bool), odd.numpy()], axis=1)
        count = (place < n_samples[:, None] - 1).sum(axis=1)
        width = max(int(count.max(initial=1)), 1)
        real = np.arange(width) < count[:, None]
        return Beats(np.where(real, place[:, :width], 0.0), odd[:, :width] & real, count)

    def _samples(
        self, drawn: np.ndarray, context: np.ndarray, observed: np.ndarray, beats: Beats | Events | None,
        n_samples: np.ndarray, rng: Rng,
    ) -> np.ndarray:  # fmt: skip
        """Physical samples of records, batch by batch."""
        facts, codec = self.shape_.facts, self.codec_.samples
        longest = int(n_samples.max(initial=0)) if len(n_samples) else facts["n_samples"]
        out = np.full((len(drawn), len(codec.channels), longest), np.nan, dtype=np.float32)
        for k, start in enumerate(range(0, len(drawn), _BATCH)):
            rows = np.arange(start, min(start + _BATCH, len(drawn)))
            n = int(n_samples[rows].max())
            stream = rng.child(k)
            shown = self._shown(drawn[rows], context[rows], observed[rows], beats, rows, n)
            x = self._integrate(self._denoise(*shown), (len(rows), facts["n_channels"], n), stream, shown[2])
            if shown[2] is not None:
                x = shown[2].decode(x, stream.child("rest").torch)
            if isinstance(beats, Beats):
                x = self.net_.still(x, between_beats(self.net_, beats.take(rows), n))
            out[rows, :, :n] = codec.decode(x.numpy(), n_samples[rows], drawn=True)
        return out

    def _shown(
        self,
        drawn: np.ndarray,
        context: np.ndarray,
        observed: np.ndarray,
        beats: Beats | Events | None,
        rows: np.ndarray,
        n: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None, Start | None]:
        """Condition vector, guides and Gaussian law of a batch of records of n samples, or of their latents."""
        facts, known = torch.from_numpy(drawn).float(), self.shape_.facts
        told = facts[:, : known["n_told"]]
        condition = condition_of(torch.from_numpy(context).float(), torch.from_numpy(observed).float(), told)
        guide = None
        if isinstance(beats, Events):
            guide = event_guides(self.net_.law, beats.take(rows), n)
        elif beats is not None:
            k = known["n_code"]
            z = facts[:, -k:] * self.net_.spread[-k:].float() + self.net_.middle[-k:].float()
            at = slice(-k - 1 - known.get("n_levels", 0), -k)
            sizes = drawn[:, at] * self.net_.spread[at].numpy() + self.net_.middle[at].numpy()
            level = sizes[:, :-1] + (level_at(self.net_, sizes[:, -1]) if known.get("n_levels") else 0.0)
            guide = self._guides(self.net_, z, (sizes[:, -1], level), beats.take(rows), n, known["fs"])
        elif known["placed"]:
            guide = places(np.zeros(len(drawn), int), n, known["n_samples"])
        law = self._start(self.net_, condition, facts, guide, n)
        return condition, guide if law is None else law.guides(guide), law

    def _levels(self, n_steps: int) -> torch.Tensor:
        """Noise levels of a sampler: down to what the finest part of a record is, where that is known."""
        if self.net_.start is None:
            return grid(n_steps)
        return grid(n_steps, high=self.net_.start.highest(), low=self.net_.start.lowest())

    def _integrate(self, denoise: Any, shape: tuple[int, ...], stream: Rng, law: Start | None) -> torch.Tensor:
        levels = self._levels(self.distilled_from or self.sampling_steps)
        levels = levels[:: (len(levels) - 1) // self.sampling_steps]
        shape = shape if law is None else law.mean.shape
        noise = torch.randn(shape, generator=stream.child("noise").torch)
        y = levels[0] * noise if law is None else law.noisy(noise, levels[0])
        if self.sampler == "stochastic":
            return stochastic(denoise, y, levels, generator=stream.child("churn").torch)
        return SAMPLERS[self.sampler](denoise, y, levels)

    # -- what is missing -------------------------------------------------------------------------------------------

    def _impute(self, cohort: Cohort, rng: Rng, columns: Sequence[str] | None = None) -> Cohort:
        from cohortloom.generators.signal_inpaint import inpaint

        if columns is not None:
            raise SettingsError(f"{self.name} fills waveforms; columns of tables can't be chosen.")
        return inpaint(self, cohort, rng)

    def refine(self, cohort: Cohort, *, seed: int | None, draws: int = 1) -> Cohort:
        """Records of a lower sampling rate drawn at the model's: what the rate could carry stays, the rest is drawn.

        Args:
            cohort: Patients and records as in training, the signal at a lower `fs`.
            seed: Same seed, same cohort.
            draws: Copies of each patient, with ids as for `impute`.

        Raises:
            DataError: other channels, or a rate that is not lower.
        """
        from cohortloom.generators.impute import copies
        from cohortloom.generators.signal_inpaint import refined

        self._require_fitted()
        return refined(self, copies(cohort, draws), Rng(seed).child("refine"))


def _people(schema: Any, given: Cohort | None, ids: np.ndarray) -> Cohort:
    """The tables of the given patients under the new ids, visits numbered so that shards do not clash."""
    if given is None:
        return Cohort.build(schema, {})
    return with_ids(given, given.subjects, ids)


def _notes(records: pl.DataFrame, beats: Beats) -> pl.DataFrame:
    """Beat annotations of drawn records."""
    rows, columns = np.nonzero(beats.real)
    sample = np.rint(beats.place[rows, columns]).astype(np.int64)
    return pl.DataFrame(
        {
            "record_id": records["record_id"].gather(rows),
            "sample": np.minimum(sample, records["n_samples"].to_numpy()[rows] - 1),
            "kind": pl.Series(["beats"] * len(rows), dtype=pl.String),
            "symbol": pl.Series(np.where(beats.odd[rows, columns], "V", "N").tolist(), dtype=pl.String),
        }
    )


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
