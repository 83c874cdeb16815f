"""Zeroth-order objective: any number that a function returns, with a gradient estimated from its values."""

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
    """Zeroth-order objective for a function without a gradient: a reward, a latency, a score of another program.

    `value = h(w)`, h any deterministic function of the network and of weights [P]. Its gradient is estimated by
    antithetic differences along K random orthonormal directions u_i, drawn from the batch,

        l = sum_i (h(w + s u_i) - h(w - s u_i)) / (2 s) u_i,

    which is the projection of the gradient on their span, exactly where h is quadratic. It is not scaled by P / K to be
    unbiased, so that the decrease it predicts along itself is that of h.

    Cost: 2 K calls of h and K P numbers; no pass through the network beside those of h.

    Needs: nothing but h.

    Source: evolution strategies with orthogonal directions, Choromanski et al. 2018.

    Args:
        function: h, or its name `module:function`, which a study can write down and every worker must be able to
            import.
        num_samples: K, at least 1; more than P count as P.
        spread: s, above 0, in units of the norm |w0| of the base weights, as radii are. It must be at least as long as
            the steps at which h changes.

    Raises:
        UsageError: for a setting out of range, or a name that cannot be imported or is no function of this form.
    """

    function: str | Function
    num_samples: int = 16
    spread: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            # a wrong name fails here, before a study is started
            function_named(self.function, ARGUMENTS)
        if not self.num_samples >= 1:
            raise UsageError(f"num_samples must be at least 1; num_samples={self.num_samples} was given")
        if not 0 < self.spread < float("inf"):
            raise UsageError(f"spread must be finite and above 0; {self.spread} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        detached = weights.detach()
        value = torch.as_tensor(self._call(problem, detached), dtype=detached.dtype, device=detached.device)
        if weights.requires_grad:
            # a linear function with the estimated gradient, for steppers that differentiate a sum that holds this
            value = value + self.gradient(problem, detached, batch) @ (weights - detached)
        return value

    @torch.no_grad()
    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        length = self.spread * problem.length
        if not length > 0:
            raise UsageError(
                "spread is in units of the norm of the base weights, and these are all zero: start from other weights"
            )
        # from the batch's seed: a value and a gradient of one step must not use different directions
        directions = orthonormal(batch, problem.network.num_weights, self.num_samples)
        slopes = [
            (self._call(problem, weights + length * u) - self._call(problem, weights - length * u)) / (2 * length)
            for u in directions.T
        ]
        return directions @ torch.tensor(slopes, dtype=weights.dtype).to(weights.device, non_blocking=True)

    def _call(self, problem: Problem, weights: Tensor) -> float:
        # a name is resolved at every call, so that the spec remains plain data that can be sent to workers
        function = function_named(self.function, ARGUMENTS) if isinstance(self.function, str) else self.function
        answer: Any = function(problem.network, weights)
        try:
            return float(answer)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                "the function of ZerothOrder must return a number; "
                f"{self.function!r} returned a {type(answer).__name__}"
            ) from error


def orthonormal(batch: Batch, size: int, count: int) -> Tensor:
    """Random orthonormal directions of a batch's draw, uniformly distributed.

    Args:
        batch: its seed determines the directions.
        size: dimension of the space.
        count: number of directions; at most `size` are returned.

    Returns:
        Columns [size, min(size, count)].
    """
    basis, triangle = torch.linalg.qr(batch.normal(size, min(size, count)))
    return basis * triangle.diagonal().sign()  # the signs make QR's basis uniformly distributed (Mezzadri 2007)
