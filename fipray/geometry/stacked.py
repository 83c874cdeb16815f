"""The metric of several kept quantities, each on inputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fipray.geometry.keeps import Kept, Outputs
from fipray.geometry.metric import Metric, Precision, Products
from fipray.networks.derivatives import twice_differentiable
from fipray.networks.network import Network


class StackedMetric:
    """`g = sum_k J_k^T J_k / N_k` for kept quantities k, each on `N_k` inputs of its own.

    The rows of all quantities are stacked to one column of `K = sum_k N_k C_k` numbers, those of quantity k times
    `sqrt(N / N_k)`, so that `g = J^T J / N` as for one quantity on N inputs.

    Args:
        network, weights: where the products are taken, `weights` [P].
        parts: each kept quantity with its inputs [N_k, ...].
        num_inputs: N, of which any number gives the same metric.
        precision: of the layers' products, for outputs alone: see `Metric`.
    """

    def __init__(
        self,
        network: Network,
        weights: Tensor,
        parts: Sequence[tuple[Kept, Tensor]],
        *,
        num_inputs: int,
        precision: Precision = "full",
    ) -> None:
        self.num_inputs = num_inputs
        self._parts = [products(network, weights, kept, inputs, precision=precision) for kept, inputs in parts]
        self._factors = [(num_inputs / part.num_inputs) ** 0.5 for part in self._parts]
        self.embedded = stacked([part.embedded for part in self._parts], num_inputs)

    def j(self, direction: Tensor) -> Tensor:
        """`J v` [K, 1] for `v` [P]."""
        return stacked([part.j(direction) for part in self._parts], self.num_inputs)

    def jt(self, sensitivities: Tensor) -> Tensor:
        """`J^T u` [P] for `u` [K, 1]."""
        split = sensitivities.flatten().split([part.embedded.numel() for part in self._parts])
        found = [
            factor * part.jt(one.view_as(part.embedded))
            for factor, part, one in zip(self._factors, self._parts, split, strict=True)
        ]
        return reduce(torch.add, found)

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for `v` [P]."""
        return reduce(torch.add, [part @ direction for part in self._parts])

    def jacobian(self) -> Tensor:
        """`J` [K, P]. For small batches."""
        return torch.cat([factor * part.jacobian() for factor, part in zip(self._factors, self._parts, strict=True)])

    def gram(self) -> Tensor:
        """`J J^T` [K, K]. For small batches."""
        rows = self.jacobian()
        return rows @ rows.T

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self._parts)

    @property
    def gram_flops(self) -> float:
        """Of its rows, a backward pass for each of them where layers do not tell."""
        return sum(min(part.gram_flops, 2.0 * part.flops * part.embedded.numel()) for part in self._parts)


def products(
    network: Network, weights: Tensor, kept: Kept, inputs: Tensor, *, precision: Precision = "full"
) -> Products:
    """Products with the Jacobian of one kept quantity at `weights` [P] on `inputs` [N, ...]."""
    if isinstance(kept, Outputs):
        return Metric(network, weights, inputs, kept.geometry, precision=precision)
    moving = weights.detach().requires_grad_(True)
    with torch.enable_grad(), twice_differentiable():
        found = kept.quantities(network, moving, inputs)
    return Products(network, moving, inputs, found.reshape(len(inputs), -1))


def stacked(rows: Sequence[Tensor], num_inputs: int) -> Tensor:
    """Rows [N_k, C_k] of several quantities as one column [K, 1], each times `sqrt(N / N_k)`."""
    return torch.cat([one.flatten() * (num_inputs / len(one)) ** 0.5 for one in rows])[:, None]
