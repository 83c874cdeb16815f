"""Gradients of outputs compared with finite differences, in double precision where the module allows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from fipray.errors import NetworkError
from fipray.networks.checks.doubling import doubled
from fipray.networks.checks.passes import kind_of
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.modules import copied
from fipray.networks.origin import memory_of
from fipray.networks.parameters import listed

_NUM_INPUTS, _FEW_INPUTS = 4, 2  # enough for a difference, which needs many forward passes; fewer of large inputs
_LARGE_INPUT = 2**16  # numbers, of which a gradient in double precision may need more memory than a step
# Lengths of differences, and the error allowed for each as a fraction of the effect. The shortest is for double
# precision; longer ones are for modules that compute in single.
_STEPS = ((1e-7, 1e-3), (1e-3, 0.03), (1e-2, 0.03))
_SAME = 0.05  # fraction of the outputs by which half precision may differ from double
_FURTHER = (1e-3, 1e-2, 3e-2)  # lengths at which rounding in forward (fake quantisation) shows as another slope


@dataclass(frozen=True)
class Place:
    """A network evaluated at some weights.

    Args:
        network: the network.
        weights: [P].
        inputs: [N, ...].
        outputs: [N, ...].
        is_double: whether all computes in double precision, whatever the parameters' own.
    """

    network: FunctionalModule
    weights: Tensor
    inputs: Tensor
    outputs: Tensor
    is_double: bool = False

    @property
    def precision(self) -> torch.dtype:
        """The lowest precision in which the network computes."""
        if self.is_double:
            return torch.float64
        kinds = {parameter.dtype for _, part in self.network.parts() for parameter in part.parameters(recurse=False)}
        return max((kind for kind in kinds if kind.is_floating_point), key=lambda kind: torch.finfo(kind).eps)

    def of(self, num_inputs: int) -> Place:
        """Keep the first inputs.

        Args:
            num_inputs: how many.

        Returns:
            The same place on these.
        """
        return replace(self, inputs=self.inputs[:num_inputs], outputs=self.outputs[:num_inputs])

    def in_double(self) -> Place:
        """Convert to double precision, where rounding hides nothing; unchanged if the module does not allow it."""
        with suppress(Exception), torch.no_grad():  # a forward may raise anything at another dtype
            double = self._doubled()
            inputs = self.inputs.double() if self.inputs.is_floating_point() else self.inputs
            weights = double.weights.copy_(self.weights)
            own = dict(dict(double.parts())[""].named_parameters())
            for name, part in double.named(weights).items():
                own[name].data = part  # not twice: of a large network, each vector counts
            outputs = double(weights, inputs)
            if float((outputs - self.outputs).abs().max()) <= _SAME * float(outputs.abs().max()):
                place = Place(double, weights, inputs, outputs, is_double=True)
                if double.outside():  # casts may also fail in a backward pass
                    _Slope(place.of(1), torch.ones_like(outputs[:1])).by_parameter(weights)
                return place
        return self

    def _doubled(self) -> FunctionalModule:
        """Make the network in double precision; parameters outside of the vector are cast only while they are used."""
        outside = [parameter for _, parameter in self.network.outside()]
        module = copied(dict(self.network.parts())[""], outside)
        fixed = {memory_of(one) for one in outside if one.numel()}
        module._apply(lambda one: one if memory_of(one) in fixed or not one.is_floating_point() else one.double())
        double = type(self.network)(module, [slot.name for slot in self.network.slots])
        if outside:
            double.within = partial(doubled, [parameter for _, parameter in double.outside()])
        return double


@dataclass(frozen=True)
class _Slope:
    """Slopes of a weighted sum of outputs, with `cotangent` [N, ...] as the weights of the sum."""

    place: Place
    cotangent: Tensor

    def by_parameter(self, direction: Tensor) -> dict[str, float]:
        """Slope in a direction [P] along each parameter alone, from one gradient."""
        network = self.place.network
        leaves = {name: part.detach().requires_grad_() for name, part in network.named(self.place.weights).items()}
        with torch.enable_grad():
            outputs = network.evaluated(leaves, self.place.inputs)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            outputs, list(leaves.values()), self.cotangent, allow_unused=True
        )
        along = network.named(direction)
        return {
            name: 0.0 if gradient is None else float((gradient * along[name]).sum())
            for name, gradient in zip(leaves, found, strict=True)
        }

    @torch.no_grad()
    def along(self, direction: Tensor, length: float) -> float:
        """Central difference quotient in a direction [P] over `length` to either side."""
        place = self.place
        ahead, behind = (
            place.network(torch.add(place.weights, direction, alpha=way), place.inputs) for way in (length, -length)
        )
        return float(((ahead - behind) * self.cotangent).sum()) / (2 * length)

    def measured(self, direction: Tensor, effect: float) -> tuple[float, float] | None:
        """Slope in a direction [P] and its error; None where no two lengths agree on it.

        `effect`: size of the slope that is expected; errors are relative to it.
        """
        # Longer differences suffer less from rounding and more from curvature: two that agree are free of both.
        for length, allowed in _STEPS:
            one, other = self.along(direction, length), self.along(direction, 3 * length)
            size = max(effect, abs(one))
            if abs(one - other) <= 0.3 * allowed * size:
                return one, allowed * size
        return None


def check_differences(place: Place) -> None:
    """Check that gradients show the whole effect of each parameter, which `.data` or `no_grad()` may hide in part.

    Rounding with a straight-through gradient, as in fake quantisation, is no such fault. Outputs then do not change at
    all while a parameter moves little, or longer differences have another slope.

    Args:
        place: the network, and the weights and inputs at which to compare.

    Raises:
        NetworkError: naming the parameters for which gradients and differences disagree.
    """
    place = place.of(_FEW_INPUTS if place.inputs[0].numel() >= _LARGE_INPUT else _NUM_INPUTS)
    network = place.network
    generator = torch.Generator().manual_seed(1)
    # Drawn in double precision on the CPU, so that all devices and dtypes are checked in the same direction.
    cotangent = torch.randn(place.outputs.shape, generator=generator, dtype=torch.float64, device="cpu")
    slope = _Slope(place, cotangent.to(place.outputs))
    direction = torch.randn(network.num_weights, generator=generator, dtype=torch.float64, device="cpu")
    direction = direction.to(place.weights)
    spans = {slot.name: slice(slot.start, slot.stop) for slot in network.moving if slot.shape.numel()}
    # In proportion to the size of each parameter, so that one length suits all of them.
    for span in spans.values():
        direction[span] *= float(place.weights[span].square().mean().sqrt())
    for span in _padding(network):
        direction[span] = 0
    slopes = {name: value for name, value in slope.by_parameter(direction).items() if name in spans}
    effect = sum(map(abs, slopes.values()))
    # One difference along all parameters together is enough for a sound module; only a disagreement costs more.
    if not _is_another(slope, direction, sum(slopes.values()), effect):
        return
    missed = []
    for name, span in spans.items():
        alone = torch.zeros_like(direction)
        alone[span] = direction[span]
        if _is_another(slope, alone, slopes[name], abs(slopes[name])):
            missed.append(name)
    if missed:
        raise NetworkError(
            f"the gradients of {kind_of(network)} by {listed(missed)} disagree with finite differences: a detach(), "
            ".data, no_grad() or custom backward hides a part of their effect; remove it from forward, or do not let "
            "these parameters move: freeze them (requires_grad_(False)), or name the others with moving="
        )


def _padding(network: FunctionalModule) -> Iterator[slice]:
    """Positions in the vector of embeddings of padding, whose gradient is zero on purpose."""
    starts = {alias: slot.start for slot in network.slots for alias, own in network.aliases() if own == slot.name}
    for name, part in network.parts():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.padding_idx is not None:
            weight = f"{name}.weight" if name else "weight"
            if weight in starts:
                first = starts[weight] + part.padding_idx * part.embedding_dim
                yield slice(first, first + part.embedding_dim)


def _is_another(slope: _Slope, direction: Tensor, expected: float, effect: float) -> bool:
    """Compare the slope in a direction [P] with an expected one; True if it differs over short and long lengths."""
    found = slope.measured(direction, effect)
    if found is None:
        return False
    near, allowed = found
    # Outputs that do not change at all over a short length are rounded, with a straight-through gradient.
    gap = abs(near - expected)
    if gap <= allowed or abs(near) <= 1e-6 * abs(expected):
        return False
    return all(abs(slope.along(direction, length) - near) <= gap / 2 for length in _FURTHER)
