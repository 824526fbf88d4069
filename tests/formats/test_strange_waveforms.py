"""Folders as recorders and archives leave them: odd names of channels, tables of records, units beside one another."""

import numpy as np
import polars as pl
import pytest

import cohortloom as cl
from cohortloom.errors import DataError
from cohortloom.schema.infer import infer_schema
from cohortloom.schema.wave_files import comments_of, record_keys, standard_names, wave_files


def record(folder, name, x, channels, fs=100, units="mV", comments=()):
    library = pytest.importorskip("wfdb")
    folder.mkdir(parents=True, exist_ok=True)
    units = [units] * len(x) if isinstance(units, str) else list(units)
    library.wrsamp(name, fs=fs, units=units, sig_name=list(channels), p_signal=x.T, fmt=["16"] * len(x),
                   write_dir=str(folder), comments=list(comments))  # fmt: skip


def read(folder, form, tmp_path, **more):
    draft = infer_schema(folder, name="found")
    (tmp_path / "draft.toml").write_text(draft.text)
    return draft, cl.read(folder, format=form, schema=tmp_path / "draft.toml", **more)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("Lead I", "LEAD II", "AVR", "C1", "C6"), ("I", "II", "aVR", "V1", "V6")),
        (("ECG I", "ecg_v2", "vx"), ("I", "V2", "Vx")),
        (("EEG FP1-REF", "EEG C3-LE", "EEG Pz-Oz", "Fc5."), ("Fp1", "C3", "Pz-Oz", "FC5")),
        (("C1", "C2", "CZ"), ("C1", "C2", "Cz")),  # electrodes: no limb lead beside them
        (("Lead I", "I"), ("Lead I", "I")),  # two that would be one stay two
        (("II,", "PLETH,", "MLII", "x"), ("II", "PLETH", "MLII", "x")),
    ],
)
def test_channels_have_the_names_everyone_knows(theirs, ours):
    assert standard_names(theirs) == ours


def test_comments_and_names_of_records():
    assert comments_of(["Age: 40", "<age>: 69  <sex>: M", "Dx: 1,2", "no pair"])["age"] == "69"
    assert comments_of(["age: 69 sex: M"]) == {"age": "69", "sex": "M"}
    assert record_keys("ecg\\a/r1.HEA") == ["ecg/a/r1", "a/r1", "r1"] and record_keys("r.1") == ["r.1"]


def archive(folder, n=24):
    """Records of 12 leads in files that name no patient; a table says whose they are, when, and with what."""
    draw = np.random.default_rng(0)
    leads = ["Lead I", "Lead II", "Lead III", "AVR", "AVL", "AVF", *(f"C{i}" for i in range(1, 7))]
    rows = []
    for i in range(n):
        record(folder / "ecg", f"{i:05d}_hr", draw.normal(0, 1, (12, 1000)), leads)
        code = ("NORM", "AFIB;LBBB", "AFIB", "LBBB")[i % 4]
        rows.append((f"p{i % 16}", f"2020-01-{1 + i:02d} 10:00:00", code, f"ecg/{i:05d}_hr", 100 + i))
    columns = ["patient_id", "recording_date", "scp_codes", "filename", "note"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    table.write_csv(folder / "records.csv")
    pl.DataFrame({"patient_id": [f"p{i}" for i in range(16)], "age": range(30, 46)}).write_csv(folder / "patients.csv")
    return table


def test_a_table_of_records_says_whose_they_are_and_when(tmp_path):
    table = archive(tmp_path / "a")
    draft, cohort = read(tmp_path / "a", "wfdb", tmp_path)
    spec, records = draft.schema.signals["ecg"], cohort.signals["ecg"].records
    assert spec.is_standard_12 and spec.kind == "ecg" and spec.labels == ("AFIB", "LBBB", "NORM")
    assert records["subject_id"].to_list() == table["patient_id"].to_list()
    assert records["time"].to_list() == table["recording_date"].str.to_datetime().to_list()
    assert records["label"].to_list() == [c.replace(";", "|") for c in table["scp_codes"]]
    parts = cohort.split(seed=1, train=0.5, held_out=0.5)
    sides = [set(p.signals["ecg"].records["subject_id"]) for p in (parts.train, parts.held_out)]
    assert sides[0].isdisjoint(sides[1]) and len(sides[0] | sides[1]) == 16


def test_records_that_the_table_lacks_are_named_or_left_out(tmp_path):
    archive(tmp_path / "a")
    draft = infer_schema(tmp_path / "a", name="found")
    record(tmp_path / "a" / "ecg", "stranger", np.random.default_rng(1).normal(0, 1, (12, 1000)),
           ["I", "II", "III", "aVR", "aVL", "aVF", *(f"V{i}" for i in range(1, 7))])  # fmt: skip
    with pytest.raises(DataError, match="1 of 25 records are not listed"):
        cl.read(tmp_path / "a", format="wfdb", schema=draft.schema)
    cohort = cl.read(tmp_path / "a", format="wfdb", schema=draft.schema, on_error="drop")
    signal = cohort.signals["ecg"]
    assert signal.records.height == len(signal.samples) == 24 and sum(cohort.origin.notes.values()) >= 1


def test_a_channel_nobody_asked_for_may_have_any_unit(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(0, 1, (3, 500))
    for i in range(3):
        record(tmp_path / "b", f"b{i}", x, ["RESP,", "PLETH,", "II,"], units=["pm", "NU", "uV"],
               comments=["<age>: 50  <sex>: F"])  # fmt: skip
    draft, cohort = read(tmp_path / "b", "wfdb", tmp_path)
    assert {n: s.channels for n, s in draft.schema.signals.items()} == {
        "resp": ("RESP",), "ppg": ("PLETH",), "ecg": ("II",)
    }  # fmt: skip
    assert draft.schema.signals["ppg"].unit == "1"
    np.testing.assert_allclose(cohort.signals["ecg"].samples[0, 0], x[2], atol=1e-3)
    assert cohort.tables["patients"]["sex"].to_list() == ["F"] * 3


def test_arrays_a_file_per_patient_with_channels_last(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "c").mkdir()
    x = draw.normal(0, 1, (3, 6, 200, 4)).astype(np.float32)
    for s in range(3):
        np.savez(tmp_path / "c" / f"sub-{s}.npz", X=x[s], y=np.array(["left", "right"] * 3), sfreq=128.0,
                 ch_names=np.array(["FP1", "EEG Cz", "C3", "C4"]))  # fmt: skip
    draft, cohort = read(tmp_path / "c", "npz", tmp_path)
    spec, signal = draft.schema.signals["eeg"], cohort.signals["eeg"]
    assert spec.channels == ("Fp1", "Cz", "C3", "C4") and spec.fs == 128
    assert signal.records["subject_id"].value_counts()["count"].to_list() == [6, 6, 6]
    np.testing.assert_array_equal(signal.samples, x.reshape(18, 200, 4).transpose(0, 2, 1))


@pytest.mark.parametrize("suffix", ["ts", "tsv"])
def test_rows_of_unequal_length_end_where_they_end(tmp_path, suffix):
    draw, lengths = np.random.default_rng(0), [60, 80, 100, 70] * 5
    rows = [draw.normal(0, 1, n).round(3).tolist() for n in lengths]
    (tmp_path / "d").mkdir()
    if suffix == "ts":
        lines = ["@problemName x", "@data", *(",".join(map(str, r)) + f":{i % 2}" for i, r in enumerate(rows))]
    else:
        lines = ["\t".join([str(i % 2), *map(str, r), *["NaN"] * (100 - len(r))]) for i, r in enumerate(rows)]
    (tmp_path / "d" / f"x.{suffix}").write_text("\n".join(lines))
    _, cohort = read(tmp_path / "d", "rows", tmp_path)
    records = cohort.signals["wave"].records
    assert records["n_samples"].to_list() == lengths and records["label"].to_list() == ["0", "1"] * 10


def test_a_text_file_a_record_with_a_column_a_channel(tmp_path):
    draw = np.random.default_rng(0)
    x, folder = draw.normal(0, 1, (6, 2, 300)).round(4), tmp_path / "e"
    folder.mkdir()
    for i in range(6):
        columns = {"time": np.arange(300) / 128, "EEG FP1": x[i, 0], "Cz": x[i, 1]}
        pl.DataFrame(columns).write_csv(folder / f"subj{i // 2:02d}_trial{i % 2}.csv", separator=";")
    names = [f"subj{i // 2:02d}_trial{i % 2}.csv" for i in range(6)]
    pl.DataFrame({"file": names, "label": ["rest", "move"] * 3}).write_csv(folder / "labels.csv")
    draft, cohort = read(folder, "csv", tmp_path)
    spec, signal = draft.schema.signals["eeg"], cohort.signals["eeg"]
    assert (
        spec.channels == ("Fp1", "Cz") and spec.fs == 128 and signal.records["label"].to_list() == ["rest", "move"] * 3
    )
    assert signal.records["subject_id"].to_list() == ["subj00", "subj00", "subj01", "subj01", "subj02", "subj02"]
    np.testing.assert_allclose(signal.samples, x, atol=1e-5)


def test_a_chart_of_hours_is_no_waveform(tmp_path):
    (tmp_path / "f").mkdir()
    rows = pl.DataFrame({"hour": np.arange(120) * 3600.0, "hr": np.arange(120.0)})
    rows.write_csv(tmp_path / "f" / "p1.csv")
    assert wave_files(tmp_path / "f")[0] == []
    rows.with_columns(hour=pl.Series(np.arange(120) / 100.0).shuffle(seed=1)).write_csv(tmp_path / "f" / "p1.csv")
    assert wave_files(tmp_path / "f")[0] == []


@pytest.mark.parametrize("stage_seconds", [30, 20])
def test_windows_of_sleep_are_labelled_by_their_annotations(tmp_path, stage_seconds):
    library = pytest.importorskip("pyedflib")
    draw, stages = np.random.default_rng(0), ["Sleep stage W", "Sleep stage 2", "Sleep stage R"] * 2
    (tmp_path / "g").mkdir()
    for i in range(2):
        writer = library.EdfWriter(str(tmp_path / "g" / f"n{i}.edf"), 1, file_type=library.FILETYPE_EDFPLUS)
        head = {"label": "EEG Fpz-Cz", "dimension": "uV", "sample_frequency": 100, "transducer": "", "prefilter": "",
                "physical_min": -500, "physical_max": 500, "digital_min": -32768, "digital_max": 32767}  # fmt: skip
        writer.setSignalHeaders([head])
        writer.writeSamples([draw.normal(0, 30, 100 * 6 * stage_seconds)])
        for k, stage in enumerate(stages[:5]):  # the last part has no annotation
            writer.writeAnnotation(stage_seconds * k, stage_seconds, stage)
        writer.close()
    draft, cohort = read(tmp_path / "g", "edf", tmp_path)
    spec = draft.schema.signals["eeg"]
    assert spec.duration == stage_seconds and spec.labels == ("Sleep stage 2", "Sleep stage R", "Sleep stage W")
    assert cohort.signals["eeg"].records["label"].to_list() == [*stages[:5], None] * 2


def test_files_named_by_numbers_with_facts_in_their_headers(tmp_path):
    x = np.random.default_rng(0).normal(0, 1, (1, 500))
    for i in range(3):
        record(tmp_path / "h", f"{18000 + i}", x, ["II"], comments=[f"Age: {40 + i}", "Sex: F"])
    _, cohort = read(tmp_path / "h", "wfdb", tmp_path)
    assert cohort.subjects.to_list() == [18000, 18001, 18002]
    assert cohort.tables["patients"]["age"].to_list() == [40, 41, 42]


def test_records_of_patients_whom_the_table_lacks_are_named_or_left_out(tmp_path):
    x = np.random.default_rng(0).normal(0, 1, (1, 500))
    for i in range(4):
        record(tmp_path / "i", f"P{i}", x, ["II"])
    pl.DataFrame({"patient_id": ["P0", "P1", "P2", "P3"], "age": [1, 2, 3, 4]}).write_csv(
        tmp_path / "i" / "patients.csv"
    )
    draft, _ = read(tmp_path / "i", "wfdb", tmp_path)
    pl.DataFrame({"patient_id": ["P0", "P1", "P2"], "age": [1, 2, 3]}).write_csv(tmp_path / "i" / "patients.csv")
    with pytest.raises(DataError, match="1 of 4 records are of patients who are not in patients"):
        cl.read(tmp_path / "i", format="wfdb", schema=draft.schema)
    left = {how: cl.read(tmp_path / "i", format="wfdb", schema=draft.schema, on_error=how) for how in ("drop", "keep")}
    assert [c.signals["ecg"].records.height for c in left.values()] == [3, 4]
