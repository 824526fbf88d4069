"""Drafts from waveform files alone: what is drafted reads the files, and what it says is what was put into them."""

import numpy as np
import pytest

import cohortloom as cl
from cohortloom.schema.infer import infer_schema
from cohortloom.schema.wave_files import is_rows, wave_files

FS = 250


def wave(draw, seconds, channels=1, fs=FS):
    t = np.arange(round(seconds * fs)) / fs
    return np.stack([np.sin(2 * np.pi * (1 + c) * t + draw.uniform(0, 6)) for c in range(channels)])


def edf(path, x, labels, unit="mV", rates=None):
    library = pytest.importorskip("pyedflib")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = library.EdfWriter(str(path), len(x), file_type=library.FILETYPE_EDFPLUS)
    heads = [
        {"label": name, "dimension": unit, "sample_frequency": rate, "physical_min": -2, "physical_max": 2,
         "digital_min": -32768, "digital_max": 32767, "transducer": "", "prefilter": ""}
        for name, rate in zip(labels, rates or [FS] * len(x))
    ]  # fmt: skip
    writer.setSignalHeaders(heads)
    writer.writeSamples([np.ascontiguousarray(v) for v in x])
    writer.close()


def wfdb_record(folder, name, x, channels, fs=128, comments=(), units=None):
    library = pytest.importorskip("wfdb")
    folder.mkdir(exist_ok=True)
    library.wrsamp(name, fs=fs, units=units or ["mV"] * len(x), sig_name=list(channels), p_signal=x.T,
                   fmt=["16"] * len(x), write_dir=str(folder), comments=list(comments))  # fmt: skip


def read(folder, form, tmp_path, **more):
    """Draft, write the draft, read by it."""
    draft = infer_schema(folder, name="found")
    (tmp_path / "draft.toml").write_text(draft.text)
    return draft, cl.read(folder, format=form, schema=tmp_path / "draft.toml", **more)


def test_one_lead_of_unequal_length_is_cut_into_windows(tmp_path):
    draw = np.random.default_rng(0)
    seconds = [20, 65, 90, 5]
    for i, s in enumerate(seconds):
        edf(tmp_path / "w" / f"PAT{i:03d}_2023.edf", wave(draw, s), ["ECG"])
    draft, cohort = read(tmp_path / "w", "edf", tmp_path)
    spec = draft.schema.signals["ecg"]
    assert (spec.kind, spec.channels, spec.fs, spec.unit, spec.duration) == ("ecg", ("ECG",), 250.0, "mV", 10.0)
    assert cohort.signals["ecg"].records.group_by("subject_id").len()["len"].sort().to_list() == [2, 6, 9]
    assert cohort.origin.notes["signals.ecg: records shorter than a window, left out"] == 1
    assert "Records of 5 to 90 s" in draft.text


def test_the_only_channel_is_read_whatever_its_name(tmp_path):
    draw = np.random.default_rng(0)
    for i, name in enumerate(["ECG", "EKG", "ECG", "Ch 1"]):
        edf(tmp_path / "w" / f"{i}.edf", wave(draw, 10), [name])
    draft, cohort = read(tmp_path / "w", "edf", tmp_path)
    assert draft.schema.signals["ecg"].channels == ("ECG",)
    assert cohort.signals["ecg"].samples.shape == (4, 1, 2500) and np.isfinite(cohort.signals["ecg"].samples).all()


def test_24_bit_files_are_files_too(tmp_path):
    library = pytest.importorskip("pyedflib")
    (tmp_path / "w").mkdir()
    x = wave(np.random.default_rng(0), 10, 2)
    writer = library.EdfWriter(str(tmp_path / "w" / "a.bdf"), 2, file_type=library.FILETYPE_BDFPLUS)
    writer.setSignalHeaders([
        {"label": name, "dimension": "uV", "sample_frequency": FS, "physical_min": -2, "physical_max": 2,
         "digital_min": -8388608, "digital_max": 8388607, "transducer": "", "prefilter": ""} for name in ("C3", "C4")
    ])  # fmt: skip
    writer.writeSamples([np.ascontiguousarray(v) for v in x])
    writer.close()
    draft, cohort = read(tmp_path / "w", "edf", tmp_path)
    assert draft.schema.signals["eeg"].channels == ("C3", "C4")
    np.testing.assert_allclose(cohort.signals["eeg"].samples[0], x, atol=1e-5)


def test_names_tell_which_files_are_one_patient_s(tmp_path):
    draw = np.random.default_rng(0)
    names = [f"{a}{i}.." for a in ("Fc", "C", "Po", "O") for i in range(1, 5)]
    for i in range(6):
        edf(tmp_path / "w" / f"S{i // 2:03d}R{i % 2 + 1:02d}.edf", wave(draw, 4, 16), names, "uV")
    draft, cohort = read(tmp_path / "w", "edf", tmp_path)
    spec = draft.schema.signals["eeg"]
    assert (
        spec.channels == tuple(n.rstrip(".").replace("Fc", "FC").replace("Po", "PO") for n in names)
        and spec.duration == 4
        and spec.unit == "uV"
    )
    assert cohort.signals["eeg"].records["subject_id"].to_list() == ["S000", "S000", "S001", "S001", "S002", "S002"]
    for i in range(3):  # or a folder each
        edf(tmp_path / "v" / f"p{i}" / "night1.edf", wave(draw, 4, 1), ["EEG Fpz-Cz"], "uV")
        edf(tmp_path / "v" / f"p{i}" / "night2.edf", wave(draw, 4, 1), ["EEG Fpz-Cz"], "uV")
    _, cohort = read(tmp_path / "v", "edf", tmp_path)
    assert cohort.signals["eeg"].records["subject_id"].to_list() == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_kinds_and_rates_of_one_file_become_signals(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(3):
        slow = [*wave(draw, 10, 2), *wave(draw, 10, 1, 50), *wave(draw, 10, 1, 1)]
        edf(tmp_path / "w" / f"{i}.edf", slow, ["EEG C3", "EEG C4", "Resp", "SpO2"], rates=[FS, FS, 50, 1])
    draft, cohort = read(tmp_path / "w", "edf", tmp_path)
    assert {n: (s.channels, s.fs) for n, s in draft.schema.signals.items()} == {
        "eeg": (("C3", "C4"), 250.0),
        "resp": (("Resp",), 50.0),
    }
    assert cohort.signals["resp"].samples.shape == (3, 1, 500)


def test_headers_tables_and_labels_go_together(tmp_path):
    draw, folder = np.random.default_rng(0), tmp_path / "w"
    for i in range(12):
        wfdb_record(folder, f"h{i:02d}", wave(draw, 8, 3, 128), ["I", "II", "V2"] if i else ["I", "II", "X"])
    (folder / "patients.csv").write_text(
        "patient_id,age,sex\n" + "".join(f"h{i:02d},{50 + i},{'FM'[i % 2]}\n" for i in range(12))
    )
    (folder / "reference.csv").write_text(
        "file,rhythm\n" + "".join(f"h{i:02d},{['N', 'AF'][i % 2]}\n" for i in range(12))
    )
    draft, cohort = read(folder, "wfdb", tmp_path)
    spec = draft.schema.signals["ecg"]
    assert spec.channels == ("I", "II", "V2") and spec.source.missing_channels == "missing"
    assert spec.labels == ("AF", "N") and list(draft.schema.tables) == ["patients"] and spec.parent == "patients"
    assert cohort.signals["ecg"].records["label"].to_list() == ["N", "AF"] * 6
    assert set(cohort.signals["ecg"].records["subject_id"]) == set(cohort.tables["patients"]["subject_id"])


def test_header_comments_give_age_sex_and_diagnoses(tmp_path):
    draw, folder = np.random.default_rng(0), tmp_path / "w"
    for i in range(4):
        comments = [f"Age: {60 + i}", "Sex: Male", "Dx: 426783006,59118001"]
        wfdb_record(folder, f"A{i}", wave(draw, 8, 2, 128), ["I", "II"], comments=comments)
    _, cohort = read(folder, "wfdb", tmp_path)
    assert cohort.tables["patients"].select("age", "sex").rows() == [(60.0 + i, "M") for i in range(4)]
    assert cohort.signals["ecg"].records["label"].to_list() == ["426783006|59118001"] * 4


@pytest.mark.parametrize(("separator", "suffix"), [("\t", "tsv"), (",", "csv"), ("  ", "txt")])
def test_a_table_of_rows_with_classes(tmp_path, separator, suffix):
    draw, folder = np.random.default_rng(0), tmp_path / "w"
    folder.mkdir()
    x, y = draw.standard_normal((70, 80)).round(5), draw.integers(1, 8, 70)
    for part, rows in (("TRAIN", slice(0, 40)), ("TEST", slice(40, 70))):
        lines = [separator.join([f"{k:.7e}", *map(str, v)]) for k, v in zip(y[rows], x[rows])]
        (folder / f"Thing_{part}.{suffix}").write_text("\n".join(lines) + "\n")
    assert is_rows(folder / f"Thing_TEST.{suffix}")
    draft, cohort = read(folder, "rows", tmp_path)
    spec = draft.schema.signals["wave"]
    assert spec.labels == tuple("1234567") and "made up" in draft.text
    found = cohort.signals["wave"]
    order = [*range(40, 70), *range(40)]  # files are read by name
    np.testing.assert_allclose(found.samples[:, 0], x[order], atol=1e-5)
    assert found.records["label"].to_list() == [str(v) for v in y[order]]
    assert found.records["subject_id"].n_unique() == 70, "rows of two files are different patients"


def test_an_array_with_rate_names_and_labels_beside_it(tmp_path):
    draw, folder = np.random.default_rng(0), tmp_path / "w"
    folder.mkdir()
    np.savez(
        folder / "a.npz", ecg=draw.standard_normal((20, 2, 300)).astype("f4"), fs=np.array(150),
        patient=np.arange(20) // 2, channels=np.array(["I", "II"]), label=np.array(["a", "b"] * 10),
    )  # fmt: skip
    draft, cohort = read(folder, "npz", tmp_path)
    spec = draft.schema.signals["ecg"]
    assert (spec.channels, spec.fs, spec.duration, spec.labels) == (("I", "II"), 150.0, 2.0, ("a", "b"))
    assert cohort.signals["ecg"].records["subject_id"].to_list() == [i // 2 for i in range(20)]


def test_broken_headers_are_counted_and_a_table_stays_a_table(tmp_path):
    folder = tmp_path / "w"
    edf(folder / "a.edf", wave(np.random.default_rng(0), 10), ["II"])
    for name, content in (("b.edf", b"no header"), ("c.npz", b"PK"), ("d.hea", b""), ("e.edf", b"")):
        (folder / name).write_bytes(content)
    assert wave_files(folder)[1:] == (5, 4)
    assert "4 of 5 waveform files have no readable header" in infer_schema(folder, name="x").text
    for text in ("id,age\n1,50\n", "1,2,3\n4,5,6\n", "a" * 100 + "\n", ""):
        (tmp_path / "t.csv").write_text(text)
        assert not is_rows(tmp_path / "t.csv")


def test_a_channel_that_is_left_out_is_named(tmp_path):
    """A saturation once a second is no waveform; it must not vanish without a word."""
    draw = np.random.default_rng(0)
    for i in range(3):
        x = [*wave(draw, 30, 2), 0.95 + 0 * np.arange(30.0)]
        edf(tmp_path / f"r{i}.edf", x, ["I", "II", "SaO2"], rates=[FS, FS, 1])
    draft = infer_schema(tmp_path, name="slow")
    assert "Channels left out, as they are slower than 10 Hz or than others of their kind: SaO2." in " ".join(
        draft.text.replace("\n#", "").split()
    )


def test_channels_of_two_units_are_two_signals_and_4_hz_alone_is_a_waveform(tmp_path):
    """A cardiotocogram: one signal has one unit, and ten minutes of it are 2,400 samples."""
    draw = np.random.default_rng(0)
    for i in range(4):
        x = np.stack([140 + draw.standard_normal(2400), 20 + draw.standard_normal(2400)])
        wfdb_record(tmp_path / "in", f"r{i}", x, ["FHR", "UC"], fs=4, units=["bpm", "nd"])
    _, found = read(tmp_path / "in", "wfdb", tmp_path)
    shapes = {s.spec.channels: s.samples.shape for s in found.signals.values()}
    assert shapes == {("FHR",): (4, 1, 2400), ("UC",): (4, 1, 2400)}


def test_a_channel_that_stays_the_same_for_a_second_has_gaps(tmp_path):
    draw = np.random.default_rng(0)
    for held, gaps in ((0.0, {"value": 0.0, "shortest": 1.0}), (None, {"value": None, "shortest": 1.0})):
        for k in range(4):
            x = draw.normal(0, 0.3, (2000, 2)).round(3)
            x[300:500, 0] = x[299, 0] if held is None else held
            rows = "\n".join(f"{i / 100:.2f},{a},{b}" for i, (a, b) in enumerate(x))
            (tmp_path / f"p{k}.csv").write_text(f"time,I,II\n{rows}\n")
        signal = infer_schema(tmp_path, name="x").schema.signals["ecg"]
        assert signal.source is not None and signal.source.gaps is not None
        assert signal.source.gaps.model_dump() == gaps
    for k in range(4):  # half a second is none, and a lead that is off all the time is flat
        x = draw.normal(0, 0.3, (2000, 2)).round(3)
        x[300:340, 0], x[:, 1] = 0, 0
        rows = "\n".join(f"{i / 100:.2f},{a},{b}" for i, (a, b) in enumerate(x))
        (tmp_path / f"p{k}.csv").write_text(f"time,I,II\n{rows}\n")
    signal = infer_schema(tmp_path, name="x").schema.signals["ecg"]
    assert signal.source is not None and signal.source.gaps is None
