"""Speed of columnar-ar on a simulated cohort of 20 visits x 8 mixed columns, one thread.

    python benchmarks/columnar.py --patients 1000 10000 --out benchmarks/results/columnar.json

Reports CPU seconds (user + system) of encoding and training, visits drawn per CPU second, and peak memory.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from cohortloom.codec.tensors import Encoded, Feature, SequenceArrays, StaticArrays
from cohortloom.generators.columnar_encoding import Alphabet
from cohortloom.generators.columnar_sampling import draw_records
from cohortloom.generators.columnar_training import ColumnarNets, Tables, phases, size_of, subset_that_fits
from cohortloom.rng import Rng
from cohortloom.training import Training, drawing_from, train


def simulated(n: int, seed: int, visits: int = 20) -> Encoded:
    """Five numbers (AR(1) around a patient's own level, one rounded, one with zeros, one partly missing) and three
    sticky categories at irregular times."""
    rng = np.random.default_rng(seed)
    length = np.clip(rng.poisson(visits, n), 1, None)
    total, age = int(length.sum()), rng.normal(60, 12, n).round()
    subject = np.repeat(np.arange(n), length)
    position = np.arange(total) - np.repeat(np.cumsum(length) - length, length)
    level = rng.normal(size=(n, 5)) + (age[:, None] - 60) / 30
    numbers, states = np.zeros((total, 5)), np.zeros((total, 3))
    for k in range(int(position.max()) + 1):
        rows = np.flatnonzero(position == k)
        noise, jump = rng.normal(size=(len(rows), 5)), rng.random((len(rows), 3))
        last = numbers[rows - 1] if k else level[subject[rows]]
        numbers[rows] = level[subject[rows]] + 0.7 * (last - level[subject[rows]]) + 0.5 * noise
        fresh = rng.integers(2, 5, (len(rows), 3))
        states[rows] = np.where((jump < 0.2) | (k == 0), fresh, states[rows - 1] if k else fresh)
    values = np.concatenate([numbers, states], 1)
    values[:, 0] = (120 + 15 * values[:, 0]).round()
    values[:, 1] = np.maximum(values[:, 1], 0).round(2)
    values[:, 2:5] = values[:, 2:5].round(3)
    observed = np.ones(values.shape, bool)
    observed[:, 4] = rng.random(total) > 0.3
    levels = ("<missing>", "<rare>", "a", "b", "c")
    features = tuple(Feature(f"visits.n{j}", "number") for j in range(5))
    features += tuple(Feature(f"visits.c{j}", "category", levels) for j in range(3))
    gap = np.where(position == 0, 0, 1 + rng.geometric(1 / 60, total)).astype(float)
    statics = np.stack([age, rng.integers(2, 4, n)], 1).astype(float)
    static_features = (Feature("patients.age", "number"), Feature("patients.sex", "category", levels[:4]))
    static = StaticArrays(static_features, statics, np.ones(statics.shape, bool))
    return Encoded(static, SequenceArrays(features, np.where(observed, values, 0), observed, gap, length))


def measure(n: int, steps: int | None) -> dict:
    encoded, rng = simulated(n, 0), Rng(0)
    start = time.process_time()
    alphabet = Alphabet.fit(encoded)
    tables = Tables.of(alphabet, subset_that_fits(alphabet, encoded, rng))
    shapes = {name: alphabet.shapes(name, cells) for name, cells in tables.cells.items()}
    sizes = {name: size_of(name, n, len(tables.table[name].subject), len(shapes[name])) for name in shapes}
    with drawing_from(rng.child("weights").torch):
        nets = ColumnarNets(alphabet, shapes, sizes, 4 if n < 500 else 1)
    encoding, start = time.process_time() - start, time.process_time()
    plan = phases(nets, tables, sizes, 0.15, rng)
    if steps is not None:
        from dataclasses import replace

        plan = [replace(p, training=replace(p.training, steps=min(steps, p.training.steps))) for p in plan]
    train(nets, plan, Training(), rng.child("train"))
    fitting, start = time.process_time() - start, time.process_time()
    drawn = draw_records(alphabet, nets.member(0), n, rng.child("draw").numpy)
    sampling = time.process_time() - start
    return {
        "patients": n,
        "visits": len(encoded.sequence.gap),
        "encode_cpu_s": round(encoding, 2),
        "fit_cpu_s": round(fitting, 1),
        "sampled_visits_per_cpu_s": round(len(drawn.gap) / sampling),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--steps", type=int, help="at most so many steps per network (to measure sampling alone)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for n in options.patients:
        results.append(measure(n, options.steps))
        print(json.dumps(results[-1]))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
