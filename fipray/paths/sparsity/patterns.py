"""Sparsity patterns: which weights become zero together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.networks import Network, removable_channels
from fipray.networks.flat_weights import Slot
from fipray.registry import spec

# Saliencies [P], at least 0, of all weights. A call, as computing them may take passes that are not always needed.
Losses = Callable[[], Tensor]
NUM_SAMPLED = 2**16  # values by which a bound for the smallest ones is estimated


@runtime_checkable
class Pattern(Protocol):
    """Sparsity pattern: chooses the weights that become zero, given a saliency of each."""

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        """Choose further weights to zero, so that `sparsity` is reached.

        Those of lowest saliency are chosen, or groups of the lowest summed saliency.

        Args:
            network: its layers define the groups.
            weights: [P], some of which may be zero already.
            losses: computes the saliencies [P]; not called where nothing is to be zeroed.
            sparsity: fraction, 0..1, of those weights that the pattern counts.

        Returns:
            Indices [K] of weights that are not zero yet; empty where the sparsity is reached.

        Raises:
            UsageError: for a sparsity that the pattern cannot reach.
        """
        ...

    def free(self, network: Network, weights: Tensor) -> Tensor:
        """Mask of the weights that may move.

        Args:
            network: its layers define the groups.
            weights: [P].

        Returns:
            [P] in the dtype of the weights: 1.0 where they may move, 0.0 where they are zero and must stay so.
        """
        ...


@spec("unstructured")
@checked
@dataclass(frozen=True)
class Unstructured:
    """Unstructured sparsity: any weights of layers (parameters of two or more dimensions), never biases or scales.

    The sparsity is the fraction of all weights that are zero. Weights that may not change (`Network.only`) count, and
    stay as they are.

    Args:
        across: "network" zeroes the weights of lowest saliency anywhere, "layer" the same fraction of each layer.
    """

    across: Literal["network", "layer"] = "network"

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        wanted, zeros = round(sparsity * network.num_weights), _zeros(weights)
        if wanted <= zeros:
            return _none(weights)
        layers = _layers(network)
        num_available = sum(slot.shape.numel() for slot in layers)
        zeros_of = _zeros_of([_part(weights, slot) for slot in layers])
        elsewhere = zeros - sum(zeros_of)
        if wanted - elsewhere > num_available:
            raise UsageError(
                f"sparsity {sparsity} takes {wanted} zeros, but only {num_available} of the {network.num_weights} "
                "weights lie in layers and may change: set a lower sparsity"
            )
        if self.across == "network":
            # not those that are zero, whose saliency of 0 would have them chosen again in place of further weights
            return _least(losses(), wanted - zeros, _present(weights) & _in_layers(network, weights))
        chosen, before, fraction, lost = [], 0, (wanted - elsewhere) / num_available, losses()
        for slot, num_zeros in zip(layers, zeros_of, strict=True):
            # differences of rounded running sums, so that the counts add up to the wanted number
            count = round(fraction * (before + slot.shape.numel())) - round(fraction * before)
            before += slot.shape.numel()
            own = _part(weights, slot)
            missing = count - num_zeros
            if missing > 0:
                chosen.append(slot.start + _least(_part(lost, slot), missing, own != 0))
        return torch.cat(chosen) if chosen else _none(weights)

    def free(self, network: Network, weights: Tensor) -> Tensor:
        free = _ones(weights)
        # biases often begin at exactly 0, and were not pruned
        others = [_part(free, slot) for slot in network.slots if len(slot.shape) < 2]
        if others:
            torch._foreach_clamp_min_(others, 1.0)  # one kernel for all of them
        return free


@spec("semi_structured")
@checked
@dataclass(frozen=True)
class SemiStructured:
    """N:M sparsity: at least `zeros` zeros in each group of `size` consecutive weights along a layer's inputs.

    2:4 is what sparse matrix units compute with. Layers whose number of inputs `size` does not divide stay as they are.
    The sparsity is the fraction of the other layers' weights that are zero, at most `zeros / size`, where every group
    has its zeros; below it the groups of lowest saliency have theirs, and the others none.

    Args:
        zeros: number of zeros in a group, at least 1 and below `size`.
        size: number of weights in a group.

    Raises:
        UsageError: for a number of zeros out of range.
    """

    zeros: int = 2
    size: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.zeros < self.size:
            raise UsageError(f"zeros must be at least 1 and below size; {self.zeros} of {self.size} were given")

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        if sparsity > self.zeros / self.size + 1e-9:  # allows for rounding in a schedule's sparsity
            raise UsageError(
                f"{self.zeros} zeros in {self.size} give a sparsity of at most {self.zeros / self.size:g}; "
                f"{sparsity} was asked for"
            )
        groups = _groups(network, self.size, weights.device)
        own = weights[groups]
        done = (own == 0).sum(1) >= self.zeros
        wanted = round(sparsity * groups.numel() / self.zeros) - int(done.sum())
        if wanted <= 0:
            return _none(weights)
        # -1 sorts weights that are zero already before all saliencies; clamped, they add nothing to a group's sum
        lost, order = torch.where(own == 0, -1.0, losses()[groups]).sort(1)
        sums = lost[:, : self.zeros].clamp(min=0).sum(1)
        chosen = _least(torch.where(done, torch.inf, sums), wanted)
        return groups[chosen].gather(1, order[chosen, : self.zeros]).flatten()

    def free(self, network: Network, weights: Tensor) -> Tensor:
        groups = _groups(network, self.size, weights.device)
        free = torch.ones_like(weights)
        zero = weights[groups] == 0
        # a single zero may be chance; only a complete group was pruned and must stay
        free[groups[zero & (zero.sum(1, keepdim=True) >= self.zeros)]] = 0
        return free


# cached, as groups depend on the network alone and every step asks for them
@lru_cache(maxsize=8)
def _groups(network: Network, size: int, device: torch.device) -> Tensor:
    """List the weights of each group, as indices [G, size]."""
    found = []
    for slot in _layers(network):
        if slot.shape[1] % size == 0:
            places = torch.arange(slot.start, slot.stop, device=device).view(slot.shape)
            # kernels of convolutions lie behind the inputs in memory, and groups run along the inputs
            found.append(places.movedim(1, -1).reshape(-1, size))
    if not found:
        raise UsageError(
            f"no layer has a number of inputs that {size} divides, so there are no groups: set another size, or use "
            "Unstructured()"
        )
    return torch.cat(found)


@spec("channels")
@checked
@dataclass(frozen=True)
class Structured:
    """Structured sparsity: whole output channels of convolutions and neurons of linear layers.

    Only channels that can be removed on their own (`fipray.networks.removable_channels`): all weights that compute a
    channel and all that read it become zero. `fipray.networks.slimmed` turns such a network into a smaller dense one.
    The sparsity is the fraction of these channels that are removed. Every layer keeps at least one channel.

    Args:
        across: "layer" removes the given fraction of each layer's channels, "network" of all channels together.
    """

    across: Literal["network", "layer"] = "layer"

    def zeroed(self, network: Network, weights: Tensor, losses: Losses, sparsity: float) -> Tensor:
        groups = _channels(network, weights.device)
        present = [(weights[own] != 0).any(1) for own, _ in groups]
        total = sum(len(one) for one in present)
        zeros_of = _zeros_of(present)
        gone = sum(zeros_of)
        wanted = [round(sparsity * len(one)) - num_gone for one, num_gone in zip(present, zeros_of, strict=True)]
        if self.across == "network":
            wanted = [round(sparsity * total) - gone]
        if max(wanted) <= 0:
            return _none(weights)
        lost, sums = losses(), []
        for (own, _), is_present in zip(groups, present, strict=True):
            sum_of_each = torch.where(is_present, lost[own].sum(1), torch.inf)
            # the channel of highest saliency of each layer always stays
            sum_of_each[torch.where(is_present, sum_of_each, -torch.inf).argmax()] = torch.inf
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


# cached, as finding the channels traces the module with torch.fx
@lru_cache(maxsize=8)
def _channels(network: Network, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """List each layer's removable channels by indices of weights.

    Pairs of [C, S], the weights that compute each channel, and [C, S'], those that read it. Raises NetworkError where
    no channel can be removed.
    """
    found = removable_channels(network)
    if not found:
        raise NetworkError(
            "no layer has output channels that can be removed on their own: each reaches an addition, the outputs, or "
            "an operation that torch.fx does not trace. Prune weights instead: Unstructured() or SemiStructured()"
        )
    return tuple((one.own_indices().to(device), one.seen_indices().to(device)) for one in found)


def _layers(network: Network) -> list[Slot]:
    return [slot for slot in network.moving if len(slot.shape) >= 2]


def _in_layers(network: Network, weights: Tensor) -> Tensor:
    """Mask [P], true for weights of layers that may change."""
    inside = torch.zeros_like(weights, dtype=torch.bool)
    for slot in _layers(network):
        inside[slot.start : slot.stop] = True
    return inside


def _part(vector: Tensor, slot: Slot) -> Tensor:
    return vector[slot.start : slot.stop]


def _zeros(weights: Tensor) -> int:
    if weights.device.type == "cpu":
        # twice as fast as torch, which has no fast count
        return len(weights) - int(np.count_nonzero(_present(weights).numpy()))
    return len(weights) - int(torch.count_nonzero(weights))


def _present(weights: Tensor) -> Tensor:
    """Return for each weight whether it is not zero."""
    # on a CPU numpy compares three times as fast as torch
    return torch.from_numpy(weights.detach().numpy() != 0) if weights.device.type == "cpu" else weights != 0


def _zeros_of(parts: Sequence[Tensor]) -> list[int]:
    """Count the zeros of several vectors; a GPU is waited for once."""
    if not parts or parts[0].device.type == "cpu":
        return [_zeros(part) for part in parts]
    found: list[int] = torch.stack([(part == 0).sum() for part in parts]).tolist()
    return found


def _ones(weights: Tensor) -> Tensor:
    """Return 1.0 for each weight that is not zero, else 0.0."""
    # comparing into a float tensor is far faster than converting a mask to floats
    return torch.ne(weights, 0, out=torch.empty_like(weights))


def _none(weights: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.int64, device=weights.device)


def _least(losses: Tensor, count: int, available: Tensor | None = None) -> Tensor:
    """Return the indices of the `count` smallest losses, in no order; with a mask, of those that are available.

    Losses of NaN are chosen last.
    """
    if losses.device.type != "cpu":
        losses = losses if available is None else torch.where(available, losses, torch.inf)
        return losses.topk(min(count, len(losses)), largest=False).indices
    values = losses.numpy()
    places = _places(values, None if available is None else available.numpy(), count)
    if count < len(places):
        # numpy's argpartition is three times as fast as topk for large counts
        places = places[values[places].argpartition(count - 1)[:count]]
    return torch.from_numpy(places)


def _places(values: NDArray[np.floating], available: NDArray[np.bool_] | None, count: int) -> NDArray[np.int64]:
    """List places of available values, the `count` smallest among them; of many values, few others."""
    total = len(values) if available is None else int(np.count_nonzero(available))
    if len(values) > 4 * NUM_SAMPLED:
        drawn = np.random.default_rng(0).integers(len(values), size=NUM_SAMPLED)
        sample = values[drawn] if available is None else values[drawn][available[drawn]]
        expected = count / max(total, 1) * len(sample)
        # A bound from a sample, above the value in question by six standard errors of its rank.
        rank = math.ceil(expected + 6 * math.sqrt(expected) + 6)
        if rank < len(sample):
            found = values <= np.partition(sample, rank)[rank]
            places = np.flatnonzero(found if available is None else found & available)
            if len(places) >= count:
                return places
    return np.arange(len(values)) if available is None else np.flatnonzero(available)
