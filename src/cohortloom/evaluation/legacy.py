"""The TimeGAN scores, for comparison with papers only; measured when asked for by name.

    discriminative   |accuracy - .5| of a one-layer GRU with int(C / 2) hidden units after 2,000 steps of 128 + 128
                     patients, Adam 1e-3, on a fifth of the patients
    predictive       mean absolute error of a GRU trained on synthetic series to tell the last channel one step ahead,
                     on real held-out series, all values between 0 and 1

They have no verdict. Of N test patients, a judge that guesses has |accuracy - .5| of sqrt(2 / pi) .5 / sqrt(N) on
average: values below the 95 % point of guessing are ties. A constant judge scores 0 as well, and a copied cohort does
best on both; hence chance, the copies' value and (for the predictive score) the error of repeating the last value.

References:
    Yoon, Jarrett, van der Schaar (2019). Time-series generative adversarial networks.
"""

from __future__ import annotations

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import one_thread
from cohortloom.evaluation.grid import gridded
from cohortloom.evaluation.intervals import not_computed
from cohortloom.evaluation.judges import gru, torch_apart
from cohortloom.report import Goal, Score
from cohortloom.rng import Rng

__all__ = ["scores"]

STEPS = 2000
BATCH = 128
FEWEST = 25
NAMES = {
    "legacy.discriminative": "TimeGAN discriminative score (for comparison with papers)",
    "legacy.predictive": "TimeGAN predictive score (for comparison with papers)",
}


def scores(ctx: Context) -> list[Score]:
    """Both scores, with chance and the copy baseline."""
    grids = gridded(ctx)
    if grids is None:
        return [not_computed(ctx, k, name, "no table over time") for k, name in NAMES.items()]
    n = min(len(g.x) for g in grids.values())
    if n < FEWEST:
        return [
            not_computed(ctx, k, name, f"fewer than {FEWEST} patients with rows on a side") for k, name in NAMES.items()
        ]
    n = min(n, 2000)
    values = grids["held_out"].values
    low, high = (f(grids["train"].x[:, :values], axis=(0, 2), keepdims=True) for f in (np.min, np.max))
    x = {
        k: np.clip((g.x[:n, :values] - low) / np.maximum(high - low, 1e-9), -1, 2).transpose(0, 2, 1)
        for k, g in grids.items()
    }
    draw = ctx.rng.child("legacy").numpy
    x["bootstrap"] = x["train"][draw.integers(0, n, n)]
    steps = STEPS // (10 if ctx.fast else 1)
    with one_thread(), torch_apart():
        found = {
            k: _discriminative(x[k], x["held_out"], ctx.rng.child("legacy", k), steps)
            for k in ("synthetic", "bootstrap")
        }
        error = {
            k: _predictive(x[k], x["held_out"], ctx.rng.child("legacy", "p", k), steps)
            for k in ("synthetic", "train", "bootstrap")
        }
    test = 2 * (n - int(0.8 * n))
    chance = float(np.sqrt(2 / np.pi) * 0.5 / np.sqrt(test))
    tie = float(1.96 * 0.5 / np.sqrt(test))
    held = x["held_out"][:, :, -1]
    details = {"chance": round(chance, 4), "below this a tie": round(tie, 4), "steps": steps, "test patients": test}
    persist = {
        "error of repeating the last value": round(float(np.abs(np.diff(held, axis=1)).mean()), 4),
        "steps": steps,
    }
    return [
        Score(
            name=NAMES["legacy.discriminative"], group="legacy", key="legacy.discriminative", value=found["synthetic"],
            n=n, goal=Goal.LOW, floor=chance, anchors={"bootstrap": found["bootstrap"]}, details=details,
        ),
        Score(
            name=NAMES["legacy.predictive"], group="legacy", key="legacy.predictive", value=error["synthetic"], n=n,
            goal=Goal.LOW, floor=error["train"], anchors={"bootstrap": error["bootstrap"]}, details=persist,
        ),
    ]  # fmt: skip


def _discriminative(made: np.ndarray, real: np.ndarray, rng: Rng, steps: int) -> float:
    import torch  # heavy

    stream = rng.torch
    hidden = max(1, made.shape[2] // 2)
    net = gru(made.shape[2], hidden, stream)
    sides, tests = [], []
    for x in (made, real):
        order = rng.child("split", len(sides)).numpy.permutation(len(x))
        cut = int(0.8 * len(x))
        sides.append(torch.from_numpy(x[order[:cut]].astype(np.float32)))
        tests.append(torch.from_numpy(x[order[cut:]].astype(np.float32)))
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    target = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)])
    for _ in range(steps):
        batch = torch.cat([s[torch.randint(len(s), (BATCH,), generator=stream)] for s in sides])
        states, _ = net["gru"](batch)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net["head"](states[:, -1]).squeeze(-1), target)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        said = [(net["head"](net["gru"](t)[0][:, -1]).squeeze(-1) > 0).float() for t in tests]
    right = float(said[0].sum() + (1 - said[1]).sum()) / (len(tests[0]) + len(tests[1]))
    return abs(right - 0.5)


def _predictive(made: np.ndarray, real: np.ndarray, rng: Rng, steps: int) -> float:
    import torch  # heavy

    stream = rng.torch
    inputs = max(1, made.shape[2] - 1)
    net = gru(inputs, max(1, made.shape[2] // 2), stream)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, test = (torch.from_numpy(np.ascontiguousarray(v).astype(np.float32)) for v in (made, real))

    def ahead(v):
        states, _ = net["gru"](v[:, :-1, :inputs])
        return torch.sigmoid(net["head"](states).squeeze(-1)), v[:, 1:, -1]

    for _ in range(steps):
        said, truth = ahead(x[torch.randint(len(x), (BATCH,), generator=stream)])
        loss = (said - truth).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        said, truth = ahead(test)
    return float((said - truth).abs().mean())
