"""A head for each task, and a head that grows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.geometry import for_task, grown


def test_an_input_sees_the_head_of_its_task() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    images = torch.rand(5, 3, 2, 2)
    several = fip.MultiHead(module, 3, (3, 2, 2))
    for task in range(3):
        torch.testing.assert_close(several(for_task(images, task)), module(images)[:, 2 * task : 2 * task + 2])
    mixed = torch.cat([for_task(images[:1], 2), for_task(images[1:2], 0)])
    mixed[:, 0] += 0.4  # less than a half: the task stays
    expected = torch.stack([module(images)[0, 4:6], module(images)[1, 0:2]])
    torch.testing.assert_close(several(mixed), expected)


def test_a_path_that_learns_one_head_leaves_the_others_weights_alone() -> None:
    torch.manual_seed(0)
    several = fip.MultiHead(nn.Linear(4, 6), 3, (4,)).double()
    inputs = torch.rand(20, 4, dtype=torch.float64)
    network = fip.Network.of(several)
    weights = network.weights.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(network(weights, for_task(inputs, 1)), torch.arange(20) % 2)
    (slope,) = torch.autograd.grad(loss, weights)
    moved = network.named(slope)["module.weight"].abs().sum(1) > 0
    assert moved.tolist() == [False, False, True, True, False, False]


def test_inputs_without_a_task_are_refused() -> None:
    several = fip.MultiHead(nn.Linear(4, 6), 3, (4,))
    with pytest.raises(fip.DataError, match=r"\[N, 5\]"):
        several(torch.rand(2, 4))
    with pytest.raises(fip.NetworkError, match="shared out evenly"):
        fip.MultiHead(nn.Linear(4, 5), 3, (4,))(torch.rand(2, 5))
    with pytest.raises(fip.NetworkError, match="one or more"):
        fip.MultiHead(nn.Linear(4, 5), 0, (4,))


@torch.no_grad()
def test_a_head_that_has_grown_says_what_it_said() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    larger = grown(module, 5)
    inputs = torch.randn(50, 4)
    before, after = module(inputs), larger(inputs)
    torch.testing.assert_close(after[:, :3], before)
    assert not larger.training
    sure = before.amax(1) > 0
    assert sure.any()
    assert float((after.softmax(1)[:, :3] - before.softmax(1)).abs()[sure].max()) < 1e-7
    assert float(after.softmax(1)[sure, 3:].max()) < 2.1e-9
    assert module[2].out_features == 3
    assert grown(nn.Linear(4, 2), 3)(inputs).shape == (50, 3)


def test_a_head_does_not_shrink_and_has_to_be_there() -> None:
    with pytest.raises(fip.NetworkError, match="can only grow"):
        grown(nn.Linear(4, 3), 2)
    with pytest.raises(fip.NetworkError, match="no linear layer"):
        grown(nn.Conv2d(1, 1, 1), 2)
