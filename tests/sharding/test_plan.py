"""Shards cover every subject once, and their content does not depend on how many there are."""

import numpy as np
import pytest

from cohortloom.sharding import plan, run
from cohortloom.sharding.merge import add_notes


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 35])
def test_shards_cover_every_subject_once(n):
    shards = plan(n, size=10)
    assert np.array_equal(np.concatenate([s.ids for s in shards] or [np.zeros(0)]), np.arange(1, n + 1))
    assert [s.number for s in shards] == list(range(len(shards)))
    assert all(s.size == 10 for s in shards[:-1])


def test_first_shards_do_not_change_with_the_size_of_the_cohort():
    assert plan(30, size=10) == plan(1000, size=10)[:3]


def test_progress_counts_subjects():
    told = []
    run(lambda shard: None, plan(25, size=10), progress=lambda done, total, note: told.append((done, total)))
    assert told == [(10, 25), (20, 25), (25, 25)]


def test_notes_add_up():
    assert add_notes([{"a": 1}, {}, {"a": 2, "b": 1}]) == {"a": 3, "b": 1}
