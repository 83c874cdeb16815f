"""Parameters outside of the vector stay in the memory of the module that was given, which nothing may change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

import fipray as fip
from fipray.errors import NetworkError
from fipray.geometry import Euclidean
from fipray.networks import Network, copied
from fipray.networks.frozen import WriteError, fingerprint
from tests.problems import normal

HEAD = ["2.*"]


def encoder() -> nn.Sequential:
    """A body 0 and a head 2, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()


class Writing(nn.Module):
    """A body that its forward changes once the counter is above `after`."""

    def __init__(self, write: Callable[[Tensor], object], after: int = 0) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
        self.write, self.after, self.calls = write, after, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.after:
            with torch.no_grad():
                self.write(self.body.weight)
        return self.head(self.body(inputs).tanh())


def test_frozen_parameters_share_memory_and_all_else_is_copied():
    module = encoder()
    network = Network.of(module, moving=HEAD)
    own = dict(dict(network.parts())[""].named_parameters())
    given = dict(module.named_parameters())
    assert [name for name in given if own[name].data_ptr() == given[name].data_ptr()] == ["0.weight", "0.bias"]
    assert all(parameter.requires_grad for parameter in given.values())
    assert network.num_weights == 18


def test_outputs_and_gradients_are_those_of_the_whole_network_restricted_to_the_weights_that_move():
    module, inputs = encoder(), normal(7, 6)
    whole, part = Network.of(module), Network.of(module, moving=HEAD)
    start = whole.num_weights - part.num_weights
    assert torch.equal(whole.weights[start:], part.weights)
    assert torch.equal(whole(whole.weights, inputs), part(part.weights, inputs))
    of_whole, of_part = (jacrev(network)(network.weights, inputs) for network in (whole, part))
    assert torch.equal(of_whole[..., start:], of_part)


def test_a_path_of_a_part_is_the_whole_networks_path_restricted_to_it():
    module, inputs = encoder(), normal(40, 6)
    whole, part = Network.of(module).only(HEAD), Network.of(module, moving=HEAD)
    target = torch.cat([whole.weights[:-18], whole.weights[-18:] + normal(18, seed=1)])
    ends = []
    for network in (whole, part):
        problem = fip.Problem(network, inputs[:30], inputs[30:], geometry=Euclidean())
        path = fip.trace(
            problem,
            fip.objectives.Toward(target[-network.num_weights :]),
            stepper=fip.steppers.Natural(damping=0.1),
            radius=fip.radii.Scheduled(0.1 / problem.length),  # as long for both: radii are in units of |w0|
            num_steps=5,
            batch_size=8,
        )
        ends.append(path.end.weights)
    torch.testing.assert_close(ends[0][-18:], ends[1], rtol=1e-10, atol=1e-12)
    assert torch.equal(ends[0][:-18], whole.weights[:-18])
    assert float((ends[1] - part.weights).norm()) > 0.05


def test_a_path_leaves_the_given_module_bit_for_bit_as_it_was():
    module, inputs = encoder(), normal(40, 6)
    before = copy.deepcopy(module.state_dict())
    network = Network.of(module, moving=HEAD)
    path = fip.trace(
        network,
        fip.objectives.RandomWalk(),
        anchors=inputs[:30],
        held_out=inputs[30:],
        geometry=Euclidean(),
        num_steps=5,
    )
    assert path.outcome.kind == "completed"
    assert path.end.weights.shape == (18,)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    end = path.module
    end.load_state_dict({name: torch.zeros_like(value) for name, value in before.items()})
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


USES = ("evaluate", "check", "module_at", "trace")
# torch's fused optimizers do not count as writes, so an evaluation alone cannot tell.
TRAINED = [(use, fused) for fused in (False, True) for use in USES if not fused or use != "evaluate"]


@pytest.mark.parametrize(("use", "fused"), TRAINED)
def test_a_module_that_is_trained_further_is_found_at_the_next_use(use, fused):
    module, inputs = encoder(), normal(20, 6)
    network = Network.of(module, moving=HEAD)
    optimizer = torch.optim.Adam(module.parameters(), 0.1, fused=fused)
    module(inputs).square().sum().backward()
    optimizer.step()
    uses: dict[str, Callable[[], object]] = {
        "evaluate": lambda: network(network.weights, inputs),
        "check": lambda: network.check(inputs),
        "module_at": lambda: network.module_at(network.weights),
        "trace": lambda: fip.trace(network, fip.objectives.RandomWalk(), anchors=inputs, held_out=inputs),
    }
    with pytest.raises(NetworkError, match=r"parameters 0.weight, 0.bias have changed since the network was made"):
        uses[use]()


def test_training_the_part_that_moves_concerns_no_network():
    module, inputs = encoder(), normal(20, 6)
    network = Network.of(module, moving=HEAD)
    before = network(network.weights, inputs)
    with torch.no_grad():
        module[2].weight.zero_()
    network.check(inputs)
    assert torch.equal(network(network.weights, inputs), before)


@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.data[0, 0].add_(1e-12),
        lambda weight: weight.detach().numpy().__setitem__((4, 5), 0.0),
        lambda weight: weight.data.copy_(weight.data.flip(0)),
    ],
    ids=["data", "numpy", "permuted"],
)
def test_a_write_that_no_version_counter_tells_of_is_found_by_the_next_check(write):
    module, inputs = encoder(), normal(20, 6)
    network = Network.of(module, moving=HEAD)
    network.check(inputs)
    write(module[0].weight)
    with pytest.raises(NetworkError, match=r"parameters 0.weight have changed"):
        network.check(inputs)


def test_loading_the_same_values_is_no_change():
    module, inputs = encoder(), normal(20, 6)
    network = Network.of(module, moving=HEAD)
    module.load_state_dict(copy.deepcopy(module.state_dict()))
    network.check(inputs)
    assert torch.equal(network(network.weights, inputs), module(inputs))


def test_moving_the_given_module_to_another_dtype_leaves_the_network_as_it_is():
    module, inputs = encoder(), normal(20, 6)
    network = Network.of(module, moving=HEAD)
    before = network(network.weights, inputs)
    module.float()
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(network(network.weights, inputs), before)


def test_a_forward_that_writes_into_a_frozen_parameter_never_reaches_the_given_module():
    module = Writing(lambda weight: weight.data.mul_(0.5)).eval()
    before = module.body.weight.clone()
    with pytest.raises(NetworkError, match=r"writes into body.weight, so it is not a pure function"):
        Network.of(module, moving=["head.*"]).check(normal(20, 6))
    assert torch.equal(module.body.weight, before)


def test_a_forward_that_renormalises_a_frozen_embedding_gets_memory_of_its_own():
    module = nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Flatten(), nn.Linear(8, 3)).double().eval()
    before = module[0].weight.clone()
    network = Network.of(module, moving=HEAD)
    network.check(torch.arange(18).remainder(9).reshape(9, 2))
    assert torch.equal(module[0].weight, before)
    assert len(network.frozen) == 0


@pytest.mark.parametrize(
    "write", [lambda w: w.zero_(), lambda w: w.data.add_(1.0), lambda w: torch.neg(w, out=w), lambda w: w[1:].exp_()]
)
def test_nothing_can_write_into_guarded_parameters(write):
    module = encoder()
    network, before = Network.of(module, moving=HEAD), module[0].weight.clone()
    with torch.no_grad(), pytest.raises(WriteError, match=r"frozen parameter 0.weight"), network.frozen.guarded():
        write(module[0].weight)
    assert torch.equal(module[0].weight, before)


def test_module_at_shares_frozen_parameters_on_request_only():
    module = encoder()
    network = Network.of(module, moving=HEAD)
    moved = network.weights + 1.0
    own, shared = network.module_at(moved), network.module_at(moved, share_frozen=True)
    assert own[0].weight.data_ptr() != module[0].weight.data_ptr() == shared[0].weight.data_ptr()
    assert all(torch.equal(one, other) for one, other in zip(own.parameters(), shared.parameters(), strict=True))
    assert torch.equal(own[2].weight.reshape(-1), moved[:15])
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_tied_parameters_are_shared_or_copied_as_one():
    module = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double().eval()
    module[2].weight = module[0].weight
    network = Network.of(module, moving=["2.bias"])
    parts = dict(network.parts())
    assert parts["0"].weight is parts["2"].weight
    assert parts["0"].weight.data_ptr() == module[0].weight.data_ptr()
    assert dict(Network.of(module, moving=["2.weight"]).parts())["0"].weight.data_ptr() != module[0].weight.data_ptr()


def test_a_network_with_frozen_parameters_can_be_pickled_copied_and_moved():
    module, inputs = encoder(), normal(7, 6)
    network = Network.of(module, moving=HEAD)
    expected = network(network.weights, inputs)
    others = [pickle.loads(pickle.dumps(network)), copy.deepcopy(network), network.to("cpu"), network.only(["2.bias"])]
    with torch.no_grad():
        module[0].weight.add_(0)  # raises the version counter and changes nothing
    for other in others:
        assert torch.equal(other(other.weights, inputs), expected)
        other.check(inputs)
    assert dict(others[2].parts())["0"].weight.data_ptr() == module[0].weight.data_ptr()


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(12.0).reshape(3, 4),
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(9.0).bfloat16()[1:],
        torch.arange(6.0).double().view(torch.complex128),
        torch.arange(7, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.tensor(2.0),
        torch.arange(70_000.0),
    ],
    ids=str,
)
def test_a_fingerprint_shows_the_change_of_any_value(values):
    before = fingerprint(values)
    assert fingerprint(values.clone()) == before
    for place in (0, -1):
        changed = values.clone()
        where = (place,) * values.ndim
        changed[where] = ~changed[where] if values.dtype is torch.bool else 99
        assert fingerprint(changed) != before
    assert values.numel() < 2 or fingerprint(values.reshape(-1).flip(0)) != fingerprint(values.reshape(-1))


def test_a_copy_that_shares_keeps_what_each_parameter_requires():
    module = encoder()
    module[0].requires_grad_(False)
    own = copied(module, module.parameters())
    assert [one.requires_grad for one in own.parameters()] == [False, False, True, True]
    own.requires_grad_(True)
    own.float()
    assert [one.requires_grad for one in module.parameters()] == [False, False, True, True]
    assert module[0].weight.dtype is torch.float64
