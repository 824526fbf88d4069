"""A patient as a stream of timed tokens, and back.

    visit  type=URGENT  insurance=Medicare | diagnoses:I50  diagnoses:N18 | labs:potassium 4.1 | visit ...

Each row of a visit or event table is a *row token* (the table, or table and code), followed by a *cell token* for each
filled cell in column order. A token of a category names its level; a token of a number carries a value. Only row tokens
of timed tables take time. Statics, and tables that fold into them, stay with the ordinary codec.

A visit comes before the rows that hang on it, untimed rows next, timed ones by their time. What was recorded at one
time is written in one order: by table, then by frequency of the code. A row outside any visit has a token of its own.
Where visits have a time of day, the gap before a visit counts calendar days and its value is the hour.

The arrays are those of every generator (`SequenceArrays`, one row per token): id of the token, state of its value
(none, a number, exactly the last number of this token), normal score of the number.

References:
    Pang et al. (2021). CEHR-BERT. arXiv:2111.08585 (visits and time as tokens).
    Theodorou, Xiao, Sun (2023). HALO. Nature Communications 14:5305 (codes with values).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from cohortloom.codec.cells import Cell
from cohortloom.codec.clock import DAY, floor_to, grid_of, has_days, round_to, series_of, ticks_of, ticks_per_day
from cohortloom.codec.codec import Codec
from cohortloom.codec.columns import QuantileTransform
from cohortloom.codec.fold import folds_to_subject
from cohortloom.codec.fold_fit import code_cell
from cohortloom.codec.inputs import fit_cells
from cohortloom.codec.steps import Steps, place, steps_of, subject_rows
from cohortloom.codec.stream_laws import lawful
from cohortloom.codec.tensors import MISSING, RARE, Encoded, Feature, Layout, SequenceArrays, StaticArrays
from cohortloom.codec.where import held_levels, where_values
from cohortloom.cohort import Cohort, Origin
from cohortloom.rng import Rng
from cohortloom.schema import Schema

__all__ = ["END", "NONE", "NUMBER", "SAME", "StreamCodec", "Token"]

#: Id of the token that ends a stream (and stands before its first).
END = 0
#: States of a token's value.
NONE, NUMBER, SAME = 0, 1, 2

_VISITS_PER_SUBJECT = 1_000_000
_ROW = -1


@dataclass(frozen=True)
class Token:
    """One kind of entry of a stream.

    Args:
        table: Its table.
        column: Place of its column among the table's cells; -1 for a row.
        level: Id of its level (of the code, for a row of a code table); -1: none.
        linked: Rows that may name a visit: does this one?
        law: Law of its numbers; None: it carries none.
    """

    table: str
    column: int = _ROW
    level: int = -1
    linked: bool = True
    law: QuantileTransform | None = None


@dataclass(frozen=True)
class StreamCodec:
    """What was learned to write patients as streams. Make one with `StreamCodec.fit`.

    Args:
        schema: Schema of the cohorts.
        statics: Codec of the statics.
        cells: Streamed table, in the order in which rows of one time are written -> cells of its columns (without code
            and value of a code table).
        codes: Code table -> cell of its code.
        weight: Code table -> training rows of each level of its code.
        tokens: By id; the first is END.
        clock: Have visits a time of day?
        grid: Table -> grid of its times [ticks].
        notes: What was left out (counts).
    """

    schema: Schema
    statics: Codec
    cells: Mapping[str, tuple[Cell, ...]]
    codes: Mapping[str, Cell]
    weight: Mapping[str, tuple[float, ...]]
    tokens: tuple[Token, ...]
    clock: bool
    grid: Mapping[str, int]
    notes: Mapping[str, int] = field(default_factory=dict)

    # -- fitting -------------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, cohort: Cohort, *, k_min: int = 5, max_codes: int = 5_000) -> StreamCodec:
        """Learn tokens and laws from training patients.

        Args:
            cohort: Training patients.
            k_min: A code is kept if at least this many patients hold it; tails end at this extreme.
            max_codes: Codes of a table with a token of their own.
        """
        schema, steps = cohort.schema, steps_of(cohort, cohort.subjects)
        clock = steps.frame is not None and has_days(schema, steps.time, steps.first)
        codec = cls(schema, Codec.fit(cohort, Layout(sequence=False), k_min=k_min), {}, {}, {}, (), clock, {})
        cells: dict[str, tuple[Cell, ...]] = {}
        codes: dict[str, Cell] = {}
        weight: dict[str, tuple[float, ...]] = {}
        tokens, grid, notes = [Token("")], {}, {}
        for name in _streamed(schema):
            table, frame = schema.tables[name], cohort.tables[name]
            if schema.has_time(name):
                ticks, known = ticks_of(frame["time"])
                grid[name] = grid_of(schema, ticks[known])
            rows = codec._rows(cohort, name, steps)
            made = fit_cells(
                schema, name, frame, rows.subject, rows.ticks, k_min=k_min, max_codes=max_codes, bounds="schema"
            )
            made = [cell for cell in made if cell.part == ""]
            level = np.full(frame.height, -1)
            if table.is_long:
                code = codes[name] = next(cell for cell in made if cell.column == table.code)
                made = [cell for cell in made if cell.column not in (table.code, table.value)]
                level = code.ids(frame[table.code or ""])
                weight[name] = tuple(np.bincount(level, minlength=2 + len(code.levels))[2:].astype(float).tolist())
                for what, n in (("without a code, left out", 0), ("of rare codes, drawn as other rare codes", RARE)):
                    notes |= {f"{name}: rows {what}": int((level == n).sum())} if (level == n).any() else {}
            full = {cell.column: frame.height > 0 and bool(cell.encode(schema, frame[cell.column], rows.ticks)[1].all())
                    for cell in made}  # fmt: skip
            made = [
                replace(cell, always=cell.always or full[cell.column]) for cell in made
            ]  # never empty: never left out
            cells[name] = tuple(made)
            numbers = _numbers_of(schema, name, frame, rows, clock)
            common = np.bincount(level + 1)
            pairs = np.unique(np.column_stack([level, rows.linked]), axis=0).tolist() if frame.height else []
            for one, linked in sorted(pairs, key=lambda pair: (-common[pair[0] + 1], pair)):
                if one == 0:
                    continue
                at = level == one
                law = None
                if np.isfinite(numbers[at]).any():
                    law = _law(schema, name, codes.get(name), one, numbers[at], rows.subject[at], k_min)
                tokens.append(Token(name, _ROW, one, bool(linked), law))
            for j, cell in enumerate(made):
                values, seen = cell.encode(schema, frame[cell.column], rows.ticks)
                if cell.kind == "category":
                    tokens += [Token(name, j, int(one)) for one in np.unique(values[seen])]
                elif seen.any():
                    tokens.append(Token(name, j, law=cell.law))
        return replace(
            codec, cells=cells, codes=codes, weight=weight, tokens=tuple(tokens), grid=grid,
            notes={what: n for what, n in notes.items() if n},
        )  # fmt: skip

    # -- what generators see -------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Width of a step where there is no visit table [ticks], as of `Codec`."""
        return self.statics.width

    @property
    def static_features(self) -> tuple[Feature, ...]:
        return self.statics.static_features

    @cached_property
    def sequence_features(self) -> tuple[Feature, ...]:
        """Token, state of its value, normal score of its number."""
        names = tuple(f"{t.table}/{t.column}/{t.level}/{int(t.linked)}" for t in self.tokens)
        return Feature("token", "category", names), Feature("state", "category", ("none", "number", "same")), Feature(
            "number", "number"
        )  # fmt: skip

    @cached_property
    def facts(self) -> dict[str, np.ndarray]:
        """What a model needs to know of each token [token].

        table, column (-1: a row), row, timed, visit; needs_visit: may it only come after a visit; number: can it carry
        one, and full: must it; rest: cells its row still has to hold after it, due: column of the next of them.
        """
        names, schema = list(self.cells), self.schema
        rest = self.tokens[1:]
        row = [t.column == _ROW for t in rest]
        timed = [r and schema.has_time(t.table) for t, r in zip(rest, row)]
        visit = [r and t.table == schema.visit_table for t, r in zip(rest, row)]
        needs = [r and not v and t.linked and schema.has_visit_id(t.table) for t, r, v in zip(rest, row, visit)]
        needs = [n or (r and not t_) for n, r, t_ in zip(needs, row, timed)]  # untimed rows hang on a visit
        last = np.iinfo(np.int64).max
        must = {name: [j for j, cell in enumerate(cells) if cell.always] for name, cells in self.cells.items()}
        ahead = [[j for j in must[t.table] if j > t.column] for t in rest]
        full = [t.column != _ROW or not self._may_lack_number(t.table) for t in rest]
        return {
            "rest": np.array([0, *(len(x) for x in ahead)]),
            "due": np.array([last, *(min(x, default=last) for x in ahead)]),
            "full": np.array([False, *full]),
            "table": np.array([-1, *(names.index(t.table) for t in rest)]),
            "column": np.array([_ROW, *(t.column for t in rest)]),
            "row": np.array([False, *row]),
            "timed": np.array([False, *timed]),
            "visit": np.array([False, *visit]),
            "needs_visit": np.array([False, *needs]),
            "number": np.array([False, *(t.law is not None for t in rest)]),
        }

    def _may_lack_number(self, name: str) -> bool:
        """May a row of the table carry no number?"""
        table = self.schema.tables[name]
        return table.value is None or table.columns[table.value].missing

    @cached_property
    def follows(self) -> np.ndarray:
        """May a row of token b come after the row of token a (and its cells)? [a b]; a = 0: the stream begins."""
        facts = self.facts
        rank = np.arange(len(self.tokens))
        early = facts["visit"] | (facts["row"] & ~facts["timed"])
        untimed = facts["row"] & ~facts["timed"]
        return (facts["row"] & facts["timed"]) | (untimed & early[:, None] & (rank[:, None] <= rank))

    # -- encoding ------------------------------------------------------------------------------------------------

    def encode(self, cohort: Cohort, subjects: Any = None, *, rng: Rng) -> Encoded:
        """Streams of a cohort's subjects, in the order of `cohort.subjects`."""
        if subjects is not None:
            cohort = cohort.select(subjects)
        static = self.statics.encode(cohort, rng=rng.child("static")).static
        ids = cohort.subjects
        steps = steps_of(cohort, ids)
        parts = [self._tokens_of(cohort, name, steps) for name in self.cells if cohort.tables[name].height]
        if not parts:
            none = np.zeros((0, 3))
            empty = SequenceArrays(
                self.sequence_features, none, none > 0, np.zeros(0), np.zeros(ids.len(), dtype=np.int64)
            )
            return Encoded(static, empty)
        rows = pl.concat(parts).sort("subject", "group", "phase", "when", "first", "row", "column", maintain_order=True)
        subject, token = rows["subject"].to_numpy(), rows["token"].to_numpy()
        length = np.bincount(subject, minlength=ids.len()).astype(np.int64)
        gap = self._gaps(subject, rows["ticks"].to_numpy(), token, self.statics.times.origins(steps))
        state, z = self._values(subject, token, rows["raw"].to_numpy(), rng.child("values"))
        values = np.column_stack([token, state, z]).astype(float)
        return Encoded(static, SequenceArrays(self.sequence_features, values, np.ones(values.shape, bool), gap, length))

    def _rows(self, cohort: Cohort, name: str, steps: Steps) -> _Rows:
        """Where the rows of a table stand."""
        schema, frame = self.schema, cohort.tables[name]
        subject = subject_rows(steps.ids, frame)
        n = frame.height
        if schema.tables[name].role == "visit":
            return _Rows(subject, np.arange(n), np.ones(n, bool), steps.time)
        if steps.frame is None:
            group, linked = np.zeros(n, np.int64), np.ones(n, bool)
        else:
            group, linked, _ = place(steps, frame, subject)
        start = steps.time[np.maximum(group, 0)] if len(steps.time) else np.zeros(n, np.int64)
        ticks = np.where(group >= 0, start, 0)
        if schema.has_time(name):
            own, known = ticks_of(frame["time"])
            ticks = np.where(known, own, ticks)
            if steps.frame is not None:
                group = np.where(~linked & (ticks < start), -1, group)
        if not schema.has_visit_id(name):
            linked = np.ones(n, bool)  # such rows never name a visit: one token is enough
        return _Rows(subject, group, linked, ticks)

    def _tokens_of(self, cohort: Cohort, name: str, steps: Steps) -> pl.DataFrame:
        """The tokens of a table's rows, with the keys that sort them."""
        schema, frame, table = self.schema, cohort.tables[name], self.schema.tables[name]
        rows = self._rows(cohort, name, steps)
        mine = {(t.column, t.level, t.linked): i for i, t in enumerate(self.tokens) if t.table == name and i}
        level = self.codes[name].ids(frame[table.code or ""]) if table.is_long else np.full(frame.height, -1)
        pair = pl.DataFrame({"level": level, "linked": rows.linked})
        known = pl.DataFrame(
            [(lv, li, i) for (c, lv, li), i in mine.items() if c == _ROW],
            schema={"level": pl.Int64, "linked": pl.Boolean, "token": pl.Int64}, orient="row",
        )  # fmt: skip
        found = pair.join(known, on=["level", "linked"], how="left", maintain_order="left")["token"].fill_null(END)
        other = pair.join(known.unique("level", keep="first", maintain_order=True), on="level", how="left",
                          maintain_order="left")["token"].fill_null(END)  # fmt: skip
        first = np.where(found.to_numpy() == END, other.to_numpy(), found.to_numpy())
        token, raw = [first], [_numbers_of(schema, name, frame, rows, self.clock)]
        for j, cell in enumerate(self.cells[name]):
            values, seen = cell.encode(schema, frame[cell.column], rows.ticks)
            if cell.kind == "category":
                ids = np.array([mine.get((j, k, True), END) for k in range(2 + len(cell.levels))])
                token.append(np.where(seen, ids[values.astype(int)], END))
                raw.append(np.full(frame.height, np.nan))
            else:
                token.append(np.where(seen, mine.get((j, -1, True), END), END))
                raw.append(np.where(seen, values, np.nan))
        width, phase = len(token), 0 if table.role == "visit" else 2 if table.timed else 1
        keys = pl.DataFrame(
            {
                "subject": rows.subject, "group": rows.group, "first": first, "ticks": rows.ticks,
                "row": np.arange(frame.height), "when": rows.ticks if phase == 2 else np.zeros_like(rows.ticks),
            }
        )  # fmt: skip
        long = pl.concat(
            [
                keys.with_columns(
                    pl.lit(j, dtype=pl.Int64).alias("column"),
                    pl.Series("token", token[j], dtype=pl.Int64),
                    pl.Series("raw", raw[j], dtype=pl.Float64),
                )
                for j in range(width)
            ]
        )
        return long.filter((pl.col("token") != END) & (pl.col("first") != END)).with_columns(
            pl.lit(phase, dtype=pl.Int64).alias("phase")
        )

    def _gaps(self, subject: np.ndarray, ticks: np.ndarray, token: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Days (places, for clock "order") each timed row comes after the token before it; 0 for other tokens."""
        first = np.concatenate([[True], subject[1:] != subject[:-1]])
        before = np.where(first, origin[subject], np.concatenate([[0], ticks[:-1]]))
        whole = self.facts["visit"][token] & self.clock
        gap = np.where(whole, floor_to(ticks, DAY) - floor_to(before, DAY), ticks - before)
        return np.where(self.facts["timed"][token], gap / ticks_per_day(self.schema), 0.0)

    def _values(
        self, subject: np.ndarray, token: np.ndarray, raw: np.ndarray, rng: Rng
    ) -> tuple[np.ndarray, np.ndarray]:
        """States and normal scores; a number equal to the last one of its token is SAME and has its score."""
        has = np.isfinite(raw) & self.facts["number"][token]
        z = np.zeros(len(raw))
        at = np.flatnonzero(has)
        order = at[np.lexsort((at, subject[at], token[at]))]
        edges = np.searchsorted(token[order], np.arange(len(self.tokens) + 1))
        for i, one in enumerate(self.tokens):
            rows = order[edges[i] : edges[i + 1]]
            if len(rows) and one.law is not None:
                z[rows] = one.law.encode(raw[rows], rng.child(i))
        again = np.zeros(len(order), bool)
        again[1:] = (
            (token[order][1:] == token[order][:-1])
            & (subject[order][1:] == subject[order][:-1])
            & (raw[order][1:] == raw[order][:-1])
        )
        source = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
        z[order] = z[order][source]
        state = np.where(has, NUMBER, NONE)
        state[order[again]] = SAME
        return state, z

    # -- decoding ------------------------------------------------------------------------------------------------

    def decode(
        self, encoded: Encoded, rng: Rng, *, ids: np.ndarray, since: np.ndarray | None = None, dates: str = "kept"
    ) -> Cohort:
        """A cohort of new subjects; visit ids are made of the subject's id and the place of the visit.

        Args:
            encoded: Streams.
            rng: Draws rare codes and what the statics leave open.
            ids: Id of each subject (ascending where `since` is given).
            since: Tokens of each subject whose rows are left out [subject].
            dates: As of `Codec.decode`; always kept, for streams are drawn knowing the day of the week.
        """
        ids = np.asarray(ids, dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(order, np.arange(len(ids))):
            encoded, ids = encoded.take(order), ids[order]
        assert encoded.static is not None and encoded.sequence is not None
        alone = Encoded(encoded.static, None)
        statics = self.statics.decode(alone, rng.child("static"), ids=ids)
        tables = {name: statics.tables[name] for name in self.schema.statics}
        tables |= {name: statics.tables[name] for name in self.schema.events if folds_to_subject(self.schema, name)}
        origin = self.statics.origins(encoded.static, rng.child("static"), ids=ids)
        stream = encoded.sequence
        token = stream.values[:, 0].astype(np.int64)
        numbers = self._numbers(token, stream.values[:, 2], stream.values[:, 1] != NONE)
        ticks = self.ticks(stream, token, numbers) + origin[stream.subject]
        row = np.where(self.facts["row"][token], np.arange(len(token)), -1)
        row = np.maximum.accumulate(row) if len(row) else row
        visit = np.where(self.facts["visit"][token], np.arange(len(token)), -1)
        visit = np.maximum.accumulate(visit) if len(visit) else visit
        visit = np.where(visit >= stream.starts[stream.subject], visit, -1) if len(visit) else visit
        new = np.ones(len(token), bool) if since is None else stream.position >= since[stream.subject]
        for name in self.cells:
            stands = row, visit, new
            tables[name] = self._table(name, stream, token, numbers, ticks, stands, ids, rng.child("table", name))
        old = np.flatnonzero(self.facts["visit"][token] & ~new)
        before = pl.DataFrame({"subject_id": ids, "n": np.bincount(stream.subject[old], minlength=len(ids))})
        made = Cohort.build(self.schema, tables, origin=Origin("synthetic", "stream"))
        return lawful(self.statics, made, before, rng.child("laws"))

    def lawful(self, cohort: Cohort, rng: Rng) -> Cohort:
        """As `Codec.lawful`."""
        return self.statics.lawful(cohort, rng)

    def origins(self, static: StaticArrays) -> np.ndarray:
        """Origin of each subject [d since 1970-01-01], 0 where the clock has no dates."""
        raw, n = self.statics.raw(static), len(static.values)
        none = Steps(pl.Series("subject_id", np.arange(n)), np.zeros(n, np.int64), np.zeros(0, np.int64), None)
        return self.statics.times.origins(none, raw) / ticks_per_day(self.schema)

    def hours(self, token: np.ndarray, state: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The hour of each visit that has one, NaN for other tokens [token].

        Args:
            token, state, score: Ids, states and normal scores of values [token].
        """
        return self._numbers(token, score, self.facts["visit"][token] & (state != NONE))

    def _numbers(self, token: np.ndarray, score: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Numbers of some tokens, NaN elsewhere [token]."""
        numbers = np.full(len(token), np.nan)
        for i in np.unique(token[which]):
            if (law := self.tokens[i].law) is not None:
                at = which & (token == i)
                numbers[at] = law.decode(score[at])
        return numbers

    def ticks(self, stream: SequenceArrays, token: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Time of each token since the subject's origin [ticks]."""
        return np.round(self.times(stream, token, numbers) * ticks_per_day(self.schema)).astype(np.int64)

    def times(self, stream: SequenceArrays, token: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Time of each token since the subject's origin [d] (origins of dated visits are calendar days)."""
        if not self.clock:
            return stream.time
        gap, out = stream.gap, np.zeros(len(token))
        visit = self.facts["visit"][token]
        hour = np.where(np.isfinite(numbers), numbers, 12.0) / 24
        now, starts = np.zeros(len(stream.length)), stream.starts
        for k in range(int(stream.length.max(initial=0))):
            on = stream.length > k
            at = starts[on] + k
            step = np.where(visit[at], np.floor(now[on] + 1e-9) + gap[at] + hour[at], now[on] + gap[at])
            now[on] = out[at] = step
        return out

    def _table(
        self,
        name: str,
        stream: SequenceArrays,
        token: np.ndarray,
        numbers: np.ndarray,
        ticks: np.ndarray,
        stands: tuple[np.ndarray, np.ndarray, np.ndarray],
        ids: np.ndarray,
        rng: Rng,
    ) -> pl.DataFrame:
        """The rows of one table. `stands`: row and visit each token stands in, and whether it is to be written."""
        row, visit, new = stands
        schema, table, facts = self.schema, self.schema.tables[name], self.facts
        mine = facts["table"][token] == list(self.cells).index(name)
        at = np.flatnonzero(mine & facts["row"][token] & new)
        is_visit = table.role == "visit"
        if not is_visit and not schema.has_time(name):
            at = at[visit[at] >= 0]
        number = np.full(len(token), -1)
        number[at] = np.arange(len(at))
        subject = stream.subject[at]
        time = round_to(ticks[at], self.grid.get(name, 1))
        frame: dict[str, pl.Series] = {"subject_id": pl.Series("subject_id", ids[subject])}
        own = ids[stream.subject] * _VISITS_PER_SUBJECT + _places(stream, facts["visit"][token])
        if is_visit:
            frame["visit_id"] = pl.Series("visit_id", own[at])
        elif schema.has_visit_id(name):
            linked = np.array([t.linked for t in self.tokens])[token[at]] & (visit[at] >= 0)
            of = pl.Series("visit_id", own[np.maximum(visit[at], 0)])
            frame["visit_id"] = pl.select(pl.when(pl.Series(linked)).then(of).alias("visit_id")).to_series()
        if schema.has_time(name):
            frame["time"] = series_of(schema, time)
        else:
            time = ticks[visit[at]]
        if table.is_long:
            level = np.array([t.level for t in self.tokens])[token[at]]
            frame[table.code or ""] = self._codes(name, level, rng.child("codes").numpy)
            if table.value is not None:
                value = numbers[at]
                seen = np.isfinite(value)
                frame[table.value] = pl.Series(table.value, value).set(pl.Series(~seen), None)
        cells = np.flatnonzero(mine & ~facts["row"][token] & new)
        cells = cells[(row[cells] >= 0)]
        cells = cells[number[row[cells]] >= 0]
        for j, cell in enumerate(self.cells[name]):
            here = cells[facts["column"][token[cells]] == j]
            values, seen = np.zeros(len(at)), np.zeros(len(at), bool)
            into = number[row[here]]
            levels = np.array([t.level for t in self.tokens])[token[here]]
            values[into] = levels if cell.kind == "category" else np.nan_to_num(numbers[here])
            seen[into] = True
            frame[cell.column] = cell.decode(schema, values, seen, time, rng.child("cells", j).numpy)
        for column, spec in table.columns.items():
            if column not in frame:  # identifiers are made anew
                text = None if spec.missing else np.arange(1, len(at) + 1)
                made = pl.Series(column, [None] * len(at) if text is None else text).cast(pl.String)
                frame[column] = made if text is None else frame["subject_id"].cast(pl.String) + "-" + made
        return pl.DataFrame(frame)

    def _codes(self, name: str, level: np.ndarray, draw: np.random.Generator) -> pl.Series:
        """Codes of level ids; RARE is drawn among the less frequent half of the known codes, by their rows."""
        code, weight = self.codes[name], np.asarray(self.weight[name])
        rare = level == RARE
        if rare.any() and len(weight):
            seldom = np.where(weight <= np.median(weight), weight + 1e-9, 0.0)
            level = level.copy()
            level[rare] = 2 + draw.choice(len(weight), int(rare.sum()), p=seldom / seldom.sum())
        names = np.array([None, None, *code.levels], dtype=object)
        return pl.Series(code.column, names[level], dtype=pl.String)

    # -- fixed values, state -------------------------------------------------------------------------------------

    def encode_where(self, where: Mapping[str, Any]) -> dict[str, float]:
        """Feature -> number of each value a user fixes: normal scores for statics, raw numbers for the first visit."""
        visit = self.schema.visit_table
        computed = {law.path: tuple(path for path, _ in law.terms) for law in self.statics.derived if law.dropped}
        cells = (*self.statics.statics, *self.cells.get(visit or "", ()))
        cells = [cell for cell in cells if f"{cell.table}.{cell.column}" not in computed]
        found = where_values(self.schema, cells, where, computed)
        statics = [path for path in found if path.partition(".")[0] != visit]
        return found | self.statics.encode_where({path: where[path] for path in statics})

    def levels_of(self, path: str) -> tuple[str, ...]:
        """Levels of a static or visit column that training patients hold, () if it has none."""
        return held_levels((*self.statics.statics, *self.cells.get(self.schema.visit_table or "", ())), path)

    def first_visit(self, column: str, value: float) -> tuple[int, int, float]:
        """(place of a visit column, its token for a value, normal score of a number); token END: no token says so."""
        j, cell = next((j, c) for j, c in enumerate(self.cells[self.schema.visit_table or ""]) if c.column == column)
        level = int(value) if cell.kind == "category" else -1
        empty = level == MISSING or not np.isfinite(value)
        mine = [i for i, t in enumerate(self.tokens) if (t.table, t.column, t.level) == (cell.table, j, level) and i]
        token = END if empty or not mine else mine[0]
        law = self.tokens[token].law
        return j, token, 0.0 if law is None else float(law.score(np.array([value]))[0])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state, without the schema."""
        tokens = [[t.table, t.column, t.level, t.linked, t.law.to_json() if t.law else None] for t in self.tokens]
        return {
            "statics": self.statics.to_json(),
            "cells": [[name, [cell.to_json() for cell in cells]] for name, cells in self.cells.items()],
            "codes": {name: cell.to_json() for name, cell in self.codes.items()},
            "weight": {name: list(weight) for name, weight in self.weight.items()},
            "tokens": tokens,
            "clock": self.clock,
            "grid": dict(self.grid),
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, schema: Schema, state: Mapping[str, Any]) -> StreamCodec:
        """The codec of a state written by `to_json`."""
        law = QuantileTransform.from_json
        return cls(
            schema,
            Codec.from_json(schema, state["statics"]),
            {name: tuple(Cell.from_json(c) for c in cells) for name, cells in state["cells"]},
            {name: Cell.from_json(c) for name, c in state["codes"].items()},
            {name: tuple(w) for name, w in state["weight"].items()},
            tuple(Token(*rest, law(numbers) if numbers else None) for *rest, numbers in state["tokens"]),
            state["clock"],
            dict(state["grid"]),
            dict(state["notes"]),
        )


@dataclass(frozen=True)
class _Rows:
    """Where the rows of a table stand: subject, step they belong to (-1: none), whether they name it, time [ticks]."""

    subject: np.ndarray
    group: np.ndarray
    linked: np.ndarray
    ticks: np.ndarray


def _streamed(schema: Schema) -> list[str]:
    """Visits, then untimed tables, then timed ones."""
    events = [name for name in schema.events if not folds_to_subject(schema, name)]
    untimed = [name for name in events if not schema.tables[name].timed]
    visits = [] if schema.visit_table is None else [schema.visit_table]
    return visits + untimed + [name for name in events if name not in untimed]


def _numbers_of(schema: Schema, name: str, frame: pl.DataFrame, rows: _Rows, clock: bool) -> np.ndarray:
    """The number a row token carries: hour of a visit, value of a code."""
    table = schema.tables[name]
    if table.role == "visit" and clock:
        return rows.ticks % DAY / (DAY / 24)
    if table.is_long and table.value is not None:
        return frame[table.value].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.full(frame.height, np.nan)


def _law(
    schema: Schema, name: str, code: Cell | None, level: int, x: np.ndarray, subject: np.ndarray, k_min: int
) -> QuantileTransform | None:
    if code is None:
        return replace(QuantileTransform.fit(x, k_min, subject=subject), low=0.0, high=24 - 1e-6)
    label = code.levels[level - 2] if level >= 2 else ""
    return code_cell(schema.tables[name], name, label, x, subject, k_min, "schema").law


def _places(stream: SequenceArrays, visit: np.ndarray) -> np.ndarray:
    """1 for a subject's first visit and what follows it, 2 for the second, ..."""
    total = np.cumsum(visit)
    before = np.concatenate([[0], total])[stream.starts] if len(stream.length) else total
    return total - np.repeat(before, stream.length)
