"""A cohort's arrays as rows for the three column networks, and the facts needed on the way back.

    statics   one row per subject: static columns in their order, then the number of visits and the time they span
    first     one row per subject with visits: the first visit (its gap only if subjects don't all start at 0)
    later     one row per further visit: gap, then the visit's columns

The number of visits is drawn before them. So is their span, but only where gaps make up for each other (a stay of 48
hours): then a sum of many small errors can't move the end of a record, and the last gap is what is left of the span.
Where a late visit makes the record longer instead, the last gap is drawn like any other: as what is left it would
gather the errors of all gaps before it. Gaps are counted in whole units of the finest of day, hour, minute, second they
fit.

A row of `later` knows the past through `nets.history`; a row of `first` and `later` knows the statics, and one of
`first` what they say of its columns at other visits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cohortloom.codec.gates import Gates, gates_from_json, gates_of, gates_to_json, shut_of
from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays
from cohortloom.generators.cells import ABSENT, NOTHING, Cells, Coder, cells_of, raw_values
from cohortloom.generators.history_facts import history_spec
from cohortloom.generators.row_lines import Lines, find_lines, lines_from_json, lines_to_json
from cohortloom.nets.columnar import LARGE, ColumnShape
from cohortloom.nets.history import CHANGE, TOLD, History, HistorySpec, Steps, walk
from cohortloom.nets.tokens import CategoryCoder, NumberCoder

__all__ = ["Alphabet", "LaterRows", "make_up"]

FEATURE_LIMIT = 6.0
AT_ONCE = 8192  # patients whose features before any visit are worked out
UNITS = (1.0, 1 / 24, 1 / 1440, 1 / 86400)


@dataclass(frozen=True)
class LaterRows:
    """Standardised history features of every visit but the first, in the order of the visits."""

    step: np.ndarray
    subject: np.ndarray
    features: np.ndarray
    codes: np.ndarray


@dataclass
class Alphabet:
    """Coders of all columns, fitted on training subjects.

    Args:
        statics: Coders of the static columns and, if there are sequences, of the number of visits and (if `spanned`) of
            their span.
        columns: Coders of the visit's columns.
        static_gates, gates: Of the statics that lie within others, and of the visit's columns.
        lines: Visit columns whose REPEAT stands for what other numbers of the row say.
        first_gap, gap: Coders of the time to the first and to later visits [unit], None if that carries nothing.
        unit: Of gaps [d].
        whole: Gaps are whole numbers of units.
        least_gap: Shortest gap between two visits [unit].
        even_gap: The gap between any two visits where all are equal [d].
        spanned: The span is a static, and the last gap is what is left of it.
        bounds: Statics that end follow-up: (static column, column of the start to subtract or -1).
        spec: Shape of the history, None without later visits.
        mean, sd: Of the history features.
    """

    statics: list[Coder]
    columns: list[Coder] = field(default_factory=list)
    static_gates: Gates = field(default_factory=dict)
    gates: Gates = field(default_factory=dict)
    lines: Lines = field(default_factory=dict)
    first_gap: NumberCoder | None = None
    gap: NumberCoder | None = None
    has_sequence: bool = False
    bounds: list[tuple[int, int]] = field(default_factory=list)
    unit: float = 1.0
    whole: bool = False
    least_gap: float = 0.0
    even_gap: float = 0.0
    spanned: bool = False
    spec: HistorySpec | None = None
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    sd: np.ndarray = field(default_factory=lambda: np.ones(0, np.float32))

    @classmethod
    def fit(
        cls,
        encoded: Encoded,
        *,
        k_min: int = 5,
        repeat: bool = True,
        bounds: bool = True,
        gated: bool = False,
        lined: bool = False,
        spanned: bool | None = True,
    ) -> "Alphabet":
        """Learn all coders.

        Args:
            repeat, bounds: False switches off verbatim repeats, and the search for ends of follow-up.
            gated: Cells within something that is not there are no cells: coders don't learn from them.
            lined: Look for numbers that other numbers of their row often tell exactly.
            spanned: Is the span one of the statics? None: where gaps make up for each other.
        """
        n = encoded.n_subjects
        everyone = np.arange(n)
        statics: list[Coder] = []
        static_gates = gates_of(encoded.static.features) if gated and encoded.static is not None else {}
        if encoded.static is not None:
            values = raw_values(encoded.static)
            statics = _fit_all(encoded.static.features, values, everyone, static_gates, k_min, repeat=False)
        seq = encoded.sequence
        if seq is None:
            return cls(statics, static_gates=static_gates)
        options = dict(low=0.0, always=True, repeat=False, k_min=k_min)
        visits = NumberCoder.fit(seq.length.astype(float), everyone, decimals=0, spike_share=0.03, **options)
        values, later = raw_values(seq), seq.position > 0
        gates = gates_of(seq.features) if gated else {}
        columns = _fit_all(seq.features, values, seq.subject, gates, k_min, repeat)
        out = cls([*statics, visits], columns, static_gates, gates, has_sequence=True)
        if lined:
            out.lines = find_lines(columns, out.there(seq), seq.subject)
            for j in out.lines:
                columns[j] = replace(columns[j], repeat=True)
        unit = _unit(seq.gap)
        out.unit, out.whole = unit or 1.0, unit is not None
        options["decimals"] = 0 if out.whole else None
        gaps = out.in_units(seq.gap)
        if (gaps[~later] != 0).any():
            low = 0.0 if gaps[~later].min() >= 0 else None  # a course may begin before its origin
            first = options | {"low": low, "spike_share": 0.03}
            out.first_gap = NumberCoder.fit(gaps[~later], seq.subject[~later], **first)
        if later.any():
            out.least_gap, out.even_gap = float(gaps[later].min()), float(seq.gap[later][0])
        if len(np.unique(gaps[later])) > 1:
            out.gap = NumberCoder.fit(gaps[later], seq.subject[later], **options)
            out.spanned = make_up(seq) if spanned is None else spanned
        if out.spanned:
            has = seq.length > 1
            out.statics.append(NumberCoder.fit(_span(gaps, seq)[has], everyone[has], **options))
        if bounds and out.gap is not None and encoded.static is not None:
            out.bounds = _follow_up_ends(encoded)
        if later.any():
            out.spec = history_spec(out, encoded)
        return out

    def there(self, seq: SequenceArrays) -> np.ndarray:
        """Raw values, NaN for numbers within something that is not there."""
        values = raw_values(seq)
        for j, shut in shut_of(values.T, self.gates).items():
            if self.columns[j].kind == "number":
                values[shut, j] = np.nan
        return values

    # --- columns by role ---

    @property
    def n_visits_at(self) -> int:
        """Place of the number of visits among the statics; the span follows if it is one."""
        return len(self.statics) - 1 - self.spanned

    def in_units(self, gap: np.ndarray) -> np.ndarray:
        """Gaps from days to units, whole ones where all training gaps were."""
        return np.round(gap / self.unit) if self.whole else gap / self.unit

    @property
    def numbers(self) -> list[int]:
        return [j for j, c in enumerate(self.columns) if c.kind == "number"]

    @property
    def categories(self) -> list[CategoryCoder]:
        return [c for c in self.columns if isinstance(c, CategoryCoder)]

    def coders(self, net: str) -> list[Coder]:
        """Coders of a network's columns in order."""
        if net == "statics":
            return self.statics
        gap = self.first_gap if net == "first" else self.gap
        return ([gap] if gap is not None else []) + self.columns

    def gates_in(self, net: str) -> Gates:
        """Gates by the places of a network's columns."""
        if net == "statics":
            return self.static_gates
        shift = len(self.coders(net)) - len(self.columns)
        return {j + shift: replace(gate, column=gate.column + shift) for j, gate in self.gates.items()}

    def lines_in(self, net: str) -> Lines:
        """Lines by the places of a network's columns."""
        shift = len(self.coders(net)) - len(self.columns)
        return {} if net == "statics" else {j + shift: line.moved(shift) for j, line in self.lines.items()}

    def row(self, net: str) -> tuple[list[Coder], Gates, Lines]:
        """Coders, gates and lines of a network's columns."""
        return self.coders(net), self.gates_in(net), self.lines_in(net)

    def shapes(self, net: str, cells: Cells) -> list[ColumnShape]:
        """Columns of a network with the shares of their tokens in the training rows."""
        out, n_static = [], self.static_width
        small = large = 0
        told = self._told_at_first()
        number = 1 if self.gap is not None else 0
        for j, coder in enumerate(self.coders(net)):
            count = np.bincount(cells.token[:, j][cells.token[:, j] >= 0], minlength=coder.n_tokens)
            share = (count + 0.1) / (count.sum() + 0.1 * coder.n_tokens)
            facts: dict = {}
            is_gap = net == "later" and j == 0 and self.gap is not None
            if net == "later" and coder.kind == "number":
                block = n_static + self.spec.number_block(0 if is_gap else number)
                number += not is_gap
                facts = {"own": tuple(block.tolist()), "repeat": coder.repeat_token if coder.repeat else -1}
                if is_gap:
                    facts["own"] = (*range(n_static, n_static + self.spec.n_global), *facts["own"])
                else:
                    facts |= {"last": int(block[0]), "known": int(block[1]), "mean": int(block[4])}
                    facts["told"] = tuple(block[list(TOLD)].tolist())
                    facts["scales"] = self._scales(block - n_static)
                    at = block[0] - n_static
                    facts |= {"last_mean": float(self.mean[at]), "last_sd": float(self.sd[at])}
            elif net == "later" and coder.n_tokens <= LARGE:
                block = tuple((n_static + self.spec.category_block(small)).tolist())
                facts = {"own": block, "told": block[-coder.n_tokens :]}
                small += 1
            elif net == "later":
                facts = {"lookup": len(self.static_lookups) + large}
                large += 1
            else:
                if coder.kind == "number" and coder.repeat:
                    facts = {"repeat": coder.repeat_token}
                if net == "first" and (own := told.get(j + len(self.columns) - len(self.coders(net)))) is not None:
                    places = tuple((n_static + own).tolist())
                    facts |= {"own": places, "told": places}
            allowed = tuple(coder.allowed.tolist())
            out.append(ColumnShape(coder.kind, coder.n_tokens, allowed, tuple(share.tolist()), **facts))
        return out

    def _scales(self, block: np.ndarray) -> tuple[float, ...]:
        """Of last value, mean and change in a numeric column's features; none where values never change."""
        last, mean, change = (int(block[place]) for place in (0, 4, CHANGE))
        if not len(self.mean) or self.sd[change] >= 1.0 or self.sd[change] <= 1e-3:
            return ()
        return tuple(
            float(x) for x in (self.mean[last], self.sd[last], self.mean[mean], self.sd[mean], self.sd[change])
        )

    def _told(self) -> dict[int, np.ndarray]:
        """Of each number and small category, the history features in which statics tell of it."""
        if self.spec is None:
            return {}
        out, number, small = {}, int(self.gap is not None), 0
        for j, coder in enumerate(self.columns):
            if coder.kind == "number":
                block = self.spec.number_block(number)
                out[j], number = block[[TOLD[0], TOLD[2]]], number + 1
            elif coder.n_tokens <= LARGE:
                out[j], small = self.spec.category_block(small)[-coder.n_tokens :], small + 1
        return out

    def _told_at_first(self) -> dict[int, np.ndarray]:
        """The same by their places behind the statics of a first visit."""
        sizes = {j: len(places) for j, places in self._told().items()}
        ends = np.cumsum(list(sizes.values()))
        return {j: np.arange(end - n, end) for (j, n), end in zip(sizes.items(), ends)}

    @property
    def static_width(self) -> int:
        return sum(c.n_tokens + (c.kind == "number") for c in self.statics if not _large(c))

    @property
    def static_blocks(self) -> list[np.ndarray]:
        """Places of each small static category among the dense features."""
        out, at = [], 0
        for coder in self.statics:
            if not _large(coder):
                at += coder.n_tokens + (coder.kind == "number")
                out += [np.arange(at - coder.n_tokens, at)] if coder.kind == "category" else []
        return out

    @property
    def static_lookups(self) -> list[int]:
        return [c.n_tokens for c in self.statics if _large(c)]

    def sizes(self, net: str) -> tuple[int, list[int]]:
        """Number of dense features and sizes of the embedded ones of a network."""
        if net == "statics":
            return 0, []
        if net == "first":
            return self.static_width + sum(map(len, self._told().values())), self.static_lookups
        return self.static_width + self.spec.n_features, [*self.static_lookups, *self.spec.large]

    # --- cohort -> cells ---

    def static_cells(self, encoded: Encoded) -> Cells:
        parts = [raw_values(encoded.static)] if encoded.static is not None else []
        if self.has_sequence:
            seq = encoded.sequence
            parts.append(seq.length[:, None].astype(float))
            if self.spanned:
                span = _span(self.in_units(seq.gap), seq)
                parts.append(np.where(seq.length > 1, span, np.nan)[:, None])
        values = np.concatenate(parts, 1) if parts else np.zeros((encoded.n_subjects, 0))
        cells = cells_of(self.statics, values, None, self.static_gates)
        if self.spanned:
            cells.token[np.isnan(values[:, -1]), -1] = NOTHING
        return cells

    def visit_cells(self, encoded: Encoded, goes_on: np.ndarray | bool = False) -> tuple[Cells, Cells]:
        """Cells of the first visits and of all visits (rows in the order of the visits, gap first).

        Args:
            goes_on: Subjects with more visits than are there: their last gap doesn't follow from the span.
        """
        seq = encoded.sequence
        values, first = raw_values(seq), seq.position == 0
        inner = cells_of(self.columns, values, seq.subject, self.gates, lines=self.lines)
        firsts, alls = inner.take(np.flatnonzero(first)), inner
        if self.first_gap is not None:
            firsts = _beside(cells_of([self.first_gap], self.in_units(seq.gap[first])[:, None], None), firsts)
        if self.gap is not None:
            gap = cells_of([self.gap], self.in_units(seq.gap)[:, None], None)
            gap.score[first] = 0.0
            if self.spanned:
                ends = np.repeat(seq.length - 1, seq.length) == seq.position
                ends &= ~np.repeat(np.broadcast_to(goes_on, len(seq.length)), seq.length)
                gap.token[ends] = NOTHING  # what is left of the span
            alls = _beside(gap, alls)
        return firsts, alls

    def steps(self, cells: Cells, gap: np.ndarray, first: np.ndarray | bool) -> Steps:
        """Visits as history wants them. `first`: rows that are first visits (their gap is not history)."""
        shift = int(self.gap is not None)
        columns = [j + shift for j in self.numbers]
        score = cells.score[:, columns]
        recorded = ~np.isnan(cells.value[:, columns]) & (cells.token[:, columns] != ABSENT)
        if shift:
            known = np.broadcast_to(~np.asarray(first), len(gap))[:, None]
            score = np.concatenate([np.where(known, cells.score[:, :1], 0), score], 1)
            recorded = np.concatenate([known, recorded], 1)
        kinds = [(j + shift, _large(c)) for j, c in enumerate(self.columns) if c.kind == "category"]
        small, large = [j for j, is_large in kinds if not is_large], [j for j, is_large in kinds if is_large]
        token = cells.token
        for j in (j + shift for j in self.gates if self.columns[j].kind == "category"):  # no is an answer
            absent = token[:, j] == ABSENT
            if absent.any():
                token = token.copy() if token is cells.token else token
                token[absent, j] = self.columns[j - shift].token(cells.value[absent, j])
        return Steps(score.astype(np.float32), recorded, token[:, small], token[:, large], gap)

    def static_inputs(self, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Dense features and lookup indices of encoded statics."""
        n = len(cells.token)
        dense, lookups = [np.zeros((n, 0), np.float32)], [np.zeros((n, 0), np.int64)]
        for j, coder in enumerate(self.statics):
            if _large(coder):
                lookups.append(np.maximum(cells.token[:, j, None], -1))
                continue
            if coder.kind == "number":
                dense.append(cells.score[:, j, None])
            dense.append((cells.token[:, j, None] == np.arange(coder.n_tokens)).astype(np.float32))
        return np.concatenate(dense, 1), np.concatenate(lookups, 1)

    def first_inputs(self, statics: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Dense features and lookup indices of first visits: the statics, and what they say of each column's level (at
        the begin of a course) and shares over all visits."""
        dense, lookups = self.static_inputs(statics)
        told = self._told()
        if not told:
            return dense, lookups
        places, parts = np.concatenate(list(told.values())), []
        for rows in np.array_split(np.arange(len(dense)), len(dense) // AT_ONCE + 1):
            part = statics.take(rows)
            fresh = self.history(part, part.value[:, self.n_visits_at], np.full(len(rows), np.nan)).features()
            parts.append(self.standardise(fresh)[:, places])
        return np.concatenate([dense, np.concatenate(parts)], 1), lookups

    def ends(self, statics: np.ndarray) -> np.ndarray:
        """Ends of follow-up since the origin [d], subject x bound, NaN where unknown."""
        out = [statics[:, b] - (statics[:, s] if s >= 0 else 0.0) for b, s in self.bounds]
        return np.stack(out, 1) if out else np.zeros((len(statics), 0))

    def bound_times(self, statics: Cells, first_gap: np.ndarray) -> np.ndarray:
        """Time of the last visit (if `spanned`) and ends of follow-up since the origin [d], subject x bound, NaN where
        unknown."""
        ends = self.ends(statics.value)
        if not self.spanned:
            return ends
        return np.concatenate([(first_gap + statics.value[:, -1] * self.unit)[:, None], ends], 1)

    def history(self, statics: Cells, n_visits: np.ndarray, first_gap: np.ndarray) -> History:
        """Of subjects without visits so far."""
        return History(self.spec, n_visits, self.bound_times(statics, first_gap), self.static_inputs(statics)[0])

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """Features by their mean and spread in training; in place."""
        features -= self.mean
        features /= self.sd
        return np.clip(features, -FEATURE_LIMIT, FEATURE_LIMIT, out=features)

    def later_rows(
        self,
        statics: Cells,
        alls: Cells,
        seq: SequenceArrays,
        *,
        fit: bool = False,
        n_visits: np.ndarray | None = None,
    ) -> LaterRows:
        """History features of all later visits; `fit` learns their means and spreads.

        Args:
            n_visits: Visits each subject will have, if more than there are.
        """
        later = np.flatnonzero(seq.position > 0)
        where = np.full(len(seq.gap), -1)
        where[later] = np.arange(len(later))
        features = np.empty((len(later), self.spec.n_features), np.float32)
        codes = np.empty((len(later), len(self.spec.large)), np.int64)
        steps = self.steps(alls, seq.gap, seq.position == 0)
        start = np.zeros(len(seq.length))
        start[seq.length > 0] = seq.gap[seq.position == 0]
        dense, _ = self.static_inputs(statics)
        for rows, part, code in walk(self.spec, steps, seq.length, self.bound_times(statics, start), n_visits, dense):
            features[where[rows]], codes[where[rows]] = part, code
        if fit:
            self.mean = features.mean(0, dtype=np.float64).astype(np.float32)
            spread = features.std(0, dtype=np.float64).astype(np.float32)
            self.sd = np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
        for block in np.array_split(np.arange(len(later)), max(1, len(later) // 20_000)):
            features[block] = self.standardise(features[block])
        return LaterRows(later, seq.subject[later], features, codes)

    # --- on disk ---

    def to_json(self) -> dict:
        one = lambda coder: None if coder is None else coder.to_json()  # noqa: E731
        return {
            "statics": [one(c) for c in self.statics],
            "columns": [one(c) for c in self.columns],
            "static_gates": gates_to_json(self.static_gates),
            "gates": gates_to_json(self.gates),
            "lines": lines_to_json(self.lines),
            "first_gap": one(self.first_gap),
            "gap": one(self.gap),
            "has_sequence": self.has_sequence,
            "bounds": [list(pair) for pair in self.bounds],
            "unit": self.unit,
            "whole": self.whole,
            "least_gap": self.least_gap,
            "even_gap": self.even_gap,
            "spanned": self.spanned,
            "spec": one(self.spec),
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
        }

    @classmethod
    def from_json(cls, content: dict) -> "Alphabet":
        one = lambda c: None if c is None else _coder(c)  # noqa: E731
        return cls(
            [one(c) for c in content["statics"]],
            [one(c) for c in content["columns"]],
            gates_from_json(content["static_gates"]),
            gates_from_json(content["gates"]),
            lines_from_json(content["lines"]),
            one(content["first_gap"]),
            one(content["gap"]),
            content["has_sequence"],
            [tuple(pair) for pair in content["bounds"]],
            content["unit"],
            content["whole"],
            content["least_gap"],
            content["even_gap"],
            content["spanned"],
            None if content["spec"] is None else HistorySpec.from_json(content["spec"]),
            np.asarray(content["mean"], np.float32),
            np.asarray(content["sd"], np.float32),
        )


def _beside(left: Cells, right: Cells) -> Cells:
    pairs = zip(vars(left).values(), vars(right).values())
    return Cells(*[np.concatenate(pair, 1) for pair in pairs])


def _large(coder: Coder) -> bool:
    return coder.kind == "category" and coder.n_tokens > LARGE


def _coder(content: dict) -> Coder:
    return (NumberCoder if content["kind"] == "number" else CategoryCoder).from_json(content)


def _fit_all(
    features: Sequence[Feature], values: np.ndarray, subject: np.ndarray, gates: Gates, k_min: int, repeat: bool
) -> list[Coder]:
    """Coders of all columns, each of the rows in which it is there."""
    out, shut = [], shut_of(values.T, gates)
    for j, feature in enumerate(features):
        rows = ~shut[j] if j in shut else slice(None)
        out.append(_fit(feature, values[rows, j], subject[rows], k_min, repeat))
    return out


def _fit(feature: Feature, values: np.ndarray, subject: np.ndarray, k_min: int, repeat: bool) -> Coder:
    if feature.kind == "category":
        return CategoryCoder.fit(values)
    return NumberCoder.fit(
        values, subject, decimals=feature.decimals, low=feature.low, high=feature.high, always=feature.always,
        repeat=repeat, k_min=k_min,
    )  # fmt: skip


def _follow_up_ends(encoded: Encoded) -> list[tuple[int, int]]:
    """Statics that no visit goes beyond: at least the last visit time in over 99 % of subjects, and of its size.

    Calendar times are compared after subtracting the calendar time of the first visit ("...start").
    """
    static, seq = encoded.static, encoded.sequence
    values = raw_values(static)
    has = np.flatnonzero(seq.length > 1)
    last = seq.time[seq.starts[has] + seq.length[has] - 1]
    start = next((j for j, f in enumerate(static.features) if f.name.endswith(".start")), -1)
    out = []
    for j, feature in enumerate(static.features):
        if feature.kind != "number" or j == start:
            continue
        for origin in {-1, start}:
            end = values[has, j] - (values[has, origin] if origin >= 0 else 0.0)
            known = ~np.isnan(end)
            end, upto = end[known], last[known]
            if len(end) < max(3, len(has) / 2) or end.std() == 0 or upto.std() == 0:
                continue
            same_size = np.median(end) < 10 * max(np.median(upto), 1e-9) and np.corrcoef(end, upto)[0, 1] > 0.3
            if np.mean(end >= upto - 1e-6) > 0.99 and same_size:
                out.append((j, origin))
                break
    return out


def _unit(gap: np.ndarray) -> float | None:
    """Coarsest unit [d] of which all gaps are whole multiples, None if there is none."""
    for unit in UNITS:
        count = gap / unit
        if np.all(np.abs(count - np.round(count)) < 1e-6 * np.maximum(1.0, count)):
            return unit
    return None


def make_up(seq: SequenceArrays) -> bool:
    """Do spans of patients with equally many visits vary by less than half of what their gaps, taken apart, would?"""
    later = seq.position > 0
    key = seq.position[later]
    count = np.maximum(np.bincount(key), 1)
    mean = np.bincount(key, seq.gap[later]) / count
    spread = np.bincount(key, (seq.gap[later] - mean[key]) ** 2) / count
    length, span = seq.length[seq.length > 1], _span(seq.gap, seq)[seq.length > 1]
    each = np.bincount(length, span) / np.maximum(np.bincount(length), 1)
    apart = np.cumsum(spread)[np.minimum(length - 1, len(spread) - 1)].sum()
    return bool(((span - each[length]) ** 2).sum() < 0.5 * apart)


def _span(gap: np.ndarray, seq: SequenceArrays) -> np.ndarray:
    """Sum of each subject's gaps but the first."""
    return np.bincount(seq.subject, weights=np.where(seq.position > 0, gap, 0.0), minlength=len(seq.length))
