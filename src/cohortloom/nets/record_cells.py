"""Cells of a record as a denoiser sees them, and what their neighbours in time say.

A cell is a token and, for some tokens, a number x (a normal score). While a record is drawn a cell goes through

    hidden            its token is MASK
    token shows       and its number, if it has one, is still noise
    noisy number      a x + b e, at a noise level all cells of the part share
    clean             given from the start, or done; a spike's number is known with its token

A column may lie within another, its gate. Where that says no there is nothing to reveal: the token stays MASK. A cell
never shows before its gate, so that what shows of it can't tell what the gate will be.

`smooth` looks along one column of one record: kernels over the distance in visits, normalised by what shows,

    s_h(i) = sum_j k_h(i - j) w_j v_j / sum_j k_h(i - j) w_j

with k_h = nearest past, nearest future (falling by half per visit), all others alike, the visit before alone, the visit
after alone. Kernels depend on i - j alone, so this is one small matrix product for a whole batch. It tells a cell which
tokens stand around it; for numbers `record_prior` does the same exactly.
"""

from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["LARGE", "CellColumn", "Columns", "Embed", "OwnLine", "Shown", "kernels", "level_basis", "one_hot", "smooth"]

LARGE = 40  # columns of more tokens are embedded in few dimensions
RANK = 24
EARLY = 0.25  # share of the passes within which gates are drawn
LEVELS = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
N_KERNELS = 5


@dataclass(frozen=True)
class CellColumn:
    """Shape of one column.

    Args:
        kind: "number" or "category".
        allowed: For each token: can it be drawn?
        share: Share of each token in training.
        spikes: Score of the number that each spike stands for (tokens 1, 2, ... of a number).
        repeat: Token of the last recorded value, -1 for none.
        gate: The earlier column that says whether this one is there, -1 for none.
        closes: For each token of the gate: is there nothing behind it?
    """

    kind: str
    allowed: tuple[bool, ...]
    share: tuple[float, ...]
    spikes: tuple[float, ...] = ()
    repeat: int = -1
    gate: int = -1
    closes: tuple[bool, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.allowed)

    @property
    def mask(self) -> int:
        """Token of a hidden cell."""
        return len(self.allowed)

    @property
    def free(self) -> bool:
        """Is there a choice?"""
        return sum(self.allowed) > 1 or self.gate >= 0

    @property
    def only(self) -> int:
        """The token of a column without a choice."""
        return self.allowed.index(True) if any(self.allowed) else 0

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict) -> "CellColumn":
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


@dataclass(frozen=True)
class Columns:
    """The columns of a part, and where their tokens lie side by side."""

    each: tuple[CellColumn, ...]

    def __len__(self) -> int:
        return len(self.each)

    @cached_property
    def numbers(self) -> list[int]:
        return [j for j, c in enumerate(self.each) if c.kind == "number"]

    @cached_property
    def small(self) -> list[int]:
        return [j for j, c in enumerate(self.each) if c.n_tokens <= LARGE]

    @cached_property
    def large(self) -> list[int]:
        return [j for j, c in enumerate(self.each) if c.n_tokens > LARGE]

    @cached_property
    def owner(self) -> Int[Tensor, "token"]:
        """Place among the small columns of each of their tokens, side by side."""
        return torch.tensor([k for k, j in enumerate(self.small) for _ in self.each[j].allowed], dtype=torch.long)

    @cached_property
    def pads(self) -> Int[Tensor, "column token"]:
        """Small columns: place of each token among all, padded with one past the end."""
        widest = max((self.each[j].n_tokens for j in self.small), default=1)
        out, start = torch.full((len(self.small), widest), len(self.owner)), 0
        for k, j in enumerate(self.small):
            n = self.each[j].n_tokens
            out[k, :n] = torch.arange(start, start + n)
            start += n
        return out

    @cached_property
    def masks(self) -> Int[Tensor, "column"]:
        return torch.tensor([c.mask for c in self.each], dtype=torch.long)

    @cached_property
    def free(self) -> Bool[Tensor, "column"]:
        return torch.tensor([c.free for c in self.each], dtype=torch.bool)

    @cached_property
    def only(self) -> Int[Tensor, "column"]:
        return torch.tensor([c.only for c in self.each], dtype=torch.long)

    @cached_property
    def is_number(self) -> Bool[Tensor, "column"]:
        return torch.tensor([c.kind == "number" for c in self.each], dtype=torch.bool)

    @cached_property
    def gates(self) -> list[tuple[int, int, Bool[Tensor, "token"]]]:
        """(column, its gate, tokens of the gate, MASK among them, that say there is nothing)."""
        return [(j, c.gate, torch.tensor([*c.closes, False])) for j, c in enumerate(self.each) if c.gate >= 0]

    def shut(self, token: Int[Tensor, "*cell column"]) -> Bool[Tensor, "*cell column"]:
        """Cells of which a gate that shows says that there is nothing."""
        out = torch.zeros_like(token, dtype=torch.bool)
        for j, gate, closes in self.gates:
            out[..., j] = out[..., gate] | closes[token[..., gate]]
        return out

    def behind(self, cells: Bool[Tensor, "*cell column"]) -> Bool[Tensor, "*cell column"]:
        """The cells, and all that lies within them."""
        out = cells.clone() if self.gates else cells
        for j, gate, _ in self.gates:
            out[..., j] |= out[..., gate]
        return out

    def after_gates(self, time: Float[Tensor, "*cell column"]) -> Float[Tensor, "*cell column"]:
        """Times in [0, 1) at which cells are revealed: gates early, what lies within them spread over the time left.

        Were they all held back until the gate shows, most would be drawn in its pass, blind to each other.
        """
        out = time.clone() if self.gates else time
        for gate in {gate for _, gate, _ in self.gates}:
            out[..., gate] = EARLY * time[..., gate]
        for j, gate, _ in self.gates:
            out[..., j] = out[..., gate] + (1 - out[..., gate]) * time[..., j]
        return out

    @cached_property
    def spike_scores(self) -> Float[Tensor, "column token"]:
        """Score of each spike token, 0 elsewhere."""
        out = torch.zeros(len(self.each), max((len(c.spikes) for c in self.each), default=0) + 2)
        for j, c in enumerate(self.each):
            out[j, 1 : 1 + len(c.spikes)] = torch.tensor(c.spikes)
        return out

    @cached_property
    def n_spikes(self) -> Int[Tensor, "column"]:
        return torch.tensor([len(c.spikes) for c in self.each], dtype=torch.long)

    @cached_property
    def repeats(self) -> Int[Tensor, "column"]:
        """REPEAT of each column, -1 for none."""
        return torch.tensor([c.repeat for c in self.each], dtype=torch.long)


@dataclass(frozen=True)
class Shown:
    """What shows of the cells of a part.

    Args:
        token: Token, a column's `mask` where hidden.
        value: Number as shown: clean, or a x + b e; 0 where nothing shows.
        clean, noisy: Which of the two it is.
    """

    token: Int[Tensor, "*cell column"]
    value: Float[Tensor, "*cell column"]
    clean: Bool[Tensor, "*cell column"]
    noisy: Bool[Tensor, "*cell column"]


def level_basis(level: Float[Tensor, "record"]) -> Float[Tensor, "record basis"]:
    """Five smooth bumps over log(1/sigma), summing to one."""
    bumps = torch.exp(-0.5 * ((level.clamp(-5, 5)[:, None] - LEVELS) / 1.5) ** 2)
    return bumps / bumps.sum(1, keepdim=True)


def kernels(n: int) -> Float[Tensor, "kernel step step"]:
    """Weights of step j for step i, in the order of the module docstring. Never the step itself."""
    distance = torch.arange(n)[:, None] - torch.arange(n)[None]
    weight = 0.5 ** distance.abs().double()
    out = [torch.where(distance > 0, weight, 0.0), torch.where(distance < 0, weight, 0.0), (distance != 0).double()]
    out += [(distance == 1).double(), (distance == -1).double()]
    return torch.stack(out).float()


def smooth(
    kernel: Float[Tensor, "kernel step step"],
    value: Float[Tensor, "record step column"],
    weight: Float[Tensor, "record step column"],
    owner: Int[Tensor, "column"],
) -> Float[Tensor, "record step column kernel"]:
    """Kernel means of the weighted cells, 0 where there are none; column c of `value` has weight column owner[c]."""
    _, steps, columns = value.shape
    both = torch.cat([value * weight[..., owner], weight], 2)
    out = (kernel.flatten(0, 1) @ both).unflatten(1, (len(kernel), steps)).permute(0, 2, 3, 1)
    below = out[:, :, columns:][:, :, owner]
    return torch.where(below > 1e-30, out[:, :, :columns] / below.clamp(min=1e-30), 0.0)


def one_hot(columns: Columns, token: Int[Tensor, "*cell column"]) -> Float[Tensor, "*cell token"]:
    """Tokens of the small columns side by side; a hidden cell is all zeros."""
    width = len(columns.owner)
    place = torch.full((*token.shape[:-1], len(columns.small)), width, dtype=torch.long, device=token.device)
    if columns.small:
        starts = columns.pads[:, 0]
        small = token[..., columns.small]
        place = torch.where(small == columns.masks[columns.small], width, starts + small)
    out = torch.zeros(*token.shape[:-1], width + 1, device=token.device)
    return out.scatter_(-1, place, 1.0)[..., :width]


class OwnLine(nn.Module):
    """A linear map from the kernel shares of a column's tokens to its logits, for every small column.

    Args:
        columns: Of a part.
    """

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        places: dict[int, list[int]] = {}
        for k, j in enumerate(columns.small):
            places.setdefault(columns.each[j].n_tokens, []).append(k)
        starts = columns.pads[:, 0] if columns.small else torch.zeros(0, dtype=torch.long)
        self.places = [starts[which][:, None] + torch.arange(width) for width, which in places.items()]
        self.back = torch.cat([place.flatten() for place in self.places] or [starts]).argsort()
        self.weight = nn.ParameterList()
        for width, which in places.items():
            pull = torch.zeros(width, N_KERNELS, width)
            pull[:, :2] = torch.eye(width)[:, None]
            self.weight.append(nn.Parameter(pull.flatten(0, 1).repeat(len(which), 1, 1)))

    def forward(self, shares: Float[Tensor, "*cell token kernel"]) -> Float[Tensor, "*cell token"]:
        found = []
        for place, weight in zip(self.places, self.weight):
            part = shares[..., place.flatten(), :].unflatten(-2, place.shape).flatten(-2)
            found.append(torch.einsum("...cs,cst->...ct", part, weight).flatten(-2))
        return torch.cat(found, -1)[..., self.back] if found else shares[..., 0]


class Embed(nn.Module):
    """Embedding of cells: a vector per token (few dimensions for columns of many), a direction per number."""

    def __init__(self, columns: Columns, width: int) -> None:
        super().__init__()
        self.columns = columns
        sizes = [columns.each[j].n_tokens + 1 for j in columns.small]
        self.starts = torch.tensor([sum(sizes[:k]) for k in range(len(sizes))], dtype=torch.long)
        self.tokens = nn.Parameter(torch.randn(sum(sizes) + 1, width) * 0.1)
        self.many = nn.ModuleList(nn.Embedding(columns.each[j].n_tokens + 1, RANK) for j in columns.large)
        self.wide = nn.ModuleList(nn.Linear(RANK, width, bias=False) for _ in columns.large)
        n = len(columns)
        self.number = nn.Parameter(torch.randn(n, width) * 0.1)
        self.noise = nn.Parameter(torch.randn(n, width) * 0.1)
        self.known = nn.Parameter(torch.zeros(n, width))

    def rows(self, shown: Shown) -> Float[Tensor, "*cell width"]:
        """Sum over the columns of a row."""
        c = self.columns
        out = (shown.value * shown.clean) @ self.number + (shown.value * shown.noisy) @ self.noise
        out = out + shown.clean.float() @ self.known
        if c.small:
            index = (shown.token[..., c.small] + self.starts).reshape(-1, len(c.small))
            out = out + nn.functional.embedding_bag(index, self.tokens, mode="sum").reshape(out.shape)
        for table, wide, j in zip(self.many, self.wide, c.large):
            out = out + wide(table(shown.token[..., j]))
        return out

    def cells(self, shown: Shown) -> Float[Tensor, "*cell column width"]:
        """A vector per cell."""
        c = self.columns
        out = (shown.value * shown.clean)[..., None] * self.number + (shown.value * shown.noisy)[..., None] * self.noise
        out = out + shown.clean[..., None] * self.known
        parts = list(out.unbind(-2))
        for k, j in enumerate(c.small):
            parts[j] = parts[j] + self.tokens[self.starts[k] + shown.token[..., j]]
        for table, wide, j in zip(self.many, self.wide, c.large):
            parts[j] = parts[j] + wide(table(shown.token[..., j]))
        return torch.stack(parts, -2) if parts else out
