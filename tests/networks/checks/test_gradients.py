"""Gradients by the parameters are those of the outputs, for every parameter that moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.kinds import Forward, features, mlp, quantisation_aware
from fipray.errors import NetworkError
from tests.networks.checks.checking import Make, checked, each, more, rounded

BESIDE: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "times 0": lambda self, x: 0 * self.more(x),
    "times 0 of sums": lambda self, x: 0.0 * sum(p.sum() for p in self.more.parameters()),
    "behind a closed rectifier": lambda self, x: functional.relu(self.more(x) - 1e6),
    "clamped": lambda self, x: 1e-6 * self.more(x).clamp(1e6, 1e7),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE.keys())
def test_a_parameter_of_no_effect_is_named_though_autograd_finds_it(beside: Callable[[Any, Tensor], Tensor]):
    module = Forward(lambda self, x: self.layer(x) + beside(self, x), more=nn.Linear(12, 5))
    with pytest.raises(NetworkError, match=r"no output of Forward depends on more\.weight, more\.bias"):
        checked(module)
    checked(module, moving="layer.*")


def test_a_parameter_whose_effect_has_no_gradient_is_named():
    def forward(self: Any, inputs: Tensor) -> Tensor:
        weight = self.layer.weight
        return functional.linear(inputs, (50 * weight).round() / 50 + 0 * weight.sum(), self.layer.bias)

    with pytest.raises(NetworkError, match=r"change with layer\.weight, but autograd does not see it"):
        checked(Forward(forward))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return -gradient


PARTLY: Mapping[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "data": (lambda self, x: self.layer(x) + x @ self.layer.weight.data.T, r"by layer\.weight disagree"),
    "a fiftieth": (lambda self, x: self.layer(x) + 0.02 * x @ self.layer.weight.data.T, r"by layer\.weight disagree"),
    "a bias": (lambda self, x: self.layer(x) + self.layer.bias.detach(), r"by layer\.bias disagree"),
    "half way": (
        lambda self, x: self.more(self.layer(x).tanh()) + 0.3 * self.more(self.layer(x).detach()),
        r"by layer\.weight, layer\.bias disagree",
    ),
    "a backward of its own": (lambda self, x: self.more(Reversed.apply(self.layer(x))), r"layer\.weight, layer\.bias"),
}


@pytest.mark.parametrize(("forward", "said"), PARTLY.values(), ids=PARTLY.keys())
def test_an_effect_that_autograd_misses_in_part_is_refused(forward: Callable[[Any, Tensor], Tensor], said: str):
    module = Forward(forward, more=nn.Sequential(nn.Tanh(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5)))
    if "more" not in forward.__code__.co_names:
        del module.more
    with pytest.raises(NetworkError, match=said):
        checked(module)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        return inputs.sign()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


def straight_through(self: Any, inputs: Tensor) -> Tensor:
    weight = self.layer.weight
    return functional.linear(inputs, weight + ((7 * weight).round() / 7 - weight).detach(), self.layer.bias)


def with_a_codebook(self: Any, inputs: Tensor) -> Tensor:
    code = self.layer(inputs)
    nearest = self.codes[torch.cdist(code, self.codes).argmin(1)]
    return self.more(code + (nearest - code).detach())


def zero_at_first() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x) + self.last(self.more(x).relu()), last=nn.Linear(5, 5), **more())
    nn.init.zeros_(module.last.weight)
    nn.init.zeros_(module.last.bias)
    return module


SOUND: Mapping[str, Make] = {
    "binary weights": lambda: Forward(
        lambda self, x: functional.linear(x, 0.1 * Sign.apply(self.layer.weight)) + self.layer.bias
    ),
    "binary activations": lambda: Forward(lambda self, x: self.more(Sign.apply(self.layer(x))), **more(5)),
    "binary activations beside": lambda: Forward(
        lambda self, x: (lambda h: h + self.more(Sign.apply(h)))(self.layer(x)), **more(5)
    ),
    "fake quantisation beside": lambda: Forward(
        lambda self, x: (lambda h: h + self.more(rounded(h)))(self.layer(x)), **more(5)
    ),
    "straight through": lambda: Forward(straight_through),
    "a codebook": lambda: Forward(with_a_codebook, codes=nn.Buffer(torch.randn(8, 5)), **more(5)),
    "quantisation-aware": lambda: quantisation_aware(False),
    "zero at first": zero_at_first,
    "small": lambda: Forward(lambda self, x: self.layer(x) + 1e-6 * self.more(x), **more()),
    "centred": lambda: Forward(lambda self, x: self.layer(x) - self.layer(x).mean(1, keepdim=True)),
    "InstanceNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(16, 5)
    ),
    "deep": lambda: nn.Sequential(nn.Linear(12, 16), *(nn.Sequential(nn.ReLU(), nn.Linear(16, 16)) for _ in range(20))),
    "single inside": lambda: Forward(
        lambda self, x: functional.linear(x.float(), self.layer.weight.float(), self.layer.bias.float())
    ),
    "a vmap inside": lambda: Forward(lambda self, x: torch.func.vmap(self.layer)(x)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@each(SOUND)
def test_slopes_that_rounding_hides_and_small_effects_are_allowed(make: Make):
    checked(make())


def test_an_expert_that_few_inputs_need_is_no_parameter_of_no_effect():
    module = Forward(lambda self, x: self.layer(x) + functional.relu(x[:, :1] - 1) * self.more(x), **more())
    inputs = features(300).clamp(max=0.5)
    with pytest.raises(NetworkError, match=r"depends on more\.weight"):
        checked(module, inputs)
    inputs[250, 0] = 2
    checked(module, inputs)


def test_inputs_that_are_all_zero_say_nothing_of_a_gradient():
    checked(mlp(), torch.zeros(20, 12))
