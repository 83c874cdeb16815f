"""Classifiers for the tests of attacks, some with worst inputs in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.robustness import Classifier, ThreatModel
from tests.problems import generator, normal

LINF, L2 = ThreatModel("linf", 0.1), ThreatModel("l2", 0.15)
FREE_LINF, FREE_L2 = (ThreatModel(of.norm, of.epsilon, -math.inf, math.inf) for of in (LINF, L2))


@dataclass(frozen=True, eq=False)
class Linear:
    """`z = W x + b`; weight [C, D], bias [C]."""

    weight: Tensor
    bias: Tensor

    @staticmethod
    def drawn(num_inputs: int, num_classes: int, seed: int = 0) -> Linear:
        """Random weights; the bias makes the outputs 0 at the middle of [0, 1], so that all classes occur."""
        weight = normal(num_classes, num_inputs, seed=seed)
        return Linear(weight, -0.5 * weight.sum(1))

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight.T + self.bias

    def worst_margins(self, inputs: Tensor, labels: Tensor, rivals: Tensor, threat_model: ThreatModel) -> Tensor:
        """The least `z_y - z_k` [N] in the threat model, for labels y [N] and rivals k [N]."""
        slope = self.weight[labels] - self.weight[rivals]
        offset = self.bias[labels] - self.bias[rivals]
        return ((inputs.flatten(1) + worst_change(slope, inputs.flatten(1), threat_model)) * slope).sum(1) + offset

    def withstands(self, inputs: Tensor, labels: Tensor, threat_model: ThreatModel) -> Tensor:
        """Booleans [N], true where no rival wins anywhere in the threat model; all margins are at least 1e-6 wide."""
        num_classes = len(self.bias)
        worst = torch.stack(
            [
                self.worst_margins(inputs, labels, (labels + shift) % num_classes, threat_model)
                for shift in range(1, num_classes)
            ]
        ).amin(0)
        assert float(worst.abs().min()) > 1e-6, "choose another seed: a margin is within rounding errors of 0"
        return worst > 0


@dataclass(frozen=True, eq=False)
class Tanh:
    """A network of one hidden layer: `z = W tanh(V x - c)`."""

    first: Tensor
    shift: Tensor
    second: Tensor

    @staticmethod
    def drawn(num_inputs: int = 9, num_classes: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tanh:
        first, second = normal(16, num_inputs, seed=seed), normal(num_classes, 16, seed=seed + 100)
        return Tanh(first.to(dtype), (0.5 * first.sum(1)).to(dtype), second.to(dtype))

    def __call__(self, inputs: Tensor) -> Tensor:
        return (inputs.flatten(1) @ self.first.T - self.shift).tanh() @ self.second.T


def worst_change(slope: Tensor, clean: Tensor, threat_model: ThreatModel) -> Tensor:
    """The change [N, D] of `clean` [N, D] that makes `slope` [N, D] times it least in the threat model.

    linf: every coordinate by epsilon against its slope, or up to its bound. l2: `-t slope`, each coordinate up to its
    bound, for the t at which that is epsilon long, found by bisection; -epsilon slope / |slope| where no bound is near.
    """
    lowest, highest = threat_model.lower - clean, threat_model.upper - clean
    if threat_model.norm == "linf":
        return (-threat_model.epsilon * slope.sign()).clamp(lowest, highest)
    low, high = torch.zeros(len(slope), 1, dtype=slope.dtype), torch.full((len(slope), 1), 1e6, dtype=slope.dtype)
    for _ in range(70):
        middle = (low + high) / 2
        short = (-middle * slope).clamp(lowest, highest).norm(dim=1, keepdim=True) <= threat_model.epsilon
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (-low * slope).clamp(lowest, highest)


def images(num_examples: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs [N, *shape] in [0, 1]: every third of 0 and 1 alone, similar to handwriting, the others uniform."""
    return _drawn(1, num_examples, *shape, seed=seed, dtype=dtype)[0]


def contested(
    classifier: Classifier, num_examples: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Inputs [N, *shape] of which attacks fool some and not all, whatever the seed.

    Half lie next to a decision boundary and a quarter far from any: each is the one of 600 images whose two largest
    outputs are closest together or furthest apart. The others, as drawn, are those that a weaker attack may miss.
    """
    drawn = _drawn(600, num_examples, *shape, seed=seed, dtype=dtype)
    with torch.no_grad():
        likeliest = classifier(drawn.flatten(0, 1)).topk(2, dim=1).values
    gaps = (likeliest[:, 0] - likeliest[:, 1]).view(-1, num_examples)
    examples = torch.arange(num_examples)
    chosen = torch.where(examples % 2 == 0, gaps.argmin(0), 0)
    chosen = torch.where(examples % 4 == 1, gaps.argmax(0), chosen)
    return drawn[chosen, examples]


def _drawn(num_draws: int, num_examples: int, *shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Independent draws of `images` [K, N, *shape]."""
    drawn = torch.rand(num_draws, num_examples, *shape, generator=generator(seed), dtype=torch.float64)
    drawn[:, ::3] = drawn[:, ::3].round()
    return drawn.to(dtype)


def predictions(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Predicted classes [N], as labels with which every input is classified correctly."""
    return classifier(inputs).argmax(1)
