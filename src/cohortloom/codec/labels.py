"""Words that follow from other columns: classes of a number, and groups of levels.

    cut   the level is that of an interval of a number     age group of age (or of two dates), severity of a score;
                                                           one level may stand where there is no number (unknown)
    map   the level is that of another level               country of a centre, chapter of a code, one thing named twice

Drawn apart they contradict each other: a patient of 34 in the group 65+. A law must hold in every row, and chance must
be out of the question: 30 bits, counted over patients, as two rare flags often lie in the same few patients. A "cut"
stays among the features, as more may hang on the class than on the number: where a code "does not apply" outside some
ages, and there were age groups, it was wrong in .35 of drawn patients without them, and in .22 with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cohortloom.codec.derived import ITEM, Column, Derived

__all__ = ["find_labels", "label_ids"]

_BITS, _MOST_LEVELS, _MOST_SOURCES, _MOST_TIMES = 30.0, 40, 200, 8
Terms = tuple[tuple[str, float], ...]
#: path -> (id of the level of each row, -1 where missing; names of the levels).
Levels = Mapping[str, tuple[np.ndarray, tuple[str, ...]]]


def find_labels(
    targets: list[str], levels: Levels, numbers: list[Column], subject: np.ndarray, taken: set[str]
) -> list[Derived]:
    """Laws of categories, in terms of numbers and of other categories.

    Args:
        targets: Categories that may be computed.
        levels: All categories of the same rows.
        numbers: Columns of the same rows; of times it is the time between two.
        subject: Patient of each row.
        taken: Columns other laws rest on; they stay.
    """
    _, first = np.unique(subject, return_index=True)
    found: list[Derived] = []
    sources: list[tuple[Terms, np.ndarray]] = [
        (((c.path, 1.0),), c.values) for c in numbers if not c.time and c.unit != ITEM
    ][:_MOST_SOURCES]
    times = [c for c in numbers if c.time][:_MOST_TIMES]
    year = 1 / 365.25
    sources += [
        (((b.path, year), (a.path, -year)), (b.values - a.values) * year)
        for i, b in enumerate(times)
        for a in times[:i]
    ]
    order = [np.argsort(values, kind="stable") for _, values in sources]  # NaN last
    for path in reversed(targets):  # of two that name one thing the first stays
        ids, names = levels[path]
        if path in taken or len(names) > _MOST_LEVELS or len(np.unique(ids[ids >= 0])) < 2:
            continue
        law = next((law for c, o in zip(sources, order) if (law := _cut(path, ids, names, *c, o, first))), None)
        if law is None:
            computed = {law.path for law in found}
            law = next(
                (
                    law
                    for other, (theirs, _) in levels.items()
                    if other not in computed | {path} and (law := _mapped(path, other, levels, first))
                ),
                None,
            )
        if law is not None:
            found.append(law)
            taken = taken | {source for source, _ in law.terms}
    return found


def label_ids(law: Derived, source: np.ndarray) -> np.ndarray:
    """Place of the level among `law.names`, -1 where the source is missing.

    Args:
        source: Numbers (cut; NaN where missing), or ids of levels (map; -1 where missing).
    """
    if law.form == "cut":
        return np.where(np.isfinite(source), np.searchsorted(law.cuts, source, side="right"), -1)
    return np.where(source >= 0, np.maximum(source, 0), -1)


def _cut(
    path: str,
    ids: np.ndarray,
    names: tuple[str, ...],
    terms: Terms,
    x: np.ndarray,
    order: np.ndarray,
    first: np.ndarray,
) -> Derived | None:
    few = ids[order[:: max(1, len(order) // 500)]]
    if np.count_nonzero(np.diff(few)) > len(names):
        return None
    known = np.isfinite(x)
    absent = np.unique(ids[~known])  # one level, where there is no number: age group unknown
    named = len(absent) == 1 and absent[0] >= 0 and not (ids[known] == absent[0]).any()
    if not named and (known != (ids >= 0)).any():  # known exactly where the number is
        return None
    order = order[: int(known.sum())]
    values, seen = x[order], ids[order]
    starts = np.flatnonzero(np.diff(seen)) + 1
    present = np.unique(seen)
    if len(starts) != len(present) - 1 or len(np.unique(values)) < 8 or (values[starts] <= values[starts - 1]).any():
        return None
    if _bits(ids[first][known[first]]) < _BITS + math.log2(len(order)):
        return None
    cuts = tuple(_plain(a, b) for a, b in zip(values[starts - 1], values[starts]))
    parts = tuple(names[seen[i]] for i in (0, *starts))
    return Derived(
        path, terms, form="cut", cuts=cuts, names=parts, shown=True, absent=names[absent[0]] if named else ""
    )


def _bits(ids: np.ndarray) -> float:
    """How unlikely it is that levels dealt by chance lie in order, each together."""
    n = np.bincount(ids)
    return (math.lgamma(len(ids) + 1) - sum(math.lgamma(k + 1) for k in n)) / math.log(2)


def _plain(below: float, above: float) -> float:
    """The shortest number above `below`, up to `above`."""
    for places in range(-6, 9):
        grid = 10.0**-places
        tried = math.floor(above / grid + 1e-9) * grid
        if below < tried <= above:
            return round(tried, max(places, 0))
    return above


def _mapped(path: str, other: str, levels: Levels, first: np.ndarray) -> Derived | None:
    (ids, names), (theirs, sources) = levels[path], levels[other]
    if len(sources) > len(first) / 4 or (theirs < 0).any() or (ids < 0).any():
        return None
    size = len(sources) * len(names)
    for rows in (slice(0, 1000), slice(None)):  # most pairs are no law, which few rows show
        held = np.bincount(theirs[rows] * len(names) + ids[rows], minlength=size).reshape(len(sources), -1)
        if ((held > 0).sum(axis=1) > 1).any():
            return None
    once = np.bincount(theirs[first] * len(names) + ids[first], minlength=size).reshape(len(sources), -1)
    share = once.sum(axis=0) / once.sum()
    again = np.maximum(once - 1, 0).sum(axis=0)
    if -(again[share > 0] * np.log2(share[share > 0])).sum() < _BITS:
        return None
    usual = int(held.sum(axis=0).argmax())  # of a level nobody has
    at = np.where(held.sum(axis=1) > 0, held.argmax(axis=1), usual)
    return Derived(path, ((other, 1.0),), form="map", names=tuple(names[i] for i in at))
