"""Anything that gives a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fipray.border import checked
from fipray.border.functions import function_named
from fipray.errors import UsageError
from fipray.networks import Network
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec

Function = Callable[[Network, Tensor], float]
ARGUMENTS = ("a network", "weights [P]")


@spec("zeroth_order")
@checked
@dataclass(frozen=True)
class ZerothOrder:
    """A number that no gradient leads to: a reward, a latency, a score of another program.

    `value = h(w)`, h any function of the network and of weights [P], the same at the same weights. Its gradient is
    estimated by antithetic differences along K random orthonormal directions u_i, drawn from the batch,

        l = sum_i (h(w + s u_i) - h(w - s u_i)) / (2 s) u_i,

    which is the gradient's projection on their span, exactly where h is quadratic (orthogonal directions: Choromanski
    et al. 2018, who scale it by P/K to be unbiased; unscaled, the decrease that it predicts along itself is h's own).

    function: h, or its name `module:function`, which a study can write down. Such a function can be imported wherever
        the path is walked.
    num_samples: K; a gradient costs 2 K calls of h and K P numbers. More than P count as P.
    spread: s, in units of the start's norm |w0|, as radii are. It is at least as long as what h sees: a step function
        needs a wide one.
    """

    function: str | Function
    num_samples: int = 16
    spread: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            function_named(self.function, ARGUMENTS)
        if not self.num_samples >= 1:
            raise UsageError(f"at least one direction is needed; num_samples={self.num_samples} was given")
        if not 0 < self.spread < float("inf"):
            raise UsageError(f"spread is a part of the start's norm, finite and above 0; {self.spread} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        at = weights.detach()
        value = torch.as_tensor(self._call(problem, at), dtype=at.dtype, device=at.device)
        if weights.requires_grad:  # for steppers that differentiate a whole of which this is a part
            value = value + self.gradient(problem, at, batch) @ (weights - at)
        return value

    @torch.no_grad()
    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        length = self.spread * problem.length
        if not length > 0:
            raise UsageError("the start's weights are all zero, so spread, a part of their norm, measures nothing")
        directions = orthonormal(batch, problem.network.num_weights, self.num_samples)
        slopes = [
            (self._call(problem, weights + length * u) - self._call(problem, weights - length * u)) / (2 * length)
            for u in directions.T
        ]
        return directions @ torch.as_tensor(slopes, dtype=weights.dtype, device=weights.device)

    def _call(self, problem: Problem, weights: Tensor) -> float:
        function = function_named(self.function, ARGUMENTS) if isinstance(self.function, str) else self.function
        answer: Any = function(problem.network, weights)
        try:
            return float(answer)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"a black box gives a number; {self.function!r} gave a {type(answer).__name__}") from error


def orthonormal(batch: Batch, size: int, count: int) -> Tensor:
    """`count`, at most `size`, random orthonormal columns [size, K], of this batch's draw."""
    basis, triangle = torch.linalg.qr(batch.normal(size, min(size, count)))
    return basis * triangle.diagonal().sign()  # of the uniform distribution (Mezzadri 2007)
