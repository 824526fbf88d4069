"""Every generator x every check. A new generator is one line in SMALL."""

import pytest

from cohortloom.errors import SettingsError
from cohortloom.generators import create, describe, generator_names
from cohortloom.testing.checks import CHECKS, WAVE_CHECKS, Case, small_cohort, small_waves

STEPS = {"steps": 40, "evaluate_every": 10}
SMALL = {
    "bootstrap": {},
    "chain": {
        "static": {"generator": "temporal-vae", "width": 24, "training": STEPS},
        "events": {"generator": "temporal-vae", "width": 24, "training": STEPS},
    },
    "columnar-ar": {"training": STEPS},
    "event-transformer": {"width": 16, "layers": 1, "training": STEPS},
    "independent": {},
    "record-diffusion": {"width": 24, "sampling_steps": 4, "training": STEPS},
    "sdv-par": {"epochs": 2},
    "sdv-static": {},
    "temporal-vae": {"width": 24, "training": STEPS},
    "timegan": {"width": 12, "training": {"steps": 12, "evaluate_every": 4}},
}
#: Generators of waveforms, checked on waveforms.
WAVES = {"signal-diffusion": {"width": 8, "levels": (1,), "sampling_steps": 2, "code": 4,
                              "training": {**STEPS, "batch_size": 8}},
         "signal-steps": {"patch": 25, "generator": {"generator": "temporal-vae", "width": 16, "candidates": 1,
                                                     "training": STEPS}},
         }  # fmt: skip
SLOW = {"processes_equal_whole", "odd_schemas"}
#: Fits of many cohorts, by a generator whose parts are checked on them in the fast suite.
SLOW_PAIRS = {
    ("chain", "courses_before_the_origin"),
    *((name, "odd_cohorts") for name in ("chain", "columnar-ar", "record-diffusion", "temporal-vae")),
}
#: A Python step per visit: only its first few checks run in the fast suite.
SLOW_GENERATORS = {"sdv-par"}
QUICK = {"settings_are_the_fields", "same_seed_same_cohort", "loaded_is_the_same"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}

    def case(name: str) -> Case:
        if name not in made:
            settings, cohort = (WAVES[name], small_waves()) if name in WAVES else (SMALL[name], small_cohort())
            made[name] = Case(lambda: create(name, **settings), tmp_path_factory.mktemp(name), cohort)
        return made[name]

    return case


def test_every_generator_is_checked():
    assert set(SMALL) | set(WAVES) == set(generator_names()) == set(describe())


def _pairs():
    for name in SMALL:
        for check in CHECKS:
            slow = check in SLOW or (name, check) in SLOW_PAIRS or (name in SLOW_GENERATORS and check not in QUICK)
            yield pytest.param(name, check, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(("name", "check"), _pairs())
def test_generator(name, check, cases, tmp_path):
    case = cases(name)
    case.folder = tmp_path
    CHECKS[check](case)


@pytest.mark.parametrize("check", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in WAVE_CHECKS])
@pytest.mark.parametrize("name", WAVES)
def test_generator_of_waveforms(name, check, cases, tmp_path):
    case = cases(name)
    case.folder = tmp_path
    CHECKS[check](case)


def test_a_copied_length_is_caught(cases):
    # the check looks at the ability, so it is turned off here to see the plant found
    case = Case(lambda: create("bootstrap"), cases("bootstrap").folder, small_cohort())
    type(case.fitted).abilities, abilities = frozenset(), type(case.fitted).abilities
    try:
        with pytest.raises(AssertionError):
            CHECKS["lengths_are_not_copied"](case)
    finally:
        type(case.fitted).abilities = abilities


def test_processes_equal_whole_for_one(cases):
    CHECKS["processes_equal_whole"](cases("bootstrap"))


def test_unknown_generator_names_the_nearest():
    with pytest.raises(SettingsError, match='Did you mean "temporal-vae"'):
        create("temporal-vea")
