"""Frozen parameters compute in double precision without a copy of all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fipray.errors import NetworkError
from fipray.networks import Network
from fipray.networks.checks.differences import Place
from fipray.networks.checks.doubling import doubled
from tests.problems import normal


class Transformer(nn.Module):
    """Embedding, one transformer layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens)).mean(1))


class Adapted(nn.Module):
    """A layer with an adapter that computes in its own dtype and gives the layer's, as adapters of libraries do."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, nn.Linear(6, 2, bias=False), nn.Linear(2, layer.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layer(inputs)
        more = self.up(self.down(inputs.to(self.down.weight.dtype)))
        return (outputs + more).to(self.layer.weight.dtype)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def adapted() -> nn.Module:
    return nn.Sequential(Adapted(nn.Linear(6, 6)), nn.Tanh(), Adapted(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3))


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor, list[str]]] = {
    "transformer": (Transformer, torch.arange(20).remainder(11).reshape(5, 4), ["layer.linear1.*", "head.*"]),
    "adapted": (adapted, normal(5, 6), ["*.down.*", "*.up.*"]),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(18, 3)
        ),
        normal(5, 1, 6, 6),
        ["3.*", "5.*"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_module_in_double_precision(kind):
    make, inputs, moving = KINDS[kind]
    double = Network.of(seeded(make).double(), moving=moving)
    network = Network.of(seeded(make), moving=moving)
    single = inputs.float() if inputs.is_floating_point() else inputs
    place = Place(network, network.weights, single, network(network.weights, single)).in_double()
    assert place.is_double
    assert place.precision is torch.float64
    exact = inputs.float().double() if inputs.is_floating_point() else inputs
    weights = double.weights.requires_grad_()
    expected = double(weights, exact)
    own = place.weights.detach().requires_grad_()
    found = place.network(own, place.inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(one.square().sum(), by)[0] for one, by in ((expected, weights), (found, own))]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-11, atol=1e-11)
    given = dict(network.parts())
    for name, part in place.network.parts():  # nothing is cast for good
        for key, parameter in part.named_parameters(recurse=False):
            if f"{name}.{key}" not in {slot.name for slot in network.slots}:
                assert parameter.dtype is torch.float32
                assert parameter.data_ptr() == given[name].get_parameter(key).data_ptr()


def test_the_graph_holds_no_cast_of_a_frozen_parameter():
    layers = nn.Sequential(*(nn.Linear(50, 50) for _ in range(4)))
    inputs, saved = normal(2, 50).requires_grad_(), list[object]()

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with doubled(layers.parameters()):
        outputs = layers(inputs)
    with saved_tensors_hooks(keep, keep):
        expected = layers.double()(inputs)
    assert sum(one.numel() == 2500 for one in saved if isinstance(one, Tensor)) == 4  # which `doubled` makes again
    node, held = outputs.grad_fn, list[Tensor]()
    while node is not None:
        held += [one for name in dir(node) if name.startswith("_raw_saved") and (one := _data(node, name)) is not None]
        node = next((following for following, _ in node.next_functions if following is not None), None)
    assert all(one.numel() <= 100 for one in held)
    torch.testing.assert_close(outputs, expected, rtol=1e-14, atol=1e-14)


def _data(node: object, name: str) -> Tensor | None:
    found = getattr(node, name)
    return found if isinstance(found, Tensor) else None


def test_a_hidden_part_of_a_gradient_is_found_beside_frozen_parameters():
    class Hiding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.body(inputs).tanh()
            return self.head(hidden) + 0.01 * hidden @ self.head.weight.detach().T

    with pytest.raises(NetworkError, match=r"gradients of Hiding by head.weight disagree with finite differences"):
        Network.of(seeded(Hiding), moving=["head.*"]).check(normal(20, 6).float())


def test_a_frozen_body_in_half_precision_is_checked_in_double():
    module = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))).bfloat16()
    network, inputs = Network.of(module, moving=["2.*"]), normal(20, 6).float()
    place = Place(network, network.weights, inputs, network(network.weights, inputs)).in_double()
    assert place.is_double
    network.check(inputs)
