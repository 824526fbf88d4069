import pytest
import torch

from cohortloom.training.ema import Average


@pytest.mark.parametrize("power", [2.0, 18.0])
def test_power_average_weighs_step_k_by_its_power(power):
    # weights that grow like k: with shares k^p the mean of k is n (p + 1) / (p + 2), for any n
    net = torch.nn.Linear(1, 1, bias=False)
    average = Average(net, 0.99, power)
    for step in range(2000):
        net.weight.data.fill_(step + 1.0)
        average.update(step)
    assert float(average.state["weight"]) == pytest.approx(2000 * (power + 1) / (power + 2), rel=0.005)
