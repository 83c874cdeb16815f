"""A copy that still uses the module that was given is refused."""

from __future__ import annotations

import copy
import functools
import pickle
import weakref
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from benchmarks.faults.kinds import Forward, features, mlp
from fipray.errors import NetworkError
from fipray.networks import Network
from tests.networks.checks.checking import Make, checked, each


def around(wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> nn.Module:
    """A layer, and what `wrap` makes of the module, which finds the layer there."""
    module = Forward(lambda self, x: self.layer(x) + self.more(x))
    module.more = wrap(module)
    return module


def quietly(module: nn.Module) -> Callable[[Tensor], Tensor]:
    def more(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return module.layer(inputs)

    return more


def by_default(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs, layer=module.layer: layer(inputs).detach()


def by_weak_reference(module: nn.Module) -> Callable[[Tensor], Tensor]:
    held = weakref.ref(module.layer)
    return lambda inputs: held()(inputs).detach()


def by_its_memory(module: nn.Module) -> Callable[[Tensor], Tensor]:
    weight = module.layer.weight.data
    return lambda inputs: inputs @ weight.T


def by_numpy(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs: inputs @ torch.from_numpy(module.layer.weight.detach().numpy().copy()).T


def by_a_number(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs: inputs[:, :1] * module.layer.weight[0, 0].item()


def in_a_hook() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x))
    module.layer.register_forward_hook(lambda part, given, told: told + given[0] @ module.layer.weight.detach().T)
    return module


def in_a_partial() -> nn.Module:
    return around(lambda module: functools.partial(lambda more, inputs: more(inputs), quietly(module)))


def by_a_global_name() -> nn.Module:
    global MODULE
    MODULE = Forward(lambda self, x: self.layer(x) + MODULE.layer(x).detach())
    return MODULE


REACHED: Mapping[str, Make] = {
    **{
        wrap.__name__: functools.partial(around, wrap)
        for wrap in (quietly, by_default, by_weak_reference, by_its_memory, by_numpy, by_a_number)
    },
    "in a hook": in_a_hook,
    "in a partial": in_a_partial,
    "by a global name": by_a_global_name,
}


@each(REACHED)
def test_a_copy_that_reaches_into_the_module_that_was_given_is_refused(make: Make):
    module = make()
    with pytest.raises(NetworkError, match=r"uses layer\.weight.* of the module that was given"):
        checked(module)


def test_a_frozen_module_reached_by_a_closure_is_refused_when_it_moves():
    module = Forward(lambda self, x: module.layer(x)).requires_grad_(False)
    with pytest.raises(NetworkError, match="of the module that was given"):
        checked(module, moving="*")


def test_what_a_closure_takes_of_the_original_may_be_a_shape_a_dtype_or_a_device():
    def more(inputs: Tensor) -> Tensor:
        weight = module.layer.weight
        return torch.zeros_like(weight.T)[:1, :].sum() + inputs.to(weight)[:, : len(weight)] * weight.shape[0]

    module = Forward(lambda self, x: self.layer(x) + more(x))
    checked(module)


def test_methods_that_a_module_holds_are_those_of_its_copy():
    module = Forward(lambda self, x: self.layer(x) + self.more(x))
    module.more = module.layer.forward
    checked(module)


def test_a_network_can_be_pickled_and_copied():
    network, inputs = Network.of(mlp()), features(3)
    for made in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        made.check(inputs)
        assert torch.equal(made(made.weights, inputs), network(network.weights, inputs))
