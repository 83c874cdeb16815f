"""Adam, steps along orthogonal matrices, and gradient descent with momentum, given their rates anew at every step.

Functions of torch, without its optimizers' class: that loads the compiler, for seconds that a short budget would pay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from fipray.paths.steppers.orthogonal import RMS, polar


class Optimizer(Protocol):
    """Weights, and how to move them against gradients."""

    @property
    def weights(self) -> list[Tensor]: ...

    def step(self, gradients: list[Tensor], settings: Mapping[str, float]) -> None: ...


class Adam:
    """Adam (Kingma & Ba 2015) on the weights of the members; settings: `rate` and `momentum`, its beta 1.

    weight_decay: decoupled (Loshchilov & Hutter 2019), a step takes off `rate weight_decay` of each weight.
    """

    def __init__(self, members: Iterable[nn.Module], weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay
        self.weights: list[Tensor] = [weights for member in members for weights in member.parameters()]
        self.first = [torch.zeros_like(weights) for weights in self.weights]
        self.second = [torch.zeros_like(weights) for weights in self.weights]
        self.counts = [torch.zeros((), device=weights.device) for weights in self.weights]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], settings: Mapping[str, float]) -> None:
        adam(
            self.weights,
            gradients,
            self.first,
            self.second,
            [],
            self.counts,
            fused=True,
            amsgrad=False,
            beta1=settings["momentum"],
            beta2=0.999,
            lr=settings["rate"],
            weight_decay=self.weight_decay,
            decoupled_weight_decay=True,
            eps=1e-8,
            maximize=False,
        )


class Orthogonal(Adam):
    """Adam, but weight matrices move along the orthogonal matrix nearest to their momentum (Muon; Jordan et al. 2024).

    Matrices are weights of two dimensions and more, of at least 16 rows and 16 columns. They take the iterations of the
    paths, which are fewer than the published ones and lead as far in the same time.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__(members)
        self.matrices = [
            (weights, first)
            for weights, first in zip(self.weights, self.first, strict=True)
            if weights.dim() > 1 and min(len(weights), weights[0].numel()) >= 16
        ]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], settings: Mapping[str, float]) -> None:
        before = [weights.clone() for weights, _ in self.matrices]
        super().step(gradients, settings)
        for (weights, first), old in zip(self.matrices, before, strict=True):
            rows, columns = len(weights), weights[0].numel()
            direction = polar(first.view(1, rows, columns)).view_as(weights)
            torch.add(old, direction, alpha=-settings["rate"] * RMS * max(rows, columns) ** 0.5, out=weights)


class Momentum:
    """v <- momentum v + g + weight_decay w, w <- w - rate v; settings: `rate`."""

    def __init__(self, member: nn.Module, momentum: float, weight_decay: float) -> None:
        self.weights: list[Tensor] = list(member.parameters())
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = [torch.zeros_like(weights) for weights in self.weights]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], settings: Mapping[str, float]) -> None:
        torch._foreach_mul_(self.velocity, self.momentum)
        torch._foreach_add_(self.velocity, gradients)
        torch._foreach_add_(self.velocity, self.weights, alpha=self.weight_decay)
        torch._foreach_add_(self.weights, self.velocity, alpha=-settings["rate"])
