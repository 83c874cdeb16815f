"""The recipe `connect`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import NetworkError, UsageError
from fipray.networks import Network
from fipray.recipes import connect
from tests.recipes.conftest import blobs, small_data


def permuted(module: nn.Module) -> nn.Module:
    """The same function with the hidden neurons in another order."""
    first, last = module[0], module[2]  # type: ignore[index]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    made = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        for new, old in ((made[0].weight, first.weight[order]), (made[0].bias, first.bias[order])):
            new.copy_(old)
        made[2].weight.copy_(last.weight[:, order])
        made[2].bias.copy_(last.bias)
    return made


@pytest.fixture(scope="module")
def near(module):
    """Nearly the same function as `module`, with its neurons in another order."""
    made = permuted(module)
    with torch.no_grad():
        made[0].bias += 0.01  # a path to the same network has no direction
    return made


def test_connect_aligns_a_permuted_copy_and_walks_from_both_ends(module, near, data, tmp_path):
    made = connect(module, near, data, budget={"steps": 8}, num_points=4)
    results = made.run(tmp_path / "out")
    assert "neurons were permuted to fit the first" in made.describe()
    assert results.named == {"middle": "from-first"}
    assert "barrier in functional distance on 100 held-out inputs" in made.outcome(results)
    line, along = made.design.profiles(results)
    assert along.maximum < 0.2
    assert line.losses[0] == line.losses[-1] == along.losses[0] == along.losses[-1] == 0
    other = made.study.networks["other"]
    inputs = torch.from_numpy(data.held_out)
    torch.testing.assert_close(other(inputs), near(inputs))  # permuted back
    network = Network.of(module)
    far = results.weights("other")
    torch.testing.assert_close(torch.from_numpy(far), Network.of(other).weights, rtol=0, atol=0)
    ends = [torch.from_numpy(results.weights(name)) for name in ("from-first", "from-other")]
    assert (ends[0] - ends[1]).norm() < 0.5 * (network.weights - torch.from_numpy(far)).norm()
    again = connect(module, near, data, budget={"steps": 8}, num_points=4)
    again.run(tmp_path / "out")
    assert set(results.paths["attempt"]) == set(analysis.load(tmp_path / "out").paths["attempt"]) == {1}


def test_search_varies_how_far_the_first_path_may_come(module, near, data, tmp_path):
    made = connect(module, near, data, budget={"steps": 2})
    search = made.search(num_trials=2)
    assert dict(search.objectives) == {"objective_value": "min", "functional_distance_held_out": "min"}
    fip.search.run(search, tmp_path / "out", fip.LocalRunner())
    found = made.found(analysis.load(tmp_path / "out"))
    assert found.startswith("settings of the front, for fipray run connect:\n  from-first-")
    settings = made.settings_of({"radius.tolerance": 0.3})
    assert settings == {"allowed_distance": 0.4}
    again = connect(module, near, data, budget={"steps": 2}, **settings)
    assert again.plan.paths[0].radius.tolerance == pytest.approx(0.3)


def test_connect_says_why_it_did_not_align_and_takes_labels(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 3)

        def forward(self, inputs):
            return self.inner(inputs)

    labels = blobs(700)[1][400:500]
    first, second = Own().eval(), Own().eval()
    with torch.no_grad():
        for number, each in enumerate((first, second)):
            each.inner.weight.copy_((1 + number / 10) * torch.eye(3, 8))
            each.inner.bias.zero_()
    made = connect(first, second, small_data(held_out_labels=labels), budget={"steps": 2})
    results = made.run(tmp_path / "out")
    assert "was not aligned" in made.describe()
    assert "barrier in error rate" in made.outcome(results)
    assert made.design.profiles(results)[0].barrier == pytest.approx(0.0, abs=1e-12)  # both rank the classes alike


def test_networks_that_no_path_connects_are_refused(module, data):
    with pytest.raises(UsageError, match="allowed_distance is a functional distance above 0"):
        connect(module, module, data, allowed_distance=0.0)
    with pytest.raises(UsageError, match="the other network is the base network itself"):
        _ = connect(module, module, data, budget={"steps": 2}).study
    wider = nn.Sequential(nn.Linear(8, 25), nn.ReLU(), nn.Linear(25, 3)).eval()
    with pytest.raises(NetworkError, match="'other' is not of the base network's architecture: they differ in"):
        _ = connect(module, wider, data, budget={"steps": 2}).study
