"""Columnar autoregression: a patient, one cell after the other.

    p(patient) = p(statics, number of visits) p(first visit | statics) product over later ones p(visit | statics, past)

and each factor is a product over columns in table order (`nets.columnar`). The past enters through explicit running
features (`nets.history`) instead of a recurrent network, so training is plain mini-batches of visits: no padding, no
backpropagation through time. Numbers are tokens (on a spike, a verbatim repeat, missing) and mixtures of normals on
their rank (`nets.tokens`).

    columnar_encoding   arrays <-> rows of the three networks
    columnar_training   sizes by cohort, networks, phases
    columnar_sampling   drawing visit by visit, fixed values, likelihood
    columnar_continue   more visits for a record that has begun
    columnar_impute     cells that are missing, given those before and after
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from cohortloom.codec.steps import step_table
from cohortloom.codec.tensors import Encoded, Layout, SequenceArrays, StaticArrays
from cohortloom.errors import SettingsError
from cohortloom.generators.base import Ability
from cohortloom.generators.cell_drawing import Fixed
from cohortloom.generators.cells import observed_values, raw_values
from cohortloom.generators.choosing import ChoosingGenerator
from cohortloom.generators.columnar_continue import CANDIDATES, continue_visits, joined, lengthened
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.columnar_impute import fill
from cohortloom.generators.columnar_sampling import Records, draw_records, log_likelihood
from cohortloom.generators.columnar_training import ColumnarNets, Size, Tables, phases, size_of, subset_that_fits
from cohortloom.generators.impute import Holes
from cohortloom.generators.torch_base import Shape
from cohortloom.nets.columnar import ColumnShape
from cohortloom.rng import Rng
from cohortloom.training.phase import Phase
from cohortloom.training.settings import Training

__all__ = ["ColumnarAR"]

SCORED_AT_ONCE = 4096
MOST_AT_ONCE, CELLS_AT_ONCE = 2**14, 2**22  # patients and cells of a shard
HISTORY_BYTES = 2**27  # history features of candidates held at once while continuing


@dataclass(kw_only=True)
class ColumnarAR(ChoosingGenerator):
    """Statics, visit count, visits, gaps, values and missingness jointly, cell by cell. The default for records.

    Args:
        hidden: Width of the network of later visits; None: by number of patients, see `columnar_training`.
        members: Networks that share the patients to draw, each stopped by other patients; None: 4 below 500 patients,
            else 1.
        temperature: Below 1 draws nearer to the typical patient, above 1 further away; 1 is the learned law.
        candidates: Draws of a patient among which one is chosen (`ChoosingGenerator`).
        training: What is left at its default follows the number of patients.
    """

    name: ClassVar[str] = "columnar-ar"
    layout: ClassVar[Layout] = Layout(static=True, sequence=True, scale="raw")
    statics_first: ClassVar[bool] = True
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {Ability.CONDITION, Ability.GIVEN, Ability.EXTEND, Ability.IMPUTE, Ability.SCORE, Ability.RESUME}
    )

    hidden: int | None = None
    members: int | None = None
    temperature: float = 1.0
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [name for name in ("hidden", "members") if (value := getattr(self, name)) is not None and value < 1]
        wrong += [] if self.temperature > 0 else ["temperature"]
        if wrong:
            raise SettingsError(f"{self.name}: {', '.join(wrong)} must lie above 0.")

    @property
    def shard_size(self) -> int:
        """Patients drawn at once; a step costs little more for many than for few."""
        rows, columns = self.shape_.facts["rows"], self.shape_.facts["shapes"]
        visits = 1 + rows.get("later", 0) / max(rows.get("first", 0), 1)
        return int(np.clip(CELLS_AT_ONCE / (visits * max(len(columns.get("first", ())), 1)), 64, MOST_AT_ONCE))

    # --- learning ---

    def measure(self, data: Encoded, context: Encoded | None, rng: Rng) -> dict[str, Any]:
        """Coders of all columns, and shapes of the networks."""
        alphabet = Alphabet.fit(data, k_min=self.codec_.k_min, gated=True, lined=True, spanned=None)
        self._tables = Tables.of(alphabet, subset_that_fits(alphabet, data, rng))
        shapes = {name: alphabet.shapes(name, cells) for name, cells in self._tables.cells.items()}
        rows = {name: len(table.subject) for name, table in self._tables.table.items()}
        return {
            "alphabet": alphabet.to_json(),
            "shapes": {name: [asdict(column) for column in columns] for name, columns in shapes.items()},
            "rows": rows,
        }

    def build(self, shape: Shape) -> ColumnarNets:
        alphabet = Alphabet.from_json(shape.facts["alphabet"])
        shapes = {
            name: [_column_shape(column) for column in columns] for name, columns in shape.facts["shapes"].items()
        }
        members = self.members or (4 if 10 <= shape.n_subjects < 500 else 1)
        return ColumnarNets(alphabet, shapes, self._sizes(shape), members)

    def phases(self, net: ColumnarNets, data: Encoded, context: Encoded | None, rng: Rng) -> list[Phase]:
        return phases(net, self.__dict__.pop("_tables"), self._sizes(self.shape_), self.training.validation, rng)

    def _sizes(self, shape: Shape) -> dict[str, Size]:
        """The recipe's sizes, with what the settings say otherwise."""
        out = {}
        for name, columns in shape.facts["shapes"].items():
            size = size_of(name, shape.n_subjects, shape.facts["rows"][name], len(columns))
            if name == "later" and self.hidden is not None:
                size = replace(size, hidden=self.hidden)
            out[name] = replace(size, training=self.training.over(size.training))
        return out

    # --- drawing ---

    def _draw(self, n: int, context: Encoded | None, rng: Rng, where: Mapping[str, float]) -> Encoded:
        statics, first = self._fixed(n, context, where)
        net = self.net_
        member = rng.child("member").numpy.integers(net.n_members, size=n)
        order = np.argsort(member, kind="stable")
        records = draw_records(
            net.alphabet,
            [net.member(number) for number in range(net.n_members)],
            member[order],
            rng.child("records").numpy,
            fixed_statics=None if statics is None else statics.rows(order),
            fixed_first=None if first is None else first.rows(order),
            temperature=self.temperature,
        )
        return self._encoded(records).take(np.argsort(order))

    def _continue(self, encoded: Encoded, until: np.ndarray, rng: Rng) -> Encoded:
        """Visits after those that are there; see `columnar_continue`."""
        seq, net = encoded.sequence, self.net_
        if seq is None or not net.alphabet.has_sequence:
            return encoded
        has = np.flatnonzero(seq.length > 0)
        parts, order = [], [np.flatnonzero(seq.length == 0), has]
        if len(order[0]):
            empty = encoded.take(order[0])
            parts.append(self._draw(len(order[0]), Encoded(empty.static, None), rng.child("new"), {}))
        stream = rng.child("continue").numpy
        members = [net.member(number) for number in range(net.n_members)]
        for rows in _groups(has, seq.length[has] * CANDIDATES * self._history_bytes()):
            part = encoded.take(rows)
            more = continue_visits(net.alphabet, members, part, until[rows], stream, temperature=self.temperature)
            parts.append(lengthened(part, more, observed_values(seq.features, more.values)))
        return joined(parts).take(np.argsort(np.concatenate(order), kind="stable"))

    def _history_bytes(self) -> int:
        """Of the features of one visit."""
        spec = self.net_.alphabet.spec
        return 4 * (1 if spec is None else spec.n_features)

    def _impute_cells(self, encoded: Encoded, holes: Holes, rng: Rng) -> Encoded:
        """Holes drawn given all that is observed; see `columnar_impute`."""
        members = [self.net_.member(number) for number in range(self.net_.n_members)]
        return fill(self.net_.alphabet, members, encoded, holes, rng.numpy)

    def _fixed(self, n: int, context: Encoded | None, where: Mapping[str, float]) -> tuple[Fixed | None, Fixed | None]:
        """Cells that must hold: all statics of given patients, and conditions."""
        shape = self.shape_
        n_statics = len(self.net_.alphabet.statics)
        value, mask = np.full((n, n_statics), np.nan), np.zeros((n, n_statics), bool)
        if context is not None:
            start = f"{step_table(self.schema_)}.start"  # of a course that is to be drawn: not fixed where unknown
            mask[:, : len(shape.static)] = [f.name != start for f in shape.static] | context.static.observed
            value[:, : len(shape.static)] = raw_values(context.static)
        for j, feature in enumerate(shape.static):
            if feature.name in where:
                value[:, j], mask[:, j] = where[feature.name], True
        visit_value, visit_mask = np.full((n, len(shape.sequence)), np.nan), np.zeros((n, len(shape.sequence)), bool)
        for j, feature in enumerate(shape.sequence):
            if feature.name in where:
                visit_value[:, j], visit_mask[:, j] = where[feature.name], True
        return (
            Fixed(value, mask) if mask.any() else None,
            Fixed(visit_value, visit_mask) if visit_mask.any() else None,
        )

    def _encoded(self, records: Records) -> Encoded:
        shape = self.shape_
        static = StaticArrays(shape.static, *observed_values(shape.static, records.statics))
        if not self.net_.alphabet.has_sequence:
            return Encoded(static, None)
        values, observed = observed_values(shape.sequence, records.values)
        return Encoded(static, SequenceArrays(shape.sequence, values, observed, records.gap, records.length))

    # --- likelihood ---

    def _score(self, data: Encoded, context: Encoded | None, rng: Rng) -> np.ndarray:
        """Log-likelihood of each patient [nat]; see `columnar_sampling` for the dominating measure."""
        members = [self.net_.member(number) for number in range(self.net_.n_members)]
        out = []
        for rows in np.array_split(np.arange(data.n_subjects), max(1, -(-data.n_subjects // SCORED_AT_ONCE))):
            each = np.stack([log_likelihood(self.net_.alphabet, m, data.take(rows)) for m in members])
            out.append(np.logaddexp.reduce(each, axis=0) - np.log(len(members)))
        return np.concatenate(out)


def _groups(rows: np.ndarray, size: np.ndarray) -> list[np.ndarray]:
    """The rows in order, cut where their sizes [byte] add up to `HISTORY_BYTES`."""
    group = np.cumsum(size) // HISTORY_BYTES
    return np.split(rows, np.flatnonzero(np.diff(group)) + 1) if len(rows) else []


def _column_shape(content: Mapping[str, Any]) -> ColumnShape:
    return ColumnShape(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})
