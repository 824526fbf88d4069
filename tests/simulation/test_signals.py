"""Simulated waveforms follow the tables they stand beside, chunk by chunk, and impossible priors are refused."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cohortloom.cohort import Cohort
from cohortloom.errors import SchemaError
from cohortloom.rng import Rng
from cohortloom.rules import check
from cohortloom.rules.waveform import check_records, features_of
from cohortloom.schema.text import read_schema
from cohortloom.simulation import signals, simulate
from cohortloom.simulation.signals import draw_signals


@pytest.fixture(scope="module")
def clinic(schema_dir):
    return simulate(read_schema(schema_dir / "heart_failure_ecg.toml"), 400, seed=7)


@pytest.fixture(scope="module")
def wave(clinic):
    """Waveform features of 300 records beside what the record says."""
    ecg = clinic.signals["ecg"]
    part = replace(ecg, records=ecg.records[:300], samples=ecg.samples[:300])
    return part.records.hstack(features_of(part).drop("row"))


def test_records_belong_to_first_visits_and_break_no_rule(clinic):
    records = clinic.signals["ecg"].records
    first = clinic.tables["visits"].sort("time").unique("subject_id", keep="first")
    assert set(records["visit_id"]) <= set(first["visit_id"])
    assert records["subject_id"].n_unique() == records.height
    assert 0.7 < records.height / 400 < 0.9  # chance .8; 5 standard errors
    assert check(clinic) == []
    verdicts = check_records(clinic.signals["ecg"], rows=range(60))
    assert len(set(verdicts.rows("fail"))) <= 3


def test_rate_of_the_waveform_is_the_pulse_in_the_vitals(clinic, wave):
    both = wave.join(clinic.tables["visits"].select("visit_id", pulse="heart_rate"), on="visit_id").drop_nulls(
        ["pulse", "heart rate"]
    )
    regular = both.filter(pl.col("RR variation") < 0.1)
    assert regular.height > 100
    assert (regular["heart rate"] - regular["pulse"]).abs().median() < 2
    assert np.corrcoef(both["heart rate"], both["pulse"])[0, 1] > 0.9


def flag(clinic, wave, table, column, code):
    rows = clinic.tables[table].filter(pl.col(column) == code)
    return wave["visit_id"].is_in(rows["visit_id"].implode())


@pytest.mark.parametrize(
    ("table", "column", "code", "feature", "low", "high"),
    [
        ("medications", "drug", "C01BD01", "QTc", 0.015, 0.06),  # +35 ms
        ("diagnoses", "icd", "I31.3", "voltage", -2.0, -0.2),  # about .4 of it
    ],
)
def test_drug_lengthens_qtc_and_effusion_lowers_voltage(clinic, wave, table, column, code, feature, low, high):
    has = flag(clinic, wave, table, column, code)
    x = wave[feature]
    change = x.filter(has).median() - x.filter(~has).median()
    assert low < change < high


def test_potassium_raises_t(clinic, wave):
    labs = clinic.tables["labs"].filter(pl.col("test") == "2823-3").unique("visit_id", keep="first")
    both = wave.join(labs.select("visit_id", "value"), on="visit_id").drop_nulls(["value", "T size"])
    assert np.corrcoef(both["value"], both["T size"])[0, 1] > 0.3


def test_chunks_and_the_file_on_disk_change_no_byte(clinic, monkeypatch):
    tables = Cohort(clinic.schema, clinic.tables, {}, clinic.origin)
    whole = draw_signals(tables, Rng(3))["ecg"]
    monkeypatch.setattr(signals, "_IN_MEMORY", 1)
    mapped = draw_signals(tables, Rng(3))["ecg"]
    assert isinstance(mapped.samples, np.memmap)
    assert np.array_equal(whole.samples, mapped.samples)
    assert not np.array_equal(whole.samples, draw_signals(tables, Rng(4))["ecg"].samples)


def test_what_the_record_does_not_say_is_drawn(clinic):
    tables = dict(clinic.tables)
    tables["visits"] = tables["visits"].with_columns(heart_rate=pl.lit(None, tables["visits"]["heart_rate"].dtype))
    tables["labs"], tables["diagnoses"] = tables["labs"].clear(), tables["diagnoses"].clear()
    found = draw_signals(Cohort(clinic.schema, tables, {}, clinic.origin), Rng(0))["ecg"]
    assert found.records.height and np.isfinite(found.samples).all()


@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one_patient(schema_dir, n):
    made = simulate(read_schema(schema_dir / "heart_failure_ecg.toml"), n, seed=2)
    assert made.n_subjects == n
    assert made.signals["ecg"].samples.shape == (made.signals["ecg"].records.height, 12, 1000)


def broken(schema, **changes):
    spec = schema.signals["ecg"]
    prior = spec.prior.model_copy(update={"follows": {**spec.prior.follows, **changes.pop("follows", {})}})
    return schema.model_copy(update={"signals": {"ecg": spec.model_copy(update={"prior": prior, **changes})}})


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"follows": {"hart_rate": "visits.heart_rate"}}, "unknown-trait", "heart_rate"),
        ({"follows": {"age": "patient.birth_date"}}, "unknown-source", "patients"),
        ({"follows": {"female": "patients.sex = W"}}, "unknown-source", "no level"),
        ({"follows": {"female": "patients.sex"}}, "unknown-source", "Name a level"),
        ({"follows": {"potassium": "labs.9999-9"}}, "unknown-source", "neither a column nor a code"),
        ({"duration": None}, "no-duration", "signals.ecg.duration"),
        ({"channels": ("I", "MLII")}, "unknown-channel", "MLII"),
        ({"kind": "ppg"}, "no-simulator", "ppg"),
    ],
)
def test_impossible_priors_are_refused_before_work(schema_dir, changes, code, said):
    schema = broken(read_schema(schema_dir / "heart_failure_ecg.toml"), **changes)
    with pytest.raises(SchemaError) as caught:
        simulate(schema, 5, seed=1)
    assert code in {p.code for p in caught.value.problems}
    assert said in str(caught.value)
