"""History features against a slow loop over one subject's visits, and training against sampling order."""

import numpy as np

from cohortloom.nets.history import NUMBER_FEATURES, History, HistorySpec, Steps, walk

ODDS = np.linspace(0.2, 0.9, 8)
LEVELS = (-1.0, 0.0, 1.0)
SPEC = HistorySpec(
    2, (3,), (0,), (60,), (0,), 1, 10.0, 0.5, pull=(0.5, 3.0), usual=(0.2, 0.5, 0.3), usual_spread=(0.25, 0.25),
    usual_change=(0.5, 0.5), usual_odds=(tuple(ODDS), tuple(ODDS)), levels=((), LEVELS),
)  # fmt: skip


def some_steps(length: np.ndarray, seed: int = 0) -> Steps:
    rng, n = np.random.default_rng(seed), int(length.sum())
    recorded = rng.random((n, 2)) < 0.6
    score = np.where(recorded, rng.normal(size=(n, 2)).round(), 0).astype(np.float32)
    return Steps(score, recorded, rng.integers(0, 3, (n, 1)), rng.integers(0, 60, (n, 1)), rng.exponential(2, n))


def slow_number_features(score, recorded, gap, pull) -> list[float]:
    """The features of one column after these visits."""
    time = np.cumsum(gap)
    x, when = score[recorded].astype(float), time[recorded]
    rate = 0.0
    for k, here in enumerate(recorded, 1):
        rate += max(1 / k, 0.1) * (here - rate)
    spread, moved = 0.5 * np.log(0.25), np.log(0.5)  # the cohort's own, in `SPEC`
    if not len(x):
        empty = [0, 0, 0, float(not recorded[-1]), 0, spread, *[0] * 10, moved, 0, np.log(0.52), rate]
        return [*empty, np.log1p(time[-1]), *[0] * 13, np.log(0.5 / (len(score) + 0.5)), 0]
    smooth = slow = x[0]
    restless = 0.5
    for k, value in enumerate(x[1:], 2):
        smooth += max(1 / k, 0.3) * (value - smooth)
        slow += max(1 / k, 0.1) * (value - slow)
        restless += max(1 / k, 0.3) * (abs(value - x[k - 2]) - restless)
    change = x[-1] - x[-2] if len(x) > 1 else 0
    since = np.log1p(time[-1] - when[-1])
    absent = float(not recorded[-1])
    same = np.mean(x[1:] == x[:-1]) if len(x) > 1 else 0
    spread = 0.5 * np.log((np.sum((x - x.mean()) ** 2) + 4 * 0.25) / (len(x) - 1 + 4))
    level = [x[-1], 1, since, absent, x.mean(), spread, smooth, x[0]]
    between = when[-1] - when[-2] if len(x) > 1 else 0.0
    wait = time[-1] - when[-1]
    due = between > 0 and abs(wait + 1.0 - between) < 0.5  # the usual gap is 1 day
    overdue = between > 0 and wait + 1.0 > 1.5 * between
    moved = np.log((np.abs(np.diff(x)).sum() + 4 * 0.5) / (len(x) - 1 + 4))
    place = lambda gaps: np.searchsorted([1.5, 2.5, 3.5, 4.5, 5.5, 7.5, 11.5], gaps)  # noqa: E731
    before, following = place(np.diff(when)), place(wait + 1)
    chance = (np.sum(before == following) + 2 * ODDS[following]) / (np.sum(before >= following) + 2)
    odds = np.log(chance / (1 - chance))
    waits = [low - 0.5 < wait < high + 0.5 for low, high in ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 7), (8, 11))]
    found = [*level, np.log1p(len(x)), len(x) / len(score), change, same, np.log1p(between), due]
    found += [overdue, x[-1] * recorded[-1], moved, slow, np.log(restless + 0.02), rate, 0, odds]
    often = np.log((len(x) + 0.5) / (len(score) - len(x) + 0.5))
    own = x.sum() / (len(x) + pull)
    return [*found, own, abs(x[-1] - own), abs(x[-1]), *waits, 0, 0, often, 0]  # nobody else says anything here


def test_features_equal_a_loop_over_the_past():
    length = np.array([5, 1, 9, 0, 3])
    steps, bounds = some_steps(length), np.array([[50.0], [20], [np.nan], [5], [9]])
    start = np.concatenate([[0], np.cumsum(length)[:-1]])
    checked = 0
    for rows, features, codes in walk(SPEC, steps, length, bounds):
        for row, feature, code in zip(rows, features, codes):
            who = np.searchsorted(start, row, side="right") - 1
            while length[who] == 0:
                who -= 1
            past = slice(start[who], row)
            for column in (0, 1):
                block = SPEC.number_block(column)
                assert len(block) == NUMBER_FEATURES + len(SPEC.levels[column])
                score, recorded = steps.score[past, column], steps.recorded[past, column]
                slow = slow_number_features(score, recorded, steps.gap[past], SPEC.pull[column])
                if column == 1:
                    slow += [recorded.any() and score[recorded][-1] == level for level in LEVELS]
                np.testing.assert_allclose(feature[block], slow, atol=1e-5)
            tokens = steps.small[past, 0]
            recorded = tokens[tokens > 0]
            last = np.eye(3)[recorded[-1]] if len(recorded) else np.zeros(3)
            shares = np.bincount(tokens, minlength=3) / len(tokens)
            moments = np.cumsum(steps.gap[past])
            waits = [min(moments[-1] - moments[tokens == k][-1], 8.0) if (tokens == k).any() else 8.0 for k in range(3)]
            count, usual = shares * len(tokens), np.asarray(SPEC.usual)
            odds = np.log((count + usual) / (len(tokens) - count + 1 - usual))
            told = np.log(usual / (1 - usual))
            expected = [*last, tokens[-1] == 0, *shares, *(shares > 0), *odds, *waits, *told]
            np.testing.assert_allclose(feature[SPEC.category_block(0)], expected, atol=1e-5)
            large = steps.large[past, 0]
            assert code[0] == (large[large > 0][-1] if (large > 0).any() else -1)
            time, seen = steps.gap[past].sum(), row - start[who]
            np.testing.assert_allclose(feature[:3], [np.log1p(seen), seen / 20, np.log1p(time) / 3], rtol=1e-5)
            rest = np.nan_to_num(max(bounds[who, 0] - time, 0))
            slack = (rest - (length[who] - seen) * 0.5) / 0.5
            pace = np.log(rest / max(length[who] - seen, 1) + 0.01)
            expected = [rest / 10, np.log1p(max(slack, 0)), slack < 0.5, pace]
            np.testing.assert_allclose(feature[10:14], expected, rtol=1e-4, atol=1e-5)
            checked += 1
    assert checked == np.maximum(length - 1, 0).sum()


def test_training_features_are_bit_for_bit_those_of_sampling():
    length = np.array([4, 7, 1, 12, 2, 7])
    steps, bounds = some_steps(length, 1), np.full((6, 1), 99.0)
    start = np.concatenate([[0], np.cumsum(length)[:-1]])
    trained = {int(r): f for rows, features, _ in walk(SPEC, steps, length, bounds) for r, f in zip(rows, features)}
    alive = np.arange(6)
    history, position = History(SPEC, length.astype(float), bounds), 0
    while True:  # as sampling goes: everyone together, finished ones dropped
        history.update(steps.take(start[alive] + position))
        stay = history.seen < history.n_visits
        history.keep(stay)
        alive, position = alive[stay], position + 1
        if not len(alive):
            break
        for subject, feature in zip(alive, history.features()):
            np.testing.assert_array_equal(feature, trained.pop(int(start[subject] + position)))
    assert not trained


def test_a_subject_does_not_depend_on_its_neighbours():
    length = np.array([6, 6, 6])
    steps = some_steps(length, 2)
    whole = list(walk(SPEC, steps, length, np.full((3, 1), 9.0)))
    alone = list(walk(SPEC, steps.take(np.arange(6, 12)), length[:1], np.full((1, 1), 9.0)))
    for (_, many, _), (_, one, _) in zip(whole, alone):
        np.testing.assert_array_equal(many[1], one[0])
