"""Signals: waveforms with channels and a sampling frequency."""

from typing import Literal

from pydantic import Field

from cohortloom.schema.column import Strict

__all__ = ["Signal"]


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
    source: dict[str, str] | None = Field(None, description="format and file glob in the user's folder.")
    description: str = ""
