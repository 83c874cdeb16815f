"""Whether outputs change with the weights as autograd says, by differences, in double precision where that works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fipray.errors import NetworkError
from fipray.networks.checks.passes import kind_of
from fipray.networks.modules import copied, listed

if TYPE_CHECKING:
    from fipray.networks.network import Network

_NUM_INPUTS = 4  # of differences
_STEPS = ((1e-7, 1e-3), (1e-3, 0.03), (1e-2, 0.03))  # lengths of differences, with what they may err by, of the effect
_SAME = 0.05  # of the outputs, by which half precision may be off
_FURTHER = (1e-3, 1e-2, 3e-2)  # lengths at which rounding in forward shows


@dataclass(frozen=True)
class Place:
    """A network, weights [P] at which it is looked at, a few inputs [N, ...], and its outputs [N, ...] there."""

    network: Network
    weights: Tensor
    inputs: Tensor
    outputs: Tensor

    @property
    def precision(self) -> torch.dtype:
        """The coarsest dtype that parameters have."""
        kinds = {parameter.dtype for _, part in self.network.parts() for parameter in part.parameters(recurse=False)}
        return max((kind for kind in kinds if kind.is_floating_point), key=lambda kind: torch.finfo(kind).eps)

    def of(self, num_inputs: int) -> Place:
        """The same with the first inputs alone."""
        return replace(self, inputs=self.inputs[:num_inputs], outputs=self.outputs[:num_inputs])

    def in_double(self) -> Place:
        """The same in double precision, in which rounding hides nothing; as it is, where the module has no such."""
        network, names = self.network, [slot.name for slot in self.network.slots]
        with suppress(Exception), torch.no_grad():  # a forward is anyone's code
            double = type(network)(copied(dict(network.parts())[""]).double(), names)
            inputs = self.inputs.double() if self.inputs.is_floating_point() else self.inputs
            weights = self.weights.double()
            outputs = double(weights, inputs)
            if float((outputs - self.outputs).abs().max()) <= _SAME * float(outputs.abs().max()):
                return Place(double, weights, inputs, outputs)
        return self


@dataclass(frozen=True)
class _Slope:
    """Differences of a weighted sum of outputs, the weights of the sum being `cotangent`."""

    place: Place
    cotangent: Tensor

    def gradient(self) -> Tensor:
        weights = self.place.weights.detach().clone().requires_grad_()
        with torch.enable_grad():
            outputs = self.place.network(weights, self.place.inputs)
        (found,) = torch.autograd.grad(outputs, weights, self.cotangent)
        return found

    @torch.no_grad()
    def along(self, direction: Tensor, length: float) -> float:
        """The difference quotient between `length` ahead in a direction [P] and as far behind."""
        place = self.place
        ahead, behind = (place.network(place.weights + way * direction, place.inputs) for way in (length, -length))
        return float(((ahead - behind) * self.cotangent).sum()) / (2 * length)

    def measured(self, direction: Tensor, effect: float) -> tuple[float, float] | None:
        """The slope in a direction and what it may be wrong by, where two lengths agree on it; `effect` is a size that
        it may have.
        """
        for length, allowed in _STEPS:
            one, other = self.along(direction, length), self.along(direction, 3 * length)
            size = max(effect, abs(one))
            if abs(one - other) <= 0.3 * allowed * size:
                return one, allowed * size
        return None


def check_differences(place: Place) -> None:
    """Raise NetworkError, which names the parameters, where autograd misses a part of their effect, as behind `.data`
    or `no_grad()`.

    Rounding that gradients pass straight through, as in fake quantisation, is no such fault. There outputs do not
    change at all with a parameter as long as it moves little, or differences over longer ways tell of another slope.
    """
    place = place.of(_NUM_INPUTS)
    network = place.network
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(place.outputs.shape, generator=generator, dtype=torch.float64, device="cpu")
    slope = _Slope(place, cotangent.to(place.outputs))
    direction = torch.randn(network.num_weights, generator=generator, dtype=torch.float64, device="cpu")
    direction = direction.to(place.weights)
    spans = {slot.name: slice(slot.start, slot.stop) for slot in network.moving if slot.shape.numel()}
    for span in spans.values():
        direction[span] *= float(place.weights[span].square().mean().sqrt())
    for span in _padding(network):
        direction[span] = 0
    contributions = slope.gradient() * direction
    told = {name: float(contributions[span].sum()) for name, span in spans.items()}
    effect = sum(map(abs, told.values()))
    if not _is_another(slope, direction, sum(told.values()), effect):
        return
    missed = []
    for name, span in spans.items():
        alone = torch.zeros_like(direction)
        alone[span] = direction[span]
        if _is_another(slope, alone, told[name], abs(told[name])):
            missed.append(name)
    if missed:
        raise NetworkError(
            f"the outputs of {kind_of(network)} change with {listed(missed)} otherwise than autograd says: a detach(), "
            ".data, no_grad() or a backward of its own hides a part of the effect; take it out of forward, or leave "
            "these parameters out of what moves: freeze them (requires_grad_(False)), or name the others with moving="
        )


def _padding(network: Network) -> Iterator[slice]:
    """Where in the vector embeddings of padding lie, which autograd leaves alone on purpose."""
    starts = {alias: slot.start for slot in network.slots for alias, own in network.aliases() if own == slot.name}
    for name, part in network.parts():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.padding_idx is not None:
            weight = f"{name}.weight" if name else "weight"
            if weight in starts:
                first = starts[weight] + part.padding_idx * part.embedding_dim
                yield slice(first, first + part.embedding_dim)


def _is_another(slope: _Slope, direction: Tensor, told: float, effect: float) -> bool:
    """Whether the slope in a direction is not the one that was `told`, near and further away."""
    found = slope.measured(direction, effect)
    if found is None:
        return False
    near, allowed = found
    gap = abs(near - told)
    if gap <= allowed or abs(near) <= 1e-6 * abs(told):
        return False
    return all(abs(slope.along(direction, length) - near) <= gap / 2 for length in _FURTHER)
