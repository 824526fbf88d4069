"""Units: what is UCUM, what is not, and what people write instead."""

import pytest

from cohortloom.schema.units import check_unit, guess_unit, ucum

# From the tables of ucum.org and the LOINC example units.
GOOD = [
    "1",
    "%",
    "kg",
    "g/dL",
    "mg/dL",
    "mmol/L",
    "umol/L",
    "meq/L",
    "mosm/kg",
    "mm[Hg]",
    "cm[H2O]",
    "Cel",
    "[degF]",
    "/min",
    "{beats}/min",
    "10*3/uL",
    "10*9/L",
    "10*-6",
    "U/L",
    "[iU]/L",
    "m[iU]/mL",
    "ng/mL",
    "pg/mL",
    "ug/kg/min",
    "mL/min/{1.73_m2}",
    "kg/m2",
    "m/s2",
    "a",
    "mo",
    "wk",
    "d",
    "h",
    "min",
    "s",
    "ms",
    "us",
    "Hz",
    "uV",
    "mV",
    "dB[SPL]",
    "{score}",
    "[pH]",
    "[in_i]",
    "[lb_av]",
    "/[HPF]",
    "dyn.s/cm5",
    "mL/kg",
    "[arb'U]/mL",
    "kat/L",
    "g.m",
    "mm/h",
    "L/min",
    "eq/L",
]


@pytest.mark.parametrize("code", GOOD)
def test_units_of_the_clinic_are_known(code):
    assert check_unit(code) is None


@pytest.mark.parametrize("code", ["", "mg / dL", "mm[Hg", "mg}", "mg//dL", "mg/", "{my score}", "mm Hg"])
def test_what_is_no_code_is_wrong(code):
    assert check_unit(code)[0] == "bad-unit"


@pytest.mark.parametrize(
    ("written", "better"),
    [
        ("mmHg", '"mm[Hg]"'),
        ("bpm", '"/min"'),
        ("years", '"a"'),
        ("mcg/mL", '"ug/mL"'),
        ("mOsm", "?"),
        ("IU/L", '"[iU]/L"'),
    ],
)
def test_other_names_are_worth_a_look_and_get_a_hint(written, better):
    code, _, fix = check_unit(written)
    assert code == "unknown-unit" and better in fix


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("mEq/L", "meq/L"),
        ("insp/min", "/min"),
        ("°F", "[degF]"),
        ("K/uL", "10*3/uL"),
        ("mg/dL", "mg/dL"),
        ("UNK", "1"),
        ("flubs", None),
    ],
)
def test_names_become_codes(written, code):
    assert ucum(written) == code


def test_every_hint_and_guess_is_itself_a_known_unit():
    from cohortloom.schema import units

    for code in {*units._NAMES.values(), *(u for _, u in units._USUAL)}:
        assert check_unit(code) is None, code


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("hr", "/min"),
        ("sys_abp", "mm[Hg]"),
        ("age", "a"),
        ("days_supply", "d"),
        ("ph", "[pH]"),
        ("sex", None),
        ("phone", None),
        ("stage", None),
    ],
)
def test_column_names_suggest_units(column, unit):
    assert guess_unit(column) == unit
