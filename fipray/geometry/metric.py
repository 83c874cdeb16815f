"""The metric that an output geometry pulls back to weight space, at one point, as products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial, reduce
from typing import Literal

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.geometry.layers import Layer, Recording
from fipray.networks.arrays import AnyWeights, Inputs
from fipray.networks.derivatives import transposed, twice_differentiable, without_second_derivative
from fipray.networks.embedding import OutputGeometry
from fipray.networks.inputs import refused_by_forward
from fipray.networks.network import Network

Precision = Literal["full", "bf16"]


class Products:
    """Products with `J = ds/dw` [N C, P], from a kept forward pass that gave s [N, C] at `weights` [P].

    The backward graph that `J v` needs is made once: `J^T u` costs one backward pass, `J v` one backward pass through
    the backward graph (the derivative of `J^T z` by z in direction v), which is about one gradient each or less.
    """

    def __init__(self, network: Network, weights: Tensor, inputs: Tensor, kept: Tensor) -> None:
        """`weights` require gradients, and `kept` [N, C] was computed from them on `inputs` [N, ...]."""
        self._network, self._weights, self._inputs, self._kept = network, weights, inputs, kept
        self.embedded = kept.detach()
        self.num_inputs = len(inputs)
        self._probe: Tensor | None = None
        self._transposed: Tensor | None = None

    @property
    def depends(self) -> bool:
        """Whether autograd sees the weights behind s."""
        if not self._kept.requires_grad:
            return False
        return torch.autograd.grad(self._kept.sum(), self._weights, retain_graph=True, allow_unused=True)[0] is not None

    def jt(self, sensitivities: Tensor) -> Tensor:
        """`J^T u` [P] for `u` [N, C]."""
        with self._named():
            return torch.autograd.grad(self._kept, self._weights, sensitivities, retain_graph=True)[0]

    def j(self, direction: Tensor) -> Tensor:
        """`J v` [N, C] for `v` [P]."""
        with self._named():
            if self._transposed is None or self._probe is None:
                # J^T z is linear in z: its value at any z gives the same derivative
                self._transposed, self._probe = transposed(self._kept, self._weights)
            return torch.autograd.grad(self._transposed, self._probe, direction, retain_graph=True)[0]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What autograd cannot differentiate is named by the module that does it."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            with twice_differentiable():
                name = without_second_derivative(self._network, self._weights.detach(), self._inputs[:2])
            if name is None:
                raise
            raise NetworkError(
                f"{name} has no second derivative, which a product with the metric needs: {error}. Write it with "
                "operations that autograd can differentiate twice, or take steps without a metric (FirstOrder)"
            ) from error

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for `v` [P]."""
        return self.jt(self.j(direction)) / self.num_inputs

    def gram_product(self, sensitivities: Tensor) -> Tensor:
        """`J J^T u` [N, C] for `u` [N, C], without the Gram matrix."""
        return self.j(self.jt(sensitivities))

    def jacobian(self) -> Tensor:
        """`J` [N C, P]: N C P numbers, N C backward passes. For small batches."""
        rows = torch.eye(self._kept.numel()).to(self._kept)
        return torch.stack([self.jt(row.view_as(self._kept)) for row in rows])

    def gram(self) -> Tensor:
        """`J J^T` [N C, N C]. For small batches: see `jacobian`."""
        rows = self.jacobian()
        return rows @ rows.T

    @property
    def flops(self) -> float:
        """Cost of a forward pass, in any unit; a product costs twice as much."""
        return 1.0

    @property
    def gram_flops(self) -> float:
        """Cost of `gram()`, in the same unit."""
        return 2.0 * self._kept.numel()


@checked
class Metric(Products):
    """`g = J^T J / N` at `weights` [P] on `inputs` [N, ...], where `J = ds/dw` [N C, P] and s are embedded outputs [N,
    C].

    g is never formed. The forward pass, and the backward graph that `J v` needs, are made once and kept: `J^T u` costs
    one backward pass, `J v` one backward pass through the backward graph (the derivative of `J^T z` by z in direction
    v), which is about one gradient each or less.

    precision: of the layers' products: "full"; "bf16" (bfloat16 with float32 accumulation, by autocast: half the
    memory, and the speed of a GPU's matrix units); the outputs are embedded in the weights' own dtype either way.

    Raises NetworkError, which names the module, where the network has no second derivative.
    """

    def __init__(
        self,
        network: Network,
        weights: AnyWeights,
        inputs: Inputs,
        geometry: OutputGeometry,
        *,
        precision: Precision = "full",
    ) -> None:
        if precision == "bf16" and weights.dtype is torch.float64:
            raise UsageError("precision='bf16' is for weights in float32; these are in float64: use 'full'")
        moving = weights.detach().requires_grad_(True)
        self._recording = Recording(moving)
        with torch.enable_grad(), twice_differentiable(), self._recording:
            low = torch.autocast(weights.device.type, torch.bfloat16, enabled=precision == "bf16")
            with low, refused_by_forward(inputs):
                outputs = network(moving, inputs)
            kept = geometry.embed(outputs.to(weights.dtype))
        super().__init__(network, moving, inputs, kept)

    @property
    def layers(self) -> list[Layer]:
        """The linear maps and convolutions of the pass, in the order in which they were made."""
        return self._recording.layers

    @property
    def in_layers(self) -> bool:
        """Whether every weight acts in one of `layers`, and once."""
        return self._first_sensitivities is not None

    def by_layer(self, sensitivities: Tensor) -> tuple[list[Tensor], Tensor]:
        """`u` [N, C] carried back to the output of each layer, [N, T, out] each, and `J^T u` [P]: one backward pass."""
        outputs = [layer.output for layer in self.layers]
        *found, product = torch.autograd.grad(
            self._kept, [*outputs, self._weights], sensitivities, retain_graph=True, materialize_grads=True
        )
        return [layer.by_position(one) for layer, one in zip(self.layers, found, strict=True)], product

    def of_output(self, number: int) -> list[Tensor]:
        """The sensitivities of one embedded output to the output of each layer, [N, T, out] each."""
        return self.by_layer(self._one_hot(number))[0]

    def jacobian(self) -> Tensor:
        """`J` [N C, P]: N C P numbers. For small batches.

        C backward passes where every weight acts in one linear layer or convolution, else N C of them.
        """
        if self._sensitivities is None:
            return super().jacobian()
        found = self._kept.new_empty(self._kept.numel(), len(self._weights))
        for layer, by_output in zip(self.layers, self._sensitivities, strict=True):
            layer.put(found, _per_output(layer, by_output))
        return found

    def diagonal(self) -> Tensor:
        """`diag g` [P].

        C backward passes for the weights of layers, each of which acts once; where they do not tell, or where other
        weights move too, N C passes, an input's outputs at a time.
        """
        if self._sensitivities is None:
            rows = torch.eye(self._kept.numel()).to(self._kept)
            return _sum(self.jt(row.view_as(self._kept)).square() for row in rows) / self.num_inputs
        total = torch.zeros_like(self._weights.detach())
        for layer, by_output in zip(self.layers, self._sensitivities, strict=True):
            seen = layer.patches()
            if seen.shape[1] == 1:  # one position: the squares of an outer product are one of squares
                squares = by_output[:, :, 0].square().sum(1).T @ seen[:, 0].square()
            else:
                squares = _sum(torch.einsum("nto,nti->noi", one, seen).square().sum(0) for one in by_output.unbind(1))
            layer.put(total, squares)
        return total / self.num_inputs

    def gram(self) -> Tensor:
        """`J J^T` [N C, N C]. For small batches: layer by layer, without `J` where that can be (see `jacobian`)."""
        if self._sensitivities is None:
            return super().gram()
        size = self._kept.numel()
        total = self._kept.new_zeros(size, size)
        for layer, by_output in zip(self.layers, self._sensitivities, strict=True):
            if by_output.shape[2] == 1:  # one position: the rows are outer products, so their products are products
                seen, sensitivities = layer.patches()[:, 0], by_output.reshape(size, -1)
                inner = (seen @ seen.T).repeat_interleave(size // self.num_inputs, 0)
                total += (sensitivities @ sensitivities.T) * inner.repeat_interleave(size // self.num_inputs, 1)
            else:
                rows = _per_output(layer, by_output).flatten(1)
                total.addmm_(rows, rows.T)
        return total

    @property
    def flops(self) -> float:
        """Floating-point operations of a forward pass through the layers; a product costs twice as many."""
        return self._recording.flops

    @property
    def gram_flops(self) -> float:
        """The same for `gram()`; infinite where it would take a pass for each of the N C outputs."""
        if not self._recording.complete:
            return float("inf")
        num_outputs = self._kept.shape[1]
        total = 1.5 * num_outputs * self.flops
        for layer in self.layers:
            positions = layer.output.numel() / layer.num_outputs / self.num_inputs
            if positions == 1:
                total += 2 * self._kept.numel() ** 2 * layer.num_outputs
            else:
                total += 2 * layer.size * self._kept.numel() * (positions + self._kept.numel())
        return total

    @cached_property
    def _sensitivities(self) -> list[Tensor] | None:
        """Of each output to each layer: [N, C, T, out]; None where the layers do not tell the whole of J."""
        if self._first_sensitivities is None:
            return None
        found = [self._first_sensitivities]
        found += [self.of_output(place) for place in range(1, self._kept.shape[1])]
        return [torch.stack(by_output, 1) for by_output in zip(*found, strict=True)]

    @cached_property
    def _first_sensitivities(self) -> list[Tensor] | None:
        """Of the first output alone."""
        if not self._recording.complete:
            return None
        carried, product = self.by_layer(self._one_hot(0))
        return carried if self._told_by_layers(carried, product) else None

    def _one_hot(self, place: int) -> Tensor:
        one = torch.zeros_like(self._kept)
        one[:, place] = 1
        return one

    def _told_by_layers(self, carried: list[Tensor], product: Tensor) -> bool:
        """Whether the layers' parts make up the whole of `J^T u`: not so where a weight also acts elsewhere."""
        whole = torch.zeros_like(product)
        for layer, one in zip(self.layers, carried, strict=True):
            layer.put(whole, torch.einsum("nto,nti->oi", one, layer.patches()))
        allowed = 1e3 * torch.finfo(whole.dtype).eps * float(torch.linalg.vector_norm(product))
        return float(torch.linalg.vector_norm(whole - product)) <= allowed


@checked
class StreamedMetric:
    """The same metric on more inputs than fit in memory: a `Metric` of `chunk` inputs at a time, made anew for each
    product, which costs a forward pass more. `J^T J v` is one such sweep.
    """

    def __init__(
        self,
        network: Network,
        weights: AnyWeights,
        inputs: Inputs,
        geometry: OutputGeometry,
        *,
        chunk: int,
        precision: Precision = "full",
    ) -> None:
        if chunk < 1:
            raise UsageError(f"a chunk holds at least one input; {chunk} was given")
        self._parts = inputs.split(chunk)
        self._metric: Callable[[Tensor], Metric] = partial(
            Metric, network, weights, geometry=geometry, precision=precision
        )
        self.num_inputs = len(inputs)
        with refused_by_forward(inputs):
            self.embedded = torch.cat([geometry.embed(network.outputs(weights, part)) for part in self._parts])

    def j(self, direction: Tensor) -> Tensor:
        """`J v` [N, C] for `v` [P]."""
        return torch.cat([self._metric(part).j(direction) for part in self._parts])

    def jt(self, sensitivities: Tensor) -> Tensor:
        """`J^T u` [P] for `u` [N, C]."""
        parts = zip(self._parts, sensitivities.split([len(part) for part in self._parts]), strict=True)
        return _sum(self._metric(part).jt(one) for part, one in parts)

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for `v` [P]."""

        def product(part: Tensor) -> Tensor:
            metric = self._metric(part)
            return metric.jt(metric.j(direction))

        return _sum(map(product, self._parts)) / self.num_inputs


def _sum(vectors: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, vectors)


def _per_output(layer: Layer, by_output: Tensor) -> Tensor:
    """The gradients [N C, out, in] of each output by the layer's weights, the bias in the last column."""
    return torch.einsum("ncto,nti->ncoi", by_output, layer.patches()).flatten(0, 1)
