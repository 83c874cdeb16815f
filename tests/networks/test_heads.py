"""A head for each task, and a head that grows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.networks import for_task, grown


def test_an_input_sees_the_head_of_its_task() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    images = torch.rand(5, 3, 2, 2)
    several = fip.networks.MultiHead(module, 3, (3, 2, 2))
    for task in range(3):
        torch.testing.assert_close(several(for_task(images, task)), module(images)[:, 2 * task : 2 * task + 2])
    mixed = torch.cat([for_task(images[:1], 2), for_task(images[1:2], 0)])
    mixed[:, 0] += 0.4  # less than a half: the task stays
    expected = torch.stack([module(images)[0, 4:6], module(images)[1, 0:2]])
    torch.testing.assert_close(several(mixed), expected)


def test_a_path_that_learns_one_head_leaves_the_others_weights_alone() -> None:
    torch.manual_seed(0)
    several = fip.networks.MultiHead(nn.Linear(4, 6), 3, (4,)).double()
    inputs = torch.rand(20, 4, dtype=torch.float64)
    network = fip.Network.of(several)
    weights = network.weights.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(network(weights, for_task(inputs, 1)), torch.arange(20) % 2)
    (slope,) = torch.autograd.grad(loss, weights)
    moved = network.named(slope)["module.weight"].abs().sum(1) > 0
    assert moved.tolist() == [False, False, True, True, False, False]


class TestOwnNorms:
    """A scale and a shift for each task in every BatchNorm."""

    images = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def made(self) -> tuple[nn.Module, fip.networks.MultiHead]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6))
        module = module.double()
        module(self.images)  # statistics of its own
        with torch.no_grad():
            module[1].weight.uniform_(0.5, 2)
            module[1].bias.uniform_(-1, 1)
        return module.eval(), fip.networks.MultiHead(module, 3, (3, 5, 5), own_norms=True).eval()

    def test_every_task_begins_as_the_module_is(self) -> None:
        module, several = self.made()
        for task in range(3):
            expected = module(self.images)[:, 2 * task : 2 * task + 2]
            torch.testing.assert_close(several(for_task(self.images, task)), expected)
        assert isinstance(module[1], nn.BatchNorm2d)

    def test_in_training_it_is_the_modules_too_and_follows_the_batch(self) -> None:
        module, several = self.made()
        module.train(), several.train()
        torch.testing.assert_close(several(for_task(self.images + 1, 1)), module(self.images + 1)[:, 2:4])
        torch.testing.assert_close(
            several.eval()(for_task(self.images, 0)), module.eval()(self.images)[:, :2], rtol=1e-9, atol=1e-9
        )

    @torch.no_grad()
    def test_what_a_later_task_adds_leaves_the_earlier_ones_alone(self) -> None:
        module, several = self.made()
        network = fip.Network.of(several)
        named = network.named(network.weights.clone())
        before = several(for_task(self.images, 0))
        several.module[1].weight[1] += 0.5
        several.module[1].bias[1] -= 0.25
        assert torch.equal(several(for_task(self.images, 0)), before)
        module[1].weight += 0.5
        module[1].bias -= 0.25
        for task in (1, 2):  # and the third begins where the second is
            expected = module(self.images)[:, 2 * task : 2 * task + 2]
            torch.testing.assert_close(several(for_task(self.images, task)), expected)
        mixed = torch.cat([for_task(self.images[:2], 0), for_task(self.images[2:], 1)])
        torch.testing.assert_close(several(mixed)[:2], before[:2])
        assert named["module.1.weight"].shape == (3, 4)

    def test_without_a_norm_or_a_task_it_is_refused(self) -> None:
        with pytest.raises(fip.errors.NetworkError, match="no BatchNorm"):
            fip.networks.MultiHead(nn.Linear(4, 6), 3, (4,), own_norms=True)
        _, several = self.made()
        with pytest.raises(fip.errors.NetworkError, match="does not know the task"):
            several.module(self.images)


def test_inputs_without_a_task_are_refused() -> None:
    several = fip.networks.MultiHead(nn.Linear(4, 6), 3, (4,))
    with pytest.raises(fip.errors.DataError, match=r"\[N, 5\]"):
        several(torch.rand(2, 4))
    with pytest.raises(fip.errors.NetworkError, match="divided evenly"):
        fip.networks.MultiHead(nn.Linear(4, 5), 3, (4,))(torch.rand(2, 5))
    with pytest.raises(fip.errors.NetworkError, match="num_tasks must be at least 1"):
        fip.networks.MultiHead(nn.Linear(4, 5), 0, (4,))


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
    with pytest.raises(fip.errors.NetworkError, match="can only grow"):
        grown(nn.Linear(4, 3), 2)
    with pytest.raises(fip.errors.NetworkError, match="no linear layer"):
        grown(nn.Conv2d(1, 1, 1), 2)
