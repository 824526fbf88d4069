import json

import numpy as np
import polars as pl
import pytest

from cohortloom.codec import signals as module
from cohortloom.codec.beats import Beats, averaged_beats, find_beats, recovery_stretches, template_grid
from cohortloom.codec.record_context import RecordContext
from cohortloom.codec.signals import SignalCodec
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import DataError
from cohortloom.rng import Rng
from cohortloom.schema import Schema, Signal
from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg


def wave_set(samples, channels, fs=100.0, **spec):
    n, _, length = samples.shape
    records = pl.DataFrame(
        {
            "record_id": np.arange(n), "subject_id": np.arange(n), "visit_id": pl.Series([None] * n, dtype=pl.Int64),
            "time": pl.Series([None] * n, dtype=pl.Duration("us")), "n_samples": np.full(n, length),
            "label": pl.Series([None] * n, dtype=pl.String),
        }
    )  # fmt: skip
    return SignalSet(Signal(kind="ecg", channels=channels, fs=fs, **spec), records, samples.astype(np.float32))


@pytest.fixture(scope="module")
def ecg():
    draw = np.random.default_rng(0)
    traits = draw_traits(60, Rng(0), ventricular_ectopy=np.where(draw.random(60) < 0.3, 0.12, 0.0))
    samples, truth = simulate_ecg(traits, fs=100, duration=10, rng=Rng(1))
    return wave_set(samples, LEADS), truth


@pytest.fixture(scope="module")
def calm():
    """Records without the tall beats that lie beyond the codec's clip."""
    return wave_set(simulate_ecg(draw_traits(60, Rng(2)), fs=100, duration=10, rng=Rng(3))[0], LEADS)


def residual(x):
    """Largest breach of Einthoven's and Goldberger's identities [mV]."""
    one, two, three, right, left, foot = (x[:, LEADS.index(c)] for c in ("I", "II", "III", "aVR", "aVL", "aVF"))
    breaches = (one + three - two, right + (one + two) / 2, left - (one - three) / 2, foot - (two + three) / 2)
    return max(float(np.abs(b).max()) for b in breaches)


def test_twelve_leads_come_back_from_eight(calm):
    waves = calm
    codec = SignalCodec.fit(waves)
    x, _ = codec.encode(waves.samples)
    assert x.shape[1] == 8 and x.std(axis=(0, 2)) == pytest.approx(np.ones(8), abs=0.01)
    back = codec.decode(x)
    assert np.abs(back - waves.samples).max() < 1e-4 and residual(back) < 1e-5


def test_a_wrong_lead_derivation_is_seen(ecg, monkeypatch):
    waves, _ = ecg
    codec = SignalCodec.fit(waves)
    monkeypatch.setitem(module._DERIVED, "III", (1.0, 1.0))
    assert residual(codec.decode(codec.encode(waves.samples)[0])) > 0.1


def test_leads_in_any_order_and_a_subset_are_told_by_name(calm):
    waves = calm
    order = np.random.default_rng(0).permutation(12)
    mixed = wave_set(waves.samples[:, order], tuple(LEADS[i] for i in order))
    codec = SignalCodec.fit(mixed)
    assert np.abs(codec.decode(codec.encode(mixed.samples)[0]) - mixed.samples).max() < 1e-4
    few = wave_set(waves.samples[:, :3], LEADS[:3])
    assert SignalCodec.fit(few).n_modelled == 3  # not the standard 12: nothing is derived


def test_gaps_ends_flat_and_extreme_samples():
    x = np.random.default_rng(0).standard_normal((4, 3, 50))
    x[0, 0, 10:20], x[:, 2], x[1, :, 30:] = np.nan, 1.5, np.nan
    x[2, 0, 5] = 1e5
    codec = SignalCodec.fit(wave_set(x, ("a", "b", "c"), high=1e6, low=-1e6))
    z, seen = codec.encode(x)
    assert np.array_equal(seen, np.isfinite(x)) and (z[~seen] == 0).all() and np.abs(z).max() <= module.CLIP
    back = codec.decode(z, np.array([50, 30, 50, 50]))
    assert np.isnan(back[1, :, 30:]).all() and np.isfinite(back[1, :, :30]).all() and (back[:, 2, :30] == 1.5).all()
    assert SignalCodec.from_json(codec.to_json()) == codec


def test_steps_of_the_converter_are_kept():
    """Samples in whole steps come back in whole steps, others as they are; the step is found to what float32 holds."""
    draw = np.random.default_rng(0)
    x = np.stack([0.005 * draw.integers(-900, 900, (20, 400)) + 0.0013, draw.standard_normal((20, 400))], axis=1)
    codec = SignalCodec.fit(wave_set(x.astype(np.float32), ("a", "b")))
    assert codec.step[0] == pytest.approx(0.005, rel=1e-5) and codec.step[1] == 0
    drawn = codec.decode(draw.standard_normal((5, 2, 400)).astype(np.float32))
    steps = (drawn[:, 0].astype(float) - codec.zero[0]) / 0.005
    assert np.abs(steps - np.rint(steps)).max() < 0.01
    np.testing.assert_allclose(codec.decode(codec.encode(x)[0]), x, atol=1e-5)
    # the plant: without steps drawn samples lie between them
    loose = SignalCodec.from_json({**codec.to_json(), "step": [], "zero": []})
    between = loose.decode(draw.standard_normal((5, 2, 400)).astype(np.float32))[:, 0] / 0.005
    assert np.abs(between - np.rint(between)).mean() > 0.2
    # a ruined channel, a flat one and short ones have no steps
    jittered = np.where(draw.random(x.shape) < 0.3, x + 0.001 * draw.random(x.shape), x)
    for odd in (np.zeros((3, 2, 400)), x[:1, :, :10], jittered):
        assert SignalCodec.fit(wave_set(odd.astype(np.float32), ("a", "b"))).step == (0.0, 0.0)


def test_a_channel_without_samples_is_named():
    x = np.zeros((2, 2, 10))
    x[:, 1] = np.nan
    with pytest.raises(DataError, match="channel b has no sample"):
        SignalCodec.fit(wave_set(x, ("a", "b")))


def test_r_peaks_are_those_of_the_simulator(ecg):
    waves, truth = ecg
    beats = find_beats(waves, SignalCodec.fit(waves).modelled)
    errors, missed, total, odd = [], 0, 0, []
    for i in range(60):
        beat = truth.filter((pl.col("record") == i) & pl.col("time").is_between(0.2, 9.7))
        real = beat["time"].to_numpy() * 100
        gap = np.abs(real[:, None] - beats.place[i, : beats.count[i]])
        met = gap.min(axis=1) < 5
        missed, total = missed + (~met).sum(), total + len(real)
        errors += list(gap.min(axis=1)[met & (beat["kind"] == "N").to_numpy()])
        odd += list(beats.odd[i, gap.argmin(axis=1)][met] == (beat["kind"] == "V").to_numpy()[met])
    assert missed <= 0.01 * total and np.median(errors) < 0.5 and np.mean(odd) > 0.98


def test_annotations_go_before_the_detector(ecg):
    waves, _ = ecg
    notes = pl.DataFrame(
        {"record_id": [3, 3, 3], "sample": [200, 500, 800], "kind": ["beats"] * 3, "symbol": ["N", "V", "N"]}
    )
    beats = find_beats(SignalSet(waves.spec, waves.records, waves.samples, notes), (0, 1))
    assert beats.count[3] == 3 and beats.odd[3, :3].tolist() == [False, True, False] and beats.count[4] > 5


def test_flat_missing_and_empty_records_have_no_beats():
    x = np.zeros((3, 1, 400))
    x[1] = np.nan
    waves = wave_set(x, ("II",))
    assert find_beats(waves, (0,)).count.tolist() == [0, 0, 0]
    nothing = SignalSet(waves.spec, waves.records.clear(), waves.samples[:0])
    assert find_beats(nothing, (0,)).count.shape == (0,)


def test_the_averaged_beat_is_the_beat():
    # copies of one shape at fractional places: the average is the shape, whatever the places
    fs, grid = 100.0, template_grid(100.0)
    place = np.array([[60.3, 161.7, 255.1, 370.5]])
    time = np.arange(450)
    x = sum(np.exp(-0.5 * np.square((time - p) / 4.0)) for p in place[0])[None, None]
    beats = Beats(place, np.zeros((1, 4), bool), np.array([4]))
    mean, ok = averaged_beats(x, np.ones(x.shape, bool), beats, fs)
    assert ok.all() and np.abs(mean[0, 0] - np.exp(-0.5 * np.square(grid * fs / 4.0))).max() < 0.01


def test_a_t_wave_that_follows_the_interval_before_is_averaged_at_its_place_behind_a_mean_interval():
    # QRS at R; T .3 s behind R, stretched away from .05 s by the square root of the interval before over the mean
    fs, grid = 100.0, template_grid(100.0)
    rr = np.array([0.8, 0.6, 1.1, 0.7, 0.9, 1.0, 0.6, 0.7])
    place = np.cumsum(np.append(0.8, rr))[None] * fs
    real = np.ones(place.shape, bool)
    grown = np.append(1.0, np.sqrt(rr / rr.mean()))
    ahead, behind = recovery_stretches(place, real, fs, 0.5)
    assert np.array_equal(ahead, np.ones_like(ahead)) and behind[0] == pytest.approx(grown)
    since = np.arange(round(place[0, -1] + fs))[:, None] / fs - place[0] / fs
    own = np.minimum(since, 0.05) + np.maximum(since - 0.05, 0) / grown

    def wave(t):
        return np.exp(-0.5 * np.square(t / 0.03)) + 0.3 * np.exp(-0.5 * np.square((t - 0.3) / 0.04))

    x = wave(own).sum(axis=1)[None, None]
    beats = Beats(place, np.zeros(place.shape, bool), np.array([9]))
    off = {
        power: np.abs(
            averaged_beats(x, np.ones(x.shape, bool), beats, fs, recovery_stretches(place, real, fs, power))[0][0, 0]
            - wave(grid)
        )[grid > 0.1].max()
        for power in (0.0, 0.5)
    }
    assert off[0.5] < 0.02 < 0.04 < off[0.0]


def test_without_intervals_nothing_stretches():
    ahead, behind = recovery_stretches(np.array([[50.0, 0.0]]), np.array([[True, False]]), 100.0, 0.5)
    assert np.array_equal(ahead, [[1, 1]]) and np.array_equal(behind, [[1, 1]])


# -- context ---------------------------------------------------------------------------------------------------------


def hospital():
    schema = Schema.model_validate(
        {
            "name": "h", "clock": "offset",
            "tables": {
                "patients": {"role": "static", "columns": {"age": {"kind": "number"},
                                                           "sex": {"kind": "category", "levels": ["F", "M"]}}},
                "visits": {"role": "visit", "columns": {"pulse": {"kind": "number"}}},
                "labs": {"role": "event", "parent": "patients", "code": "item", "value": "result",
                         "columns": {"item": {"kind": "code"}, "result": {"kind": "number"}}},
                "diagnoses": {"role": "event", "parent": "patients", "columns": {"icd": {"kind": "code"}}},
            },
            "signals": {"ecg": {"kind": "ecg", "channels": ["II"], "fs": 10, "duration": 2, "labels": ["af", "pvc"]}},
        }
    )  # fmt: skip
    n, day = 20, 86_400_000_000
    ids = np.arange(n)

    def at(days):
        return pl.Series(np.asarray(days) * day).cast(pl.Duration("us"))

    tables = {
        "patients": pl.DataFrame({"subject_id": ids[1:], "age": ids[1:] + 40.0, "sex": ["F", "M"] * 9 + ["F"]}),
        "visits": pl.DataFrame({"subject_id": np.repeat(ids, 2), "visit_id": np.arange(2 * n), "time": at([0, 10] * n),
                                "pulse": np.arange(2 * n, dtype=float)}),
        "labs": pl.DataFrame({"subject_id": np.repeat(ids, 2), "time": at([1, 9] * n), "item": ["K"] * 2 * n,
                              "result": np.arange(2 * n) / 10}),
        "diagnoses": pl.DataFrame({"subject_id": ids[:8], "time": at([0, 20] * 4), "icd": ["I48"] * 8}),
    }  # fmt: skip
    records = pl.DataFrame(
        {
            "record_id": ids, "subject_id": ids,
            "visit_id": pl.Series([2 * k + 1 if k % 2 else None for k in ids], dtype=pl.Int64),
            "time": at([2] * n), "n_samples": [20] * n, "label": ["af|pvc", "af", None, "pvc"] * 5,
        }
    )  # fmt: skip
    waves = SignalSet(schema.signals["ecg"], records, np.zeros((n, 1, 20), np.float32))
    return Cohort.build(schema, tables, signals={"ecg": waves})


def test_context_is_what_the_record_says_at_the_time():
    cohort = hospital()
    context = RecordContext.fit(cohort, "ecg")
    names = [f.name for f in context.features]
    raw, seen = context._raw(cohort, cohort.signals["ecg"].records)
    column = {n: (raw[:, k], seen[:, k]) for k, n in enumerate(names)}
    assert names[:2] == ["label.af", "label.pvc"]
    assert column["label.af"][0][:4].tolist() == [1, 1, 0, 0] and column["label.af"][1][:4].tolist() == [
        True,
        True,
        False,
        True,
    ]
    # even records have no visit of their own: the nearest in time is day 0; odd ones name the visit of day 10
    assert column["visits.pulse"][0][:4].tolist() == [0, 3, 4, 7]
    assert column["labs.result.K"][0][:3].tolist() == pytest.approx([0.0, 0.2, 0.4])  # day 1, not day 9
    # every other diagnosis comes 18 days after the ECG; patients beyond the eighth have none
    assert column["diagnoses.icd.I48.yes"][0][:9].tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 0]
    assert not column["patients.age"][1][0] and column["patients.age"][0][3] == 43
    assert column["patients.sex.F"][0][1] == 1 and not column["patients.sex.F"][1][0]


def test_context_is_standardised_and_survives_json():
    cohort = hospital()
    context = RecordContext.fit(cohort, "ecg")
    values, seen = context.encode(cohort, cohort.signals["ecg"].records)
    k = [f.name for f in context.features].index("visits.pulse")
    assert values[:, k].mean() == pytest.approx(0) and values[:, k].std() == pytest.approx(1)
    assert (values[~seen] == 0).all()
    assert RecordContext.from_json(context.to_json()) == context


def test_context_of_a_schema_without_tables_is_empty():
    waves = wave_set(np.zeros((3, 1, 20)), ("II",))
    schema = Schema(name="bare", clock="offset", tables={}, signals={"ecg": waves.spec})
    cohort = Cohort.build(schema, {}, signals={"ecg": waves})
    assert RecordContext.fit(cohort, "ecg").encode(cohort, waves.records)[0].shape == (3, 0)


def test_what_every_record_shares_is_given_to_drawn_ones():
    draw = np.random.default_rng(0)
    spec = Signal(kind="other", channels=("a", "b"), fs=10)
    x = np.cumsum(draw.standard_normal((40, 2, 50)), axis=2)
    x[:20, :, 40:] = np.nan  # unequal lengths
    x = (x - np.nanmean(x, axis=2, keepdims=True)) / np.nanstd(x, axis=2, keepdims=True) + np.array([3, 0])[:, None]
    n = np.repeat([40, 50], 20)
    records = pl.DataFrame({"record_id": np.arange(40), "subject_id": np.arange(40), "n_samples": n}).with_columns(
        visit_id=pl.lit(None, pl.Int64), time=pl.lit(None, pl.Duration("us")), label=pl.lit(None, pl.String)
    )
    codec = SignalCodec.fit(SignalSet(spec, records, x.astype(np.float32)))
    made = codec.decode(draw.standard_normal((40, 2, 50)).astype(np.float32) * 2 + 1, n, drawn=True)
    np.testing.assert_allclose(np.nanmean(made, axis=2), np.tile([3, 0], (40, 1)), atol=1e-4)
    np.testing.assert_allclose(np.nanstd(made, axis=2), 1.0, atol=1e-4)
    assert SignalCodec.from_json(json.loads(json.dumps(codec.to_json()))) == codec
    again = codec.decode(codec.encode(x)[0], n)  # what was observed is left alone
    np.testing.assert_allclose(again, x, atol=1e-4)
    loud = x * draw.uniform(0.9, 1.1, (40, 1, 1))  # records that differ share nothing
    assert SignalCodec.fit(SignalSet(spec, records, loud.astype(np.float32))).level == ()
    assert SignalCodec.fit(SignalSet(spec, records[:5], x[:5].astype(np.float32))).level == ()
