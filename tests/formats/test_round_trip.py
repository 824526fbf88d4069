"""What is written comes back: random sound schemas, small messy cohorts, every format that holds tables."""

import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal

from cohortloom.cohort import Cohort
from cohortloom.formats import read, write
from cohortloom.formats.frames import from_frames, to_pandas
from cohortloom.formats.meds import read_splits
from cohortloom.testing.strategies import cohorts, schemas

SLOW_IO = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def same(one: Cohort, other: Cohort, *, ids_are_text: bool = False) -> None:
    assert list(one.tables) == list(other.tables)
    for name, frame in one.tables.items():
        left, right = (_plain(f, ids_are_text) for f in (frame, other.tables[name]))
        assert_frame_equal(left, right, check_dtypes=frame.height > 0, abs_tol=0, rel_tol=0)


def _plain(frame: pl.DataFrame, ids_are_text: bool) -> pl.DataFrame:
    """Rows in one order, as ties in time may come in any; ids as text where the file can't tell 7 from "7"."""
    ids = [c for c in ("subject_id", "visit_id") if c in frame.columns and ids_are_text]
    frame = frame.with_columns(pl.col(c).cast(pl.String) for c in ids)
    return frame.sort(frame.columns, nulls_last=True, maintain_order=True)


@pytest.mark.parametrize("format", ["native", "tabular", "parquet", "meds"])
@given(cohort=cohorts(schemas()))
@SLOW_IO
def test_written_and_read_again(tmp_path_factory, format, cohort):
    place = tmp_path_factory.mktemp("c") / "out"
    write(cohort, place, format=format)
    back = read(place, format=format, on_error="fail" if format in ("native", "meds") else "keep")
    same(back, cohort, ids_are_text=format == "tabular")


@given(cohort=cohorts(schemas()))
@SLOW_IO
def test_polars_and_pandas_frames(cohort):
    same(from_frames(cohort.schema, cohort.tables, on_error="keep"), cohort)
    same(from_frames(cohort.schema, to_pandas(cohort), on_error="keep"), cohort)


@given(cohort=cohorts(schemas()))
@SLOW_IO
def test_meds_folder_is_meds(tmp_path_factory, cohort):
    """The schemas of the `meds` package accept every file, and rows are in the order MEDS asks for."""
    meds = pytest.importorskip("meds")
    import pyarrow.parquet as pq

    place = tmp_path_factory.mktemp("c") / "out"
    write(cohort, place, format="meds")
    seen = []
    for file in sorted((place / "data").glob("*.parquet")):
        table = pq.read_table(file)
        meds.DataSchema.validate(table)
        frame = pl.from_arrow(table)
        runs = frame["subject_id"].rle().struct.field("value")
        assert runs.is_unique().all(), "a subject's rows stand together"
        seen += runs.to_list()
        for part in frame.partition_by("subject_id"):
            time = part["time"]
            assert not time.drop_nulls().diff().drop_nulls().cast(pl.Int64).lt(0).any(), "sorted by time"
            assert time.is_null().sort(descending=True).equals(time.is_null()), "static rows first"
    assert len(seen) == len(set(seen)), "a subject lies in one shard"
    meds.CodeMetadataSchema.validate(pq.read_table(place / "metadata/codes.parquet"))
    meds.SubjectSplitSchema.validate(pq.read_table(place / "metadata/subject_splits.parquet"))
    meds.DatasetMetadataSchema.validate(json.loads((place / "metadata/dataset.json").read_text()))
    assert sorted(read_splits(place).get("train", pl.Series([])).to_list()) == cohort.subjects.to_list()
