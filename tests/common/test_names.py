"""Names mean nothing: columns called as code calls its own give the same files, anchors, scores and verdicts.

The names are taken from the code: all that it gives to columns of frames (`alias`, `with_columns`, `rename`, ...).
Those that begin with two underscores stand beside a schema's columns for a while, and a schema may not have them.
"""

import ast
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cohortloom as cl
from cohortloom.cohort import Cohort
from cohortloom.errors import SchemaError
from cohortloom.evaluation import evaluate
from cohortloom.generators import create
from cohortloom.schema import Schema
from cohortloom.schema.table import RESERVED
from cohortloom.schema.text import parse_schema

DAY = 86_400_000_000


def inner_names() -> list[str]:
    found: set[str] = set()
    for file in Path(cl.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in ("with_columns", "select", "agg", "struct", "rename"):
                found |= {k.arg for k in call.keywords if k.arg}
            for word in call.args:
                words = [*word.keys, *word.values] if isinstance(word, ast.Dict) else [word]
                if call.func.attr in ("alias", "with_row_index", "col", "rename", "DataFrame"):
                    found |= {w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)}
    return sorted(n for n in found if n not in RESERVED and not n.startswith("__"))


def cohort_named(names: list[str], n: int = 40) -> Cohort:
    draw = np.random.default_rng(0)
    number = {"kind": "number", "low": 0, "high": 99, "decimals": 1}
    kinds = [number, {"kind": "flag"}, {"kind": "category", "levels": ["a", "b", "c"]}]
    columns = {name: kinds[i % 3] for i, name in enumerate(names)}
    coded = {**columns, "the_code": {"kind": "code"}, "the_value": {"kind": "number"}}
    tables = {
        "people": {"role": "static", "columns": columns},
        "visits": {"role": "visit", "parent": "people", "columns": columns},
        "labs": {"role": "event", "parent": "visits", "code": "the_code", "value": "the_value", "columns": coded},
    }
    schema = Schema.model_validate({"name": "any", "clock": "offset", "tables": tables})

    def cells(rows: int) -> list[pl.Series]:
        makers = (
            lambda: draw.uniform(10, 90, rows).round(1), lambda: draw.random(rows) < 0.4,
            lambda: draw.choice(["a", "b", "c"], rows),
        )  # fmt: skip
        return [
            pl.Series(c, makers[i % 3]()).set(pl.Series(draw.random(rows) < 0.1), None) for i, c in enumerate(names)
        ]

    count = draw.integers(2, 5, n)
    rows = int(count.sum())
    time = np.concatenate([np.sort(draw.integers(0, 400, k)) for k in count]) * DAY
    ids = np.arange(1, n + 1)
    keys = pl.DataFrame({"subject_id": np.repeat(ids, count), "visit_id": np.arange(1, rows + 1), "time": time})
    labs = keys.hstack(cells(rows)).with_columns(
        the_code=pl.Series(draw.choice(["A", "B"], rows)), the_value=pl.Series(draw.normal(5, 1, rows).round(2))
    )
    people = pl.DataFrame({"subject_id": ids}).hstack(cells(n))
    return Cohort.build(schema, {"people": people, "visits": keys.hstack(cells(rows)), "labs": labs})


@pytest.fixture(scope="module")
def pair() -> tuple[Cohort, Cohort, dict[str, str]]:
    theirs = inner_names()
    assert len(theirs) > 60
    plain = [f"col{i:03d}" for i in range(len(theirs))]
    return cohort_named(plain), cohort_named(theirs), dict(zip(theirs, plain))


def same(plain: Cohort, odd: Cohort, names: dict[str, str]) -> None:
    for table, frame in plain.tables.items():
        assert frame.equals(odd.tables[table].rename(names, strict=False)), table


@pytest.mark.parametrize("form", ["native", "meds", "tabular"])
def test_files_hold_columns_of_any_name(pair, form, tmp_path):
    odd = pair[1]
    cl.write(odd, tmp_path / "odd", format=form)
    back = cl.read(tmp_path / "odd", format=form, schema=None if form == "native" else odd.schema)
    assert all(back.tables[t].equals(frame) for t, frame in odd.tables.items())


@pytest.mark.parametrize("anchor", ["bootstrap", "independent"])
def test_anchors_draw_columns_of_any_name(pair, anchor):
    plain, odd = (create(anchor).fit(cohort, seed=1).sample(30, seed=2) for cohort in pair[:2])
    same(plain, odd, pair[2])


def test_scores_do_not_look_at_names(pair):
    scores = []
    for cohort in pair[:2]:
        parts = cohort.split(seed=1, train=0.4, held_out=0.3, drawn=0.3)
        report = evaluate(parts.drawn, train=parts.train, held_out=parts.held_out, fast=True)
        scores.append([-1.0 if s.value is None else s.value for s in (*report.scores, *cl.validate(cohort).scores)])
    assert scores[0] == pytest.approx(scores[1])


def test_a_schema_may_not_have_names_of_the_code():
    table = '[tables.p]\nrole = "static"\ncolumns.__row = { kind = "flag" }'
    with pytest.raises(SchemaError, match=r'two leading underscores.*columns.row = "__row"'):
        parse_schema(f'name = "x"\n{table}')
