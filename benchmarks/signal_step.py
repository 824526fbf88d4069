"""How far the waveform network's training step is from the machine: its arithmetic rate over that of a matrix product.

    python -m benchmarks.signal_step [--rounds 8]

FLOPs of forward and backward are counted by torch; time is CPU time of one thread, the median of the rounds, with the
matrix products (2048 x 1024 x 1024, float32 and bfloat16) timed between them, so that other work on the machine weighs
on both alike.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import parser
from cohortloom.nets.conv1d import UNet1d

#: name, channels, samples, width, levels, patch, batch, guides
CASES = (
    ("1 lead, 256 samples, width 64", 1, 256, 64, (1, 2), 4, 32, 0),
    ("8 leads, 1000 samples, width 32 (the demo's)", 8, 1000, 32, (1, 2, 2), 4, 16, 10),
    ("8 leads, 1000 samples, width 64", 8, 1000, 64, (1, 2, 2), 4, 16, 10),
    ("8 leads, 1000 samples, width 96", 8, 1000, 96, (1, 2, 2), 4, 16, 10),
    ("8 leads, 5000 samples, width 32", 8, 5000, 32, (1, 2), 10, 16, 18),
    ("... 1250 latents (stride 4)", 8, 1250, 32, (1, 2), 5, 16, 18),
    ("... 625 latents (stride 8)", 8, 625, 32, (1, 2), 2, 16, 18),
    ("64 channels, 640 samples, width 32", 64, 640, 32, (1, 2), 4, 16, 64),
    ("... 320 latents of 16 axes", 16, 320, 32, (1, 2), 3, 16, 16),
)


def matmul_rate(dtype: torch.dtype) -> float:
    """GF/s of one product."""
    a, b = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    begin = time.process_time()
    for _ in range(3):
        a @ b
    return 3 * 2 * 2048 * 1024 * 1024 / (time.process_time() - begin) / 1e9


def trainer(channels: int, samples: int, width: int, levels: tuple[int, ...], patch: int, batch: int, guides: int):
    """One training step under bfloat16 autocast, and its GFLOP."""
    net = UNet1d(channels, width=width, levels=levels, patch=patch, n_condition=64, n_guides=guides)
    adam = torch.optim.AdamW(net.parameters(), fused=True)
    x, level, told = torch.randn(batch, channels, samples), torch.randn(batch), torch.randn(batch, 64)
    guide = torch.randn(batch, guides, samples) if guides else None

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = net(x, level, told, guide).float().square().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()

    with FlopCounterMode(display=False) as counter:
        step()
    return step, counter.get_total_flops() / 1e9


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=8)
    rounds = arguments.parse_args().rounds
    torch.set_num_threads(1)
    print("| network | batch | GFLOP a step | ms a step | GF/s | of float32 product | of bfloat16 product |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, *sizes in CASES:
        step, flop = trainer(*sizes)
        seconds, plain, half = [], [], []
        for _ in range(rounds):
            begin = time.process_time()
            step()
            seconds.append(time.process_time() - begin)
            plain.append(matmul_rate(torch.float32))
            half.append(matmul_rate(torch.bfloat16))
        spent, f32, bf16 = float(np.median(seconds)), float(np.median(plain)), float(np.median(half))
        rate = flop / spent
        print(
            f"| {name} | {sizes[5]} | {flop:.1f} | {1e3 * spent:.0f} | {rate:.0f} | {rate / f32:.0%} of {f32:.0f}"
            f" | {rate / bf16:.0%} of {bf16:.0f} |"
        )


if __name__ == "__main__":
    main()
