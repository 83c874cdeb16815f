"""Output channels that can be removed from a network, and their positions in its weight vector."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fipray.border import checked
from fipray.errors import NetworkError
from fipray.networks.flat_weights import Slot
from fipray.networks.network import Network
from fipray.networks.signals import Signal, arguments, averaged, flattened, is_batch_size, keeps_rows, mapped

# Number of dimensions of the tensors in which channels are followed; None for linear layers, whose channels are in the
# last dimension of any number.
_LAYERS: dict[type[nn.Module], int | None] = {nn.Linear: None, nn.Conv1d: 3, nn.Conv2d: 4}
_NORMS: dict[type[nn.Module], tuple[int | None, ...]] = {nn.BatchNorm1d: (None, 3), nn.BatchNorm2d: (4,)}
_POOLINGS: dict[Any, int] = {
    place: dimensions + 2
    for dimensions in (1, 2)
    for kind, name in (
        ("MaxPool", "max_pool"),
        ("AvgPool", "avg_pool"),
        ("AdaptiveMaxPool", "adaptive_max_pool"),
        ("AdaptiveAvgPool", "adaptive_avg_pool"),
    )
    for place in (getattr(nn, f"{kind}{dimensions}d"), getattr(functional, f"{name}{dimensions}d"))
}


@dataclass(frozen=True)
class Channels:
    """Output channels of one layer, any of which can be removed.

    Only the layers that consume the channels depend on their number. A channel whose own weights are all zero arrives
    there as zero.

    Args:
        layer: name of the layer.
        num: number of channels.
        norms: names of the normalisations that the channels pass through.
        own: slots of the channels' own weights that may move: rows of the layer's matrix, entries of its bias, scales
            and shifts of the normalisations.
        consumers: names of the layers that take the channels as inputs, each with its number of columns per channel.
        seen: slots of the consumers' matrices that may move.
    """

    layer: str
    num: int
    norms: tuple[str, ...]
    own: tuple[Slot, ...]
    consumers: tuple[tuple[str, int], ...]
    seen: tuple[Slot, ...]

    def own_indices(self) -> Tensor:
        """Positions of each channel's own weights in the weight vector [P]; [num, S]."""
        return torch.cat([_indices(slot).view(self.num, -1) for slot in self.own], 1)

    def seen_indices(self) -> Tensor:
        """Positions of the consumers' columns per channel in the weight vector [P]; [num, S'], S' is 0 if none move."""
        columns = [_indices(slot).view(slot.shape[0], self.num, -1).transpose(0, 1).flatten(1) for slot in self.seen]
        return torch.cat([torch.empty(self.num, 0, dtype=torch.int64), *columns], 1)

    def present(self, weights: Tensor) -> Tensor:
        """Find channels that are not pruned.

        Args:
            weights: [P].

        Returns:
            [num], true for channels of whose own weights at least one is not zero.
        """
        return (weights[self.own_indices().to(weights.device)] != 0).any(1)


@checked
def removable_channels(network: Network) -> tuple[Channels, ...]:
    """Find layers whose output channels can be removed one by one.

    These are linear layers and convolutions (one or two dimensions, one group) whose outputs reach only other such
    layers, through operations that act on each channel by itself and map a channel whose own weights are zero to zero:
    elementwise functions, pooling, normalisation with frozen statistics, flattening and means over positions. Layers
    that lead to an addition, a concatenation, the network's output or an unknown operation are left out, and so are
    layers that are called twice or share their weights. The output of a linear layer that goes to a BatchNorm1d of as
    many features is taken to be [N, C].

    Args:
        network: the network.

    Returns:
        Channels of each such layer, in the order in which the layers are called.

    Raises:
        NetworkError: if torch.fx cannot trace the module.
    """
    module = network.module_at(network.weights, share_frozen=True)
    try:
        graph = fx.Tracer().trace(module)
    except Exception as error:  # tracing runs the module's own code
        raise NetworkError(
            f"torch.fx cannot trace {type(module).__name__}, so it is unknown where its channels go "
            f"({type(error).__name__}: {error}): its forward must not depend on values or shapes of tensors"
        ) from error
    trace = _Trace(network, module, graph)
    found = (trace.channels(node) for node in graph.nodes if node.op == "call_module")
    return tuple(channels for channels in found if channels is not None)


@dataclass
class _Way:
    """Layers that channels pass on their way, collected while they are followed."""

    norms: list[str] = field(default_factory=list)
    consumers: list[tuple[str, int]] = field(default_factory=list)


class _Trace:
    """A module's graph, in which channels are followed from a layer to its consumers."""

    def __init__(self, network: Network, module: nn.Module, graph: Any) -> None:
        self._slots = {slot.name: slot for slot in network.moving}
        self._module = module
        users = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
        # A weight that forward reads as an attribute may act elsewhere than in its layer's call.
        read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
        calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self._plain = {
            name
            for name, part in module.named_modules()
            if calls[name] == 1
            and name not in read
            and part._parameters.keys() == {"weight", "bias"}  # parametrised layers hold others
            and all(users[id(parameter)] == 1 for parameter in part.parameters())
        }

    def channels(self, node: Any) -> Channels | None:
        layer = self._layer(node)
        if layer is None:
            return None
        way, num = _Way(), len(layer.weight)
        signal = Signal(_LAYERS[type(layer)], self._all_move(node.target, layer))
        if not self._followed(node, signal, num, way) or not way.consumers:
            return None
        return Channels(
            node.target,
            num,
            tuple(way.norms),
            self._moving(f"{name}.{entry}" for name in (node.target, *way.norms) for entry in ("weight", "bias")),
            tuple(way.consumers),
            self._moving(f"{name}.weight" for name, _ in way.consumers),
        )

    def _moving(self, names: Any) -> tuple[Slot, ...]:
        return tuple(self._slots[name] for name in names if name in self._slots)

    def _all_move(self, name: str, part: nn.Module) -> bool:
        # An entry that is frozen, such as a bias, keeps a channel from ever becoming zero.
        return all(f"{name}.{entry}" in self._slots for entry, _ in part.named_parameters())

    def _part(self, node: Any) -> nn.Module | None:
        return self._module.get_submodule(node.target) if node.op == "call_module" else None

    def _layer(self, node: Any) -> nn.Linear | nn.Conv1d | nn.Conv2d | None:
        part: Any = self._part(node)
        # Exact types, since a subclass may compute anything else; with groups, a channel reaches some outputs only.
        fits = type(part) in _LAYERS and node.target in self._plain and getattr(part, "groups", 1) == 1
        return part if fits else None

    def _followed(self, node: Any, signal: Signal, num: int, way: _Way) -> bool:
        """Follow all uses of the channels, noting layers in `way`; False where one is unknown."""
        for user in node.users:
            if is_batch_size(user, node):
                continue
            layer = self._layer(user)
            if layer is not None:
                size = layer.weight.shape[1]
                if not signal.zero or signal.ndim != _LAYERS[type(layer)] or not signal.holds(num, size):
                    return False
                way.consumers.append((user.target, size // num))
                continue
            after = self._after(user, node, signal, num, way)
            if after is None or not self._followed(user, after, num, way):
                return False
        return True

    def _after(self, user: Any, node: Any, signal: Signal, num: int, way: _Way) -> Signal | None:
        """Layout of the channels in the output of `user`; None where that is unknown."""
        part = self._part(user)
        if part is not None and type(part) in _NORMS:
            return self._normalised(user.target, part, signal, num, way)
        if isinstance(part, nn.Flatten):
            return flattened(signal, part.start_dim, part.end_dim)
        if not user.args or user.args[0] is not node or node in (*user.args[1:], *user.kwargs.values()):
            return None
        called = type(part) if user.op == "call_module" else user.target
        if called in ("view", "reshape", torch.reshape):
            return flattened(signal, 1, -1) if keeps_rows(user, node) else None
        if user.all_input_nodes != [node]:
            return None
        if called in ("flatten", torch.flatten):
            return flattened(signal, *arguments(user, ("start_dim", 0), ("end_dim", -1)))
        if called in ("mean", torch.mean):
            return averaged(signal, *arguments(user, ("dim", None), ("keepdim", False)))
        ndim = _POOLINGS.get(called)
        if ndim is not None:
            indices = user.kwargs.get("return_indices", getattr(part, "return_indices", False))
            return signal if signal.ndim == ndim and not indices else None
        return mapped(user, part, signal)

    def _normalised(self, name: str, part: Any, signal: Signal, num: int, way: _Way) -> Signal | None:
        if name not in self._plain or signal.ndim not in _NORMS[type(part)] or not signal.holds(num, part.num_features):
            return None
        way.norms.append(name)
        # The frozen mean moves an empty channel away from 0; only a scale and a shift of zero bring it back.
        return replace(signal, zero=part.affine and self._all_move(name, part))


def _indices(slot: Slot) -> Tensor:
    return torch.arange(slot.start, slot.stop)
