"""Sizes, networks and training phases of `columnar-ar`.

How large a network is and how long it is trained follows the number of patients, by measurements on real and simulated
cohorts (docs/methods/columnar-ar.md):

    patients        hidden / per column: later, first, statics   dropout     rate   batch   persistence   members
    below 500       64 / 16     32 / 16     64 / 24              .3 .3 .2    1.5e-3 128     1.2           4
    up to 3,000     128 / 32    64 / 32     64 / 24              .2 .1 .1    1e-3   256     1             1
    above           128 / 32    64 / 32     64 / 24              .1          1e-3   512     1             1

Rates are those of `later`; `first` and `statics` learn at 3e-3. All networks start at regressions
(`nets.columnar_start`), and the lower rate keeps columns that are measured rarely where they start.

Above `LOW_RANK_FROM` columns networks have the low-rank form, below 500 patients only above `MOST_FULL`: there the full
one is affordable, and only in it what columns say of each other starts at a regression. On 60 patients with 210
columns a low rank had not learned from its random start that a monitored stay has all of its vital signs.

Members of an ensemble leave out different patients for early stopping and share the patients to be drawn: below 500
patients one model remembers its patients measurably, and this halves the trace.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from cohortloom.codec.tensors import Encoded
from cohortloom.generators.cell_targets import Targets
from cohortloom.generators.cells import Cells, Coder
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.columnar_sampling import Members
from cohortloom.nets.columnar import LOW_RANK_FROM, ColumnNet, ColumnShape, Rows
from cohortloom.nets.columnar_start import start_at_lines
from cohortloom.nets.level_ties import tell_large
from cohortloom.rng import Rng
from cohortloom.training.phase import Objective, Phase
from cohortloom.training.settings import Training
from cohortloom.training.subjects import hold_out

__all__ = ["ColumnarNets", "Size", "Tables", "phases", "size_of", "subset_that_fits"]

FEATURE_BYTES = 2**30  # history features kept at once; a larger cohort trains on as many patients as fit
MAX_STEPS = 12_000
MOST_FULL = 250  # columns of a network in its full form, below 500 patients
MIDDLE_STEPS = 3_000  # 500 to 3,000 patients: validation would end the run thereabouts, with the rate still high


@dataclass(frozen=True)
class Size:
    """Of one of the three networks, with its training."""

    hidden: int
    width: int
    n_layers: int
    dropout: float
    persistence: float
    low_rank: bool
    training: Training


def size_of(net: str, n_subjects: int, n_rows: int, n_columns: int) -> Size:
    """The table of the module docstring."""
    small, large = n_subjects < 500, n_subjects > 3_000
    low_rank = n_columns > (MOST_FULL if small else LOW_RANK_FROM)
    if net == "later":
        width = 16 if small or n_columns > 30 else 32
        batch = 128 if small else 512 if large else 256
        steps = int(min(40 * np.ceil(n_rows / min(batch, max(n_rows, 1))), MAX_STEPS))
        steps = steps if small or large else min(steps, MIDDLE_STEPS)
        training = Training(
            batch_size=batch, steps=max(steps, 1), learning_rate=1.5e-3 if small else 1e-3,
            weight_decay=0.01, patience=8 if large else 4, ema=0.99,
            evaluate_every=400 if large else max(-(-n_rows // batch), 4) if small else None,
        )  # fmt: skip
        dropout, persistence = 0.3 if small else 0.1 if large else 0.2, 1.2 if small else 1.0
        return Size(64 if small else 128, width, 2, dropout, persistence, low_rank, training)
    batch = min(256, max(32, n_rows // 4))
    epochs = 60 if n_subjects >= 5_000 else 300
    steps = int(min(epochs * np.ceil(n_rows / min(batch, max(n_rows, 1))), MAX_STEPS))
    training = Training(
        batch_size=batch, steps=max(steps, 1), learning_rate=3e-3, weight_decay=0.05 if net == "statics" else 0.02,
        patience=4 if small else 8 if large or net == "first" else 12, ema=0.98,
        evaluate_every=max(-(-n_rows // batch), 8) if small else None,
    )  # fmt: skip
    if net == "first":
        return Size(32 if small else 64, 16 if small else 32, 1, 0.3 if small else 0.1, 0.0, low_rank, training)
    return Size(64, 24, 1, 0.2 if small else 0.1, 0.0, low_rank, training)


class ColumnarNets(nn.Module):
    """All networks of all members. Built from the alphabet and the shapes of the columns."""

    row_by_row = True  # an item of a batch is one row of every matrix product

    def __init__(
        self, alphabet: Alphabet, shapes: dict[str, list[ColumnShape]], sizes: dict[str, Size], members: int
    ) -> None:
        super().__init__()
        self.alphabet, self.n_members = alphabet, members
        self.nets = nn.ModuleDict()
        for member in range(members):
            for name, columns in shapes.items():
                size, (n_features, lookups) = sizes[name], alphabet.sizes(name)
                self.nets[f"{name}_{member}"] = ColumnNet(
                    columns, n_features, lookups, hidden=size.hidden, width=size.width, n_layers=size.n_layers,
                    dropout=size.dropout, persistence=size.persistence, low_rank=size.low_rank,
                    n_told=0 if name == "statics" else alphabet.static_width,
                )  # fmt: skip
        self.eval()

    def member(self, number: int) -> Members:
        keys = [f"{name}_{number}" for name in ("statics", "first", "later")]
        return Members(*[self.nets[key] if key in self.nets else None for key in keys])  # noqa: SIM401 (no get)


@dataclass(frozen=True)
class Table:
    """Training rows of one network, looked up by number."""

    subject: np.ndarray
    inputs: Callable[[Tensor], tuple[Tensor, Tensor]]
    targets: Targets
    barred: Tensor

    @classmethod
    def of(cls, coders: Sequence[Coder], cells: Cells, subject: np.ndarray, inputs: Callable) -> Self:
        return cls(subject, inputs, Targets.of(coders, cells), _barred(coders, cells))

    def rows(self, items: Tensor, draw: torch.Generator) -> Rows:
        """A batch; z is drawn within the interval of each value, anew every time."""
        return Rows(*self.inputs(items), *self.targets.at(items, draw), self.barred[:, items])


@dataclass(frozen=True)
class Tables:
    """Training rows of the networks that have something to learn, and the number of subjects behind them."""

    n_subjects: int
    table: dict[str, Table]
    cells: dict[str, Cells]

    @classmethod
    def of(cls, alphabet: Alphabet, encoded: Encoded) -> "Tables":
        statics = alphabet.static_cells(encoded)
        n = len(statics.value)
        table, cells = {}, {}
        if alphabet.statics:
            ones, none = torch.ones(n, 1), torch.zeros(n, 0, dtype=torch.long)
            cells["statics"] = statics
            table["statics"] = Table.of(alphabet.statics, statics, np.arange(n), lambda i: (ones[i], none[i]))
        seq = encoded.sequence
        if seq is None or not alphabet.coders("first"):
            return cls(n, table, cells)
        dense, lookups = (torch.from_numpy(part) for part in alphabet.static_inputs(statics))
        firsts, alls = alphabet.visit_cells(encoded)
        has = torch.from_numpy(np.flatnonzero(seq.length > 0))
        if alphabet.spec is not None and (seq.length > 1).any():
            rows = alphabet.later_rows(statics, alls, seq, fit=True)
            cells["later"] = alls.take(rows.step)
            who, features, codes = (torch.from_numpy(a) for a in (rows.subject, rows.features, rows.codes))
            table["later"] = Table.of(
                alphabet.coders("later"), cells["later"], rows.subject,
                lambda i: (torch.cat([dense[who[i]], features[i]], 1), torch.cat([lookups[who[i]], codes[i]], 1)),
            )  # fmt: skip
        if len(has):
            cells["first"] = firsts
            begun = [torch.from_numpy(part) for part in alphabet.first_inputs(statics.take(has.numpy()))]
            table["first"] = Table.of(
                alphabet.coders("first"), firsts, has.numpy(), lambda i: (begun[0][i], begun[1][i])
            )
        order = [name for name in ("statics", "first", "later") if name in table]
        return cls(n, {k: table[k] for k in order}, {k: cells[k] for k in order})


def _barred(coders: Sequence[Coder], cells: Cells) -> Tensor:
    """Ends of the z that each number can't have as CONT because they would repeat its last value: end row column."""
    from scipy.special import ndtri  # heavy

    out = np.zeros((2, *cells.value.shape), np.float32)
    for j, coder in enumerate(coders):
        if coder.kind == "number" and coder.repeat:
            out[:, :, j] = ndtri(np.clip(coder.barred(cells.last[:, j]), 1e-6, 1 - 1e-6))
    return torch.from_numpy(out)


def subset_that_fits(alphabet: Alphabet, encoded: Encoded, rng: Rng) -> Encoded:
    """All patients, or as many (drawn) as have history features within `FEATURE_BYTES`."""
    if alphabet.spec is None:
        return encoded
    size = 4 * alphabet.spec.n_features * np.maximum(encoded.sequence.length - 1, 0)
    if size.sum() <= FEATURE_BYTES:
        return encoded
    order = rng.child("subset").numpy.permutation(len(size))
    return encoded.take(np.sort(order[np.cumsum(size[order]) <= FEATURE_BYTES]))


def phases(nets: ColumnarNets, tables: Tables, sizes: dict[str, Size], validation: float, rng: Rng) -> list[Phase]:
    """One phase per network and member."""
    out, choices = [], {name: {} for name in tables.table}
    for member in range(nets.n_members):
        _, held = hold_out(tables.n_subjects, validation, rng, fold=member)
        is_held = np.zeros(tables.n_subjects, bool)
        is_held[held] = True
        for name, table in tables.table.items():
            net = nets.nets[f"{name}_{member}"]
            inside, outside = np.flatnonzero(~is_held[table.subject]), np.flatnonzero(is_held[table.subject])
            if not len(inside):
                inside, outside = outside, inside
            stream = rng.child("start", name, member)
            look_up = partial(table.rows, draw=stream.child("z").torch)
            start_at_lines(
                net, look_up, table.targets.token.numpy(), table.subject, inside, stream.numpy, choices[name]
            )
            blocks = nets.alphabet.static_blocks if net.n_told else []
            tell_large(net, table.inputs, table.targets.token.numpy(), table.subject, inside, blocks)
            training = sizes[name].training
            if not len(outside):  # nobody to stop by: a short run from a sound start
                training = replace(training, steps=min(training.steps, 60))

            def loss(items: Tensor, draw: torch.Generator, net: ColumnNet = net, table: Table = table) -> Tensor:
                return -net.log_prob(table.rows(items, draw)).sum(1).mean()

            objective = Objective("likelihood", net.parameters(), loss)
            share = {"statics": 1.0, "first": 1.0, "later": 6.0}[name]
            out.append(Phase(f"{name} {member}", net, inside, [objective], outside, None, training, share))
    return out
