"""Products with the Jacobian of a kept quantity, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fipray.errors import NetworkError
from fipray.networks.compute import is_out_of_memory
from fipray.networks.derivatives import transposed, twice_differentiable, without_second_derivative
from fipray.networks.network import Network


class Products:
    """Products with the Jacobian `J = ds/dw` [N C, P] of a quantity s, from the graph of one forward pass.

    The graph of the backward pass that `J v` needs is made once. `J^T u` costs one backward pass; `J v` costs one
    backward pass through that graph (the derivative of `J^T z` by z in direction v). Each takes about the time of one
    gradient, or less.

    Args:
        network: the network, of which errors name modules.
        weights: flat weights [P].
        inputs: inputs [N, ...].
        kept: s [N, C], computed on `inputs` from `leaves`.
        leaves: the weights in pieces that follow each other, of any shapes, which require gradients. One leaf for each
            parameter saves joining their gradients to one vector.

    Attributes:
        embedded: s [N, C] without its graph.
        num_inputs: N.
    """

    def __init__(
        self, network: Network, weights: Tensor, inputs: Tensor, kept: Tensor, leaves: Sequence[Tensor]
    ) -> None:
        self._network, self._weights, self._inputs, self._kept = network, weights, inputs, kept
        self._leaves = list(leaves)
        self.embedded = kept.detach()
        self.num_inputs = len(inputs)
        # Made with the first `J v`: callers of `J^T u` alone do not need the memory that the backward graph takes.
        self._probe: Tensor | None = None
        self._transposed: list[Tensor] = []

    @property
    def depends(self) -> bool:
        """True if autograd finds a dependence of s on the weights."""
        if not self._kept.requires_grad:
            return False
        # Any scalar of s serves: only the existence of a path in the graph matters.
        found = torch.autograd.grad(self._kept.sum(), self._leaves, retain_graph=True, allow_unused=True)
        return any(one is not None for one in found)

    def jt(self, sensitivities: Tensor) -> Tensor:
        """Product with the transposed Jacobian.

        Args:
            sensitivities: u [N, C].

        Returns:
            `J^T u` [P].
        """
        return joined(self.jt_in_pieces(sensitivities))

    def jt_in_pieces(self, sensitivities: Tensor) -> list[Tensor]:
        """Product with the transposed Jacobian, without joining its pieces to one vector.

        Args:
            sensitivities: u [N, C].

        Returns:
            Pieces of `J^T u` [P], in order; nothing else holds them.
        """
        with self._named():
            # Retained: every later product runs through the same graph.
            found = torch.autograd.grad(
                self._kept, self._leaves, sensitivities, retain_graph=True, materialize_grads=True
            )
        return [one.reshape(-1) for one in found]

    def j(self, direction: Tensor | Sequence[Tensor]) -> Tensor:
        """Product with the Jacobian.

        Args:
            direction: v [P], or pieces of it as `jt_in_pieces` returns them.

        Returns:
            `J v` [N, C].
        """
        sizes = [leaf.numel() for leaf in self._leaves]
        whole = isinstance(direction, Tensor) or len(direction) != len(sizes)
        pieces = joined(direction).split(sizes) if whole else direction
        with self._named():
            if self._probe is None:
                # J^T z is linear in z, so its derivative is the same at any z, and the graph serves every direction.
                self._transposed, self._probe = transposed(self._kept, self._leaves)
            # Outputs do not depend on a parameter that no pass uses, and autograd asks for a dependence.
            used = [
                (one, piece.view_as(one))
                for one, piece in zip(self._transposed, pieces, strict=True)
                if one.requires_grad or len(sizes) == 1
            ]
            products, directions = zip(*used, strict=True)
            return torch.autograd.grad(products, self._probe, directions, retain_graph=True)[0]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn errors of autograd in the second derivative into ones that name the module at fault."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # Found by trying module by module, on two inputs: autograd's own error names no module.
            with twice_differentiable():
                name = without_second_derivative(self._network, self._weights.detach(), self._inputs[:2])
            if name is None:
                raise
            raise NetworkError(
                f"{name} has no second derivative, which a product with the metric needs: {error}. Write it with "
                "operations that autograd can differentiate twice, or use a stepper without a metric (FirstOrder)"
            ) from error

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for a direction v [P]."""
        return self.jt(self.j(direction)) / self.num_inputs

    def gram_product(self, sensitivities: Tensor) -> Tensor:
        """Product with the Gram matrix, without forming it.

        Args:
            sensitivities: u [N, C].

        Returns:
            `J J^T u` [N, C].
        """
        return self.j(self.jt(sensitivities))

    def jacobian(self) -> Tensor:
        """`J` [N C, P], for small batches: N C P numbers and N C backward passes."""
        rows = torch.eye(self._kept.numel(), dtype=self._kept.dtype, device=self._kept.device)
        return torch.stack([self.jt(row.view_as(self._kept)) for row in rows])

    def gram(self) -> Tensor:
        """Gram matrix `J J^T` [N C, N C], for small batches: see `jacobian`."""
        rows = self.jacobian()
        return rows @ rows.T

    @property
    def flops(self) -> float:
        """Cost of a forward pass, in an arbitrary unit; a product costs twice as much."""
        return 1.0

    @property
    def gram_flops(self) -> float:
        """Cost of `gram()`, in the same unit."""
        return 2.0 * self._kept.numel()


def joined(pieces: Tensor | Sequence[Tensor]) -> Tensor:
    """Join the pieces of a vector.

    Args:
        pieces: a vector [P], or pieces that follow each other in it.

    Returns:
        The vector [P].
    """
    if isinstance(pieces, Tensor):
        return pieces
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
