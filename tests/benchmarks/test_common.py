"""What benchmarks write."""

import argparse
import importlib
import json
import math
import re
import shlex
import sys

import numpy as np
import pytest

from benchmarks import common
from benchmarks.__main__ import COMMANDS


def test_results_are_json_of_the_standard(tmp_path, monkeypatch):
    """NaN and infinities are no JSON: another reader would refuse the file."""
    monkeypatch.setattr(common, "machine", dict)
    rows = [{"a": math.nan, "b": [1.5, -math.inf], "c": {"d": np.float64("nan"), "e": (math.inf, 2)}, "f": "NaN"}]
    common.save("anything", rows, out=tmp_path / "here" / "result.json", seeds=[0])
    text = (tmp_path / "here" / "result.json").read_text()

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    content = json.loads(text, parse_constant=refuse)
    assert content["rows"] == [{"a": None, "b": [1.5, None], "c": {"d": None, "e": [None, 2]}, "f": "NaN"}]
    assert content["seeds"] == [0] and content["command"].startswith("python -m benchmarks.anything")


def test_a_measurement_made_again_takes_the_place_of_the_earlier_one():
    rows = [{"cohort": "a", "seed": 1, "x": 1}, {"cohort": "a", "seed": 2, "x": 2}]
    assert common.renewed(rows, {"cohort": "a", "seed": 1, "x": 3}, ("cohort", "seed")) == [
        rows[1],
        {"cohort": "a", "seed": 1, "x": 3},
    ]
    assert len(common.renewed(rows, {"cohort": "b", "seed": 1}, ("cohort", "seed"))) == 3
    assert common.renewed(rows, {"cohort": "a", "seed": 1, "failed": "an error"}, ("cohort", "seed")) == rows


def test_every_command_of_make_bench_is_one_its_benchmark_takes(monkeypatch):
    class Parsed(Exception):
        """Nothing is measured here."""

    parse = argparse.ArgumentParser.parse_args

    def only_parse(self, *arguments):
        parse(self, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    for command in COMMANDS:
        name, *words = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [name, *words])
        with pytest.raises(Parsed):
            importlib.import_module(f"benchmarks.{name}").main()
    written = {path.stem for path in common.RESULTS.glob("*.json")}
    made = {command.split()[0] for command in COMMANDS} | set(re.findall(r"results/(\w+)\.json", " ".join(COMMANDS)))
    assert written <= made, "a result that no command makes again"
