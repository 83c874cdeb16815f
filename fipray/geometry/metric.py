"""The metric that an output geometry pulls back to weight space, at one point, as products."""

from __future__ import annotations

import torch
from torch import Tensor

from fipray.geometry.network import Network
from fipray.geometry.outputs import OutputGeometry


class Metric:
    """`g = J^T J / N` at `weights` [P] on `inputs` [N, ...], where `J = ds/dw` [N C, P] and s are embedded outputs [N,
    C].

    g is never formed. The forward pass, and the backward graph that `J v` needs, are made once and kept: `J^T u` costs
    one backward pass, `J v` one backward pass through the backward graph (the derivative of `J^T z` by z in direction
    v), which is about one gradient each.
    """

    def __init__(self, network: Network, weights: Tensor, inputs: Tensor, geometry: OutputGeometry) -> None:
        self._weights = weights.detach().requires_grad_(True)
        with torch.enable_grad():
            self._kept = geometry.embed(network(self._weights, inputs))
        self.embedded = self._kept.detach()
        self.num_inputs = len(inputs)
        self._probe: Tensor | None = None
        self._transposed: Tensor | None = None

    def jt(self, sensitivities: Tensor) -> Tensor:
        """`J^T u` [P] for `u` [N, C]."""
        return torch.autograd.grad(self._kept, self._weights, sensitivities, retain_graph=True)[0]

    def j(self, direction: Tensor) -> Tensor:
        """`J v` [N, C] for `v` [P]."""
        if (
            self._transposed is None or self._probe is None
        ):  # J^T z is linear in z: its value at any z gives the same derivative
            with torch.enable_grad():
                self._probe = torch.zeros_like(self._kept, requires_grad=True)
                self._transposed = torch.autograd.grad(self._kept, self._weights, self._probe, create_graph=True)[0]
        return torch.autograd.grad(self._transposed, self._probe, direction, retain_graph=True)[0]

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for `v` [P]."""
        return self.jt(self.j(direction)) / self.num_inputs

    def gram_product(self, sensitivities: Tensor) -> Tensor:
        """`J J^T u` [N, C] for `u` [N, C], without the Gram matrix."""
        return self.j(self.jt(sensitivities))

    def jacobian(self) -> Tensor:
        """`J` [N C, P], row by row: N C backward passes and N C P numbers. For small batches."""
        return torch.stack([self.jt(row.view_as(self._kept)) for row in torch.eye(self._kept.numel()).to(self._kept)])

    def gram(self) -> Tensor:
        """`J J^T` [N C, N C]. For small batches."""
        rows = self.jacobian()
        return rows @ rows.T
