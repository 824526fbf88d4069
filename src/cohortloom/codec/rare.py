"""Codes too rare for a feature of their own.

**Told by their beginning.** A code of fewer than `k_min` patients is never stored. Where codes are a tree of prefixes
(ICD, ATC), its rows keep the longest beginning that `k_min` patients share: a rare E11.65 becomes "E11-" (the dash of
the printed catalogue: something below E11), which is true, and not some other frequent code, which is not. Where a
step holds a code at most once, a second row of one beginning is drawn as another rare code.

**Which of them.** A step tells how many rare rows it has. The n distinct codes of step s are drawn without replacement
(Gumbel top n) from

    log w_r(s) = log share_r + 1/2 sum over k in s of lift_rk + before_r [the patient had r in an earlier step]

lift_rk = log((n_rk + 1) / (E_rk + 1)) compares steps that hold both r and fact k (another code, a level of the step or
of the patient) with what chance would give; a pair never seen where chance would give five is never drawn. before_r is
the log ratio of how often r follows itself and how often it comes at all, drawn towards that of all rare codes. What is
left of the rows repeats these codes.

References:
    Kool, van Hoof, Welling (2019). Stochastic beams and where to find them: the Gumbel-top-k trick. ICML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

__all__ = ["NO_CODE", "RareLaw", "beginnings", "lifts", "told"]

#: What stands for an empty cell in a list of codes.
NO_CODE = "<missing>"
_TREES = ("ICD", "ATC", "ICPC", "OPS")
_NEVER, _SURELY = -30.0, 5.0
_MOST_STEPS = 50_000


def told(names: pl.Series, known: Iterable[str], stems: tuple[str, ...]) -> pl.Series:
    """Codes as they are told: empty ones by `NO_CODE`, unknown ones by their longest known beginning and a dash."""
    names = names.cast(pl.String).fill_null(NO_CODE)
    if not stems:
        return names
    known, begin = set(known), set(stems)
    new = {}
    for code in names.unique().to_list():
        if code not in known:
            found = (f"{code[:n]}-" for n in range(len(code), 0, -1) if code[:n] in begin)
            new[code] = next(found, code)
    return names.replace(new) if new else names


def beginnings(
    names: pl.Series, subject: np.ndarray, public: Iterable[str], system: str, k_min: int
) -> tuple[str, ...]:
    """Longest beginnings, shared by `k_min` patients, of codes that fewer hold; none where a system is no tree."""
    if not any(tree in system.upper() for tree in _TREES):
        return ()
    rows = pl.DataFrame({"code": names, "subject": subject}).drop_nulls().unique()
    few = pl.col("subject").n_unique().over("code") < k_min
    rows = rows.filter(few & ~pl.col("code").is_in(list(public)))
    found: list[str] = []
    most = int(rows["code"].str.len_chars().max() or 0) if rows.height else 0
    for n in range(most - 1, 0, -1):
        short = pl.col("code").str.slice(0, n).str.strip_chars_end(".-")
        rows = rows.with_columns(stem=short)
        shared = rows.group_by("stem").agg(
            pl.col("subject").n_unique().alias("n"), pl.col("code").n_unique().alias("c")
        )
        shared = shared.filter((pl.col("n") >= k_min) & (pl.col("stem") != ""))
        found += shared["stem"].to_list()
        rows = rows.join(shared, on="stem", how="anti").drop("stem")
    return tuple(sorted(set(found)))


@dataclass(frozen=True)
class RareLaw:
    """Law of the rare codes of one table. Make one with `fit`.

    Args:
        lift: Rare code x fact.
        before: Of each rare code, how much more it comes to who had it.
        again: Share of rare rows that repeat a rare code of the same step.
    """

    lift: np.ndarray
    before: np.ndarray
    again: float

    @classmethod
    def fit(cls, facts: np.ndarray, subject: np.ndarray, owner: np.ndarray, code: np.ndarray, n_codes: int) -> RareLaw:
        """Learn from rows.

        Args:
            facts: Step x fact (0 or 1), patients one after the other.
            subject: Patient of each step.
            owner, code: Step and rare code of each row.
        """
        keep = owner < _MOST_STEPS
        owner, code, n = owner[keep], code[keep], min(len(facts), _MOST_STEPS)
        facts, subject = facts[:n].astype(np.float32), subject[:n]
        here = np.zeros((n, n_codes), np.float32)
        here[owner, code] = 1.0
        used = here.any(1) | (facts.any(1) if facts.shape[1] else False)
        both, size = here.T @ facts, max(int(used.sum()), 1)
        chance = np.outer(here.sum(0), facts[used].sum(0)) / size
        first = np.concatenate([[True], subject[1:] != subject[:-1]]) if n else np.zeros(0, bool)
        past = _past(here, first)
        follow, could = (here * past).sum(0), past.sum(0)
        rate = (here.sum(0) + 0.5) / (n + 1.0)
        pooled = follow.sum() / max(float((past * rate).sum()), 1e-9)
        before = np.log((follow + pooled * 2 + 1e-6) / (could * rate + 2)) if n else np.zeros(n_codes)
        again = 1 - here.sum() / max(len(owner), 1)
        return cls(lifts(both, chance), np.clip(before, 0.0, 8.0), float(again))

    def draw(
        self,
        share: np.ndarray,
        count: np.ndarray,
        facts: np.ndarray,
        subject: np.ndarray,
        once: bool,
        draw: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Step and rare code of each row.

        Args:
            share: Share of each rare code.
            count: Rare rows of each step, patients one after the other.
            facts: Step x fact.
            subject: Patient of each step.
            once: A step holds a code at most once; rows beyond the number of codes are dropped.
        """
        n, n_codes = len(count), len(share)
        distinct = count if once else count - draw.binomial(np.maximum(count - 1, 0), self.again)
        distinct = np.minimum(distinct, n_codes)
        base = np.log(np.maximum(share, 1e-12) / share.sum())
        start = np.flatnonzero(np.concatenate([[True], subject[1:] != subject[:-1]])) if n else np.zeros(0, np.int64)
        length = np.diff(np.append(start, n))
        order = np.argsort(-length, kind="stable")
        start, length = start[order], length[order]
        had = np.zeros((len(start), n_codes), bool)
        owners, codes = [], []
        for place in range(int(length.max(initial=0))):  # once per step of the longest record
            live = int(np.searchsorted(-length, -place))
            rows = start[:live] + place
            busy = np.flatnonzero(distinct[rows] > 0)
            if not len(busy):
                continue
            at = rows[busy]
            lift = facts[at].astype(np.float32) @ self.lift.T.astype(np.float32)
            weight = base + 0.5 * lift + had[busy] * self.before + draw.gumbel(size=(len(busy), n_codes))
            ranked = np.argsort(-weight, axis=1)[:, : int(distinct[at].max())]
            row, column = np.nonzero(np.arange(ranked.shape[1])[None] < distinct[at][:, None])
            chosen = ranked[row, column]
            had[busy[row], chosen] = True
            owners.append(at[row]), codes.append(chosen)
        if not owners:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        owner, code = np.concatenate(owners), np.concatenate(codes)
        if not once:
            spare = count - np.bincount(owner, minlength=n)
            order = np.lexsort((draw.random(len(owner)), owner))
            first = np.cumsum(np.bincount(owner, minlength=n)) - np.bincount(owner, minlength=n)
            more = np.repeat(np.arange(n), spare)
            picked = (draw.random(len(more)) * distinct[more]).astype(np.int64)
            owner, code = np.append(owner, more), np.append(code, code[order[first[more] + picked]])
        return owner, code

    def to_json(self) -> dict[str, Any]:
        """Plain JSON state."""
        lift, before = np.round(self.lift, 1), np.round(self.before, 1)  # no count can be read off
        return {"lift": lift.tolist(), "before": before.tolist(), "again": self.again, "facts": self.lift.shape[1]}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> RareLaw:
        before = np.asarray(state["before"], float)
        return cls(np.asarray(state["lift"], float).reshape(len(before), state["facts"]), before, state["again"])


def lifts(both: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Log ratios of rows that hold a rare code and a fact to what chance gives; of what never met, though chance would
    give `_SURELY`, never."""
    return np.where((both == 0) & (chance >= _SURELY), _NEVER, np.log((both + 1) / (chance + 1)))


def _past(here: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Was each code in an earlier step of the same patient?"""
    if not len(here):
        return here
    total = np.cumsum(here, 0) - here
    start = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    return (total - total[start] > 0).astype(np.float32)
