"""Parts of the waveform scores against closed forms; cohorts that can hardly be compared; validate and its figures."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from ecg_clinic import cohort_of, ecg_clinic, eeg_clinic, schema

from cohortloom.cohort import Cohort
from cohortloom.evaluation import evaluate, validate
from cohortloom.evaluation.signals_chart import record_columns
from cohortloom.evaluation.signals_judge import Kernels
from cohortloom.evaluation.signals_near import cross_correlation
from cohortloom.evaluation.signals_record import _correlations, _moments, _ranks
from cohortloom.evaluation.signals_shape import _thin
from cohortloom.evaluation.signals_sides import make_side, scrambled
from cohortloom.report import Figure
from cohortloom.report.waveform_figures import _round, ecg_paper, eeg_montage
from cohortloom.rng import Rng


def test_cross_correlation_is_one_for_a_shifted_scaled_copy():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((3, 2, 200))
    copy = np.zeros_like(x[:1])
    copy[:, :, 30:] = 4 * x[1:2, :, :170]
    padded = x.copy()
    padded[:, :, 170:] = 0  # what is shifted out of the copy is out of the original too
    found = cross_correlation(copy, padded)[0]
    assert found[1] == pytest.approx(1.0, abs=1e-5)
    assert max(found[0], found[2]) < 0.4


def test_cross_correlation_is_the_largest_over_lags():
    draw = np.random.default_rng(1)
    a, b = draw.standard_normal(20), draw.standard_normal(20)
    slow = max(np.correlate(a, b, "full")) / np.linalg.norm(a) / np.linalg.norm(b)
    assert cross_correlation(a[None, None], b[None, None])[0, 0] == pytest.approx(slow, abs=1e-5)


def test_random_convolutions_do_not_see_a_level_and_tell_two_frequencies():
    draw = np.random.default_rng(0)
    t = np.arange(256) / 128
    phase = draw.uniform(0, 2 * np.pi, (40, 1, 1))
    x = np.sin(2 * np.pi * np.where(np.arange(40)[:, None, None] < 20, 8, 11) * t + phase)
    x += 0.1 * draw.standard_normal(x.shape)  # no ties at thresholds
    kernels = Kernels.fit(x, 20, np.random.default_rng(3))
    assert kernels.transform(x + 5) == pytest.approx(kernels.transform(x), abs=0.02)
    z = kernels.transform(x)
    apart = np.abs(z[:20].mean(0) - z[20:].mean(0)) / (z.std(0) + 1e-9)
    assert apart.max() > 1.5


def test_thinning_keeps_the_mean():
    x = np.random.default_rng(0).standard_normal((2, 137)).cumsum(axis=1)
    assert _thin(x).mean(axis=1) == pytest.approx(x.mean(axis=1))
    assert _thin(np.full((1, 40), 3.0)) == pytest.approx(3.0)


def test_ranks_are_among_the_reference():
    assert _ranks(np.array([0.0, 2.5, 9.0, np.nan]), np.array([1.0, 2, 3, 4]))[:3].tolist() == [-1.0, 0.0, 1.0]
    assert np.isnan(_ranks(np.array([np.nan]), np.array([1.0]))[0])


def test_record_correlation_is_pearson_over_patients():
    cohort = ecg_clinic(30, 1, duration=2.0, leads=("II",))
    side = make_side(cohort, cohort.signals["ecg"], 30, Rng(0))
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((30, 2)), draw.standard_normal((30, 1))
    a[3, 0] = np.nan
    known = np.isfinite(a[:, 0])
    found = _correlations(_moments(side, a, b).sum(axis=0))
    slow = [np.corrcoef(a[known, 0], b[known, 0])[0, 1], np.corrcoef(a[:, 1], b[:, 0])[0, 1]]
    assert found == pytest.approx(slow, abs=1e-6)


def test_columns_of_the_record_stand_beside_their_waveform():
    cohort = ecg_clinic(40, 1, duration=2.0, leads=("II",))
    side = make_side(cohort, cohort.signals["ecg"], 40, Rng(0))
    columns = record_columns(side)
    table = cohort.tables["patients"]
    order = side.signal.records.select("subject_id").join(table, on="subject_id", how="left", maintain_order="left")
    assert columns["patients.potassium"].tolist() == order["potassium"].to_list()
    assert columns["patients.sex = M"].tolist() == [float(s == "M") for s in order["sex"]]
    assert set(np.unique(columns["patients.qt_drug"])) == {0.0, 1.0}


def test_scrambling_keeps_the_power_spectrum_and_loses_the_channels_agreement():
    cohort = ecg_clinic(4, 1, leads=("I", "II"))
    side = make_side(cohort, cohort.signals["ecg"], 4, Rng(0))
    y = scrambled(side, Rng(1)).signal.samples
    x = side.signal.samples
    power = np.abs(np.fft.rfft(x, axis=2))
    assert np.abs(np.fft.rfft(y, axis=2))[:, :, 1:-1] == pytest.approx(power[:, :, 1:-1], rel=0.02, abs=0.05)
    agree = [abs(np.corrcoef(z[0])[0, 1]) for z in (x, y)]
    assert agree[1] < agree[0]


def test_at_most_four_records_of_a_patient_are_looked_at():
    cohort = ecg_clinic(12, 1, duration=2.0, leads=("II",))
    x = cohort.signals["ecg"].samples
    patients = cohort.tables["patients"].head(3)
    many = cohort_of(schema("ecg", 250, 2.0, ("II",)), np.concatenate([x] * 3), patients)
    side = make_side(many, many.signals["ecg"], 10, Rng(0))
    assert np.bincount(side.patient).tolist() == [4, 4, 4]
    assert side.per_patient(np.ones((12, 2))).tolist() == [[1.0, 1.0]] * 3


# -- cohorts ---------------------------------------------------------------------------------------------------------


def scores_of(synthetic, train, held_out):
    report = evaluate(synthetic, train=train, held_out=held_out, only="signals", fast=True)
    return {s.key: s for s in report.scores}, report


def test_few_patients_are_said_to_be_few():
    small = [ecg_clinic(6, s, duration=6.0, leads=("II",), kind="synthetic") for s in (1, 2, 3)]
    found, _ = scores_of(*small)
    assert found["signals.ecg.judge"].value is None and "fewer than" in found["signals.ecg.judge"].reason
    assert not any(s.passed is False for s in found.values())


def test_a_cohort_without_records_can_not_be_compared():
    train, held_out = ecg_clinic(5, 1, duration=2.0), ecg_clinic(5, 2, duration=2.0)
    spec = train.signals["ecg"]
    none = replace(spec, records=spec.records.head(0), samples=spec.samples[:0])
    found, _ = scores_of(replace(train, signals={"ecg": none}), train, held_out)
    assert found["signals.ecg"].value is None and "no record" in found["signals.ecg"].reason


def test_other_channels_can_not_be_compared():
    train, held_out = ecg_clinic(5, 1, duration=2.0), ecg_clinic(5, 2, duration=2.0)
    other = ecg_clinic(5, 3, duration=2.0, leads=("I", "II"))
    found, _ = scores_of(replace(other, schema=train.schema), train, held_out)
    assert "other channels" in found["signals.ecg"].reason


def test_single_beats_and_unequal_lengths_are_compared():
    sides = []
    for seed in (1, 2, 3):
        beats = ecg_clinic(20, seed, duration=1.0, leads=("II",))
        sides.append(beats)
    found, _ = scores_of(*sides)
    assert found["signals.ecg.template"].value is not None
    assert found["signals.ecg.correlation"].value is None, "one channel"
    sides = []
    for seed in (1, 2, 3):
        c = ecg_clinic(16, seed, duration=6.0, leads=("I", "II"))
        signal = c.signals["ecg"]
        lengths = np.random.default_rng(seed).integers(700, 1501, 16)
        samples = np.array(signal.samples)
        for i, n in enumerate(lengths):
            samples[i, :, n:] = np.nan
        records = signal.records.with_columns(n_samples=pl.Series(lengths))
        sides.append(replace(c, signals={"ecg": replace(signal, records=records, samples=samples)}))
    found, report = scores_of(*sides)
    assert found["signals.ecg.spectrum"].value is not None and found["signals.ecg.intervals"].value is not None
    assert found["signals.ecg.judge"].value is not None and report.figures


@pytest.mark.slow
def test_same_seed_same_scores():
    sides = [ecg_clinic(24, s, duration=5.0, leads=("I", "II")) for s in (1, 2, 3)]
    one, two = (scores_of(*sides)[0] for _ in range(2))
    assert [(k, s.value, s.limit) for k, s in one.items()] == [(k, s.value, s.limit) for k, s in two.items()]


@pytest.mark.slow
def test_copies_of_training_records_are_seen():
    train, held_out = ecg_clinic(40, 1, leads=("I", "II")), ecg_clinic(40, 2, leads=("I", "II"))
    copied = replace(train, origin=replace(train.origin, kind="synthetic"))
    found, _ = scores_of(copied, train, held_out)
    assert found["signals.ecg.copies"].value == 1.0 and found["signals.ecg.copies"].passed is False
    assert found["signals.ecg.copies"].floor < 0.1


# -- validate and figures --------------------------------------------------------------------------------------------


def test_validate_counts_failed_records():
    cohort = ecg_clinic(24, 1, duration=5.0)
    good = validate(cohort)
    assert not [s for s in good.scores if s.group == "signal ecg" and s.passed is False]
    signal = cohort.signals["ecg"]
    samples = np.array(signal.samples)
    samples[:6, 7] = 0
    bad = validate(replace(cohort, signals={"ecg": replace(signal, samples=samples)}))
    score = bad.score("signals.ecg.flat")
    assert score.value == pytest.approx(6 / 24) and score.passed is False
    assert score.details["first records"] == [0, 1, 2, 3, 4, 5]
    assert score.details["reasons"][0]["lead"] == "V2"


def test_one_broken_record_of_few_is_one_too_many():
    cohort = ecg_clinic(5, 1, duration=5.0)
    samples = np.array(cohort.signals["ecg"].samples)
    samples[2] *= 1000
    bad = replace(cohort, signals={"ecg": replace(cohort.signals["ecg"], samples=samples)})
    assert validate(bad).score("signals.ecg.amplitude").passed is False


def test_validate_takes_a_signal_without_records():
    cohort = eeg_clinic(3, 1, duration=4.0)
    none = replace(cohort.signals["eeg"], records=cohort.signals["eeg"].records.head(0), samples=np.zeros((0, 6, 512)))
    assert validate(replace(cohort, signals={"eeg": none})).score("signals.eeg").value is None


def paper(**changes):
    rows = [{"name": n, "samples": np.sin(np.arange(500) / 9).tolist()} for n in ("I", "II", "III", "V1", "V2", "V3")]
    record = {"title": "one", "origin": "synthetic", "leads": rows, **changes}
    return {"fs": 100, "unit": "mV", "records": [record]}


def test_paper_is_to_scale():
    # 5 s at 25 mm/s and 6 mm on either side: 137 mm, of 96 pixels an inch
    assert f"width:{(5 * 25 + 12) / 25.4 * 96:.0f}px" in ecg_paper(paper(), "p", "l")


def test_real_records_are_never_drawn_one_by_one():
    with pytest.raises(ValueError, match="only synthetic"):
        ecg_paper(paper(origin="real"), "p", "l")
    with pytest.raises(ValueError, match="only synthetic"):
        eeg_montage({"fs": 10, "records": [{"origin": "real", "channels": []}]}, "p", "l")


def test_a_title_is_text_and_gaps_are_gaps():
    content = paper(title="<b>&x</b>")
    content["records"][0]["leads"][0]["samples"][10:50] = [None] * 40
    drawn = ecg_paper(content, "p", "l")
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn
    assert "nan" not in drawn.lower().replace("nanum", "")


def test_montage_draws_every_channel_and_event():
    channels = [{"name": f"C{i}", "samples": np.random.default_rng(i).normal(0, 30, 400).tolist()} for i in range(5)]
    record = {
        "title": "one",
        "origin": "synthetic",
        "channels": channels,
        "events": [{"time": 1.0, "label": "spindle"}],
    }
    drawn = eeg_montage({"fs": 100, "unit": "uV", "records": [record]}, "p", "l")
    assert all(f">C{i}<" in drawn for i in range(5)) and "spindle" in drawn


def test_scale_bars_are_round():
    assert [_round(x) for x in (0.9, 24, 170, 0, 480)] == [1.0, 20.0, 200.0, 1.0, 500.0]


def test_a_report_with_waveforms_can_be_written(tmp_path):
    from cohortloom.report import Report

    Report("r", (), (Figure("ecg_paper", "ECG", paper(), "note", "signals"),)).save(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "25 mm/s" in text and "could not be drawn" not in text


def declaring(cohort, *subgroups):
    schema = cohort.schema.model_copy(update={"subgroups": subgroups})
    return Cohort.build(schema, cohort.tables, signals=cohort.signals)


def test_records_among_some_patients_keep_what_was_made_of_them():
    cohort = ecg_clinic(12, 1, duration=2.0, leads=("II", "V1"))
    side = make_side(cohort, cohort.signals["ecg"], 12, Rng(0))
    member = np.arange(side.n) % 3 == 0
    side.memo["numbers"] = np.arange(12.0), [str(i) for i in range(12)]
    some = side.among(member)
    assert some.subjects.to_list() == side.subjects.to_list()[::3]
    assert some.patient.tolist() == [0, 1, 2, 3]
    assert [a.tolist() if isinstance(a, np.ndarray) else a for a in some.memo["numbers"]] == [
        [0.0, 3.0, 6.0, 9.0], ["0", "3", "6", "9"]
    ]  # fmt: skip
    alone = make_side(cohort, some.signal, 12, Rng(0))
    assert some.features.equals(alone.features)


@pytest.mark.slow
def test_waveforms_of_one_sex_only_are_seen_and_named():
    train, held_out, good = (declaring(ecg_clinic(120, s), "patients.sex") for s in (1, 2, 3))
    women = good.tables["patients"].filter(pl.col("sex") == "F")["subject_id"]
    signal = good.signals["ecg"]
    theirs = signal.records["subject_id"].is_in(women.implode()).to_numpy()
    samples = np.array(signal.samples)
    samples[theirs] *= 0.5
    spoiled = replace(good, signals={"ecg": replace(signal, samples=samples)})
    for cohort, failed in ((spoiled, True), (good, False)):
        report = evaluate(cohort, train=train, held_out=held_out, only=["fairness"], fast=True)
        score = report.score("fairness.ecg_spectrum_worst")
        assert score.passed is not failed
        if failed:
            assert "patients.sex = F" in score.name
            rows = {r["subgroup"].split(":")[0]: r["verdict"] for r in score.details["subgroups"]}
            assert (rows["patients.sex = F"], rows["patients.sex = M"]) == ("fails", "passes")
        else:
            assert [s.key for s in report.failed if s.key.startswith("fairness.ecg")] == []


def test_few_records_of_a_subgroup_are_said_to_be_few():
    trio = [declaring(ecg_clinic(16, s, duration=2.0, leads=("II",)), "patients.sex") for s in (1, 2, 3)]
    report = evaluate(trio[2], train=trio[0], held_out=trio[1], only=["fairness"], fast=True)
    score = report.score("fairness.ecg")
    assert score.value is None
    assert "not measurable with" in score.reason
