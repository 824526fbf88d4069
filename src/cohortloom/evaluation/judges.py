"""Judges that read whole series: random convolutions with ridge, and a small recurrent network.

    convolutions    MiniROCKET-like: kernels of length 9 with weights -1 and 2 on random channels, dilated, with biases
                    drawn from the responses of training patients; features are the shares of steps above the bias;
                    ridge regression on the label
    GRU             16 hidden units over all channels, last state to one logit, Adam

Patients are the unit, folds by patient (copies of one patient stay in one fold), and the score is the cross-validated
AUC as for the other judges. Torch's global random state and thread count are left as found.

References:
    Dempster, Schmidt, Webb (2021). MiniRocket.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from cohortloom.evaluation.context import Context
from cohortloom.evaluation.detection import Opinion, one_thread
from cohortloom.evaluation.grid import gridded
from cohortloom.rng import Rng

__all__ = ["asked", "convolutions", "recurrent", "torch_apart"]

MOST_PATIENTS = 1000
MOST_IN_ANCHOR = 400
FEWEST = 15
KERNELS = 400
FOLDS = 3


def asked(ctx: Context) -> dict[str, dict[str, Opinion] | str]:
    """What the two judges of gridded series say of every cohort, or why they were not asked."""
    grids = gridded(ctx)
    table: tuple[tuple[str, Callable], ...] = (
        ("detection.convolutions", convolutions),
        ("detection.recurrent", recurrent),
    )
    return {key: "no table over time" if grids is None else _heard(ctx, key, look, grids) for key, look in table}


def _heard(ctx: Context, key: str, look: Callable, grids: dict) -> dict[str, Opinion] | str:
    held = grids["held_out"]
    source = len(grids["train"].x)
    found = {}
    for k in ("synthetic", "train", "bootstrap", "independent"):
        most = MOST_IN_ANCHOR if k in ("bootstrap", "independent") else MOST_PATIENTS
        made = grids["train" if k == "bootstrap" else k]
        n = min(most // (2 if ctx.fast else 1), len(made.x), len(held.x))
        if n < FEWEST:
            return f"fewer than {FEWEST} patients with rows on a side"
        rng = ctx.rng.child(key, k)
        draw = rng.numpy
        rows = draw.integers(0, source, n) if k == "bootstrap" else draw.permutation(len(made.x))[:n]
        others = draw.permutation(len(held.x))[:n]
        x = np.concatenate([made.x[rows], held.x[others]])
        label = np.concatenate([np.ones(n, int), np.zeros(n, int)])
        patient = np.concatenate([rows, others + source + len(made.x)])
        of = np.concatenate([made.patient[rows], held.patient[others]])
        found[k] = Opinion(_crossed(x, label, patient, look, rng), label, of)
    return found


def _crossed(x: np.ndarray, label: np.ndarray, patient: np.ndarray, look: Callable, rng: Rng) -> np.ndarray:
    """Cross-validated scores; folds hold whole patients of each class, ranks are taken within folds."""
    from scipy.stats import rankdata  # heavy

    draw = rng.child("folds").numpy
    who, index = np.unique(patient, return_inverse=True)
    of = np.zeros(len(who), int)
    of[index] = label
    fold = np.zeros(len(who), int)
    for value in (0, 1):
        members = draw.permutation(np.flatnonzero(of == value))
        fold[members] = np.arange(len(members)) % FOLDS
    out = np.zeros(len(label))
    with one_thread(), torch_apart():
        for k in range(FOLDS):
            test = fold[index] == k
            if test.any() and len(np.unique(label[~test])) == 2:
                s = look(x[~test], label[~test], x[test], rng.child("fold", k))
                out[test] = rankdata(s) / len(s)
    return out


@contextmanager
def torch_apart():
    """One torch thread inside; the thread count outside is as before."""
    import torch  # heavy

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield torch
    finally:
        torch.set_num_threads(threads)


def convolutions(x: np.ndarray, y: np.ndarray, test: np.ndarray, rng: Rng) -> np.ndarray:
    """Scores of test series by ridge on random convolution features; x is patient x channel x step."""
    draw = rng.numpy
    kernels = _kernels(x, draw)
    a, b = _features(x, kernels), _features(test, kernels)
    mean, sd = a.mean(0), a.std(0)
    alive = sd > 1e-6
    a, b = ((v[:, alive] - mean[alive]) / sd[alive] for v in (a, b))
    return _ridge(a, y - y.mean(), b)


def _kernels(x: np.ndarray, draw: np.random.Generator) -> list[tuple]:
    """Channels, weights, dilation and bias of each kernel, in blocks of one dilation."""
    steps, channels = x.shape[2], x.shape[1]
    dilations = [d for d in (1, 2, 3, 4) if 4 * d < max(steps, 5)]
    blocks = []
    for dilation in dilations:
        size = KERNELS // len(dilations)
        weight = np.zeros((size, channels, 9), dtype=np.float32)
        for i in range(size):
            taps = np.full(9, -1.0, dtype=np.float32)
            taps[draw.permutation(9)[:3]] = 2.0
            some = draw.permutation(channels)[: int(draw.integers(1, min(channels, 4) + 1))]
            weight[i, some] = taps
        sample = x[draw.permutation(len(x))[:50]]
        response = _convolve(sample, weight, dilation)
        bias = np.array([np.quantile(response[:, i], u) for i, u in enumerate(draw.random(size))], dtype=np.float32)
        blocks.append((weight, dilation, bias))
    return blocks


def _convolve(x: np.ndarray, weight: np.ndarray, dilation: int) -> np.ndarray:
    import torch  # heavy

    with torch.no_grad():
        out = torch.nn.functional.conv1d(
            torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(weight), padding=4 * dilation, dilation=dilation
        )
    return out.numpy()


def _features(x: np.ndarray, kernels: list[tuple]) -> np.ndarray:
    """Share of steps above the bias, and largest response, of each kernel."""
    out = []
    for weight, dilation, bias in kernels:
        response = _convolve(x, weight, dilation)
        out += [(response > bias[None, :, None]).mean(axis=2), response.max(axis=2)]
    return np.concatenate(out, axis=1).astype(np.float64)


def _ridge(a: np.ndarray, y: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Ridge regression through the origin; the penalty with the least leave-one-out error of five."""
    gram = a @ a.T if len(a) <= a.shape[1] else a.T @ a
    values, vectors = np.linalg.eigh(gram)
    u = vectors if len(a) <= a.shape[1] else a @ vectors / np.sqrt(np.maximum(values, 1e-9))
    values = np.maximum(values, 0)
    projected, best, least = u.T @ y, 1.0, np.inf
    for penalty in np.logspace(1, 5, 5):
        shrink = values / (values + penalty)
        leverage = (u**2) @ shrink
        error = np.mean(((y - u @ (shrink * projected)) / np.maximum(1 - leverage, 1e-6)) ** 2)
        if error < least:
            best, least = penalty, error
    if len(a) <= a.shape[1]:
        return b @ (a.T @ (vectors @ ((vectors.T @ y) / (values + best))))
    return b @ (vectors @ ((vectors.T @ (a.T @ y)) / (values + best)))


def recurrent(x: np.ndarray, y: np.ndarray, test: np.ndarray, rng: Rng, *, hidden: int = 16, steps: int = 120):
    """Scores of test series by a GRU; x is patient x channel x step."""
    import torch  # heavy

    stream = rng.torch
    net = gru(x.shape[1], hidden, stream)
    a, target = torch.from_numpy(x.transpose(0, 2, 1).copy()), torch.from_numpy(y.astype(np.float32))
    adam = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(steps):
        rows = torch.randint(len(a), (64,), generator=stream)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(net, a[rows]), target[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        return logits(net, torch.from_numpy(test.transpose(0, 2, 1).copy())).numpy()


def gru(channels: int, hidden: int, stream, outputs: int = 1):
    """GRU and linear head, drawn from a stream of ours (torch's own start reads the global one)."""
    import torch  # heavy

    with torch.random.fork_rng(devices=[]):  # the constructors draw from the global stream; it is put back
        net = torch.nn.ModuleDict({
            "gru": torch.nn.GRU(channels, hidden, batch_first=True), "head": torch.nn.Linear(hidden, outputs),
        })  # fmt: skip
    bound = hidden**-0.5
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((torch.rand(p.shape, generator=stream) * 2 - 1) * bound)
    return net


def logits(net, x):
    """Head on the mean and end of the states: batch x step x channel -> batch."""
    states, _ = net["gru"](x)
    return net["head"](states.mean(dim=1) + states[:, -1]).squeeze(-1)
