"""Projections on the null space of the Jacobian, for any number of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
    """Result of a projection or a least-norm solve.

    Args:
        vector: the solution [P].
        residual: relative residual, measured with `vector` on all inputs.
        iterations: products with J J^T that were used, a sweep counting as one.
    """

    vector: Tensor
    residual: float
    iterations: int


class NullSpace:
    """Null space of `J = ds/dw` [N C, P], by products with J alone.

    The rows of each input form a block `J_n = E_n K_n`, with `E_n = ds/df` [C, C] and `K_n = df/dw`. Softmax is flat
    where the network is confident, so the scales of the blocks span many decades and `J J^T` is ill-conditioned. GMRES
    therefore runs with a right preconditioner that inverts the output part of each block (as in block projections;
    Kaczmarz 1937, Cimmino 1938), which costs no pass through the network:

        d = A J^T M^-1 z,    (J A J^T M^-1) z = u,    M_n = E_n E_n^T + damping mean_n tr(E_n E_n^T) / C

    Before it, sweeps over blocks of inputs (`Sweeps`) run where Gram matrices are cheap, as long as each reduces the
    residual by at least a fifth: the gradient of an objective needs few of them; for a random direction, which has a
    part along every row of J, GMRES soon gains more. M changes how fast the iteration converges, not the solution: d
    lies in the range of `A J^T`, so it is the least-norm solution of `J d = u`.

    Args:
        network: the network as a function of flat weights.
        weights: weights [P] at which J is taken.
        inputs: inputs [N, ...].
        geometry: embedding of the outputs.
        allowed: A, a symmetric projection of weight space [P] to [P], such as a pruning mask. All solutions lie in its
            range, and J stands for J A throughout. None for the identity.
        damping: relative damping of M, above 0; directions of the outputs below this scale are not amplified.
        chunk: inputs in one pass, at least 1.
        kept_bytes: memory for stored passes, estimated from what autograd saves for a few inputs. If more would be
            needed, each product recomputes its passes chunk by chunk, at about twice the cost.

    Attributes:
        keeps: whether passes are stored.

    Raises:
        UsageError: if `damping` or `chunk` is out of range.
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
        chunk: int = 1000,
        kept_bytes: int = 2**31,
    ) -> None:
        if not damping > 0:
            raise UsageError(f"damping must be above 0, and {damping} was given: 0.03 suits most networks")
        if chunk < 1:
            raise UsageError(f"a chunk holds at least one input; chunk={chunk} was given")
        self._network, self._weights, self._geometry = network, weights.detach(), geometry
        self._inputs, self._parts = inputs, inputs.split(chunk)
        self._allowed = allowed if allowed is not None else _everything
        self._damping = damping
        self.keeps = len(inputs) * self._bytes_per_input(inputs[:8]) <= kept_bytes
        self._sweep_bytes = kept_bytes if self.keeps else 0
        # With a mask a block's Gram matrix is as expensive as its Jacobian, so there are no sweeps.
        self._may_sweep = allowed is None
        self._kept: list[Metric] = []

    def j(self, direction: Tensor) -> Tensor:
        """Product with the Jacobian.

        Args:
            direction: v [P].

        Returns:
            `J v` [N, C].
        """
        return torch.cat([metric.j(direction) for metric in self._metrics()])

    def jt(self, sensitivities: Tensor) -> Tensor:
        """Product with the transposed Jacobian.

        Args:
            sensitivities: u [N, C].

        Returns:
            `A J^T u` [P].
        """
        total, start = torch.zeros_like(self._weights), 0
        for metric in self._metrics():
            total += metric.jt(sensitivities[start : start + metric.num_inputs])
            start += metric.num_inputs
        return self._allowed(total)

    def project(
        self,
        vector: Tensor,
        *,
        iterations: int = 300,
        tolerance: float = 1e-3,
        block: int | None = 64,
        restart: int = 300,
    ) -> Projection:
        """Project a direction on the null space: the part that leaves all N outputs unchanged to first order.

        An iteration costs one product with `J` and one with `J^T`, about two gradients of all inputs, and stores N C
        numbers.

        Args:
            vector: v [P].
            iterations: largest number of iterations.
            tolerance: relative residual at which to stop.
            block: see `least_norm`.
            restart: see `least_norm`.

        Returns:
            `d = A v - J^+ J A v` [P], with the residual |J d| / |J A v|.
        """
        begun = self._allowed(vector)
        image = self.j(begun)
        found = self.least_norm(image, iterations=iterations, tolerance=tolerance, block=block, restart=restart)
        inside = begun - found.vector
        return Projection(inside, _ratio(self.j(inside), image), found.iterations)

    def least_norm(
        self,
        right: Tensor,
        *,
        iterations: int = 300,
        tolerance: float = 1e-3,
        block: int | None = 64,
        restart: int = 300,
    ) -> Projection:
        """Solve `J d = u` for the shortest allowed d.

        The part of u outside the range of J stays in the residual. The solve is linear, so a projection and a
        correction can share one: `J^+ (J l - e)`.

        Args:
            right: u [N, C].
            iterations: largest number of iterations.
            tolerance: relative residual at which to stop.
            block: inputs that a sweep projects at once; None for no sweeps.
            restart: largest number of basis vectors [N, C] of GMRES before it restarts from the measured residual.

        Returns:
            `d = J^+ u` [P], with the residual |J d - u| / |u|.

        Raises:
            UsageError: if `restart` is below 1.
        """
        if restart < 1:
            raise UsageError(f"restart is {restart}: GMRES needs at least one basis vector")
        norm = float(torch.linalg.vector_norm(right))
        # The residual is measured with the solution after every stage: in float32 the solvers' own may be too small.
        found, remaining, left, done = torch.zeros_like(self._weights), right, norm, 0
        sweep = self._sweeps(block) if block is not None and self._may_sweep and self._has_cheap_gram() else None
        while sweep and done < iterations and left > tolerance * norm and left > 0:
            candidate = sweep(found, right)
            residual = right - self.j(candidate)
            reached = float(torch.linalg.vector_norm(residual))
            done += 1
            # A sweep that gains less than a fifth is the last, as from there on GMRES gains more.
            sweep = sweep if reached < 0.8 * left else None
            if reached < left:
                found, remaining, left = candidate, residual, reached
        while done < iterations and left > tolerance * norm and left > 0:
            answer = minimal_residual(
                lambda z: self.j(self.jt(self._whitened(z))),
                remaining,
                iterations=min(restart, iterations - done),
                # Relative to what is left; 0.8 because the residual measured afterwards is a little larger.
                tolerance=0.8 * tolerance * norm / left,
            )
            done += answer.iterations
            # Summed in weight space: the coefficients of nearly dependent rows are large, and rounding errors of their
            # sum would exceed the residual.
            candidate = found + self.jt(self._whitened(answer.solution))
            residual = right - self.j(candidate)
            reached = float(torch.linalg.vector_norm(residual))
            if not reached < left:  # the residual is outside the range of J, or the precision is exhausted
                break
            found, remaining, left = candidate, residual, reached
        return Projection(found, left / norm if norm > 0 else 0.0, done)

    def _sweeps(self, block: int) -> Sweeps:
        return Sweeps(self._network, self._weights, self._inputs, self._geometry, block, self._sweep_bytes)

    def _has_cheap_gram(self) -> bool:
        """Return whether a block's Gram matrix takes C backward passes, not one for each output of each input."""
        return self._metric(self._parts[0][:1]).gram_flops < float("inf")

    def _whitened(self, right: Tensor) -> Tensor:
        """`M^-1 z` [N, C]."""
        return torch.einsum("ncd,nd->nc", self._inverse, right)

    @cached_property
    def _inverse(self) -> Tensor:
        """`M_n^-1` [N, C, C], by C backward passes through the geometry alone, not the network."""
        blocks = torch.cat([self._output_gram(part) for part in self._parts])
        # One scale for all inputs: damped by its own trace, a confident input would be amplified as much as any.
        mean = blocks.diagonal(dim1=1, dim2=2).mean()
        identity = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
        return torch.linalg.inv(blocks + self._damping * mean * identity).to(self._weights)

    def _output_gram(self, inputs: Tensor) -> Tensor:
        """`E_n E_n^T` [N, C, C] in float64."""
        outputs = self._network.outputs(self._weights, inputs).double().requires_grad_(True)
        with torch.enable_grad():
            embedded = self._geometry.embed(outputs)
            # Inputs are embedded independently, so the gradient of a sum over them holds each one's own.
            sums = embedded.sum(0)
            rows = [torch.autograd.grad(one, outputs, retain_graph=True)[0].flatten(1) for one in sums]
        slopes = torch.stack(rows, 1)
        return slopes @ slopes.transpose(1, 2)

    def _metrics(self) -> Iterator[Metric]:
        if self.keeps and not self._kept:
            self._kept = [self._metric(part) for part in self._parts]
        yield from self._kept or map(self._metric, self._parts)

    def _metric(self, inputs: Tensor) -> Metric:
        return Metric(self._network, self._weights, inputs, self._geometry)

    def _bytes_per_input(self, inputs: Tensor) -> float:
        """Bytes that a pass and its backward graph store for one input, weights left out."""
        moving, saved = self._weights.clone().requires_grad_(True), list[Tensor]()
        # append returns None, which the graph holds instead of the tensors: it cannot run backward, and need not.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda kept: kept):
            embedded = self._geometry.embed(self._network(moving, inputs))
        # By storage: many saved tensors are views of one, and the weights are stored once for all passes.
        storages = [tensor.untyped_storage() for tensor in (*saved, embedded)]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        sizes.pop(moving.untyped_storage().data_ptr(), None)
        # Times 3: the graph of the backward pass is taken to store twice as much as that of the forward pass.
        return 3 * sum(sizes.values()) / max(1, len(inputs))


def _everything(vector: Tensor) -> Tensor:
    return vector


def _ratio(remaining: Tensor, begun: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(begun))
    return float(torch.linalg.vector_norm(remaining)) / norm if norm > 0 else 0.0
