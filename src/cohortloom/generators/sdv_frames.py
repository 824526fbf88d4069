"""Encoded patients as the pandas frames SDV takes, and back.

One row per step: the patient's number, the statics repeated, the gap, then the columns of the step. Categories are
written as the text of their id, missing included, so that nothing depends on how SDV guesses kinds. Only the two
`sdv_*` generators use this; SDV comes under the Business Source License 1.1 and is imported nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortloom.codec.tensors import MISSING, Feature
from cohortloom.errors import DataError, Problem, SettingsError
from cohortloom.rng import Rng

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "GAP",
    "KEY",
    "NotStored",
    "array_of",
    "column_facts",
    "fit_any",
    "frame_of",
    "metadata",
    "only_frame",
    "restart",
    "sdv",
]

KEY, GAP = "patient", "gap [d]"


class NotStored:
    """Saving is refused: SDV can only pickle its models, and a pickle runs code when it is read."""

    def _write(self, folder: Any) -> dict[str, Any]:
        fix = "Fit and sample in one Python process, or choose another generator."
        what = "SDV can only pickle a fitted model, which is unsafe to read; nothing was written"
        raise SettingsError("", [Problem("not-stored", getattr(self, "name", "sdv"), what, fix)])


def sdv() -> Any:
    """The package.

    Raises:
        SettingsError: the extra is not installed.
    """
    try:
        import sdv.metadata
        import sdv.sequential
        import sdv.single_table
    except ImportError:
        fix = "pip install 'cohortloom[sdv]' (Business Source License 1.1)"
        raise SettingsError("", [Problem("no-library", "sdv", "this generator needs the package SDV", fix)]) from None
    return sdv


def frame_of(features: tuple[Feature, ...], values: np.ndarray, observed: np.ndarray) -> pd.DataFrame:
    """Columns c0, c1, ...: numbers with NaN for missing, categories as text."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for i, feature in enumerate(features):
        if feature.kind == "number":
            columns[f"c{i}"] = np.where(observed[:, i], values[:, i], np.nan).astype(float)
        else:
            ids = np.where(observed[:, i], values[:, i], MISSING).astype(int)
            columns[f"c{i}"] = np.char.add("l", ids.astype(str)).astype(object)
    return pd.DataFrame(columns)


def array_of(features: tuple[Feature, ...], frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The reverse of `frame_of`: values and observed."""
    values = np.zeros((len(frame), len(features)))
    observed = np.zeros(values.shape, dtype=bool)
    for i, feature in enumerate(features):
        column = frame[f"c{i}"]
        if feature.kind == "number":
            numbers = column.to_numpy(dtype=float)
            observed[:, i] = np.isfinite(numbers)
            values[:, i] = np.where(observed[:, i], numbers, 0.0)
        else:
            ids = column.astype(str).str.slice(1).astype(int).to_numpy()
            values[:, i], observed[:, i] = ids, ids != MISSING
    return values, observed


def column_facts(features: tuple[Feature, ...]) -> dict[str, dict[str, str]]:
    """SDV metadata of the columns of `frame_of`."""
    kinds = {"number": "numerical", "category": "categorical"}
    return {f"c{i}": {"sdtype": kinds[feature.kind]} for i, feature in enumerate(features)}


def metadata(table: str, columns: Mapping[str, Any], **facts: str) -> Any:
    """SDV metadata of one table."""
    content = {
        "METADATA_SPEC_VERSION": "V1",
        "tables": {table: {"columns": dict(columns), **facts}},
        "relationships": [],
    }
    return sdv().metadata.Metadata.load_from_dict(content)


def only_frame(found: Any, table: str) -> pd.DataFrame:
    """SDV 2 answers with a dict of frames, SDV 1 with the frame."""
    return found[table] if isinstance(found, dict) else found


def restart(synthesizer: Any, rng: Rng) -> None:
    """Forget earlier draws, so that a draw depends on its own stream alone."""
    for part in (synthesizer, getattr(synthesizer, "_context_synthesizer", None)):
        for holder in (part, getattr(part, "_data_processor", None)):
            if hasattr(holder, "reset_sampling"):
                holder.reset_sampling()
        if hasattr(part, "_set_random_state"):
            part._set_random_state(rng.integer("copula") % 2**32)


def fit_any(synthesizer: Any, frame: pd.DataFrame, table: str) -> None:
    """SDV 2 takes a dict of frames, SDV 1 the frame; its warnings about privacy and speed are its own."""
    import warnings

    version = int(sdv().__version__.split(".")[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            synthesizer.fit({table: frame} if version >= 2 else frame)
    except Exception as error:  # SDV raises many kinds; their texts may quote cells
        what = f"SDV could not be fitted to this cohort ({type(error).__name__})"
        raise DataError("", [Problem("sdv-refused", table, what, "Try more patients, or another generator.")]) from None
