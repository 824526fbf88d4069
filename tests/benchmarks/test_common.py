"""What benchmarks write."""

import json
import math

import numpy as np
import pytest

from benchmarks import common


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
