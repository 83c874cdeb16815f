"""Which weights may be zero together: the patterns of sparsity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.networks import Network, removable_channels
from fipray.networks.functional_module import Slot
from fipray.registry import spec

Losses = Callable[[], Tensor]  # [P], at least 0; may cost passes


@runtime_checkable
class Pattern(Protocol):
    """Chooses what becomes zero, given how much is lost with each weight."""

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        """Indices of the weights [P] to be zeroed besides what is zero already, so that `sparsity` is reached; those
        with the smallest losses, or groups of the smallest sums. Empty where it is reached, and nobody asks for losses.
        """
        ...

    def free(self, network: Network, weights: Tensor) -> Tensor:
        """[P], 1.0 where `weights` may move, 0.0 where they are zero and have to stay so."""
        ...


@spec("unstructured")
@checked
@dataclass(frozen=True)
class Unstructured:
    """Any weights of layers (parameters of two or more dimensions), never a bias or a normalisation's scale.

    `sparsity` is the fraction of all weights that are zero; those that may not change (`Network.only`) count, and stay
    as they are. across: "network" zeroes what is least anywhere,
    "layer" the same fraction of each layer.
    """

    across: Literal["network", "layer"] = "network"

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        wanted, zeros = round(sparsity * network.num_weights), _zeros(weights)
        if wanted <= zeros:
            return _none(weights)
        layers = _layers(network)
        there = sum(slot.shape.numel() for slot in layers)
        elsewhere = zeros - sum(_zeros(_part(weights, slot)) for slot in layers)
        if wanted - elsewhere > there:
            raise UsageError(
                f"sparsity {sparsity} asks for {wanted} zeros, but only {there} of the {network.num_weights} weights "
                "are weights of layers that may change: ask for less"
            )
        if self.across == "network":
            candidates = torch.where((weights != 0) & _in_layers(network, weights), losses(), torch.inf)
            return _least(candidates, wanted - zeros)
        chosen, before, fraction, lost = [], 0, (wanted - elsewhere) / there, losses()
        for slot in layers:  # rounded so that the counts sum to what is wanted
            count = round(fraction * (before + slot.shape.numel())) - round(fraction * before)
            before += slot.shape.numel()
            own = _part(weights, slot)
            missing = count - _zeros(own)
            if missing > 0:
                chosen.append(slot.start + _least(torch.where(own != 0, _part(lost, slot), torch.inf), missing))
        return torch.cat(chosen) if chosen else _none(weights)

    def free(self, network: Network, weights: Tensor) -> Tensor:
        free = _ones(weights)
        for slot in network.slots:
            if len(slot.shape) < 2:
                free[slot.start : slot.stop] = 1
        return free


@spec("semi_structured")
@checked
@dataclass(frozen=True)
class SemiStructured:
    """At least `zeros` zeros in each group of `size` weights that follow each other along a layer's inputs (2:4 is what
    sparse matrix units compute with), in layers whose number of inputs `size` divides; other layers stay as they are.

    `sparsity` is the fraction of those layers' weights that are zero, at most `zeros / size`, where every group has its
    zeros; below it the groups with the smallest losses have theirs, and the others none.
    """

    zeros: int = 2
    size: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.zeros < self.size:
            raise UsageError(f"of each group some weights are zero, not all; {self.zeros} of {self.size} were given")

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        if sparsity > self.zeros / self.size + 1e-9:
            raise UsageError(
                f"{self.zeros} zeros in {self.size} make a sparsity of {self.zeros / self.size:g}; {sparsity} was asked"
            )
        groups = _groups(network, self.size, weights.device)
        own = weights[groups]
        done = (own == 0).sum(1) >= self.zeros
        wanted = round(sparsity * groups.numel() / self.zeros) - int(done.sum())
        if wanted <= 0:
            return _none(weights)
        # what is zero already counts first, and costs nothing
        lost, order = torch.where(own == 0, -1.0, losses()[groups]).sort(1)
        sums = lost[:, : self.zeros].clamp(min=0).sum(1)
        chosen = _least(torch.where(done, torch.inf, sums), wanted)
        return groups[chosen].gather(1, order[chosen, : self.zeros]).flatten()

    def free(self, network: Network, weights: Tensor) -> Tensor:
        groups = _groups(network, self.size, weights.device)
        free = torch.ones_like(weights)
        zero = weights[groups] == 0
        free[groups[zero & (zero.sum(1, keepdim=True) >= self.zeros)]] = 0
        return free


@lru_cache(maxsize=8)
def _groups(network: Network, size: int, device: torch.device) -> Tensor:
    """[G, size] indices of the weights of each group."""
    found = []
    for slot in _layers(network):
        if slot.shape[1] % size == 0:
            places = torch.arange(slot.start, slot.stop, device=device).view(slot.shape)
            found.append(places.movedim(1, -1).reshape(-1, size))
    if not found:
        raise UsageError(f"no layer has a number of inputs that {size} divides, so there are no groups")
    return torch.cat(found)


@spec("channels")
@checked
@dataclass(frozen=True)
class Structured:
    """Whole output channels of convolutions and neurons of linear layers, those that can be removed
    (`fipray.geometry.removable_channels`): all weights that make a channel and all that see it. A network that is
    sparse so can be exported as a smaller dense one (`fipray.slimmed`).

    `sparsity` is the fraction of these channels that are gone: across the "layer", of each layer's; across the
    "network", of all together. A layer keeps one channel at least.
    """

    across: Literal["network", "layer"] = "layer"

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        groups = _channels(network, weights.device)
        present = [(weights[own] != 0).any(1) for own, _ in groups]
        total = sum(len(one) for one in present)
        gone = sum(len(one) - int(one.sum()) for one in present)
        wanted = [round(sparsity * len(one)) - len(one) + int(one.sum()) for one in present]
        if self.across == "network":
            wanted = [round(sparsity * total) - gone]
        if max(wanted) <= 0:
            return _none(weights)
        lost, sums = losses(), []
        for (own, _), there in zip(groups, present, strict=True):
            sum_of_each = torch.where(there, lost[own].sum(1), torch.inf)
            sum_of_each[torch.where(there, sum_of_each, -torch.inf).argmax()] = torch.inf  # the one that stays
            sums.append(sum_of_each)
        if self.across == "network":
            sums = [torch.cat(sums)]
        chosen = torch.zeros(total, dtype=torch.bool, device=weights.device)
        begin = 0
        for count, each in zip(wanted, sums, strict=True):
            count = min(count, int(torch.isfinite(each).sum()))
            if count > 0:
                chosen[begin + _least(each, count)] = True
            begin += len(each)
        parts = zip(groups, chosen.split([len(one) for one in present]), strict=True)
        return torch.cat([places[picked].flatten() for both, picked in parts for places in both])

    def free(self, network: Network, weights: Tensor) -> Tensor:
        free = torch.ones_like(weights)
        for own, seen in _channels(network, weights.device):
            gone = ~(weights[own] != 0).any(1)
            free[own[gone]] = 0
            free[seen[gone]] = 0
        return free


@lru_cache(maxsize=8)
def _channels(network: Network, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """Of each layer with removable channels: [C, S] indices of what makes each of them, [C, S'] of what sees it.

    Raises NetworkError where there are none.
    """
    found = removable_channels(network)
    if not found:
        raise NetworkError(
            "no layer has output channels that can be removed by themselves: each reaches an addition, the outputs, or "
            "something that torch.fx does not follow. Prune weights instead: Unstructured() or SemiStructured()"
        )
    return tuple((one.own_indices().to(device), one.seen_indices().to(device)) for one in found)


def _layers(network: Network) -> list[Slot]:
    return [slot for slot in network.moving if len(slot.shape) >= 2]


def _in_layers(network: Network, weights: Tensor) -> Tensor:
    """[P], true for weights of layers."""
    inside = torch.zeros_like(weights, dtype=torch.bool)
    for slot in _layers(network):
        inside[slot.start : slot.stop] = True
    return inside


def _part(vector: Tensor, slot: Slot) -> Tensor:
    return vector[slot.start : slot.stop]


def _zeros(weights: Tensor) -> int:
    if len(weights) >= 2**24:
        return len(weights) - int(torch.count_nonzero(weights))
    return len(weights) - int(_ones(weights).sum())  # exact in float32 up to there, and three times as fast


def _ones(weights: Tensor) -> Tensor:
    """1.0 for each weight that is not zero, else 0.0; by far faster than to make true and false floats."""
    return torch.ne(weights, 0, out=torch.empty_like(weights))


def _none(weights: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.int64, device=weights.device)


def _least(losses: Tensor, count: int) -> Tensor:
    """Indices of the `count` smallest."""
    if count >= len(losses):
        return torch.arange(len(losses), device=losses.device)
    if losses.device.type == "cpu":  # argpartition of numpy: three times as fast as topk for large counts
        return torch.from_numpy(losses.numpy().argpartition(count - 1)[:count])
    return losses.topk(count, largest=False).indices
