"""The metric of several kept quantities, each on inputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fipray.geometry.jacobian import Products, joined
from fipray.geometry.keeps import Kept, Outputs
from fipray.geometry.metric import Metric, Precision
from fipray.networks.compute import undivided
from fipray.networks.derivatives import twice_differentiable
from fipray.networks.network import Network


class StackedMetric:
    """The metric `g = sum_k J_k^T J_k / N_k` of several kept quantities k, each on `N_k` inputs of its own.

    The rows of all quantities are stacked to one column of `K = sum_k N_k C_k` numbers, those of quantity k multiplied
    by `sqrt(N / N_k)`, so that `g = J^T J / N` as for one quantity on N inputs.

    Args:
        network: the network as a function of flat weights.
        weights: weights [P] at which the products are taken.
        parts: each kept quantity with its inputs [N_k, ...].
        num_inputs: N; any positive number gives the same metric.
        precision: precision of the layers' products, used for `Outputs` alone; see `Metric`.

    Attributes:
        embedded: stacked values [K, 1].
        num_inputs: N.
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
        # Lengths in the stacked space then count every quantity by its mean, whatever its number of inputs.
        self._factors = [(num_inputs / part.num_inputs) ** 0.5 for part in self._parts]
        self.embedded = stacked([part.embedded for part in self._parts], num_inputs)

    def j(self, direction: Tensor | Sequence[Tensor]) -> Tensor:
        """Product with the Jacobian.

        Args:
            direction: v [P], or pieces of it.

        Returns:
            `J v` [K, 1].
        """
        return stacked([part.j(joined(direction)) for part in self._parts], self.num_inputs)

    def jt_in_pieces(self, sensitivities: Tensor) -> list[Tensor]:
        """Product with the transposed Jacobian, as that of `Products`.

        Args:
            sensitivities: u [K, 1].

        Returns:
            `J^T u` [P], in one piece.
        """
        return [self.jt(sensitivities)]

    def jt(self, sensitivities: Tensor) -> Tensor:
        """Product with the transposed Jacobian.

        Args:
            sensitivities: u [K, 1].

        Returns:
            `J^T u` [P].
        """
        split = sensitivities.flatten().split([part.embedded.numel() for part in self._parts])
        found = [
            factor * part.jt(one.view_as(part.embedded))
            for factor, part, one in zip(self._factors, self._parts, split, strict=True)
        ]
        return reduce(torch.add, found)

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for a direction v [P]."""
        # Part by part: each divides by its own number of inputs, so the factors cancel.
        return reduce(torch.add, [part @ direction for part in self._parts])

    def jacobian(self) -> Tensor:
        """`J` [K, P], for small batches."""
        return torch.cat([factor * part.jacobian() for factor, part in zip(self._factors, self._parts, strict=True)])

    def gram(self) -> Tensor:
        """Gram matrix `J J^T` [K, K], for small batches."""
        rows = self.jacobian()
        return rows @ rows.T

    @property
    def flops(self) -> float:
        """Cost of a forward pass for all quantities; a product costs twice as much."""
        return sum(part.flops for part in self._parts)

    @property
    def gram_flops(self) -> float:
        """Cost of `gram()`: that of its rows, one backward pass each where layers do not give them faster."""
        return sum(min(part.gram_flops, 2.0 * part.flops * part.embedded.numel()) for part in self._parts)


def products(
    network: Network, weights: Tensor, kept: Kept, inputs: Tensor, *, precision: Precision = "full"
) -> Products:
    """Products with the Jacobian of one kept quantity.

    Args:
        network: the network as a function of flat weights.
        weights: weights [P].
        kept: the quantity.
        inputs: inputs [N, ...].
        precision: precision of the layers' products, used for `Outputs` alone; see `Metric`.

    Returns:
        A `Metric` for `Outputs`, which computes Gram matrices layer by layer; `Products` for other quantities.
    """
    # Only outputs pass through recorded layers alone; other quantities differentiate by inputs or call user code.
    if isinstance(kept, Outputs):
        return Metric(network, weights, inputs, kept.geometry, precision=precision)
    moving = weights.detach().requires_grad_(True)
    with torch.enable_grad(), twice_differentiable(), undivided():
        found = kept.quantities(network, moving, inputs)
    return Products(network, moving, inputs, found.reshape(len(inputs), -1), [moving])


def stacked(rows: Sequence[Tensor], num_inputs: int) -> Tensor:
    """Stack the values of several quantities to one column.

    Args:
        rows: values [N_k, C_k] of each quantity.
        num_inputs: N.

    Returns:
        A column [K, 1], in which the values of quantity k are multiplied by `sqrt(N / N_k)`.
    """
    return torch.cat([one.flatten() * (num_inputs / len(one)) ** 0.5 for one in rows])[:, None]
