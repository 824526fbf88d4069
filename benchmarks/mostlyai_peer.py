"""mostlyai-engine (TabularARGN) in an environment of its own; called by `benchmarks.peers`, imports nothing of ours.

    PYTHON benchmarks/mostlyai_peer.py FOLDER N MANY MINUTES SEED

FOLDER holds statics.parquet (column "patient") and steps.parquet (column "patient" and the step's columns in order).
The engine learns the statics as a flat table and the steps as sequences with the statics as context, with its defaults
and at most MINUTES of CPU time for both, and draws MANY patients for the clock, then N: drawn_statics.parquet,
drawn_steps.parquet, facts.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import pandas as pd


def main(folder: Path, n: int, many: int, minutes: float, seed: int) -> None:
    time.time = time.process_time  # the budget counts CPU seconds, as the machine is shared
    import torch
    from mostlyai import engine

    torch.set_num_threads(1)
    engine.set_random_state(seed)
    statics, steps = (pd.read_parquet(folder / f"{name}.parquet") for name in ("statics", "steps"))
    began = time.process_time()
    flat, course = folder / "flat", folder / "course"
    keys = {"ctx_primary_key": "patient", "tgt_context_key": "patient"}
    _learn(engine, flat, 0.3 * minutes, tgt_data=statics, tgt_primary_key="patient")
    _learn(engine, course, 0.7 * minutes, tgt_data=steps, ctx_data=statics, **keys)
    facts = {"fit_cpu_s": time.process_time() - began}
    facts["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    for size in (many, n):  # the last draw stays
        began = time.process_time()
        engine.generate(workspace_dir=flat, sample_size=size, device="cpu")
        people = _drawn(flat)
        engine.generate(workspace_dir=course, ctx_data=people, device="cpu")
        if size == many:
            facts["many_cpu_s"], facts["many_steps"] = time.process_time() - began, len(_drawn(course))
    people.to_parquet(folder / "drawn_statics.parquet")
    _drawn(course).to_parquet(folder / "drawn_steps.parquet")
    (folder / "facts.json").write_text(json.dumps(facts))


def _learn(engine, place: Path, minutes: float, **tables) -> None:
    engine.split(workspace_dir=place, model_type="TABULAR", **tables)
    engine.analyze(workspace_dir=place)
    engine.encode(workspace_dir=place)
    engine.train(workspace_dir=place, max_training_time=minutes, device="cpu")


def _drawn(place: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(p) for p in sorted((place / "SyntheticData").glob("*.parquet"))])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
