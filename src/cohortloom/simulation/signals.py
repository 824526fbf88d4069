"""Waveforms of simulated patients: what the record says moves the heart or the head.

A signal with a prior gets records at visits (or one a patient). Each trait the prior names is read from the tables as
they stand, so a waveform agrees with what is written down, mistakes included; what is not written is drawn from adult
norms. Records come in chunks with a random stream each, so neither workers nor memory change a byte, and large sets
lie in an unnamed file instead of memory.

    kind    traits a prior may name
    ecg     age, female, heart_rate, potassium, qt_drug, effusion, atrial_fibrillation, left_bundle, right_bundle
    eeg     age, eyes_closed
"""

from __future__ import annotations

import tempfile

import numpy as np
import polars as pl

from cohortloom.cohort import Cohort, SignalSet
from cohortloom.errors import Problem, nearest
from cohortloom.rng import Rng
from cohortloom.schema import Schema, Signal
from cohortloom.simulation.ecg import LEADS, draw_traits, simulate_ecg
from cohortloom.simulation.eeg import POSITIONS, draw_eeg_traits, simulate_eeg

__all__ = ["TRAITS", "draw_signals", "signal_problems"]

TRAITS = {
    "ecg": ("age", "female", "heart_rate", "potassium", "qt_drug", "effusion", "atrial_fibrillation", "left_bundle",
            "right_bundle"),
    "eeg": ("age", "eyes_closed"),
}  # fmt: skip
_FLAGS = ("atrial_fibrillation", "left_bundle", "right_bundle")
#: Records simulated together; part of what a seed means.
_CHUNK = 1024
#: Samples above this many bytes lie in an unnamed file.
_IN_MEMORY = 1 << 29
_YEAR = 365.25 * 86_400e6


def signal_problems(schema: Schema) -> list[Problem]:
    """What keeps the signals' priors from being used; empty for sound ones."""
    found = []
    for name, spec in schema.signals.items():
        if spec.prior is None:
            continue
        where, traits = f"signals.{name}.prior", TRAITS.get(spec.kind, ())
        if not traits:
            found.append(Problem("no-simulator", where, f"{spec.kind} can't be simulated", "Drop the prior."))
            continue
        if spec.duration is None:
            found.append(Problem("no-duration", where, "records of unknown length can't be simulated",
                                 f"Set signals.{name}.duration."))  # fmt: skip
        known = LEADS if spec.kind == "ecg" else tuple(POSITIONS)
        odd = [c for c in spec.channels if c not in known] if spec.kind == "ecg" or len(spec.channels) > 1 else []
        if odd:
            found.append(Problem("unknown-channel", where, f"no place is known for {', '.join(odd)}",
                                 f"Known: {', '.join(known)}."))  # fmt: skip
        for trait, source in spec.prior.follows.items():
            if trait not in traits:
                found.append(Problem("unknown-trait", f"{where}.follows", f'"{trait}" is no trait of an {spec.kind}',
                                     nearest(trait, traits).strip() or f"Known: {', '.join(traits)}."))  # fmt: skip
            found += _bad_source(schema, f"{where}.follows.{trait}", source)
    return found


def _bad_source(schema: Schema, where: str, source: str) -> list[Problem]:
    table, rest, level = _parts(source)
    if table not in schema.tables:
        return [Problem("unknown-source", where, f'there is no table "{table}"', nearest(table, schema.tables).strip())]
    spec = schema.tables[table]
    if rest in spec.columns:
        column = spec.columns[rest]
        levels = getattr(column, "levels", None) or ()
        if level is not None and level not in levels:
            return [Problem("unknown-source", where, f'"{level}" is no level of {table}.{rest}',
                            nearest(level, levels).strip())]  # fmt: skip
        if level is None and column.kind not in ("number", "count", "flag", "timestamp"):
            return [Problem("unknown-source", where, f"{table}.{rest} is no number",
                            f'Name a level: "{table}.{rest} = ...".')]  # fmt: skip
        return []
    if _code_column(schema, table, rest) is None:
        return [Problem("unknown-source", where, f'"{rest}" is neither a column nor a code of {table}',
                        nearest(rest, spec.columns).strip())]  # fmt: skip
    return []


def draw_signals(cohort: Cohort, rng: Rng) -> dict[str, SignalSet]:
    """Records of every signal with a prior.

    Args:
        cohort: Simulated tables.
        rng: Random stream.
    """
    return {
        name: _draw(cohort, spec, rng.child(name))
        for name, spec in cohort.schema.signals.items()
        if spec.prior is not None
    }


def _draw(cohort: Cohort, spec: Signal, rng: Rng) -> SignalSet:
    records = _records(cohort, spec, rng.child("records"))
    assert spec.prior is not None and spec.n_samples is not None
    given = {trait: _read(cohort, records, source) for trait, source in spec.prior.follows.items()}
    samples = _room((records.height, len(spec.channels), spec.n_samples))
    for start in range(0, records.height, _CHUNK):
        rows = slice(start, min(start + _CHUNK, records.height))
        part = {trait: values[rows] for trait, values in given.items()}
        samples[rows] = _waves(spec, rows.stop - start, part, rng.child("chunk", start // _CHUNK))
    return SignalSet(spec, records, samples)


def _waves(spec: Signal, n: int, given: dict[str, np.ndarray], rng: Rng) -> np.ndarray:
    traits, waves = rng.child("traits"), rng.child("waves")
    if spec.kind == "ecg":
        fixed = {k: np.nan_to_num(v) > 0.5 for k, v in given.items() if k in _FLAGS}
        told = {k: v for k, v in given.items() if k not in _FLAGS}
        made = draw_traits(n, traits, **told, **fixed)
        x, _ = simulate_ecg(made, fs=spec.fs, duration=spec.duration or 0, rng=waves, leads=spec.channels)
        return x * {"mV": 1.0, "uV": 1e3, "V": 1e-3}.get(spec.unit, 1.0)
    usual = traits.child("age").numpy.uniform(20, 80, n)
    age = np.where(np.isfinite(given.get("age", usual)), given.get("age", usual), usual)
    shut = {"eyes_closed": np.nan_to_num(given["eyes_closed"], nan=1.0)} if "eyes_closed" in given else {}
    made = draw_eeg_traits(n, traits, age=age, **shut)
    x, _ = simulate_eeg(made, fs=spec.fs, duration=spec.duration or 0, channels=spec.channels, rng=waves)
    return x * {"mV": 1e-3, "V": 1e-6}.get(spec.unit, 1.0)


def _room(shape: tuple[int, ...]) -> np.ndarray:
    if 4 * int(np.prod(shape, dtype=np.int64)) <= _IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # the map keeps it alive
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _records(cohort: Cohort, spec: Signal, rng: Rng) -> pl.DataFrame:
    """One row per record, without samples, by subject and time."""
    schema, prior = cohort.schema, spec.prior
    assert prior is not None
    if spec.parent is not None and spec.parent == schema.visit_table:
        places = cohort.tables[spec.parent].select("subject_id", "visit_id", "time").sort("subject_id", "time")
        if prior.at == "first":
            places = places.unique("subject_id", keep="first", maintain_order=True)
    else:
        none = pl.lit(None, pl.Int64).alias("visit_id")
        time = {"timestamp": pl.Datetime("us"), "offset": pl.Duration("us"), "order": pl.Int64()}[schema.clock]
        places = pl.DataFrame({"subject_id": cohort.subjects}).with_columns(none, pl.lit(None, time).alias("time"))
    kept = places.filter(pl.Series(rng.numpy.random(places.height) < prior.chance, dtype=pl.Boolean))
    return kept.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("record_id"),
        pl.lit(spec.n_samples, pl.Int64).alias("n_samples"),
        pl.lit(None, pl.String).alias("label"),
    ).select("record_id", "subject_id", "visit_id", "time", "n_samples", "label")


# -- what the record says --------------------------------------------------------------------------------------------


def _parts(source: str) -> tuple[str, str, str | None]:
    """Table, column or code, level."""
    path, equals, level = source.partition("=")
    table, _, rest = path.strip().partition(".")
    return table, rest, level.strip() if equals else None


def _code_column(schema: Schema, table: str, code: str) -> str | None:
    """The column a code belongs to."""
    for name, column in schema.tables[table].columns.items():
        if column.kind != "code":
            continue
        written = set(column.prior.codes) if column.prior is not None else set()
        if code in {*(column.levels or ()), *column.items, *written}:
            return name
    return None


def _read(cohort: Cohort, records: pl.DataFrame, source: str) -> np.ndarray:
    """One number per record, NaN where the record does not say."""
    schema = cohort.schema
    table, rest, level = _parts(source)
    frame, spec = cohort.tables[table], schema.tables[table]
    base = records.select("subject_id", "visit_id", "time").with_row_index("row")
    if rest not in spec.columns:
        column = _code_column(schema, table, rest)
        assert column is not None
        frame = frame.filter(pl.col(column) == rest)
        if not (spec.is_long and spec.value):
            return _known_by_then(base, frame)
        rest = spec.value
    value = pl.col(rest)
    if level is not None:
        value = (value.cast(pl.String) == level).cast(pl.Float64)
    kept = [k for k in ("subject_id", "visit_id", "time") if k in frame.columns]
    frame = frame.select(*kept, value.alias("value")).drop_nulls("value")
    found = _at_record(base, frame)
    if found.dtype == pl.Datetime("us"):  # a date of birth: years by the record
        found = (base["time"] - found).cast(pl.Int64) / _YEAR
    return found.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _at_record(base: pl.DataFrame, frame: pl.DataFrame) -> pl.Series:
    """The value at the record's visit, else the last before, else the patient's only one."""
    if "time" not in frame.columns:
        rows = frame.unique("subject_id", keep="first", maintain_order=True).select("subject_id", "value")
        return base.join(rows, on="subject_id", how="left", maintain_order="left")["value"]
    frame = frame.sort("time")
    past = base.sort("time").join_asof(frame.select("subject_id", "time", "value"), on="time", by="subject_id",
                                       check_sortedness=False).sort("row")["value"]  # fmt: skip
    if "visit_id" not in frame.columns:
        return past
    own = frame.drop_nulls("visit_id").unique("visit_id", keep="first", maintain_order=True)
    same = base.join(own.select("visit_id", "value"), on="visit_id", how="left", maintain_order="left")["value"]
    return pl.select(pl.coalesce(same, past)).to_series()


def _known_by_then(base: pl.DataFrame, frame: pl.DataFrame) -> np.ndarray:
    """1 if the patient had the code up to the record, its visit included, else 0."""
    if "visit_id" in frame.columns:
        here = base["visit_id"].is_in(frame["visit_id"].drop_nulls().implode()).fill_null(False)
    else:
        here = pl.Series(np.zeros(base.height, bool))
    if "time" in frame.columns:
        first = frame.group_by("subject_id").agg(pl.col("time").min().alias("first"))
        met = base.join(first, on="subject_id", how="left", maintain_order="left")
        # without a time of its own a record comes at the end
        before = met.select((pl.col("first") <= pl.col("time")).fill_null(pl.col("first").is_not_null()))
        before = before.to_series()
    else:
        before = base["subject_id"].is_in(frame["subject_id"].implode())
    return (here | before).to_numpy().astype(float)
