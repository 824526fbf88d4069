"""A causal transformer over a patient's tokens, with heads for what comes next, when, and with which value.

    p(next token | past) p(gap | past, token) p(value | past, token, gap, past values)

The law of a value is a bell over its classes around a regression on past values (`event_encoding.lines`), with what
the network adds to its middle, its width and every class.

Blocks are pre-norm: RMSNorm, attention with rotary positions, SwiGLU. Position enters only relative, so a window may
start anywhere in a stream. What a window can't show is told in plain features: time since the start, rows left, time of
day, and which tokens the patient has had before (a code that is chronic comes back).

Statics have a small autoregressive network of their own; its embedding of the patient is added to every position.

References:
    Zhang, Sennrich (2019). RMSNorm. arXiv:1910.07467. Su et al. (2021). Rotary embedding. arXiv:2104.09864.
    Shazeer (2020). GLU variants. arXiv:2002.05202.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Cache", "EventTransformer", "Sizes", "StaticNet", "recency"]

#: Rotary base: windows are short.
_BASE = 1_000.0
#: A weight per token sees few gradients: it moves this much faster.
_SWIFT = 20.0
_NEVER = torch.iinfo(torch.long).max
#: Log shares of the bell and of the token's own law in the start of a value.
_BELL = (math.log(0.999), math.log(0.001))


class Cache:
    """Keys and values of the last `size` positions of each layer.

    Args:
        n: Patients.
        size: Positions kept.
    """

    def __init__(self, n: int, size: int, layers: int, heads: int, head: int) -> None:
        self.keys = torch.zeros(layers, n, heads, size, head)
        self.values = torch.zeros(layers, n, heads, size, head)
        self.seen, self.size = 0, size

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the patients."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        inner = 8 * width // 3 // 8 * 8
        self.up, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)

    def _split(self, x: torch.Tensor, turn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n, steps, _ = x.shape
        q, k, v = self.qkv(self.before_attention(x)).view(n, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return _rotated(q, turn), _rotated(k, turn), v

    def forward(self, x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        q, k, v = self._split(x, turn)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._rest(x, mixed)

    def step(self, x: torch.Tensor, turn: torch.Tensor, cache: Cache, layer: int) -> torch.Tensor:
        """One position more [patient 1 width]."""
        q, k, v = self._split(x, turn)
        at = cache.seen % cache.size
        cache.keys[layer, :, :, at], cache.values[layer, :, :, at] = k[:, :, 0], v[:, :, 0]
        n = min(cache.seen + 1, cache.size)
        mixed = F.scaled_dot_product_attention(q, cache.keys[layer, :, :, :n], cache.values[layer, :, :, :n])
        return self._rest(x, mixed)

    def _rest(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        n, steps, width = x.shape
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(n, steps, width)))
        gate, value = self.up(self.before_mlp(x)).chunk(2, -1)
        return x + self.dropout(self.down(F.silu(gate) * value))


def _turn(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Angles of each position, as complex numbers [position size/2]."""
    rate = _BASE ** (-torch.arange(0, size, 2) / size)
    return torch.polar(torch.ones(len(positions), size // 2), positions[:, None] * rate)


def _rotated(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * turn).flatten(-2)


class StaticNet(nn.Module):
    """p(statics) = product over features of p(feature | those before), each a category.

    The law of a number starts, as that of a value does, at a bell over its classes around a regression on the features
    before (`event_encoding.static_lines`).

    Args:
        sizes: Number of ids of each feature.
        log_share: Log share of each id among training patients, one list per feature.
        plain: What each id of each feature is in the regressions [id column], one table per feature.
        lines: Slopes on the columns of the features before [feature column], and offset and log deviation of each; a
            deviation of infinity for what is no number.
        width: Size of the embeddings.
    """

    def __init__(
        self, sizes: Sequence[int], log_share: Sequence[Sequence[float]], plain: Sequence[torch.Tensor],
        lines: tuple[torch.Tensor, torch.Tensor, torch.Tensor], width: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.plain = list(plain)
        for name, part in zip(("slope", "offset", "spread"), lines):
            self.register_buffer(name, part)
        self.embed = nn.ModuleList(nn.Embedding(n, width) for n in sizes)
        self.place = nn.Parameter(0.1 * torch.randn(len(sizes), width))
        self.body = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in sizes)
        for embed, head, shares in zip(self.embed, self.heads, log_share):
            nn.init.normal_(embed.weight, std=0.3)
            nn.init.zeros_(head.weight)
            with torch.no_grad():
                head.bias.copy_(torch.tensor(shares))

    def log_likelihood(self, ids: torch.Tensor) -> torch.Tensor:
        """log p of each patient's ids [patient]."""
        past, total = torch.zeros(len(ids), self.place.shape[1]), torch.zeros(len(ids))
        for j, embed in enumerate(self.embed):
            total = total + self.log_p(j, past, ids).gather(-1, ids[:, j : j + 1])[:, 0]
            past = past + embed(ids[:, j])
        return total

    def log_p(self, j: int, past: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Log probabilities of the ids of feature j [patient id].

        Args:
            j: Feature.
            past: Sum of the embeddings of those before [patient width].
            ids: Ids, those before j are read [patient feature].
        """
        logits = self.heads[j](self.body(past + self.place[j]))
        if logits.shape[1] > 1 and torch.isfinite(self.spread[j]):
            told = (
                torch.cat([table[ids[:, k]] for k, table in enumerate(self.plain[:j])], 1) if j else ids[:, :0].float()
            )
            middle = told @ self.slope[j, : told.shape[1]] + self.offset[j]
            centre = self.plain[j][1:, 0]
            far = (centre - middle[:, None]) / self.spread[j].exp()
            bell = (0.5 * centre.square() - 0.5 * far.square()).log_softmax(-1)
            share = self.heads[j].bias[1:].logsumexp(0) - self.heads[j].bias[1:]
            logits = torch.cat([logits[:, :1], logits[:, 1:] + (bell + share).clamp(min=-12)], 1)
        return logits.log_softmax(-1)

    def sample(
        self, n: int, fixed: dict[int, int], stream: torch.Generator, *, not_empty: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids, some of them fixed, and the log probability of what was asked for given the ids before [patient].

        Args:
            n: Patients.
            fixed: Feature -> id.
            stream: Stream of the draw.
            not_empty: Is id 0 of the last feature (a stream without tokens) ruled out?
        """
        past, weight = torch.zeros(n, self.place.shape[1]), torch.zeros(n)
        ids = torch.zeros(n, len(self.heads), dtype=torch.long)
        for j, embed in enumerate(self.embed):
            log_p = self.log_p(j, past, ids)
            if j in fixed:
                ids[:, j] = fixed[j]
                weight = weight + log_p[:, fixed[j]]
            else:
                if not_empty and j == len(self.heads) - 1:
                    log_p[:, 0] = float("-inf")
                    weight = weight + log_p.logsumexp(-1)
                ids[:, j] = torch.multinomial(log_p.softmax(-1), 1, generator=stream)[:, 0] if n else 0
            past = past + embed(ids[:, j])
        return ids, weight


class PatientNet(nn.Module):
    """What the stream is told of the patient's statics [patient width]."""

    def __init__(self, sizes: Sequence[int], width: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(n, width) for n in sizes)
        for embed in self.embed:
            nn.init.normal_(embed.weight, std=0.3)
        self.body = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(ids), self.body[1].in_features)
        for j, embed in enumerate(self.embed):
            total = total + embed(ids[:, j])
        return self.body(total)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the transformer.

    Args:
        tokens, gaps, values: Numbers of ids.
        features: Plain features of a position.
        past: Features of past values.
        width, layers, heads: Of the transformer.
        window: Positions it looks back.
    """

    tokens: int
    gaps: int
    values: int
    features: int
    past: int
    width: int
    layers: int
    heads: int
    window: int


class EventTransformer(nn.Module):
    """Streams given statics.

    Args:
        sizes: Sizes.
        patient: Sizes of the static features.
        share: Share of each token [token].
        after: How often each token came after each: the start of the token head [token token], or [0 token].
        log_gap, log_value: Log shares that start the heads: [kind gap], [token value].
        lines: Regressions of values on past ones (`event_encoding.lines`).
        follows: May a row of token b come after a row of token a? [a b]
        facts: What tokens are (`StreamCodec.facts`).
    """

    def __init__(
        self, sizes: Sizes, patient: Sequence[int], share: torch.Tensor, after: torch.Tensor, log_gap: torch.Tensor,
        log_value: torch.Tensor, lines: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        facts: dict[str, torch.Tensor], follows: torch.Tensor, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sizes, width = sizes, sizes.width
        self.patient = PatientNet(patient, width, dropout)
        self.token = nn.Embedding(sizes.tokens, width)
        nn.init.normal_(self.token.weight, std=width**-0.5)
        self.value_in = nn.Linear(3, width)
        self.gap_in = nn.Embedding(sizes.gaps, width)
        nn.init.normal_(self.gap_in.weight, std=0.1)
        self.plain = nn.Sequential(nn.Linear(sizes.features, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, sizes.heads, dropout) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(width)
        self.to_token = nn.Linear(width, width, bias=False)
        self.token_bias = nn.Parameter(torch.zeros(sizes.tokens))
        self.register_buffer("share", share)
        self.register_buffer("after", after)
        self._start: tuple[tuple[int, int], torch.Tensor] | None = None
        self.again = nn.Parameter(torch.zeros(3, sizes.tokens))
        self.again_here = nn.Linear(width, 3)
        self.gap_body = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Dropout(dropout))
        self.gap_head = nn.Linear(width, sizes.gaps)
        self.gap_bias = nn.Parameter(log_gap.clone())
        self.value_body = nn.Sequential(nn.Linear(2 * width + sizes.past, 2 * width), nn.SiLU(), nn.Dropout(dropout))
        self.value_head = nn.Linear(2 * width, sizes.values + 2)
        self.value_bias = nn.Parameter(log_value.clone())
        slope, offset, spread = lines
        self.register_buffer("slope", slope)
        self.register_buffer("offset", offset)
        self.register_buffer("spread", spread)
        classes = sizes.values - 2
        share = torch.linspace(0.5 / classes, 1 - 0.5 / classes, classes).double()
        self.register_buffer("centre", torch.special.ndtri(share).float(), persistent=False)
        for layer in (self.to_token, self.again_here, self.gap_head, self.value_head):
            nn.init.zeros_(layer.weight)
        for layer in (self.again_here, self.gap_head, self.value_head):
            nn.init.zeros_(layer.bias)
        for name in ("table", "column", "row", "visit", "rest", "due"):
            self.register_buffer(name, facts[name], persistent=False)
        self.register_buffer("follows", follows, persistent=False)

    @property
    def head(self) -> int:
        return self.sizes.width // self.sizes.heads

    def inputs(
        self, token: torch.Tensor, value: torch.Tensor, gap: torch.Tensor, plain: torch.Tensor, patient: torch.Tensor
    ) -> torch.Tensor:
        """Positions [patient position width]: the last token with its value and gap, plain features, the patient."""
        x = self.token(token) + self.value_in(value) + self.gap_in(gap)
        return x + self.plain(plain) + patient[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turn = _turn(torch.arange(x.shape[1]), self.head)
        for block in self.blocks:
            x = block(x, turn)
        return self.norm(x)

    def cache(self, n: int) -> Cache:
        return Cache(n, self.sizes.window, self.sizes.layers, self.sizes.heads, self.head)

    def step(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        turn = _turn(torch.tensor([cache.seen]), self.head)
        for layer, block in enumerate(self.blocks):
            x = block.step(x, turn, cache, layer)
        cache.seen += 1
        return self.norm(x)

    def token_logits(
        self, h: torch.Tensor, row: torch.Tensor, last: torch.Tensor, left: torch.Tensor, had: torch.Tensor
    ) -> torch.Tensor:
        """Logits of the next token [... token]; what the grammar forbids has -inf.

        Args:
            h: State [... width].
            row: Token of the row the stream stands in (0 before the first) [...].
            last: Last token [...].
            left: Tokens to come, this one included; END is next where nothing else can be [...].
            had: When the patient last had the token, see `recency` [... token].
        """
        pairs, which = torch.unique(row * self.sizes.tokens + last, return_inverse=True)
        fine, start = self._grammar(pairs // self.sizes.tokens, pairs % self.sizes.tokens)
        logits = F.linear(self.to_token(h), self.token.weight, self.token_bias) + start[which]
        here = self.again_here(h)
        for k in range(3):
            logits = logits + (had == k + 1) * (_SWIFT * self.again[k] + here[..., k : k + 1])
        tight = bool((left <= self.rest.max()).any())
        if tight:  # nothing is begun that there is no room for
            logits = logits.masked_fill(self.rest >= left[..., None], float("-inf"))
        if tight or not bool(fine.any(-1).all()):
            end = torch.full_like(logits, float("-inf"))
            end[..., 0] = 0.0
            logits = torch.where(torch.isneginf(logits).all(-1, keepdim=True), end, logits)
        return logits

    def _grammar(self, row: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What may come next, and the log probability that starts it, -inf where nothing may [pair token]."""
        cell = (self.table[row][:, None] == self.table) & ~self.row & (self.column > self.column[last][:, None])
        due = self.due[last][:, None]  # a cell that is never empty is not passed over
        fine = (self.follows[row] & (due == _NEVER)) | (cell & (self.column <= due))
        version = self.after._version, self.share._version
        if self._start is None or self._start[0] != version:  # the counts never change but by loading
            seen = self.after if len(self.after) else self.after.new_zeros(1, self.sizes.tokens)
            self._start = version, ((seen + self.share) / (seen.sum(-1, keepdim=True) + 1)).log()
        start = self._start[1][last if len(self.after) else torch.zeros_like(last)]
        return fine, start.masked_fill(~fine, float("-inf"))

    def gap_logits(self, h: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Logits of the gap before a row of the token [n gap]."""
        x = self.gap_body(torch.cat([h, self.token(token)], -1))
        return self.gap_head(x) + self.gap_bias[(~self.visit[token]).long()]

    def value_law(
        self, h: torch.Tensor, token: torch.Tensor, gap: torch.Tensor, past: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the value of a token [n value], and middle and width of the bell over its numbers [n].

        Args:
            h: State [n width].
            token, gap: Ids [n].
            past: Past values (`event_encoding.Past.columns`) [n feature].
        """
        x = self.value_body(torch.cat([h, self.token(token) + self.gap_in(gap), past], -1))
        free, shift, widen = self.value_head(x).split([self.sizes.values, 1, 1], -1)
        line = past[:, 2].long(), token  # of first numbers, or of later ones
        middle = (self.slope[line] * past).sum(-1, keepdim=True) + self.offset[line][:, None] + shift
        width = (self.spread[line][:, None] + widen.clamp(-2, 2)).exp().clamp(0.05, 3)
        bell = (-0.5 * ((self.centre - middle) / width).square() + 0.5 * self.centre.square()).log_softmax(-1)
        share = self.value_bias[token]
        numbers = share[:, 2:].logsumexp(-1, keepdim=True)
        mixed = torch.logaddexp(bell + _BELL[0], share[:, 2:] - numbers + _BELL[1])
        return free + torch.cat([share[:, :2], numbers + mixed], -1), middle[:, 0], width[:, 0]


def recency(when: torch.Tensor, visits: torch.Tensor) -> torch.Tensor:
    """When the patient last had each token: 0 never, 1 in this visit, 2 in the one before, 3 earlier [... token].

    Args:
        when: One more than the number of visits begun then, 0 for never [... token].
        visits: Visits begun so far [...].
    """
    ago = (visits[..., None] + 2 - when).clamp(1, 3)
    return torch.where(when > 0, ago, 0).to(torch.uint8)
