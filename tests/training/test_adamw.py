"""Our AdamW against torch's, bit for bit, and what it doesn't bring along."""

import subprocess
import sys

import torch

from cohortloom.training.adamw import AdamW


def walk(make, steps: int = 25) -> list[torch.Tensor]:
    """A least-squares fit whose second parameter has a gradient in every third step only."""
    draw = torch.Generator().manual_seed(0)
    weight, bias, idle = (torch.nn.Parameter(torch.randn(*shape, generator=draw)) for shape in ((5, 3), (3,), (2,)))
    x, y = torch.randn(40, 5, generator=draw), torch.randn(40, 3, generator=draw)
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias, idle], "weight_decay": 0.0}]
    optimiser = make(groups)
    for k in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 / (1 + k)
        loss = ((x @ weight + (bias if k % 3 == 0 else 0) - y) ** 2).mean()
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
    state = optimiser.state[weight]
    return [weight.detach(), bias.detach(), idle.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]]


def test_steps_are_those_of_torch_bit_for_bit():
    ours = walk(lambda groups: AdamW(groups, lr=1e-2, betas=(0.9, 0.95)))
    theirs = walk(lambda groups: torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=True))
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)
    other_betas = walk(lambda groups: AdamW(groups, lr=1e-2, betas=(0.9, 0.99)))
    assert not torch.equal(ours[0], other_betas[0])


def test_the_compiler_stays_out():
    code = (
        "import sys, torch\n"
        "from cohortloom.training.adamw import AdamW\n"
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)\n"
        "AdamW([{'params': [p], 'weight_decay': 0.0}], lr=0.1, betas=(0.9, 0.95)).step()\n"
        "assert float(p.detach()[0]) < 1 and 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
