"""Waveform records of a cohort."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from cohortloom.schema import Signal

__all__ = ["SignalSet"]


@dataclass(frozen=True)
class SignalSet:
    """Records of one signal.

    Args:
        spec: The schema's description.
        records: One row per record: record_id, subject_id, visit_id (null: none), time, n_samples, label.
        samples: Physical units, record x channel x sample, float32, padded with NaN; may be memory-mapped.
        annotations: One row per annotation: record_id, sample, kind, symbol (beats, rhythm, events); may be empty.
    """

    spec: Signal
    records: pl.DataFrame
    samples: np.ndarray
    annotations: pl.DataFrame | None = None

    def select(self, subjects: pl.Series) -> "SignalSet":
        """The records of some subjects, in the order they stand."""
        keep = self.records["subject_id"].is_in(subjects.implode()).to_numpy()
        records = self.records.filter(keep)
        notes = self.annotations
        if notes is not None:
            notes = notes.join(records.select("record_id"), on="record_id", how="semi")
        return SignalSet(self.spec, records, self.samples[keep], notes)
