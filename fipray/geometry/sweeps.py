"""Alternating projections (block Kaczmarz) over blocks of inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fipray.geometry.metric import Metric
from fipray.networks.embedding import OutputGeometry
from fipray.networks.network import Network


class Sweeps:
    """Kaczmarz sweeps towards the least-norm solution of `J d = u` (Kaczmarz 1937; by blocks, Elfving 1980).

        d <- d + J_b^T (J_b J_b^T)^+ (u_b - J_b d)    for each block b of inputs in turn

    With u = J v, `v - d` is v after projection on the null space of one block after the other (for neural networks,
    Miani et al. 2025). A sweep costs about two gradients of all inputs. The first also takes C backward passes a block
    for its Gram matrix, and a Cholesky factor [block C, block C].

    Args:
        network: the network as a function of flat weights.
        weights: weights [P] at which J is taken.
        inputs: inputs [N, ...].
        geometry: embedding of the outputs.
        block: inputs in one block.
        kept_bytes: memory for the Cholesky factors of all blocks; if they would take more, each sweep recomputes them.
    """

    def __init__(
        self,
        network: Network,
        weights: Tensor,
        inputs: Tensor,
        geometry: OutputGeometry,
        block: int = 64,
        kept_bytes: int = 2**31,
    ) -> None:
        self._arguments = (network, weights, geometry)
        self._parts = inputs.split(block)
        self._kept_bytes = kept_bytes
        self._kept: list[tuple[Metric, Tensor]] = []

    def __call__(self, solution: Tensor, right: Tensor) -> Tensor:
        """Run one sweep from the solution [P] towards the right side [N, C], and return the new solution [P]."""
        start = 0
        for metric, factor in self._blocks():
            wanted = right[start : start + metric.num_inputs] - metric.j(solution)
            answer = torch.cholesky_solve(wanted.reshape(-1, 1), factor).view_as(wanted)
            solution = solution + metric.jt(answer)
            start += metric.num_inputs
        return solution

    def _blocks(self) -> Iterator[tuple[Metric, Tensor]]:
        if self._kept:
            yield from self._kept
            return
        network, weights, geometry = self._arguments
        kept, keeps_all = list[tuple[Metric, Tensor]](), False
        for part in self._parts:
            # The metric of the Gram matrix holds the sensitivities of all layers; the block keeps one without them.
            factor = self._factor(Metric(network, weights, part, geometry))
            block = (Metric(network, weights, part, geometry), factor)
            # Decided once, by the first block, since all but the last have one size: a part of the blocks is no sweep.
            if part is self._parts[0]:
                keeps_all = len(self._parts) * factor.nbytes <= self._kept_bytes
            if keeps_all:
                kept.append(block)
            yield block
        self._kept = kept  # only now: an interrupted sweep has not seen all blocks

    def _factor(self, metric: Metric) -> Tensor:
        """Cholesky factor of the block's Gram matrix, shifted by 1e-6 of its norm."""
        gram = metric.gram()
        # Smaller eigenvalues are rounding errors in float32.
        shift = max(1e-6 * float(torch.linalg.matrix_norm(gram)), torch.finfo(gram.dtype).tiny)
        # In float64: in float32 this shift is so close to rounding errors that Cholesky may fail.
        shifted = gram.double() + shift * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        return torch.linalg.cholesky(shifted).to(gram.dtype)
