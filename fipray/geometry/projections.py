"""Directions in which the function stays: projections on the null space of J over any number of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry.metric import Metric
from fipray.geometry.solvers import Product, minimal_residual
from fipray.geometry.sweeps import Sweeps
from fipray.networks.embedding import OutputGeometry
from fipray.networks.network import Network


@dataclass(frozen=True)
class Projection:
    """`vector` [P]; the relative residual that was measured with it on all inputs; the products with J J^T it took."""

    vector: Tensor
    residual: float
    iterations: int


class NullSpace:
    """The null space of `J = ds/dw` [N C, P] at `weights` [P] on `inputs` [N, ...], by products with J alone.

    Each input's rows are one block `J_n = E_n K_n`, with `E_n = ds/df` [C, C] and `K_n = df/dw`. On a sure input
    softmax is flat, so the scales of the blocks span many decades, and `J J^T` is badly conditioned. So the projections
    on the blocks (Kaczmarz 1937; all at once, Cimmino 1938) are damped, know of each block its E_n alone, which costs
    nothing and serves as well, and are accelerated by GMRES:

        d = A J^T M^-1 z,    (J A J^T M^-1) z = u,    M_n = E_n E_n^T + damping mean_n tr(E_n E_n^T) / C

    Before that come sweeps over blocks of inputs (`Sweeps`), where their Gram matrices are cheap, for as long as each
    takes off at least a fifth of the residual: an objective's gradient needs few; a random direction, which hits every
    direction of J, soon gains more by GMRES. M decides how fast, not where to: d lies in the range of `A J^T`, so it is
    the least-norm solution of `J d = u`.

    allowed: A, a symmetric projection of weight space such as a mask, [P] to [P]; every direction then lies in its
        range, and J is J A throughout.
    damping: relative; M_n leaves alone the directions of outputs that matter less than this.
    block: of inputs that a sweep projects at once; None for no sweeps.
    chunk: of inputs in one pass.
    kept_bytes: of passes that may be kept, as estimated from what autograd saves for a few inputs; where they would
        take more, each product makes its passes anew, one chunk at a time, and costs about twice as much.
    restart: vectors [N, C] that GMRES keeps at most, before it begins anew from the residual measured there.
    """

    def __init__(
        self,
        network: Network,
        weights: Tensor,
        inputs: Tensor,
        geometry: OutputGeometry,
        *,
        allowed: Product | None = None,
        damping: float = 0.03,
        block: int | None = 64,
        chunk: int = 1000,
        kept_bytes: int = 2**31,
        restart: int = 300,
    ) -> None:
        if not damping > 0:
            raise UsageError(f"damping is above 0; {damping} was given: 0.03 suits most networks")
        if chunk < 1 or restart < 1:
            raise UsageError(f"a chunk and a basis hold at least one; chunk={chunk}, restart={restart} were given")
        self._network, self._weights, self._geometry = network, weights.detach(), geometry
        self._parts = inputs.split(chunk)
        self._allowed = allowed if allowed is not None else _everything
        self._damping, self._restart = damping, restart
        self.keeps = len(inputs) * self._bytes_per_input(inputs[:8]) <= kept_bytes
        # A mask makes a block's Gram matrix as dear as its Jacobian: then there are no sweeps.
        self._sweeps = (
            partial(Sweeps, network, self._weights, inputs, geometry, block, kept_bytes if self.keeps else 0)
            if block is not None and allowed is None
            else None
        )
        self._kept: list[Metric] = []

    def j(self, direction: Tensor) -> Tensor:
        """`J v` [N, C] for `v` [P]."""
        return torch.cat([metric.j(direction) for metric in self._metrics()])

    def jt(self, sensitivities: Tensor) -> Tensor:
        """`A J^T u` [P] for `u` [N, C]."""
        total, start = torch.zeros_like(self._weights), 0
        for metric in self._metrics():
            total += metric.jt(sensitivities[start : start + metric.num_inputs])
            start += metric.num_inputs
        return self._allowed(total)

    def project(self, vector: Tensor, *, iterations: int = 300, tolerance: float = 1e-3) -> Projection:
        """`A v - J^+ J A v` [P], the part of `v` [P] that leaves all N outputs as they are; residual |J v| / |J A v0|.

        An iteration costs `J` and `J^T`, about two gradients of all inputs, and keeps N C numbers.
        """
        begun = self._allowed(vector)
        image = self.j(begun)
        found = self.least_norm(image, iterations=iterations, tolerance=tolerance)
        inside = begun - found.vector
        return Projection(inside, _ratio(self.j(inside), image), found.iterations)

    def least_norm(self, right: Tensor, *, iterations: int = 300, tolerance: float = 1e-3) -> Projection:
        """`d = J^+ u` [P] for `u` [N, C], the shortest allowed d with `J d = u`; residual |J d - u| / |u|.

        What has no solution (part of u outside the range of J) stays in the residual. Both solves are linear, so a
        projection and a correction share one: `J^+ (J l - e)`.
        """
        norm = float(torch.linalg.vector_norm(right))
        found, remaining, left, done = torch.zeros_like(self._weights), right, norm, 0
        sweep = self._sweeps() if self._sweeps and self._layers_tell_j() else None
        while sweep and done < iterations and left > tolerance * norm and left > 0:
            candidate = sweep(found, right)
            residual = right - self.j(candidate)
            reached = float(torch.linalg.vector_norm(residual))
            done += 1
            sweep = sweep if reached < 0.8 * left else None
            if reached < left:
                found, remaining, left = candidate, residual, reached
        while done < iterations and left > tolerance * norm and left > 0:
            answer = minimal_residual(
                lambda z: self.j(self.jt(self._whitened(z))),
                remaining,
                iterations=min(self._restart, iterations - done),
                tolerance=0.8 * tolerance * norm / left,
            )
            done += answer.iterations
            # Added up in weight space: multipliers of near-dependent rows are long, and round to more than they undo.
            candidate = found + self.jt(self._whitened(answer.solution))
            residual = right - self.j(candidate)
            reached = float(torch.linalg.vector_norm(residual))
            if not reached < left:  # no more can be had, or not in this precision
                break
            found, remaining, left = candidate, residual, reached
        return Projection(found, left / norm if norm > 0 else 0.0, done)

    def _layers_tell_j(self) -> bool:
        """So that a block's Gram matrix takes C passes and not one for each output."""
        return self._metric(self._parts[0][:1]).gram_flops < float("inf")

    def _whitened(self, right: Tensor) -> Tensor:
        """`M^-1 z` [N, C]."""
        return torch.einsum("ncd,nd->nc", self._inverse, right)

    @cached_property
    def _inverse(self) -> Tensor:
        """`M_n^-1` [N, C, C]: C backward passes through the geometry alone, never the network."""
        blocks = torch.cat([self._output_gram(part) for part in self._parts])
        mean = blocks.diagonal(dim1=1, dim2=2).mean()
        identity = torch.eye(blocks.shape[1]).to(blocks)
        return torch.linalg.inv(blocks + self._damping * mean * identity).to(self._weights)

    def _output_gram(self, inputs: Tensor) -> Tensor:
        """`E_n E_n^T` [N, C, C] in float64."""
        outputs = self._network.outputs(self._weights, inputs).double().requires_grad_(True)
        with torch.enable_grad():
            embedded = self._geometry.embed(outputs)
            each = embedded.sum(0)
            rows = [torch.autograd.grad(one, outputs, retain_graph=True)[0].flatten(1) for one in each]
        slopes = torch.stack(rows, 1)
        return slopes @ slopes.transpose(1, 2)

    def _metrics(self) -> Iterator[Metric]:
        if self.keeps and not self._kept:
            self._kept = [self._metric(part) for part in self._parts]
        yield from self._kept or map(self._metric, self._parts)

    def _metric(self, inputs: Tensor) -> Metric:
        return Metric(self._network, self._weights, inputs, self._geometry)

    def _bytes_per_input(self, few: Tensor) -> float:
        """What a pass and its backward graph keep for one input, the weights not counted."""
        moving, saved = self._weights.clone().requires_grad_(True), list[Tensor]()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda kept: kept):
            embedded = self._geometry.embed(self._network(moving, few))
        storages = [tensor.untyped_storage() for tensor in (*saved, embedded)]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        sizes.pop(moving.untyped_storage().data_ptr(), None)
        return 3 * sum(sizes.values()) / max(1, len(few))


def _everything(vector: Tensor) -> Tensor:
    return vector


def _ratio(remaining: Tensor, begun: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(begun))
    return float(torch.linalg.vector_norm(remaining)) / norm if norm > 0 else 0.0
