"""What a value is told of its past, and the regressions that start its law."""

import numpy as np
import pytest

from cohortloom.codec.stream import NONE, NUMBER
from cohortloom.codec.tensors import Feature, SequenceArrays
from cohortloom.generators.event_encoding import N_CLASSES, N_OWN, Streams, _past, classes_of, lines, scores_near

FEATURES = tuple(Feature(name, "number") for name in ("token", "state", "score"))


def streams(seed: int = 0, subjects: int = 40, longest: int = 30) -> tuple[SequenceArrays, np.ndarray, np.ndarray]:
    """Streams of three tokens with and without numbers, and the times of their tokens."""
    draw = np.random.default_rng(seed)
    length = draw.integers(0, longest, subjects)
    n = int(length.sum())
    token, state = draw.integers(1, 4, n), np.where(draw.random(n) < 0.3, NONE, NUMBER)
    values = np.column_stack([token, state, np.where(state == NONE, 0.0, draw.normal(size=n))])
    made = SequenceArrays(FEATURES, values, np.ones(values.shape, bool), draw.exponential(1, n), length)
    return made, token, np.cumsum(made.gap)


def test_the_past_is_what_a_walk_through_the_stream_remembers():
    stream, token, time = streams()
    state, z = stream.values[:, 1], stream.values[:, 2]
    past = _past(stream, token, state, z, time, np.array([1, 3]))
    for subject in range(len(stream.length)):
        seen: dict[int, list[tuple[float, float]]] = {1: [], 2: [], 3: []}
        for i in stream.starts[subject] + np.arange(stream.length[subject]):
            own = seen[token[i]]
            last = [values[-1][0] if values else 0.0 for values in (seen[1], seen[3])]
            assert past.others[i].tolist() == pytest.approx(last)
            known, total = bool(own), sum(value for value, _ in own)
            assert (past.known[i], past.count[i], past.total[i]) == (known, len(own), pytest.approx(total))
            assert past.score[i] == (own[-1][0] if own else 0.0)
            assert past.since[i] == pytest.approx(time[i] - own[-1][1] if own else 0.0)
            assert past.change[i] == pytest.approx(own[-1][0] - own[-2][0] if len(own) > 1 else 0.0)
            if state[i] != NONE:
                own.append((z[i], time[i]))


def test_lines_find_who_stays_near_the_last_value_and_who_does_not():
    draw, n = np.random.default_rng(1), 4_000
    token = draw.integers(1, 3, n)
    past = np.zeros((n, N_OWN + 1), np.float32)
    known = np.arange(n) % 10 > 0
    past[:, 0], past[:, 2], past[:, -1] = draw.normal(size=n) * known, known, draw.normal(size=n)
    mean = np.where(token == 1, np.where(known, 0.9 * past[:, 0], past[:, -1]), 0.5 * past[:, -1])
    z = mean + draw.normal(size=n) * np.where(token == 1, 0.2, 0.8)
    none = np.zeros(0)
    made = Streams(none, token, none, np.full(n, 9), z, none, past, none, none, none)
    slope, offset, spread = lines(made, 4)
    first, later = slope
    assert later[1, 0] == pytest.approx(0.9, abs=0.03) and later[2, 0] == pytest.approx(0, abs=0.05)
    assert later[2, -1] == pytest.approx(0.5, abs=0.05) and later[1, -1] == pytest.approx(0, abs=0.03)
    assert first[2, -1] == pytest.approx(0.5, abs=0.15) and first[1, -1] == pytest.approx(1, abs=0.15)
    assert np.exp(spread[1, 1:3]).tolist() == pytest.approx([0.2, 0.8], abs=0.05)
    assert abs(offset[1, 1:3]).max() < 0.05
    assert np.isfinite(slope).all() and later[3, -1] == 0  # a token without numbers has the shared line


def test_a_score_near_a_bell_lies_in_its_class_and_follows_the_bell():
    draw = np.random.default_rng(2)
    found = np.repeat([0, 5, N_CLASSES - 1], 2_000)
    middle = np.repeat([-2.5, 0.0, 2.2], 2_000)
    z = scores_near(found, N_CLASSES, middle, np.full(len(found), 0.1), draw)
    assert (classes_of(z, N_CLASSES) == found).all()
    assert z[:2_000].mean() == pytest.approx(-2.5, abs=0.02) and z[:2_000].std() == pytest.approx(0.1, abs=0.02)
    assert z[4_000:].mean() == pytest.approx(2.2, abs=0.02)
