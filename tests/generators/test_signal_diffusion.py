"""Floors on records whose law is known, and plants that must be seen by the same measures."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cohortloom.codec.beats import averaged_beats, find_beats, template_grid
from cohortloom.codec.record_context import RecordContext
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import DataError, SettingsError
from cohortloom.generators import signal_diffusion, signal_net, signal_records
from cohortloom.generators.chain import Chain
from cohortloom.generators.signal_diffusion import SignalDiffusion
from cohortloom.generators.signal_distill import distill
from cohortloom.generators.signal_plan import RecordPlan
from cohortloom.generators.store import load
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.testing.checks import assert_same
from cohortloom.training import Training

_spec = importlib.util.spec_from_file_location("wave_cohorts", Path(__file__).with_name("wave_cohorts.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
FS, clinic = _module.FS, _module.clinic

TRAINING = Training(steps=200, batch_size=32, learning_rate=4e-3, ema_power=18.0, evaluate_every=200, patience=0)
TINY = {"width": 16, "levels": (1, 2), "code": 6, "sampling_steps": 8, "precision": "float32", "training": TRAINING}
SHORT = {**TINY, "width": 8, "training": Training(steps=5, evaluate_every=5)}


@pytest.fixture(scope="module")
def model():
    return SignalDiffusion(**TINY).fit(clinic(120, seconds=5.0), seed=0)


@pytest.fixture(scope="module")
def given():
    return clinic(60, seed=9, first=501, seconds=5.0)


# -- measures --------------------------------------------------------------------------------------------------------


def bare(waves):
    """The records without the annotations a generator writes itself."""
    return SignalSet(waves.spec, waves.records, waves.samples)


def met_beats(waves):
    """Share of annotated beats with a detected one within 40 ms."""
    found, met, total = find_beats(bare(waves), (0,)), 0, 0
    for i, record in enumerate(waves.records["record_id"]):
        asked = waves.annotations.filter(pl.col("record_id") == record)["sample"].to_numpy()
        asked = asked[(asked > 5) & (asked < waves.samples.shape[2] - 5)]
        seen = found.place[i, : found.count[i]]
        met += sum(np.abs(seen - a).min(initial=99) <= 0.04 * FS for a in asked)
        total += len(asked)
    return met / total


def rates(waves):
    found = find_beats(bare(waves), (0,))
    rr = np.where(found.real[:, 1:], np.diff(found.place, axis=1), np.nan) / FS
    return 60 / np.nanmean(rr, axis=1)


def variation(waves):
    found = find_beats(bare(waves), (0,))
    rr = np.where(found.real[:, 1:], np.diff(found.place, axis=1), np.nan)
    return np.nanstd(rr, axis=1) / np.nanmean(rr, axis=1)


def t_waves(waves):
    x = np.nan_to_num(waves.samples)
    shape, _ = averaged_beats(x, np.isfinite(waves.samples), find_beats(bare(waves), (0,)), FS)
    grid = template_grid(FS)
    return shape[:, 0, np.abs(grid - 0.25).argmin()]


def of_patients(cohort, column):
    table = cohort.tables["patients"] if column in cohort.tables["patients"].columns else cohort.tables["visits"]
    return cohort.signals["ecg"].records.join(table.unique("subject_id"), on="subject_id", how="left",
                                              maintain_order="left")[column].to_numpy()  # fmt: skip


def association(cohort):
    return np.corrcoef(of_patients(cohort, "potassium"), t_waves(cohort.signals["ecg"]))[0, 1]


def outside(waves):
    """Samples that are finite behind the end of their record, or missing before it."""
    within = np.arange(waves.samples.shape[2]) < waves.records["n_samples"].to_numpy()[:, None]
    return int((np.isfinite(waves.samples) != within[:, None]).sum())


# -- floors ----------------------------------------------------------------------------------------------------------


def test_beats_stand_where_the_rhythm_says(model, given):
    assert met_beats(model.sample(given=given, seed=1).signals["ecg"]) > 0.95


def test_guides_that_are_ignored_are_seen(model, given, monkeypatch):
    monkeypatch.setattr(signal_diffusion, "guides", lambda *a, **k: torch.zeros_like(signal_records.guides(*a, **k)))
    assert met_beats(model.sample(given=given, seed=1).signals["ecg"]) < 0.8


def test_the_wave_has_the_rate_that_was_asked_for(model, given):
    drawn = model.sample(given=given, seed=1, where={"ecg.heart_rate": 72})
    assert np.abs(rates(drawn.signals["ecg"]) - 72).mean() < 3


def test_the_rate_follows_the_chart(model, given):
    drawn = model.sample(given=given, seed=1)
    assert np.corrcoef(of_patients(drawn, "pulse"), rates(drawn.signals["ecg"]))[0, 1] > 0.9


def test_rr_variation_is_that_of_the_rhythm(model, given):
    sinus = variation(model.sample(given=given, seed=1, where={"ecg.label": "sinus"}).signals["ecg"])
    fibrillating = variation(model.sample(given=given, seed=1, where={"ecg.label": "af"}).signals["ecg"])
    real = given.signals["ecg"]
    known = real.records["label"].to_numpy() == "af"
    assert np.median(sinus) < np.median(variation(real)[~known]) + 0.02
    assert np.median(fibrillating) == pytest.approx(np.median(variation(real)[known]), rel=0.5)


def test_t_wave_follows_potassium(model, given):
    assert association(model.sample(given=given, seed=1)) > 0.75 * association(given)


def test_a_shuffled_code_is_seen(model, given, monkeypatch):
    shown = SignalDiffusion._shown

    def shuffled(self, drawn, *rest):
        order = np.random.default_rng(0).permutation(len(drawn))
        k = self.shape_.facts["n_code"]
        return shown(self, np.concatenate([drawn[:, :-k], drawn[order, -k:]], axis=1), *rest)

    monkeypatch.setattr(SignalDiffusion, "_shown", shuffled)
    assert association(model.sample(given=given, seed=1)) < 0.5 * association(given)


def test_labels_follow_the_record(model, given):
    drawn = model.sample(given=given, seed=1)
    af = drawn.signals["ecg"].records["label"].to_numpy() == "af"
    pulse = of_patients(drawn, "pulse")
    assert af[pulse > 100].mean() > 0.7 and af[pulse < 85].mean() < 0.2


# -- training --------------------------------------------------------------------------------------------------------


def unmoved(model):
    """Parameters that stayed what they were at the start of the fit."""
    start = {}
    phases = SignalDiffusion.phases

    def watched(self, net, *rest):
        start.update({n: p.detach().clone() for n, p in net.named_parameters()})
        return phases(self, net, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SignalDiffusion, "phases", watched)
        model.fit(clinic(24), seed=0)
    return [n for n, p in model.net_.named_parameters() if torch.equal(p, start[n])]


def test_training_moves_every_parameter():
    longer = {**SHORT, "training": Training(steps=30, evaluate_every=30)}  # five steps need not lower the loss
    assert unmoved(SignalDiffusion(**longer)) == []


def test_a_zeroed_gradient_is_seen(monkeypatch):
    build = SignalDiffusion.build

    def planted(self, shape):
        net = build(self, shape)
        net.denoiser.fine.weight.register_hook(torch.zeros_like)
        return net

    monkeypatch.setattr(SignalDiffusion, "build", planted)
    model = SignalDiffusion(**{**SHORT, "training": Training(steps=5, evaluate_every=5, weight_decay=0.0)})
    assert unmoved(model) == ["denoiser.fine.weight"]


def test_what_lies_behind_the_end_of_a_record_is_not_learned():
    one = clinic(30, unequal=True)
    waves = one.signals["ecg"]
    rows = np.arange(30)
    data = signal_records.WaveRecords(waves, _codec(waves), rows, np.zeros((30, 0)), np.zeros((30, 0), bool), rows)
    x, seen = data.crop(rows, np.zeros(30, int), waves.samples.shape[2])
    assert (seen[:, 0].sum(dim=1).numpy() == waves.records["n_samples"].to_numpy()).all()
    assert float(x[~seen].abs().max()) == 0


def _codec(waves):
    from cohortloom.codec.signals import SignalCodec

    return SignalCodec.fit(waves)


# -- shapes, lengths, links --------------------------------------------------------------------------------------------


def test_records_of_unequal_length_end_where_they_say():
    model = SignalDiffusion(**SHORT).fit(clinic(40, unequal=True), seed=0)
    waves = model.sample(given=clinic(20, seed=3, unequal=True), seed=1).signals["ecg"]
    assert outside(waves) == 0 and waves.records["n_samples"].n_unique() > 5
    assert outside(replace(waves, samples=np.roll(waves.samples, 3, axis=2))) > 0  # the plant: misaligned padding
    longest = waves.records["n_samples"].max()
    assert waves.annotations["sample"].max() < longest


def test_records_belong_to_the_given_patients_visits(model):
    given = clinic(20, seed=4, per_patient=3)
    drawn = SignalDiffusion(**SHORT).fit(clinic(30, per_patient=3), seed=0).sample(given=given, seed=2)
    records, visits = drawn.signals["ecg"].records, drawn.tables["visits"]
    assert records.join(visits, on=["subject_id", "visit_id"], how="semi").height == records.height
    assert records["visit_id"].n_unique() == records.height == 60
    assert drawn.tables["visits"]["pulse"].equals(given.tables["visits"]["pulse"])


@pytest.mark.slow
def test_records_of_one_patient_look_alike():
    cohort = clinic(60, per_patient=4)
    cohort = Cohort(cohort.schema, {**cohort.tables, "patients": cohort.tables["patients"].clear()}, cohort.signals)
    model = SignalDiffusion(**TINY).fit(cohort, seed=0)
    given = clinic(30, seed=5, per_patient=4)
    drawn = model.sample(given=given, seed=1)
    height = t_waves(drawn.signals["ecg"]).reshape(30, 4)
    pairs = np.corrcoef(height.T)[np.triu_indices(4, 1)]
    assert pairs.mean() > 0.25  # 0 if records were drawn apart; six pairs of 30 patients: standard error about .1


def test_guidance_sampler_and_path_change_what_they_should(model, given):
    few = given.select(given.subjects.head(8))
    drawn = {}
    for name, change in {
        "plain": {}, "heun": {"sampler": "heun"}, "ddim": {"sampler": "ddim"}, "noisy": {"sampler": "stochastic"},
        "guided": {"guidance": 2.0}, "longer": {"sampling_steps": 12},
    }.items():  # fmt: skip
        for field, value in change.items():
            setattr(model, field, value)
        drawn[name] = model.sample(given=few, seed=1).signals["ecg"].samples
        for field in change:
            setattr(model, field, TINY.get(field, SignalDiffusion.__dataclass_fields__[field].default))
    plain = drawn.pop("plain")
    assert all(not np.array_equal(plain, other) for other in drawn.values())
    # same noise, same flow: a second-order sampler and more steps end near the same record
    assert np.corrcoef(plain.ravel(), drawn["longer"].ravel())[0, 1] > 0.95
    assert np.corrcoef(plain.ravel(), drawn["heun"].ravel())[0, 1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"path": "edm"}, {"path": "vp"}, {"denoiser": "s4d"}, {"attention": True},
                                    {"denoiser": "transformer"}])  # fmt: skip
def test_other_processes_and_denoisers_learn_the_beats(change):
    model = SignalDiffusion(**{**TINY, **change}).fit(clinic(120), seed=0)
    assert met_beats(model.sample(given=clinic(20, seed=9), seed=1).signals["ecg"]) > 0.9


@pytest.mark.parametrize("denoiser", ["s4d", "transformer"])
def test_denoisers_on_patches_are_fitted_kept_and_read(denoiser, tmp_path):
    own = {**SHORT, "denoiser": denoiser}
    assert unmoved(SignalDiffusion(**own, start=False)) == []  # of five steps after a Gaussian start none would be kept
    model = SignalDiffusion(**own).fit(clinic(20, unequal=True), seed=0)
    drawn = model.sample(given=clinic(4, seed=2, unequal=True), seed=1).signals["ecg"].samples
    model.save(tmp_path / "m")
    again = load(tmp_path / "m").sample(given=clinic(4, seed=2, unequal=True), seed=1).signals["ecg"].samples
    np.testing.assert_array_equal(drawn, again)
    with pytest.raises(SettingsError, match="multiple of 8"):
        SignalDiffusion(denoiser="transformer", width=12)


def test_the_plain_recipe_has_no_beats_to_follow():
    model = SignalDiffusion(**{**SHORT, "top_down": False}).fit(clinic(30), seed=0)
    assert not model.shape_.facts["beats"] and model.net_.rhythm is None
    drawn = model.sample(given=clinic(5, seed=2), seed=1).signals["ecg"]
    assert drawn.annotations is None and np.isfinite(drawn.samples).all()
    with pytest.raises(SettingsError, match="heart_rate"):
        model.sample(given=clinic(5, seed=2), seed=1, where={"ecg.heart_rate": 70})


def test_precision_changes_the_bytes_only(model, given):
    few = given.select(given.subjects.head(4))
    whole = model.sample(given=few, seed=1).signals["ecg"].samples
    model.precision = "bfloat16"
    half = model.sample(given=few, seed=1).signals["ecg"].samples
    model.precision = "float32"
    assert half.dtype == np.float32 and not np.array_equal(whole, half)
    assert np.corrcoef(whole.ravel(), half.ravel())[0, 1] > 0.98


def test_conditions_that_can_not_be_met_are_named(model, given):
    for where, word in (
        ({"ecg.label": "afib"}, "not a label"), ({"ecg.heart_rate": 900}, "between 15 and 350"),
        ({"patients.sex": "F"}, "can't be fixed"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=word):
            model.sample(given=given, seed=1, where=where)
    with pytest.raises(SettingsError, match="Chain"):
        model.sample(3, seed=1)


def test_a_cohort_without_records_is_refused():
    cohort = clinic(12)
    with pytest.raises(DataError, match="no waveform record"):
        SignalDiffusion(**SHORT).fit(Cohort.build(cohort.schema, cohort.tables), seed=0)
    with pytest.raises(SettingsError, match='Did you mean "ecg"'):
        SignalDiffusion(**SHORT, signal="eeg").fit(cohort, seed=0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_patients_is_learned(n):
    model = SignalDiffusion(**SHORT).fit(clinic(n), seed=0)
    assert np.isfinite(model.sample(given=clinic(3, seed=1), seed=1).signals["ecg"].samples).all()


def many_shapes(n):
    """Two leads at 50 Hz, 6 s, a beat every .8 to 1 s; each record has a shape of its own, more than a code of 4."""
    draw = np.random.default_rng(0)
    time, waves = np.arange(300) / FS, np.zeros((n, 2, 300))
    for wave in waves:
        bumps = [(0.0, 0.025, np.array([3.0, -1.5]))]
        bumps += [(t, 0.07, 0.7 * draw.standard_normal(2)) for t in np.linspace(-0.2, 0.4, 9)]
        for beat in np.arange(0.3, 7, draw.uniform(0.8, 1.0)):
            for at, width, height in bumps:
                wave += height[:, None] * np.exp(-0.5 * np.square((time - beat - at) / width))
    schema = Schema.model_validate(
        {"name": "shapes", "clock": "offset", "signals": {"ecg": {"kind": "ecg", "channels": ["a", "b"], "fs": FS}}}
    )
    records = pl.DataFrame(
        {"record_id": np.arange(n), "subject_id": np.arange(n), "n_samples": np.full(n, 300)}
    ).with_columns(visit_id=pl.lit(None, pl.Int64), time=pl.lit(None, pl.Duration("us")), label=pl.lit(None, pl.String))
    waves += 0.02 * draw.standard_normal(waves.shape)
    ecg = SignalSet(schema.signals["ecg"], records, waves.astype(np.float32))
    return Cohort.build(schema, {}, signals={"ecg": ecg})


def beats_alike(waves):
    """Share of the power of a record's beats that is in their mean; median over records."""
    found, shares = find_beats(bare(waves), (0,)), []
    for x, place, count in zip(np.nan_to_num(waves.samples), found.place, found.count):
        at = np.rint(place[:count]).astype(int)
        at = at[(at >= 10) & (at < x.shape[1] - 20)]
        beats = x[:, at[:, None] + np.arange(-10, 20)].transpose(1, 0, 2).reshape(len(at), -1)
        shares.append(1 - np.square(beats - beats.mean(axis=0)).sum() / np.square(beats).sum())
    return np.median(shares)


@pytest.mark.parametrize("rest", [True, False])
def test_what_a_code_leaves_of_a_beat_is_the_record_s_not_the_beat_s(rest, monkeypatch):
    if not rest:  # left to the samples it would be noise, another in each beat
        monkeypatch.setattr(signal_net, "MOST_REST", 0)
    drawn = SignalDiffusion(**{**SHORT, "code": 4}).fit(many_shapes(30), seed=0).sample(30, seed=1)
    assert (beats_alike(drawn.signals["ecg"]) > 0.96) == rest


def test_a_higher_t_wave_is_a_shape_and_no_size():
    grid = template_grid(FS)
    beat = np.exp(-0.5 * np.square(grid / 0.02))
    beats = np.stack([np.tile(k * beat + h * np.exp(-0.5 * np.square((grid - 0.3) / 0.05)), 2)
                      for k, h in ((1, 0.2), (1, 0.4), (2, 0.4))])  # fmt: skip
    shape, log_size = signal_records.sized(beats, signal_records.in_core(FS, False))
    assert log_size - log_size[0] == pytest.approx([0, 0, np.log(2)], abs=1e-3)
    assert shape[2] == pytest.approx(shape[0], abs=1e-3) and shape.shape == beats.shape


def test_patients_of_whom_nothing_is_known_get_records(model, given):
    blank = given.tables["patients"].with_columns(potassium=pl.lit(None, pl.Float64), sex=pl.lit(None, pl.String))
    visits = given.tables["visits"].with_columns(pulse=pl.lit(None, pl.Float64))
    unknown = Cohort.build(given.schema, {"patients": blank, "visits": visits})
    drawn = model.sample(given=unknown, seed=1)
    assert drawn.n_subjects == given.n_subjects
    # nothing known about potassium: T waves as wide apart as among training patients, not their mean for all
    waves = drawn.signals["ecg"]
    assert waves.records.height > 0 and t_waves(waves).std() > 0.6 * t_waves(given.signals["ecg"]).std()


def test_a_chain_draws_patients_visits_and_waves(tmp_path):
    link = {"generator": "temporal-vae", "width": 16, "training": {"steps": 20}}
    waves = {"generator": "signal-diffusion", **SHORT, "training": {"steps": 5, "evaluate_every": 5}}
    chain = Chain(static=link, events=link, signals=waves)
    chain.fit(clinic(60), seed=0)
    drawn = chain.sample(12, seed=1, where={"ecg.label": "af"})
    assert drawn.n_subjects == 12 and set(drawn.signals["ecg"].records["subject_id"]) <= set(drawn.subjects)
    assert set(drawn.signals["ecg"].records["label"]) == {"af"}
    chain.save(tmp_path / "chain")
    assert_same(load(tmp_path / "chain").sample(12, seed=1, where={"ecg.label": "af"}), drawn)


def test_a_chain_keeps_the_course_its_first_link_draws_jointly(tmp_path):
    link = {"generator": "temporal-vae", "width": 16, "training": {"steps": 20}}
    waves = {"generator": "signal-diffusion", **SHORT, "training": {"steps": 5, "evaluate_every": 5}}
    chain = Chain(static=link, events="joint", signals=waves).fit(clinic(60), seed=0)
    drawn = chain.sample(12, seed=1)
    assert drawn.n_subjects == 12 and drawn.tables["patients"].height == 12
    records = drawn.signals["ecg"].records
    assert records.height and set(records["visit_id"].drop_nulls()) <= set(drawn.tables["visits"]["visit_id"])
    assert chain.settings()["events"] == "joint"
    chain.save(tmp_path / "chain")
    assert_same(load(tmp_path / "chain").sample(12, seed=1), drawn)
    fixed = chain.sample(6, seed=2, where={"patients.sex": "F"})
    assert set(fixed.tables["patients"]["sex"]) == {"F"}


def test_records_at_first_visits_are_drawn_at_first_visits():
    real = clinic(30, per_patient=3)
    ecg = real.signals["ecg"]
    first = ecg.records["record_id"].to_numpy() % 3 == 0
    only = SignalSet(ecg.spec, ecg.records.filter(pl.Series(first)), ecg.samples[first])
    cohort = Cohort.build(real.schema, real.tables, signals={"ecg": only})
    plan = RecordPlan.fit(cohort, "ecg")
    drawn = plan.draw(cohort, cohort.subjects, Rng(0))
    visits = cohort.tables["visits"].sort("time").unique("subject_id", keep="first")
    assert drawn.height == 30 and set(drawn["visit_id"]) == set(visits["visit_id"])
    # with records at every visit none is preferred
    every = RecordPlan.fit(real, "ecg")
    assert every.visits == (1.0, 1.0, 1.0)


def test_an_unknown_value_of_the_visit_is_not_taken_from_another_day():
    real = clinic(40, per_patient=2)
    visits = real.tables["visits"]
    gone = visits["visit_id"] == visits["visit_id"][0]
    visits = visits.with_columns(pulse=pl.when(gone).then(None).otherwise("pulse"))
    cohort = Cohort.build(real.schema, {**real.tables, "visits": visits}, signals=real.signals)
    context = RecordContext.fit(cohort, "ecg")
    k = [f.name for f in context.features].index("visits.pulse")
    _, observed = context.encode(cohort, cohort.signals["ecg"].records)
    assert observed[:, k].sum() == 79


def eeg(n, *, seed=0):
    """One channel of pink-like noise of each record's own size, with 10 Hz where the eyes are closed."""
    draw = np.random.default_rng(seed)
    closed = draw.random(n) < 0.5
    time = np.arange(200) / FS
    noise = np.cumsum(draw.standard_normal((n, 200)), axis=1)
    noise = noise - np.linspace(0, 1, 200) * (noise[:, -1:] - noise[:, :1]) - noise.mean(axis=1, keepdims=True)
    noise *= np.exp(0.4 * draw.standard_normal((n, 1)))
    alpha = 15 * np.sin(2 * np.pi * (10 * time + draw.random((n, 1)))) * closed[:, None]
    schema = Schema.model_validate(
        {"name": "eeg", "clock": "offset", "signals": {"eeg": {
            "kind": "eeg", "channels": ["O1"], "fs": FS, "duration": 4, "unit": "uV", "labels": ["open", "closed"]}}}
    )  # fmt: skip
    records = clinic(n).signals["ecg"].records.with_columns(
        pl.lit(None, pl.Int64).alias("visit_id"), n_samples=pl.lit(200, pl.Int64),
        label=pl.Series(np.where(closed, "closed", "open")),
    )  # fmt: skip
    waves = SignalSet(schema.signals["eeg"], records, (noise + alpha)[:, None].astype(np.float32))
    return Cohort.build(schema, {}, signals={"eeg": waves})


def band(waves, low, high):
    power = np.square(np.abs(np.fft.rfft(waves.samples[:, 0], axis=1)))
    rate = np.fft.rfftfreq(waves.samples.shape[2], 1 / FS)
    return power[:, (rate >= low) & (rate <= high)].sum(axis=1)


def test_eeg_is_drawn_with_the_spectrum_of_its_label():
    model = SignalDiffusion(**{**TINY, "training": Training(steps=120, evaluate_every=120)}).fit(eeg(100), seed=0)
    assert not model.shape_.facts["beats"]
    real, alpha = eeg(80, seed=7).signals["eeg"], {}
    for label in ("open", "closed"):
        drawn = model.sample(40, seed=1, where={"eeg.label": label}).signals["eeg"]
        same = SignalSet(real.spec, real.records, real.samples[(real.records["label"] == label).to_numpy()])
        alpha[label] = np.median(band(drawn, 9, 11))
        assert abs(np.log(np.median(band(drawn, 0.5, 4)) / np.median(band(same, 0.5, 4)))) < 1.0
        # records differ in size as real ones do
        assert np.log(band(drawn, 0.5, 4)).std() > 0.5 * np.log(band(same, 0.5, 4)).std()
    # a network this small leaves white noise where there is no alpha, so only the contrast is asked for
    assert alpha["closed"] > 5 * alpha["open"]


# -- what is missing ---------------------------------------------------------------------------------------------------


def with_hole(cohort, channels, start, stop):
    waves = cohort.signals["ecg"]
    samples = waves.samples.copy()
    samples[:, channels, start:stop] = np.nan
    return Cohort(cohort.schema, cohort.tables, {"ecg": replace(waves, samples=samples)})


def test_a_gap_is_filled_with_beats_of_the_record(model, given):
    holed = with_hole(given, slice(None), 80, 180)
    filled, again = (model.impute(holed, seed=s).signals["ecg"].samples for s in (1, 2))
    known = np.isfinite(holed.signals["ecg"].samples)
    assert np.array_equal(filled[known], given.signals["ecg"].samples[known])
    assert np.isfinite(filled).all() and not np.array_equal(filled, again)
    whole = SignalSet(given.signals["ecg"].spec, given.signals["ecg"].records, filled)
    assert np.median(np.abs(rates(whole) - rates(given.signals["ecg"]))) < 2
    assert np.corrcoef(t_waves(whole), t_waves(given.signals["ecg"]))[0, 1] > 0.9


def test_a_missing_lead_is_drawn_from_the_other(model, given):
    truth = given.signals["ecg"].samples
    filled = model.impute(with_hole(given, 1, 0, None), seed=1).signals["ecg"].samples
    assert np.corrcoef(filled[:, 1].ravel(), truth[:, 1].ravel())[0, 1] > 0.9
    assert np.array_equal(filled[:, 0], truth[:, 0])


def spread_of_draws(model, holed, n=6):
    """Standard deviation over draws of every sample of lead II, mean over records; and what was seen came back."""
    drawn = model.impute(holed, seed=1, draws=n).signals["ecg"]
    before = holed.signals["ecg"].samples
    x = drawn.samples.reshape(len(before), n, *before.shape[1:])
    known = np.isfinite(before)
    for k in range(n):
        assert np.array_equal(x[:, k][known], before[known])
    assert np.isfinite(drawn.samples).all()
    return x[:, :, 0].std(axis=1).mean(axis=0)


def test_draws_of_a_gap_part_from_each_other_inside(model, given):
    few = given.select(given.subjects.head(24))
    spread = spread_of_draws(model, with_hole(few, slice(None), 60, 210))
    assert spread[60:210].min() > 0.01
    edges = np.r_[spread[60:62], spread[208:210]].mean()
    assert spread[110:160].mean() > 1.4 * edges


def test_a_record_is_continued_less_and_less_surely(model, given):
    few = given.select(given.subjects.head(24))
    spread = spread_of_draws(model, with_hole(few, slice(None), 125, 250))
    assert spread[200:].mean() > 1.5 * spread[125:127].mean() > 0
    # and goes on in its own rhythm
    whole = model.impute(with_hole(few, slice(None), 125, 250), seed=3).signals["ecg"]
    assert np.median(np.abs(rates(whole) - rates(few.signals["ecg"]))) < 4


def test_draws_of_a_missing_lead_differ_less_than_patients_do(model, given):
    few = given.select(given.subjects.head(12))
    drawn = model.impute(with_hole(few, 1, 0, None), seed=1, draws=4).signals["ecg"].samples[:, 1].reshape(12, 4, -1)
    truth = few.signals["ecg"].samples[:, 1]
    within = drawn.std(axis=1).mean()
    assert 0.005 < within < 0.3 * truth.std()
    assert np.sqrt(np.square(drawn - truth[:, None]).mean()) < 3 * within  # as sure as it is right


def at_half_the_rate(cohort):
    """The same records at 25 Hz, filtered and thinned."""
    from scipy.signal import resample_poly

    spec = cohort.schema.signals["ecg"].model_copy(update={"fs": FS / 2})
    schema = cohort.schema.model_copy(update={"signals": {"ecg": spec}})
    waves = cohort.signals["ecg"]
    low = resample_poly(waves.samples, 1, 2, axis=2, padtype="edge").astype(np.float32)
    records = waves.records.with_columns(n_samples=pl.lit(low.shape[2], pl.Int64))
    return Cohort.build(schema, cohort.tables, signals={"ecg": SignalSet(spec, records, low)})


def slow_part(x, share):
    n = x.shape[-1]
    c = np.fft.rfft(np.concatenate([x, x[..., ::-1]], axis=-1))
    c[..., int(2 * n * share * 0.25) :] = 0  # share of the low rate's range
    return np.fft.irfft(c, n=2 * n)[..., :n]


def test_what_a_low_rate_lost_is_drawn_and_what_it_had_is_kept(model, given):
    truth = given.signals["ecg"]
    low = at_half_the_rate(given)
    drawn, again = (model.refine(low, seed=s).signals["ecg"].samples for s in (1, 2))
    assert drawn.shape == truth.samples.shape and not np.array_equal(drawn, again)
    assert np.abs(slow_part(drawn - again, 0.75)).max() < 1e-4  # both keep what was seen
    same = slow_part(drawn - truth.samples, 0.75)[..., 10:-10]
    assert np.sqrt(np.square(same).mean()) < 0.02 * truth.samples.std()
    # R waves are as steep as real ones again; plain interpolation leaves them blunt
    steep = [np.abs(np.diff(x[:, 0], axis=1)).max(axis=1).mean() for x in (truth.samples, drawn)]
    from scipy.signal import resample_poly

    blunt = resample_poly(low.signals["ecg"].samples, 2, 1, axis=2, padtype="edge")
    assert np.abs(np.diff(blunt[:, 0], axis=1)).max(axis=1).mean() < 0.9 * steep[0]
    assert steep[1] == pytest.approx(steep[0], rel=0.12)
    several = model.refine(low, seed=3, draws=4).signals["ecg"].samples.reshape(60, 4, *truth.samples.shape[1:])
    far = several.mean(axis=1) - truth.samples, blunt[..., : truth.samples.shape[2]] - truth.samples
    assert np.square(far[0]).mean() < np.square(far[1]).mean()


def test_only_a_lower_rate_is_refined(model, given):
    with pytest.raises(DataError, match="at less than 50 Hz"):
        model.refine(given, seed=0)


def test_nothing_missing_nothing_changed(model, given):
    assert model.impute(given, seed=1) is given


def test_a_student_draws_in_fewer_steps_and_says_its_price(model, given, tmp_path):
    before = model.sample(given=given, seed=1)
    student, stages, prices = distill(model, steps=4, updates=15, records=32, given=given, seed=0)
    assert [s.steps for s in stages] == [8, 4]
    assert [p.evaluations for p in prices] == [model.sampling_steps, 4, 4]
    assert prices[0].distance == 0.0 and prices[0].steepness == pytest.approx(1.0)
    assert prices[2].distance > 0
    assert_same(model.sample(given=given, seed=1), before)  # the teacher is as it was
    drawn = student.sample(given=given, seed=1)
    assert np.isfinite(drawn.signals["ecg"].samples).all()
    # rhythm and beats are drawn before the samples, by what both share
    assert drawn.signals["ecg"].annotations.equals(before.signals["ecg"].annotations)
    student.save(tmp_path / "student")
    assert_same(load(tmp_path / "student").sample(given=given, seed=1), drawn)
    with pytest.raises(SettingsError, match="student already"):
        distill(student, steps=2)


@pytest.mark.parametrize("steps", [0, 3, 16])
def test_only_halvings_of_sixteen_steps_are_distilled(model, steps):
    with pytest.raises(SettingsError, match="8, 4, 2 or 1"):
        distill(model, steps=steps)


def test_a_model_is_distilled_without_any_patient(model):
    student, _, _ = distill(model, steps=8, updates=2, records=4, seed=0)
    assert student.sampling_steps == 8 and student.distilled_from == 16


def test_distill_on_the_command_line(model, tmp_path, capsys):
    from cohortloom.cli.main import main

    model.save(tmp_path / "model")
    with pytest.raises(SystemExit) as left:
        main(["distill", str(tmp_path / "model"), "-o", str(tmp_path / "student"), "--steps", "8", "--updates", "2",
              "--records", "4", "--quiet"])  # fmt: skip
    assert not left.value.code
    assert load(tmp_path / "student").sampling_steps == 8
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert [r[0] for r in rows[1:4]] == ["dpm2m", "dpm2m", "distilled"]
    assert "has not paid" in out  # two updates can't


@pytest.mark.slow
def test_a_student_is_nearer_than_as_few_steps_without_it(model, given):
    _, _, (_, plain, student) = distill(model, steps=2, updates=200, records=64, given=given, seed=0)
    assert student.distance < plain.distance and student.spectrum < plain.spectrum


def test_given_patients_are_drawn_on_the_command_line_without_a_number(model, given, tmp_path, capsys):
    from cohortloom.cli.main import main

    model.save(tmp_path / "model")
    given.save(tmp_path / "given")
    arguments = ["sample", str(tmp_path / "model"), "-o", str(tmp_path / "drawn"), "--quiet"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code and "how many patients" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--given", str(tmp_path / "given")])
    assert not left.value.code
    assert Cohort.load(tmp_path / "drawn").n_subjects == given.n_subjects


def test_short_records_are_told_where_they_are():
    """A window of a record sees the same channels as the whole record does there."""
    from cohortloom.generators.signal_net import N_PLACES, places

    whole, piece = places(np.zeros(1, int), 140, 140), places(np.array([30]), 50, 140)
    assert whole.shape == (1, N_PLACES, 140) and float(whole[0, 0, 0]) == -1 and float(whole[0, 0, -1]) == 1
    np.testing.assert_allclose(piece[0], whole[0, :, 30:80], atol=1e-5)


# -- single beats ------------------------------------------------------------------------------------------------------

SHAPES = {"up": np.sin(np.arange(64) / 6), "down": -np.exp(-0.5 * np.square((np.arange(64) - 40) / 4))}


def beats(n, *, seed=0):
    """Beats of 64 samples: the sum of the shapes of their labels (up to two), plus potassium times a T wave."""
    draw = np.random.default_rng(seed)
    has = draw.random((n, 2)) < 0.5
    potassium = draw.standard_normal(n)
    t_wave = 0.4 * np.exp(-0.5 * np.square((np.arange(64) - 20) / 3))
    x = has @ np.stack(list(SHAPES.values())) + potassium[:, None] * t_wave + 0.2 * draw.standard_normal((n, 64))
    schema = Schema.model_validate(
        {"name": "beats", "clock": "offset",
         "tables": {"patients": {"role": "static", "columns": {"potassium": {"kind": "number"}}}},
         "signals": {"ecg": {"kind": "ecg", "channels": ["II"], "fs": 100, "duration": 0.64,
                             "labels": ["plain", *SHAPES]}}}
    )  # fmt: skip
    names = [["plain", *SHAPES][0:1] * (not h.any()) + [k for k, v in zip(SHAPES, h) if v] for h in has]
    records = clinic(n).signals["ecg"].records.with_columns(
        pl.lit(None, pl.Int64).alias("visit_id"), n_samples=pl.lit(64, pl.Int64),
        label=pl.Series(["|".join(v) for v in names]),
    )  # fmt: skip
    people = pl.DataFrame({"subject_id": np.arange(1, n + 1), "potassium": potassium})
    waves = SignalSet(schema.signals["ecg"], records, x[:, None].astype(np.float32))
    return Cohort.build(schema, {"patients": people}, signals={"ecg": waves})


def seen_at_high_noise(model, label):
    """Mean clean estimate of pure noise of size 5, scaled as the records are, for a label alone."""
    context, observed = np.zeros((64, 4)), np.zeros((64, 4), bool)
    names = list(model.codec_.context.labels)
    observed[:, :3] = True
    context[:, [names.index(v) for v in label.split("|")]] = 1.0
    denoise = model._denoise(*model._shown(np.zeros((64, 0)), context, observed, None, np.arange(64), 64))
    with torch.no_grad():
        noise = torch.randn(64, 1, 64, generator=Rng(0).torch)
        return denoise(5 * noise, torch.full((64,), 5.0)).mean(0)[0].numpy() * model.codec_.samples.scale[0]


@pytest.mark.parametrize("start", [True, False])
def test_labels_are_followed_at_high_noise(start):
    """Where a record's class is decided, the estimate must differ by what the classes differ by: without the Gaussian
    start (the plant) a short training leaves it the same for all."""
    quick = {**TINY, "training": Training(steps=40, evaluate_every=40), "start": start}
    model = SignalDiffusion(**quick).fit(beats(300), seed=0)
    base = seen_at_high_noise(model, "plain")
    share = [float((seen_at_high_noise(model, k) - base) @ v / (v @ v)) for k, v in SHAPES.items()]
    both = seen_at_high_noise(model, "up|down") - base
    wanted = SHAPES["up"] + SHAPES["down"]
    share.append(float(both @ wanted / (wanted @ wanted)))
    if start:
        assert min(share) > 0.75 and max(share) < 1.25
    else:
        assert min(share) < 0.5


def test_beats_drawn_follow_labels_and_a_number():
    quick = {**TINY, "training": Training(steps=60, evaluate_every=60)}
    model = SignalDiffusion(**quick).fit(beats(300), seed=0)
    assert model.shape_.facts["placed"] and model.shape_.facts["n_facts"] == 0
    given = beats(150, seed=5)
    potassium = given.tables["patients"]["potassium"].to_numpy()
    for label in ("plain", "up", "up|down"):
        drawn = model.sample(given=given, seed=1, where={"ecg.label": label}).signals["ecg"].samples[:, 0]
        wanted = sum((SHAPES[k] for k in label.split("|") if k in SHAPES), np.zeros(64))
        assert np.abs(drawn.mean(0) - wanted).max() < 0.2
        t_wave = drawn[:, 20] - drawn.mean(0)[20]
        assert np.corrcoef(t_wave, potassium)[0, 1] > 0.7
    # a class as loud as it was, down to the finest cosine
    real = given.signals["ecg"]
    plain = real.samples[(real.records["label"] == "plain").to_numpy(), 0]
    drawn = model.sample(given=given, seed=1, where={"ecg.label": "plain"}).signals["ecg"].samples[:, 0]
    assert np.diff(drawn, axis=1).std() == pytest.approx(np.diff(plain, axis=1).std(), rel=0.1)
