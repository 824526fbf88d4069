"""Signals: waveforms with channels and a sampling frequency, and where they come from in the user's files."""

from typing import Literal

from pydantic import Field, model_validator

from cohortloom.schema.column import Strict

__all__ = [
    "STANDARD_12", "Fact", "Filtering", "Gaps", "LabelSource", "RecordIndex", "Signal", "SignalPrior", "SignalSource",
]  # fmt: skip

#: The standard 12 leads in their usual order; the first two and V1..V6 determine the rest.
STANDARD_12 = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


class Filtering(Strict):
    """One declared step between the file and the cohort, forwards and backwards (no phase shift)."""

    kind: Literal["highpass", "lowpass", "bandpass", "notch"]
    low: float | None = Field(None, description="Lower edge, or the notch [Hz].")
    high: float | None = Field(None, description="Upper edge [Hz].")
    order: int = Field(2, ge=1, le=8)

    @model_validator(mode="after")
    def _edges(self) -> "Filtering":
        needs = {"highpass": ("low",), "lowpass": ("high",), "bandpass": ("low", "high"), "notch": ("low",)}[self.kind]
        absent = [edge for edge in needs if getattr(self, edge) is None]
        if absent:
            raise ValueError(f"a {self.kind} needs {' and '.join(absent)} [Hz]")
        return self


class Gaps(Strict):
    """How a recorder writes what it has not seen: such samples are read as missing."""

    value: float | None = Field(
        None, description="The value that stands for it, in the signal's unit; absent: any that stays exactly the same."
    )
    shortest: float = Field(1.0, ge=0, description="Shorter runs are samples [s]; 0: single samples are gaps too.")


class LabelSource(Strict):
    """Labels beside the records: a CSV with a row per record, a header comment, or an array of the NPZ."""

    file: str | None = Field(None, description="CSV with a row per record.")
    record: str = Field("record", description="Its column with the record's name.")
    column: str = Field(
        "label",
        description="Its column with the label; header comment; array of the NPZ; or number of the column of `rows`.",
    )
    annotations: bool = Field(
        False, description="The annotation that covers most of a window instead (sleep stages, rhythms, seizures)."
    )
    separator: str = Field(",", description="What stands between several labels of one record.")
    values: dict[str, str] = Field(
        default_factory=dict, description="Their label -> ours; others are left out if given."
    )


class RecordIndex(Strict):
    """A table of the schema with a row per record: whose it is, when it was taken and at which visit."""

    table: str
    record: str = Field(description="Its column with the record's file, with or without folder and suffix.")


class Fact(Strict):
    """A header comment that fills a static column."""

    comment: str
    values: dict[str, str] = Field(
        default_factory=dict, description="Their value -> ours; others become missing if given."
    )


class SignalSource(Strict):
    """The files behind a signal."""

    format: Literal["wfdb", "edf", "npz", "rows", "csv"]
    file: str = Field(description="Glob below the folder that is read: '*.hea', '*.edf', 'beats.npz', '*.tsv'.")
    subject: str = Field(
        r"(?P<subject>[^/]+)$",
        description="Regular expression with the group 'subject', found in the path without suffix; "
        "in an NPZ the name of the array with the subjects, or 'row': each row is a patient of its own (as in `rows`).",
    )
    index: RecordIndex | None = Field(None, description="Table that tells whose a record is; `subject` is not used.")
    channels: dict[str, str] = Field(default_factory=dict, description="Our channel -> theirs; case is ignored.")
    missing_channels: Literal["fail", "missing"] = Field("fail", description="'missing' fills an absent lead with NaN.")
    array: str = Field("samples", description="NPZ: array of record x sample, or record x channel x sample.")
    fs: float | None = Field(
        None, description="NPZ, rows and CSV: sampling frequency [Hz]; other formats know their own."
    )
    resample: bool = Field(False, description="Bring other sampling frequencies to the signal's own (polyphase).")
    scale: float = Field(1.0, description="NPZ, rows and CSV: ours = scale * theirs.")
    start: float = Field(0.0, ge=0, description="Where reading starts [s].")
    window: float | None = Field(None, gt=0, description="Cut into windows of this length [s]; each keeps its patient.")
    step: float | None = Field(None, gt=0, description="From window to window [s]; absent: no overlap.")
    gaps: Gaps | None = Field(None, description="Runs of equal samples that are gaps; absent: none are.")
    filters: tuple[Filtering, ...] = ()
    annotations: str | None = Field(None, description="WFDB: extension of the annotation file, such as 'atr'.")
    labels: LabelSource | None = None
    facts: dict[str, Fact | str] = Field(
        default_factory=dict, description="'table.column' of a static table -> comment."
    )
    verify: bool = Field(True, description="Compare the checksums of WFDB headers.")


class SignalPrior(Strict):
    """How a simulated waveform follows from the patient's record.

    `follows` maps a trait of the simulated heart or head to where the record tells it: "visits.heart_rate" (a number,
    a flag, or a date of birth for "age"), "patients.sex = F" (is it this level?), "labs.2823-3" (the code's value at
    the record's visit, else the last one before) or "diagnoses.I31.3" (has the patient had this code by then?). What
    the record does not say is drawn from adult norms.
    """

    at: Literal["first", "every"] = Field(
        "every", description="Of a patient's visits (where the parent is the visit table): the first, or every one."
    )
    chance: float = Field(1.0, ge=0, le=1, description="Share of those occasions at which a record is taken.")
    follows: dict[str, str] = Field(default_factory=dict, description="Trait -> where the record tells it.")


class Signal(Strict):
    """One kind of waveform record.

    Args (fields): kind, channels in order, fs [Hz], unit (UCUM of the samples), duration [s] (None: records differ),
    parent table (static: one patient may have many records; the visit table: a record belongs to a visit), and label
    columns that come with each record.
    """

    kind: Literal["ecg", "eeg", "ppg", "resp", "emg", "other"]
    channels: tuple[str, ...] = Field(min_length=1)
    fs: float = Field(gt=0, description="Sampling frequency [Hz].")
    unit: str = "mV"
    duration: float | None = Field(None, gt=0, description="Length of each record [s]; absent: records differ.")
    parent: str | None = None
    labels: tuple[str, ...] = Field((), description="Labels a record may carry; several at once are joined by '|'.")
    annotations: tuple[Literal["beats", "rhythm", "events"], ...] = ()
    low: float | None = Field(None, description="Smallest plausible sample, in the unit.")
    high: float | None = Field(None, description="Largest plausible sample, in the unit.")
    source: SignalSource | None = None
    prior: SignalPrior | None = Field(None, description="How simulated records follow the patient; absent: none.")
    description: str = ""

    @property
    def n_samples(self) -> int | None:
        """Samples of a record, None if records differ."""
        return None if self.duration is None else round(self.duration * self.fs)

    @property
    def is_standard_12(self) -> bool:
        """Are these the standard 12 leads (in any order), so that III, aVR, aVL and aVF follow from I and II?"""
        return {c.lower() for c in self.channels} == {c.lower() for c in STANDARD_12}
