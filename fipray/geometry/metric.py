"""The metric that an output geometry pulls back to weight space, at one point, as products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial, reduce
from typing import Literal

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry.jacobian import Products, joined
from fipray.geometry.layers import Layer, Recording
from fipray.networks.arrays import AnyWeights, Inputs
from fipray.networks.compute import undivided
from fipray.networks.derivatives import twice_differentiable
from fipray.networks.embedding import OutputGeometry
from fipray.networks.inputs import refused_by_forward
from fipray.networks.network import Network

Precision = Literal["full", "bf16"]


@checked
class Metric(Products):
    """The metric tensor `g = J^T J / N`, with `J = ds/dw` [N C, P] and s the embedded outputs [N, C].

    g is never formed. The graphs of the forward and the backward pass are made once and stored: `J^T u` costs one
    backward pass and `J v` one backward pass through the backward graph, about one gradient each or less. Where every
    weight acts in one linear map or convolution, Gram matrix and diagonal take C backward passes.

    Args:
        network: the network as a function of flat weights.
        weights: weights [P] at which the metric is taken.
        inputs: inputs [N, ...].
        geometry: embedding of the outputs.
        precision: precision of the layers' products: "full", or "bf16" for bfloat16 with float32 accumulation by
            autocast, which takes half the memory and uses a GPU's matrix units. The outputs are embedded in the dtype
            of the weights either way.

    Raises:
        UsageError: for "bf16" with weights in float64.
        NetworkError: if the network has no second derivative; the error names the module. Raised by the products.
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
            raise UsageError("precision='bf16' is for weights in float32, and these are in float64: use 'full'")
        # Detached: products differentiate by these leaves alone, whatever graph the caller's weights belong to.
        fixed = weights.detach()
        leaves = {name: one.requires_grad_(True) for name, one in network.named(fixed).items()}
        self._recording = Recording(fixed)
        with torch.enable_grad(), twice_differentiable(), undivided(), self._recording:
            low = torch.autocast(weights.device.type, torch.bfloat16, enabled=precision == "bf16")
            with low, refused_by_forward(inputs):
                outputs = network.evaluated(leaves, inputs)
            # Outside autocast: probabilities near 0 and 1 would lose their differences in bfloat16.
            kept = geometry.embed(outputs.to(weights.dtype))
        super().__init__(network, fixed, inputs, kept, list(leaves.values()))

    @property
    def layers(self) -> list[Layer]:
        """Linear maps and convolutions of the pass, in its order."""
        return self._recording.layers

    @property
    def in_layers(self) -> bool:
        """True if every weight acts in one of `layers`, once, and nowhere else."""
        return self._first_sensitivities is not None

    def by_layer(self, sensitivities: Tensor) -> tuple[list[Tensor], Tensor]:
        """Propagate sensitivities back to the output of each layer, in one backward pass.

        Args:
            sensitivities: u [N, C].

        Returns:
            The sensitivities at each layer's output, [N, T, out] each, and `J^T u` [P].
        """
        outputs = [layer.output for layer in self.layers]
        # A layer whose output does not reach s has sensitivities of zero, not None.
        found = torch.autograd.grad(
            self._kept, [*outputs, *self._leaves], sensitivities, retain_graph=True, materialize_grads=True
        )
        carried = [layer.by_position(one) for layer, one in zip(self.layers, found, strict=False)]
        return carried, joined([one.reshape(-1) for one in found[len(outputs) :]])

    def of_output(self, number: int) -> list[Tensor]:
        """Sensitivities of one embedded output to the output of each layer.

        Args:
            number: index of the embedded output, 0..C-1.

        Returns:
            Sensitivities [N, T, out], one tensor a layer.
        """
        return self.by_layer(self._one_hot(number))[0]

    def jacobian(self) -> Tensor:
        """`J` [N C, P], for small batches: N C P numbers.

        Takes C backward passes where every weight acts in one linear map or convolution, else N C.
        """
        if self._sensitivities is None:
            return super().jacobian()
        found = self._kept.new_empty(self._kept.numel(), len(self._weights))
        for layer, by_output in zip(self.layers, self._sensitivities, strict=True):
            layer.put(found, _per_output(layer, by_output))
        return found

    def diagonal(self) -> Tensor:
        """Diagonal of g [P].

        Takes C backward passes where every weight acts in one linear map or convolution, else N C.
        """
        if self._sensitivities is None:
            rows = torch.eye(self._kept.numel()).to(self._kept)
            return _sum(self.jt(row.view_as(self._kept)).square() for row in rows) / self.num_inputs
        total = torch.zeros_like(self._weights)
        for layer, by_output in zip(self.layers, self._sensitivities, strict=True):
            patches = layer.patches()
            if patches.shape[1] == 1:  # one position: the squares of an outer product are an outer product of squares
                squares = by_output[:, :, 0].square().sum(1).T @ patches[:, 0].square()
            else:
                # One output at a time: the gradients of all of them would take C times the memory.
                gradients = (torch.einsum("nto,nti->noi", one, patches) for one in by_output.unbind(1))
                squares = _sum(gradient.square().sum(0) for gradient in gradients)
            layer.put(total, squares)
        return total / self.num_inputs

    def gram(self) -> Tensor:
        """Gram matrix `J J^T` [N C, N C], for small batches; layer by layer and without `J` where possible."""
        if self._sensitivities is None:
            return super().gram()
        size = self._kept.numel()
        total = self._kept.new_zeros(size, size)
        for layer, by_output in zip(self.layers, self._sensitivities, strict=True):
            if by_output.shape[2] == 1:  # one position: <a b^T, a' b'^T> = <a, a'> <b, b'>, without the outer products
                patches, sensitivities = layer.patches()[:, 0], by_output.reshape(size, -1)
                inner = (patches @ patches.T).repeat_interleave(size // self.num_inputs, 0)
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
        """Floating-point operations of `gram()`; infinite where it takes a pass for each of the N C outputs."""
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
        """Sensitivities of all outputs to each layer [N, C, T, out]; None where the layers do not give all of J."""
        if self._first_sensitivities is None:
            return None
        found = [self._first_sensitivities]
        found += [self.of_output(place) for place in range(1, self._kept.shape[1])]
        return [torch.stack(by_output, 1) for by_output in zip(*found, strict=True)]

    @cached_property
    def _first_sensitivities(self) -> list[Tensor] | None:
        """Sensitivities of the first output; None where the layers do not give all of J."""
        if not self._recording.complete:
            return None
        # One output decides whether the layers suffice, before C passes are spent on all of them.
        carried, product = self.by_layer(self._one_hot(0))
        return carried if self._is_whole(carried, product) else None

    def _one_hot(self, place: int) -> Tensor:
        one = torch.zeros_like(self._kept)
        one[:, place] = 1
        return one

    def _is_whole(self, carried: list[Tensor], product: Tensor) -> bool:
        """Return whether the layers' parts add up to `J^T u`: not so where a weight also acts in another operation."""
        whole = torch.zeros_like(product)
        for layer, one in zip(self.layers, carried, strict=True):
            layer.put(whole, torch.einsum("nto,nti->oi", one, layer.patches()))
        # The two sums run in different orders; a weight that acts elsewhere differs by far more than this.
        allowed = 1e3 * torch.finfo(whole.dtype).eps * float(torch.linalg.vector_norm(product))
        return float(torch.linalg.vector_norm(whole - product)) <= allowed


@checked
class StreamedMetric:
    """The metric on more inputs than fit in memory: a `Metric` of one chunk at a time, recomputed for each product.

    A product therefore costs one more forward pass than that of `Metric`; `g @ v` is a single sweep over the chunks.

    Args:
        network: see `Metric`.
        weights: see `Metric`.
        inputs: see `Metric`.
        geometry: see `Metric`.
        chunk: inputs in one pass, at least 1.
        precision: see `Metric`.

    Attributes:
        embedded: embedded outputs [N, C].
        num_inputs: N.

    Raises:
        UsageError: if `chunk` is below 1.
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
        """Product with the Jacobian.

        Args:
            direction: v [P].

        Returns:
            `J v` [N, C].
        """
        # Each metric is dropped after its product, so that one chunk's graph is in memory at a time.
        return torch.cat([self._metric(part).j(direction) for part in self._parts])

    def jt(self, sensitivities: Tensor) -> Tensor:
        """Product with the transposed Jacobian.

        Args:
            sensitivities: u [N, C].

        Returns:
            `J^T u` [P].
        """
        parts = zip(self._parts, sensitivities.split([len(part) for part in self._parts]), strict=True)
        return _sum(self._metric(part).jt(one) for part, one in parts)

    def __matmul__(self, direction: Tensor) -> Tensor:
        """`g @ v` [P] for a direction v [P]."""

        def product(part: Tensor) -> Tensor:
            metric = self._metric(part)
            return metric.jt(metric.j(direction))

        return _sum(map(product, self._parts)) / self.num_inputs

    def jacobian(self) -> Tensor:
        """`J` [N C, P], for few outputs: see `Metric.jacobian`."""
        return torch.cat([self._metric(part).jacobian() for part in self._parts])

    def gram(self) -> Tensor:
        """Gram matrix `J J^T` [N C, N C] from `jacobian`."""
        rows = self.jacobian()
        return rows @ rows.T


def _sum(vectors: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, vectors)


def _per_output(layer: Layer, by_output: Tensor) -> Tensor:
    """Gradients [N C, out, in] of each output in the layer's weights, the bias in the last column."""
    return torch.einsum("ncto,nti->ncoi", by_output, layer.patches()).flatten(0, 1)
