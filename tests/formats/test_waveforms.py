"""Waveform files: what is written comes back within half a step, and every kind of broken file has its message."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

import cohortloom as cl
from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import CohortloomError, SchemaError
from cohortloom.formats.waveforms import Trouble, resample, to_unit
from cohortloom.rng import Rng
from cohortloom.schema import Schema
from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg

FS = 250


def ecg_schema(format="wfdb", file="ecg/*.hea", **source):
    return Schema.model_validate(
        {
            "name": "ecg", "clock": "offset",
            "signals": {"ecg": {"kind": "ecg", "channels": LEADS, "fs": FS, "duration": 4.0, "annotations": ["beats"],
                                "source": {"format": format, "file": file, **source}}},
        }
    )  # fmt: skip


@pytest.fixture
def cohort():
    samples, beats = simulate_ecg(draw_traits(3, Rng(0)), fs=FS, duration=4.0, rng=Rng(1))
    records = pl.DataFrame(
        {
            "record_id": [0, 1, 2],
            "subject_id": ["a1", "b2", "c3"],
            "visit_id": pl.Series([None] * 3, dtype=pl.Int64),
            "time": pl.Series([0, 0, 0]).cast(pl.Duration("us")),
            "n_samples": [1000] * 3,
            "label": ["af", None, "sinus"],
        }
    )
    notes = beats.select(
        record_id="record", sample=(pl.col("time") * FS).round().cast(pl.Int64), kind=pl.lit("beats"), symbol="kind"
    )
    schema = ecg_schema()
    return Cohort.build(schema, {}, signals={"ecg": SignalSet(schema.signals["ecg"], records, samples, notes)})


def test_wfdb_round_trip_keeps_samples_within_half_a_step_and_beats_exactly(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    again = cl.read(
        tmp_path / "out", format="wfdb", schema=ecg_schema(annotations="atr", labels={"column": "Label"})
    ).signals["ecg"]
    before = cohort.signals["ecg"]
    # 16 bits over the range of a channel: a step is about range / 65000
    step = np.ptp(before.samples, axis=2, keepdims=True) / 65000
    assert (np.abs(again.samples - before.samples) <= 0.5 * step + 1e-5).all()
    assert again.records["label"].to_list() == ["af", None, "sinus"]
    assert again.annotations.select("record_id", "sample", "symbol").equals(
        before.annotations.select("record_id", "sample", "symbol")
    )


def test_edf_round_trip_keeps_samples_within_a_step(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="edf")
    again = cl.read(tmp_path / "out", format="edf", schema=ecg_schema("edf", "ecg/*.edf")).signals["ecg"]
    before = cohort.signals["ecg"].samples
    step = 2 * (np.abs(before).max(axis=2, keepdims=True) + 0.001) / 65535
    assert (np.abs(again.samples - before) <= step).all()
    assert again.annotations.height == cohort.signals["ecg"].annotations.height


def test_npz_round_trip_is_exact(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="npz")
    schema = ecg_schema("npz", "ecg/*.npz", array="samples", subject="subject_id", labels={"column": "label"})
    again = cl.read(tmp_path / "out", format="npz", schema=schema).signals["ecg"]
    assert np.array_equal(again.samples, cohort.signals["ecg"].samples)
    assert again.records["subject_id"].to_list() == ["a1", "b2", "c3"]


def test_native_folder_keeps_signals(cohort, tmp_path):
    cohort.save(tmp_path / "native")
    again = Cohort.load(tmp_path / "native").signals["ecg"]
    assert np.array_equal(again.samples, cohort.signals["ecg"].samples)
    assert isinstance(again.samples, np.memmap)
    assert again.records.equals(cohort.signals["ecg"].records)


def test_leads_are_ordered_by_name_and_subsets_can_be_read(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    schema = ecg_schema()
    some = schema.signals["ecg"].model_copy(update={"channels": ("V2", "II")})
    again = cl.read(tmp_path / "out", format="wfdb", schema=schema.model_copy(update={"signals": {"ecg": some}}))
    whole = cohort.signals["ecg"].samples
    assert np.allclose(again.signals["ecg"].samples, whole[:, [LEADS.index("V2"), LEADS.index("II")]], atol=1e-3)


def test_windows_keep_their_patient_and_their_beats(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    schema = ecg_schema(window=1.0, annotations="atr")
    short = schema.signals["ecg"].model_copy(update={"duration": 1.0})
    found = cl.read(
        tmp_path / "out", format="wfdb", schema=schema.model_copy(update={"signals": {"ecg": short}})
    ).signals["ecg"]
    assert found.records["subject_id"].to_list() == [f"r{i:06d}" for i in (1, 2, 3) for _ in range(4)]
    assert found.records["time"].dt.total_seconds().to_list() == [0, 1, 2, 3] * 3
    back = found.annotations.join(found.records, on="record_id").select(
        pl.col("sample") + pl.col("time").dt.total_seconds() * FS
    )
    assert back["sample"].to_list() == cohort.signals["ecg"].annotations["sample"].to_list()


def test_resampling_keeps_a_slow_tone_and_removes_one_above_the_new_nyquist():
    t = np.arange(0, 4, 1 / 500)
    slow, fast = np.sin(2 * np.pi * 3 * t), np.sin(2 * np.pi * 90 * t)
    y = resample(np.stack([slow, fast]), 500, 100)
    inner = slice(50, -50)
    assert y.shape == (2, 400)
    assert np.abs(y[0, inner] - np.sin(2 * np.pi * 3 * np.arange(400) / 100)[inner]).max() < 0.02
    assert np.abs(y[1, inner]).max() < 0.05


def test_gaps_stay_gaps_when_resampled():
    x = np.ones((1, 500), dtype=np.float32)
    x[0, 200:300] = np.nan
    y = resample(x, 500, 100)
    assert np.isnan(y[0, 41:59]).all() and np.isfinite(y[0, :39]).all()


def test_units_are_brought_to_the_schema():
    assert to_unit(np.array([1.0]), "uV", "mV") == pytest.approx(1e-3)
    assert to_unit(np.array([1.0]), "V", "mV") == pytest.approx(1e3)
    with pytest.raises(Trouble, match="the schema says"):
        to_unit(np.array([1.0]), "mmHg", "mV")


def test_declared_filter_removes_baseline_wander(cohort, tmp_path):
    signal = cohort.signals["ecg"]
    t = np.arange(1000) / FS
    wander = SignalSet(
        signal.spec, signal.records, (signal.samples + 2 * np.sin(2 * np.pi * 0.25 * t)).astype(np.float32)
    )
    cl.write(Cohort.build(cohort.schema, {}, signals={"ecg": wander}), tmp_path / "out", format="wfdb")
    plain = cl.read(tmp_path / "out", format="wfdb", schema=ecg_schema()).signals["ecg"].samples
    clean = (
        cl.read(tmp_path / "out", format="wfdb", schema=ecg_schema(filters=[{"kind": "highpass", "low": 0.7}]))
        .signals["ecg"]
        .samples
    )
    assert np.abs(plain.mean(axis=(0, 1))).max() > 1.5
    assert np.abs(clean[..., 200:-200].mean(axis=(0, 1))).max() < 0.7


def broken(name, folder):
    """Spoil the first record of a written folder; returns further settings of the source."""
    ecg = folder / "ecg"
    head, data = ecg / "r000001.hea", ecg / "r000001.dat"
    text = head.read_text()
    if name == "truncated":
        data.write_bytes(data.read_bytes()[:5000])
    elif name == "no-data":
        data.unlink()
    elif name == "flipped-bits":
        content = bytearray(data.read_bytes())
        content[100] ^= 0x3C
        data.write_bytes(bytes(content))
    elif name == "not-wfdb":
        head.write_text("hello\n")
    elif name == "empty-header":
        head.write_text("")
    elif name == "wrong-fs":
        head.write_text(text.replace(" 250 ", " 500 ", 1))
    elif name == "unknown-unit":
        head.write_text(text.replace("/mV", "/mmHg"))
    elif name == "missing-lead":
        head.write_text(text.replace(" V6\n", " X9\n"))
    elif name == "duplicate-lead":
        head.write_text(text.replace(" V6\n", " V5\n"))
    elif name == "filter-above-nyquist":
        return {"filters": [{"kind": "lowpass", "high": 200.0}]}
    elif name == "no-subject":
        return {"subject": "x(?P<subject>y)"}
    elif name == "no-file":
        return {"file": "ecg/*.xyz"}
    elif name == "no-labels":
        return {"labels": {"file": "none.csv"}}
    return {}


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("truncated", "unreadable-signal|truncated-signal", "copy it again|Copy it again"),
        ("no-data", "no-samples", "does not exist"),
        ("flipped-bits", "wrong-checksum", "checksum"),
        ("not-wfdb", "unreadable-signal", "WFDB"),
        ("empty-header", "unreadable-signal", "WFDB"),
        ("wrong-fs", "wrong-fs", "resample = true"),
        ("unknown-unit", "unknown-unit", "mmHg"),
        ("missing-lead", "missing-channel", "lacks channel V6"),
        ("duplicate-lead", "duplicate-channel", "v5"),
        ("filter-above-nyquist", "filter-above-nyquist", "Lower the edge"),
        ("no-subject", "no-subject", "regular expression"),
        ("no-file", "no-file", "pattern"),
        ("no-labels", "no-labels", "labels"),
    ],
)
def test_broken_files_are_named_by_number_never_by_name(cohort, tmp_path, name, code, word):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    schema = ecg_schema(**broken(name, tmp_path / "out"))
    with pytest.raises(CohortloomError) as caught:
        cl.read(tmp_path / "out", format="wfdb", schema=schema)
    text = str(caught.value)
    assert any(f"[{c}]" in text for c in code.split("|"))
    assert any(w in text for w in word.split("|"))
    assert "r000001" not in text


def test_a_broken_record_can_be_left_out_and_is_counted(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    broken("flipped-bits", tmp_path / "out")
    found = cl.read(tmp_path / "out", format="wfdb", schema=ecg_schema(), on_error="drop")
    assert found.signals["ecg"].records.height == 2
    assert any("dropped" in note for note in found.origin.notes)


def test_missing_lead_can_be_filled_with_gaps(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    broken("missing-lead", tmp_path / "out")
    found = cl.read(tmp_path / "out", format="wfdb", schema=ecg_schema(missing_channels="missing")).signals["ecg"]
    assert np.isnan(found.samples[0, LEADS.index("V6")]).all()
    assert np.isfinite(found.samples[0, :11]).all()


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", samples=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CohortloomError, match="unreadable-signal"):
        cl.read(tmp_path, format="npz", schema=ecg_schema("npz", "*.npz"))


def test_header_comments_fill_static_columns(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    head = tmp_path / "out" / "ecg" / "r000001.hea"
    head.write_text(head.read_text() + "# Age: 61\n# Sex: Male\n")
    spec = json.loads(
        ecg_schema(
            facts={"patients.age": "Age", "patients.sex": {"comment": "Sex", "values": {"Male": "M"}}}
        ).model_dump_json()
    )
    spec["tables"] = {
        "patients": {
            "role": "static",
            "columns": {
                "age": {"kind": "number", "low": 0, "high": 120},
                "sex": {"kind": "category", "levels": ["F", "M"]},
            },
        }
    }
    found = cl.read(tmp_path / "out", format="wfdb", schema=Schema.model_validate(spec))
    assert found.tables["patients"].select("age", "sex").rows() == [(61.0, "M"), (None, None), (None, None)]


def test_filter_without_its_edge_is_refused():
    with pytest.raises((SchemaError, ValueError), match="bandpass needs high"):
        ecg_schema(filters=[{"kind": "bandpass", "low": 1.0}])


REAL = [
    ("ecg_12_lead", "ecg12-challenge2021", "wfdb", (30, 12, 5000)),
    ("ecg_12_lead_100hz", "ptbxl-22", "npz", (22, 12, 1000)),
    ("ecg_ambulatory", "mitdb", "wfdb", (1440, 1, 3600)),
    ("ecg_single_lead", "af2017", "wfdb", (201, 1, 18000)),
    ("ecg_beat", "ucr-ecg5000", "npz", (500, 1, 140)),
    ("eeg_segment", "bonn-eeg", "npz", (350, 1, 4097)),
    ("eeg_motor", "eegmmidb-s001", "edf", (186, 11, 640)),
]


@pytest.mark.real
@pytest.mark.parametrize(("schema", "folder", "format", "shape"), REAL)
def test_committed_schemas_read_the_real_collections(schema, folder, format, shape, real_data, schema_dir):
    found = cl.read(real_data / folder, format=format, schema=schema_dir / f"{schema}.toml")
    assert next(iter(found.signals.values())).samples.shape == shape


def test_large_sets_are_mapped_not_held(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr("cohortloom.formats.waveforms._MAPPED_ABOVE", 1000)
    cl.write(cohort, tmp_path / "out", format="wfdb")
    found = cl.read(tmp_path / "out", format="wfdb", schema=ecg_schema()).signals["ecg"].samples
    assert isinstance(found, np.memmap)
    shutil.rmtree(tmp_path / "out")
    assert np.isfinite(found).all()


def small(form, file, **more):
    signal = {"kind": "other", "channels": ["x"], "fs": 10, "unit": "1", **more.pop("signal", {})}
    source = {"format": form, "file": file, "subject": "row", **more}
    return Schema.model_validate({"name": "s", "clock": "offset", "signals": {"x": {**signal, "source": source}}})


def test_rows_of_several_arrays_are_different_patients(tmp_path):
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", samples=np.random.default_rng(0).standard_normal((3, 20)))
    found = cl.read(tmp_path, format="npz", schema=small("npz", "*.npz"))
    assert found.signals["x"].records["subject_id"].to_list() == [1, 2, 3, 4, 5, 6]


def test_unequal_lengths_survive_an_array_and_rows(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    x[0, 12:] = np.nan
    x[1, 3:5] = np.nan  # a gap is none
    np.savez(tmp_path / "a.npz", samples=x)
    found = cl.read(tmp_path, format="npz", schema=small("npz", "a.npz")).signals["x"]
    assert found.records["n_samples"].to_list() == [12, 20, 20]
    np.testing.assert_array_equal(found.samples[:, 0], x)
    (tmp_path / "a.txt").write_text(
        "\n".join(" ".join(f"{v:.9g}" for v in row[: 12 if i == 0 else 20]) for i, row in enumerate(x))
    )
    rows = cl.read(tmp_path, format="rows", schema=small("rows", "a.txt")).signals["x"]
    np.testing.assert_array_equal(rows.samples[:, 0], x)
    assert rows.records["n_samples"].to_list() == [12, 20, 20]


def test_rows_that_are_no_numbers_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,3\n4,five,6\n")
    with pytest.raises(CohortloomError, match=r"row that is not numbers alone \(row 2\)") as caught:
        cl.read(tmp_path, format="rows", schema=small("rows", "a.csv"))
    assert "five" not in str(caught.value)
    with pytest.raises(CohortloomError, match="number of the label's column"):
        cl.read(tmp_path, format="rows", schema=small("rows", "a.csv", labels={"column": "class"}))


def test_a_window_longer_than_every_record_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", samples=np.zeros((3, 20)))
    with pytest.raises(CohortloomError, match=r"Shorten source\.window"):
        cl.read(tmp_path, format="npz", schema=small("npz", "a.npz", window=5))


def test_a_header_without_checksums_is_no_damage_and_a_dropped_collection_says_why(cohort, tmp_path):
    cl.write(cohort, tmp_path / "out", format="wfdb")
    for file in (tmp_path / "out" / "ecg").glob("*.hea"):
        lines = file.read_text().split("\n")
        lines = [re.sub(r"^(\S+ 16\S* \S+ \d+ \S+ \S+) -?\d+", r"\1 0", line) for line in lines]
        file.write_text("\n".join(lines))
    assert cl.read(tmp_path / "out", format="wfdb", schema=ecg_schema()).signals["ecg"].records.height == 3
    with pytest.raises(CohortloomError, match="The last one is sampled at 250 Hz"):
        wrong = ecg_schema().model_dump()
        wrong["signals"]["ecg"]["fs"] = 200.0
        cl.read(tmp_path / "out", format="wfdb", schema=Schema.model_validate(wrong), on_error="drop")


def test_gaps_written_as_zeros_or_as_the_last_value_are_read_as_missing(cohort, tmp_path):
    samples = np.asarray(cohort.signals["ecg"].samples).copy()
    samples[0, 1, 100:500] = 0.0  # planted: 1.6 s of zeros, a value held for 1.2 s, and one sample of 0
    samples[1, 2, 300:600] = samples[1, 2, 300]
    samples[2, 3, 50] = 0.0
    np.savez(tmp_path / "a.npz", x=samples, who=np.array(["a", "b", "c"]))

    def read(**gaps):
        found = ecg_schema("npz", "a.npz", array="x", subject="who", fs=FS, **({"gaps": gaps} if gaps else {}))
        return cl.read(tmp_path, format="npz", schema=found)

    def missing(found):
        return [int(np.isnan(s).sum()) for s in found.signals["ecg"].samples]

    plain = read()
    assert missing(plain) == [0, 0, 0] and np.array_equal(plain.signals["ecg"].samples, samples)
    assert missing(read(shortest=1.0)) == [400, 300, 0]
    assert missing(read(value=0.0)) == [400, 0, 0]
    assert missing(read(value=0.0, shortest=0)) == [400, 0, 1]
    seen = np.isfinite(read(shortest=1.0).signals["ecg"].samples)
    assert np.array_equal(read(shortest=1.0).signals["ecg"].samples[seen], samples[seen])
    assert any("gaps = { shortest = 1 }" in n and c == 2 for n, c in plain.origin.notes.items())
