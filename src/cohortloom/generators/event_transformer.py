"""Event transformer: a patient as a stream of timed codes and values, one token after the other.

    p(patient) = p(statics, number of tokens) product over tokens p(token | past) p(gap | ...) p(value | ...)

For event data proper (MEDS, claims, laboratory systems), where rows of many tables interleave in time and a visit holds
hundreds of them: times of single rows, order of events and codes beside codes are modelled, which generators that fold
events into visits leave to simple laws. For tables of visits `columnar-ar` learns more from the same patients.

    codec/stream            patients <-> tokens
    event_encoding          tokens <-> ids and features
    nets/event_transformer  the network
    event_sampling          drawing
    event_imputing          filling holes

References:
    Pang et al. (2024). CEHR-GPT. arXiv:2402.04400. Theodorou, Xiao, Sun (2023). HALO. Nature Communications 14:5305.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch

from cohortloom.codec.clock import series_of, ticks_of, ticks_per_day
from cohortloom.codec.steps import subject_rows
from cohortloom.codec.stream import NONE, StreamCodec
from cohortloom.codec.tensors import Encoded, Layout
from cohortloom.cohort import Cohort
from cohortloom.errors import SettingsError
from cohortloom.generators.base import Ability, Run
from cohortloom.generators.choosing import ChoosingGenerator
from cohortloom.generators.event_encoding import (
    FEATURES,
    N_OWN,
    N_VALUES,
    GapClasses,
    StaticClasses,
    Streams,
    common_numbers,
    lines,
    static_lines,
)
from cohortloom.generators.event_imputing import fill
from cohortloom.generators.event_sampling import Drawing, FirstVisit, draw_rest, draw_statics, draw_streams
from cohortloom.generators.extend import NEVER, Prefix, with_new_visits
from cohortloom.generators.impute import Holes, holes_of
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.event_transformer import EventTransformer, Sizes, StaticNet, recency
from cohortloom.rng import Rng
from cohortloom.training import Objective, Phase, Training, hold_out

__all__ = ["EventNets", "EventTransformerGenerator"]

#: Logits of a training batch: tokens of the batch times size of the vocabulary.
_LOGITS = 12_000_000
#: Logits worked on at once: what fits into a processor's cache.
_AT_ONCE = 500_000
#: Largest table of which token follows which.
_PAIRS = 16_000_000
#: What an entry costs that the model can't write (an unseen level, an empty cell where none ever was) [nat].
IMPOSSIBLE = 30.0


class EventNets(torch.nn.Module):
    """Statics and streams."""

    def __init__(self, statics: StaticNet, stream: EventTransformer) -> None:
        super().__init__()
        self.statics, self.stream = statics, stream


@dataclass(kw_only=True)
class EventTransformerGenerator(ChoosingGenerator):
    """Statics, then events one by one with their times and values, for streams of codes over many tables.

    Args:
        width: Width of the transformer; None: 64 below 200,000 training tokens, 96 below 2 million, else 128.
        layers: Its blocks; None: 2, or 3 from 2 million tokens on.
        window: Tokens it looks back.
        dropout: Share of hidden units left out in training.
        k_min: A code is kept if at least this many patients hold it.
        candidates: Draws of a patient among which one is chosen (`ChoosingGenerator`); 1 as drawing is slow.
        training: What is left at its default follows the number of tokens.
    """

    name: ClassVar[str] = "event-transformer"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, events=True, scale="normal")
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.CONDITION, Ability.GIVEN, Ability.EXTEND, Ability.IMPUTE, Ability.SCORE, Ability.RESUME}
    )
    codec_class: ClassVar[Any] = StreamCodec

    width: int | None = None
    layers: int | None = None
    window: int = 256
    dropout: float = 0.1
    k_min: int = 5
    candidates: int | None = 1
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [n for n in ("width", "layers", "window", "k_min") if (v := getattr(self, n)) is not None and v < 1]
        wrong += [] if self.width is None or self.width % 16 == 0 else ["width (a multiple of 16)"]
        wrong += [] if 0 <= self.dropout < 1 else ["dropout"]
        if wrong:
            raise SettingsError(f"{self.name}: {', '.join(wrong)} out of range.")

    # -- learning ------------------------------------------------------------------------------------------------

    def _train(self, cohort: Cohort, rng: Rng, run: Run) -> None:
        self.codec_ = StreamCodec.fit(cohort, k_min=self.k_min)
        self._fit(self.codec_.encode(cohort, rng=rng.child("encode")), None, rng.child("model"), run)

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        stream, k = data.sequence, self.k_min
        assert stream is not None and data.static is not None
        token = stream.values[:, 0].astype(np.int64)
        visit = self.codec_.facts["visit"][token]
        timed = self.codec_.facts["timed"][token]
        gaps = [GapClasses.fit(stream.gap[at], stream.subject[at], k) for at in (visit, timed & ~visit)]
        facts = {
            "statics": StaticClasses.fit(data.static, stream.length, k).to_json(),
            "gaps": [law.to_json() for law in gaps],
            "common": common_numbers(token, stream.values[:, 1] != NONE).tolist(),
            "tokens": len(token),
        }
        self._prepared = self._streams(data, facts)  # until `phases` takes them
        return facts

    def build(self, shape: Shape) -> EventNets:
        statics = StaticClasses.from_json(shape.facts["statics"])
        gaps = [GapClasses.from_json(state) for state in shape.facts["gaps"]]
        facts = {name: torch.from_numpy(np.array(x)) for name, x in self.codec_.facts.items()}
        n = shape.facts["tokens"]
        sizes = Sizes(
            tokens=len(self.codec_.tokens), gaps=max(len(g) for g in gaps), values=N_VALUES, features=FEATURES,
            past=N_OWN + len(shape.facts["common"]) + statics.n_plain + FEATURES,
            width=self.width or (64 if n < 200_000 else 96 if n < 2_000_000 else 128),
            layers=self.layers or (2 if n < 2_000_000 else 3), heads=4, window=self.window,
        )  # fmt: skip
        starts = self._starts(sizes, gaps, self.__dict__.get("_prepared"))
        stream = EventTransformer(
            sizes, statics.sizes[:-1], *starts, facts, torch.from_numpy(self.codec_.follows), self.dropout
        )
        plain, prepared = [torch.from_numpy(table) for table in statics.tables], self.__dict__.get("_prepared")
        ids = prepared.static if prepared is not None else np.zeros((0, len(statics.sizes)), np.int64)
        line = tuple(torch.from_numpy(x).float() for x in static_lines(statics, ids))
        return EventNets(StaticNet(statics.sizes, statics.log_share, plain, line, 48, self.dropout), stream)

    def _starts(self, sizes: Sizes, gaps: list[GapClasses], streams: Streams | None) -> tuple[Any, ...]:
        """Log shares and regressions that start the heads, read back with the weights of a saved model."""
        n, g = sizes.tokens, sizes.gaps
        token, gap, value = np.ones(n), np.ones((2, g)), np.ones((n, N_VALUES))
        after = np.zeros((n if n * n <= _PAIRS else 0, n))
        line = np.zeros((2, n, sizes.past)), np.zeros((2, n)), np.zeros((2, n))
        if streams is not None:
            line = lines(streams, n)
            rest = (~self.codec_.facts["visit"][streams.token]).astype(int)
            timed = self.codec_.facts["timed"][streams.token]
            token = np.bincount(streams.token, minlength=n)
            if len(after):
                begins = np.cumsum(streams.length) - streams.length
                last = np.concatenate([[0], streams.token[:-1]])
                last[begins[streams.length > 0]] = 0
                pair, owner = last * n + streams.token, np.repeat(np.arange(len(begins)), streams.length)
                held = np.bincount(np.unique(owner * n * n + pair) % (n * n), minlength=n * n)  # by so many patients
                after = np.where(held < self.k_min, 0, np.bincount(pair, minlength=n * n)).reshape(n, n)
            gap = np.bincount(rest[timed] * g + streams.gap[timed], minlength=2 * g).reshape(2, g)
            value = np.bincount(streams.token * N_VALUES + streams.value, minlength=n * N_VALUES).reshape(n, N_VALUES)
        share = (token + 0.3) / (token + 0.3).sum()
        log_gap, log_value = (np.log((x + e) / (x + e).sum(-1, keepdims=True)) for x, e in ((gap, 0.3), (value, 0.1)))
        for kind, law in enumerate(gaps):
            log_gap[kind, len(law) :] = -1e9
        starts = (torch.from_numpy(x).float() for x in (share, after, log_gap, log_value))
        return *starts, tuple(torch.from_numpy(x).float() for x in line)

    def _streams(self, data: Encoded, facts: Mapping[str, Any]) -> Streams:
        gaps = [GapClasses.from_json(state) for state in facts["gaps"]]
        statics, common = StaticClasses.from_json(facts["statics"]), np.array(facts["common"], np.int64)
        return Streams.of(self.codec_, statics, (gaps[0], gaps[1]), common, data)

    def phases(self, net: torch.nn.Module, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        assert isinstance(net, EventNets)
        streams = self.__dict__.pop("_prepared")
        train, held_out = hold_out(data.n_subjects, self.training.validation, rng)
        ids = torch.from_numpy(streams.static)

        def of_statics(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            return -net.statics.log_likelihood(ids[index]).mean()

        phases = [
            Phase("statics", net.statics, train, [Objective("likelihood", net.statics.parameters(), of_statics)],
                  held_out, share=0.05)
        ]  # fmt: skip
        windows = Windows(net.stream, streams, self.codec_.facts)
        items, owner = windows.items
        if len(items):
            phases.append(self._stream_phase(net, windows, owner, train, held_out))
        return phases

    def _stream_phase(
        self, net: EventNets, windows: Windows, owner: np.ndarray, train: np.ndarray, held_out: np.ndarray
    ) -> Phase:
        def loss(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            return -windows.log_likelihood(index, stream).sum() / windows.counted

        def score(index: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
            found = [(windows.log_likelihood(part, None).sum(), windows.counted) for part in index.split(batch)]
            return -sum(total for total, _ in found) / sum(counted for _, counted in found)

        size = net.stream.sizes
        mine = np.flatnonzero(np.isin(owner, train))
        items = len(mine)
        batch = int(np.clip(min(items / 16, _LOGITS / size.tokens / size.window), 4, 32))
        steps = int(np.clip(12 * items / batch, 400, 8_000))
        recipe = Training(
            batch_size=batch, steps=steps, learning_rate=2e-3, weight_decay=0.05, ema=0.98, patience=12,
            evaluate_every=max(20, min(200, items // batch)),
        )  # fmt: skip
        return Phase(
            "stream", net.stream, mine, [Objective("likelihood", net.stream.parameters(), loss)],
            np.flatnonzero(np.isin(owner, held_out)), score, training=self.training.over(recipe),
        )  # fmt: skip

    # -- drawing -------------------------------------------------------------------------------------------------

    @property
    def _drawing(self) -> Drawing:
        gaps = [GapClasses.from_json(state) for state in self.shape_.facts["gaps"]]
        statics, common = self.shape_.facts["statics"], np.array(self.shape_.facts["common"], np.int64)
        return Drawing(self.codec_, StaticClasses.from_json(statics), (gaps[0], gaps[1]), common)

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        net, drawing = self.net_, self._drawing
        first = FirstVisit.of(self.codec_, where)
        static, length = draw_statics(net, drawing, n, context, where, first, rng.child("statics"))
        ids = torch.from_numpy(drawing.statics.ids(static, length))
        return Encoded(static, draw_streams(net.stream, drawing, ids, static, length, rng.child("streams"), first))

    def _continue(self, encoded: Encoded, until: np.ndarray, rng: Rng) -> Encoded:
        stream = encoded.sequence
        assert stream is not None and encoded.static is not None
        token, day = stream.values[:, 0].astype(np.int64), self.codec_.width / ticks_per_day(self.schema_)
        time = self.codec_.times(stream, token, self.codec_.hours(token, *stream.values[:, 1:].T))
        steps = self.codec_.facts["visit"][token] if self.schema_.visit_table else np.ones(len(token), bool)
        last = np.zeros(len(until))
        np.maximum.at(last, stream.subject[steps], time[steps])
        rest = draw_rest(self.net_, self._drawing, encoded.static, stream, last + until + day, rng)
        return Encoded(encoded.static, rest)

    def _rows_after(
        self, past: Prefix, rows: np.ndarray, drawn: Encoded, rng: Rng
    ) -> tuple[dict[str, pl.DataFrame], np.ndarray]:
        """Rows of the tokens after the prefix, moved so that the prefix ends when it did."""
        schema, codec, stream = self.schema_, self.codec_, drawn.sequence
        ids = past.ids[rows]
        had = codec.encode(past.cohort.select(ids.tolist()), rng=rng).sequence.length
        decoded = codec.decode(drawn, rng, ids=ids, since=had)
        token = stream.values[:, 0].astype(np.int64)
        ticks = codec.ticks(stream, token, codec.hours(token, *stream.values[:, 1:].T))
        origin = np.round(codec.origins(drawn.static) * ticks_per_day(schema)).astype(np.int64)
        ticks = ticks + origin[stream.subject]
        end = np.full(len(ids), NEVER)
        old = stream.position < had[stream.subject]
        np.maximum.at(end, stream.subject[old], ticks[old])
        begin = np.full(len(ids), np.iinfo(np.int64).max)
        np.minimum.at(begin, stream.subject[~old], ticks[~old])
        last, opens = past.last_row[rows], past.opens[rows]
        moved = np.where((end != NEVER) & (last != NEVER), last - end, 0)
        stop = np.where(opens & (had == 0), begin, past.now[rows]) + past.horizon
        series, tables, early = pl.Series("subject_id", ids), {}, [ids[:0]]
        n_visits = past.n_steps[rows] if schema.visit_table else np.zeros(len(ids), np.int64)
        for name, frame in decoded.tables.items():
            if schema.tables[name].role == "static" or (
                "time" not in frame.columns and "visit_id" not in frame.columns
            ):
                tables[name] = frame.clear()
                continue
            owner = subject_rows(series, frame)
            for column in ["time", *(c for c, spec in schema.tables[name].columns.items() if spec.kind == "timestamp")]:
                if column in frame.columns:
                    own, known = ticks_of(frame[column])
                    frame = frame.with_columns(series_of(schema, own + moved[owner], known, column))
            if "time" in frame.columns:
                own, known = ticks_of(frame["time"])
                early.append(ids[owner[known & (own < last[owner])]])
                # what would have been recorded with the last row was not
                keep = pl.Series(~known | ((own > last[owner]) & (own <= stop[owner])))
                frame, owner = frame.filter(keep), owner[keep.to_numpy()]
            tables[name] = frame
        of = pl.DataFrame({"subject_id": ids, "__had": n_visits})
        return with_new_visits(schema, tables, past.cohort, of), np.unique(np.concatenate(early))

    def _holes(self, cohort: Cohort, encoded: Encoded, wanted: dict[str, list[str]]) -> Holes:
        """Static features, and columns of visits: in rows of tokens of visits [token column]."""
        codec, stream, visit = self.codec_, encoded.sequence, self.schema_.visit_table
        cells, token = codec.cells.get(visit or "", ()), stream.values[:, 0].astype(np.int64)
        is_visit = codec.facts["visit"][token]
        holes = np.zeros((len(token), len(cells)), bool)
        if visit is not None and is_visit.any():
            row = np.maximum.accumulate(np.where(codec.facts["row"][token], np.arange(len(token)), 0))
            there = (codec.facts["table"][token] == list(codec.cells).index(visit)) & ~codec.facts["row"][token]
            filled = np.zeros_like(holes)
            filled[row[there], codec.facts["column"][token[there]]] = True
            wants = np.array([cell.column in wanted[visit] for cell in cells], bool)
            holes = is_visit[:, None] & ~filled & wants[None]
        return Holes(holes_of(cohort, Encoded(encoded.static, None), wanted).static, holes)

    def _impute_cells(self, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
        """Holes drawn given all that is observed; see `event_imputing`."""
        return fill(self.net_, self._drawing, encoded, holes, rng)

    # -- likelihood ----------------------------------------------------------------------------------------------

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        """Log-likelihood of each patient's tokens, gap and value classes [nat]."""
        streams = self._streams(data, self.shape_.facts)
        total = self.net_.statics.log_likelihood(torch.from_numpy(streams.static)).double().numpy()
        windows = Windows(self.net_.stream, streams, self.codec_.facts)
        _, owner = windows.items
        for index in torch.arange(len(owner)).split(16) if len(owner) else ():
            found = windows.log_likelihood(index, None).double().numpy()
            np.add.at(total, owner[index.numpy()], found)
        return total


class Windows:
    """Windows of streams as batches.

    Args:
        net: The transformer.
        streams: Encoded streams.
        facts: What tokens are.
    """

    def __init__(self, net: EventTransformer, streams: Streams, facts: Mapping[str, np.ndarray]) -> None:
        self.net, self.streams = net, streams
        self.size = net.sizes.window
        length = streams.length
        self.starts = torch.from_numpy(np.cumsum(length) - length)
        n = -(-length // self.size)
        owner = np.repeat(np.arange(len(length)), n)
        place = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
        self.items = place * self.size, owner
        self.begin, self.owner = torch.from_numpy(place * self.size), torch.from_numpy(owner)
        self.length = torch.from_numpy(length)
        as_long = {
            name: torch.from_numpy(getattr(streams, name)) for name in ("token", "gap", "value", "row", "visits")
        }
        self.token, self.gap, self.value, self.row, self.visits = as_long.values()
        self.z = torch.from_numpy(streams.z).float()
        self.plain, self.past = torch.from_numpy(streams.plain).float(), torch.from_numpy(streams.past)
        self.static = torch.from_numpy(streams.static)[:, :-1]
        self.timed, self.number = torch.from_numpy(facts["timed"]), torch.from_numpy(facts["number"])
        self.is_visit = torch.from_numpy(facts["visit"]).long()
        self.counted = 1.0

    def log_likelihood(self, index: torch.Tensor, stream: torch.Generator | None) -> torch.Tensor:
        """log p of each window's tokens [window]; with a stream they begin anywhere. Sets `counted`: tokens."""
        net = self.net
        owner, begin = self.owner[index], self.begin[index]
        if stream is not None:
            begin = (begin - torch.randint(0, self.size, begin.shape, generator=stream)).clamp(min=0)
        length = self.length[owner]
        width = int((length - begin).clamp(max=self.size).max())
        place = begin[:, None] + torch.arange(width)
        real = place < length[:, None]
        at = (self.starts[owner][:, None] + place).clamp(max=len(self.token) - 1)
        before = (at - 1).clamp(min=0)
        start = place == 0
        token, last = self.token[at], torch.where(start, 0, self.token[before])
        seen = (self.value[before] > 0) & ~start
        value = torch.stack([self.z[before] * seen, seen.float(), (self.value[before] == 1).float()], -1)
        gap = torch.where(start, 0, self.gap[before])
        x = net.inputs(last, value, gap, self.plain[at], net.patient(self.static[owner]))
        h = net(x)
        left = length[:, None] - place
        parts = torch.arange(len(index)).split(max(_AT_ONCE // (width * net.sizes.tokens), 1))
        total = torch.cat([self._of_tokens(p, h, owner, begin, at, last, left) for p in parts])
        total = torch.where(real, total.clamp(min=-IMPOSSIBLE), 0.0)
        timed = real & self.timed[token]
        if timed.any():
            found = net.gap_logits(h[timed], token[timed]).log_softmax(-1)
            total = total.masked_scatter(timed, total[timed] + found.gather(-1, self.gap[at][timed][:, None])[:, 0])
        number = real & self.number[token]
        if number.any():
            found = net.value_law(h[number], token[number], self.gap[at][number], self.past[at][number])[0]
            ids = self.value[at][number][:, None]
            total = total.masked_scatter(number, total[number] + found.log_softmax(-1).gather(-1, ids)[:, 0])
        self.counted = max(float(real.sum()), 1.0)
        return total.sum(1)

    def _of_tokens(
        self, part: torch.Tensor, h: torch.Tensor, owner: torch.Tensor, begin: torch.Tensor, at: torch.Tensor,
        last: torch.Tensor, left: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """log p of the tokens of some windows [window position]."""
        at, last = at[part], last[part]
        had = self._had(owner[part], begin[part], last, self.visits[at])
        logits = self.net.token_logits(h[part], self.row[at], last, left[part], had)
        return logits.log_softmax(-1).gather(-1, self.token[at][..., None])[..., 0]

    def _had(self, owner: torch.Tensor, begin: torch.Tensor, last: torch.Tensor, visits: torch.Tensor) -> torch.Tensor:
        """When each patient last had each token, see `recency` [window position token]."""
        n, width = last.shape
        now = np.zeros((n, self.net.sizes.tokens), np.int32)
        for k, (who, first) in enumerate(zip(owner.tolist(), begin.tolist())):
            s = int(self.starts[who])
            before = slice(s, s + max(first - 1, 0))
            token, when = self.token[before], self.visits[before] + self.is_visit[self.token[before]] + 1
            now[k, token.numpy()] = when.numpy()  # the last one stays
        when, row = np.empty((n, width, self.net.sizes.tokens), np.int32), np.arange(n)
        for p, (token, visit) in enumerate(zip(last.T.numpy(), visits.T.numpy())):
            now[row, token] = np.where(token > 0, visit + 1, 0)
            when[:, p] = now
        return recency(torch.from_numpy(when), visits)
