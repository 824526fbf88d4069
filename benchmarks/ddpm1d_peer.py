"""A published diffusion model of series (`denoising-diffusion-pytorch`) in an environment of its own; called by
`benchmarks.signals`, imports nothing of ours.

    PYTHON benchmarks/ddpm1d_peer.py FOLDER N SECONDS SEED

FOLDER holds train.npz: x [record channel sample] in 0 .. 1. Its 1D U-Net as in the package's README (v-prediction,
1,000 times, batch 32, average of weights .995) is trained for SECONDS of CPU time; because that is short, with 32
features and multiples 1 2 4 in place of 64 and 1 2 4 8, and at a rate of 1e-3 in place of 8e-5. N records are drawn
with DDIM in 50 steps. drawn.npz, facts.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np


def main(folder: Path, n: int, seconds: float, seed: int) -> None:
    import torch
    from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D
    from ema_pytorch import EMA

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x = torch.from_numpy(np.load(folder / "train.npz")["x"]).float()
    length = x.shape[2]
    x = torch.nn.functional.pad(x, (0, -length % 8), mode="replicate")
    net = Unet1D(dim=32, dim_mults=(1, 2, 4), channels=x.shape[1])
    model = GaussianDiffusion1D(net, seq_length=x.shape[2], timesteps=1000, sampling_timesteps=50, objective="pred_v")
    average = EMA(model, beta=0.995, update_every=10)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    began, steps = time.process_time(), 0
    while time.process_time() - began < seconds:
        loss = model(x[torch.randint(len(x), (32,))])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.update()
        steps += 1
    facts = {"fit_cpu_s": time.process_time() - began, "steps": steps, "nfe": 50}
    began = time.process_time()
    with torch.no_grad():
        drawn = torch.cat([average.ema_model.sample(batch_size=min(64, n - k)) for k in range(0, n, 64)])
    facts["sample_cpu_s"] = time.process_time() - began
    facts["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    np.savez(folder / "drawn.npz", x=drawn[..., :length].numpy())
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
