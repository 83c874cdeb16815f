"""A forward whose outputs depend on random numbers is refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.faults.kinds import Forward, mlp
from fipray.errors import NetworkError
from tests.networks.checks.checking import Make, checked, each


class Drop(nn.Module):
    """Drops its input, all of it, about never."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (torch.rand(()) > 1e-6) if self.training else inputs


def seldom(draw: Callable[[Any], Any], **parts: Any) -> Make:
    return lambda: Forward(lambda self, x: self.layer(x) * (2 if draw(self) < 1e-6 else 1), **copy.deepcopy(parts))


DRAWING: Mapping[str, Make] = {
    "torch": seldom(lambda self: torch.rand(())),
    "bernoulli": lambda: Forward(lambda self, x: self.layer(x) * torch.full((1,), 1 - 1e-6).bernoulli()),
    "random": seldom(lambda self: random.random()),
    "numpy": seldom(lambda self: np.random.rand()),  # noqa: NPY002
    "own of torch": seldom(lambda self: torch.rand((), generator=self.own), own=torch.Generator()),
    "own of numpy": seldom(lambda self: self.own[0].random(), own=[np.random.default_rng(0)]),
    "own of random": seldom(lambda self: self.own.random(), own=random.Random(0)),
    "noise, seldom": lambda: Forward(lambda self, x: self.layer(x + (torch.rand(()) < 1e-6) * torch.randn_like(x))),
    "dropout": lambda: Forward(lambda self, x: functional.dropout(self.layer(x), 1e-6)),
}


@each(DRAWING)
def test_a_forward_that_draws_random_numbers_is_refused_however_seldom_they_matter(make: Make):
    with pytest.raises(NetworkError, match=r"changes between two passes.*draws random numbers"):
        checked(make())


def test_the_layer_that_draws_is_named():
    with pytest.raises(NetworkError, match=r"'1' \(Drop\) draws random numbers"):
        checked(nn.Sequential(mlp(), Drop(), nn.Linear(5, 5)).train())
    checked(nn.Sequential(mlp(), Drop(), nn.Linear(5, 5)).eval())


def test_stochastic_depth_of_libraries_is_named_in_training_mode():
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    for part in (timm.layers.DropPath(1e-3), torchvision.ops.StochasticDepth(1e-3, "batch")):
        with pytest.raises(NetworkError, match=rf"'1' \({type(part).__name__}\) draws random numbers"):
            checked(nn.Sequential(mlp(), part, nn.Linear(5, 5)).train())


def seeding(self: Any, inputs: Tensor) -> Tensor:
    torch.manual_seed(3)
    return self.layer(inputs) + inputs @ torch.rand(12, 5)


HARMLESS: Mapping[str, Make] = {
    "not used": lambda: Forward(lambda self, x: self.layer(x) * (2 if torch.rand(()) < 0.5 and self.training else 1)),
    "seeded anew": lambda: Forward(seeding),
    "of a generator made anew": lambda: Forward(
        lambda self, x: self.layer(x) + x @ torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    ),
}


@each(HARMLESS)
def test_draws_that_change_nothing_are_allowed(make: Make):
    checked(make().eval())


def test_a_check_leaves_generators_as_they_were():
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    state = torch.get_rng_state()
    before = states()
    for make in (*DRAWING.values(), HARMLESS["seeded anew"]):
        module, inputs = make(), torch.ones(20, 12)
        torch.set_rng_state(state)  # layers draw their weights
        with suppress(NetworkError):
            checked(module, inputs)
        assert states() == before
