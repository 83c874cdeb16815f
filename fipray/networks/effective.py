"""The weights that layers compute with, where those are not the parameters themselves: behind parametrisations
(`torch.nn.utils.parametrizations`), hooks (old-style weight_norm and spectral_norm) and pruning masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fipray.errors import NetworkError
from fipray.networks.network import Network


@dataclass(frozen=True)
class Computed:
    """A weight of a layer that is computed from parameters.

    layer: its name; tensor: what the layer calls the weight; sources: names of the parameters; way: what computes it;
    remove: the call that leaves a plain parameter in its place.
    """

    layer: str
    tensor: str
    sources: tuple[str, ...]
    way: str
    remove: str

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.tensor}".removeprefix(".")


def computed_weights(network: Network) -> tuple[Computed, ...]:
    """The weights that are computed from at least one parameter that may change, layer by layer."""
    moving = {slot.name for slot in network.moving}
    found = (one for name, part in network.parts() for one, _ in _computed(name, part))
    return tuple(one for one in found if moving.intersection(one.sources))


def refuse_computed_weights(network: Network, what: str) -> None:
    """Raise NetworkError, which names the layer, where a zero among the weights that may change is no zero in a layer;
    `what` asks for zeros.
    """
    if found := computed_weights(network):
        one = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise NetworkError(
            f"{what} makes parameters zero, and {one.name}{more} is computed from {', '.join(one.sources)} by "
            f"{one.way}, so that a zero there is no zero in the layer: call {one.remove} first"
        )
    for slot in network.moving:
        if way := network.zeroed.get(slot.name):
            raise NetworkError(
                f"{what} makes parameters zero, and {way}() in the network's forward makes others of {slot.name} zero, "
                "so that the layer has more zeros than its parameter: take it out of forward, and put the zeros into "
                "the parameter once (with torch.no_grad(): weight *= mask)"
            )


@torch.no_grad()
def effective(network: Network, weights: Tensor) -> dict[str, Tensor]:
    """The weights that layers compute with at `weights` [P], by name, each in its own dtype: the parameters in the
    vector, but what is computed from such in their place.
    """
    own = {name: value.to(network.dtype_of(name)) for name, value in network.named(weights).items()}
    every = (one for name, part in network.parts() for one, _ in _computed(name, part))
    made = [one for one in every if own.keys() & set(one.sources)]
    if not made:
        return own
    module = network.module_at(weights)
    parts = dict(module.named_modules())
    inside = {source for one in made for source in one.sources}
    found = {name: value for name, value in own.items() if name not in inside}
    for one in made:
        part = parts[one.layer]
        ways = {computed.tensor: compute for computed, compute in _computed(one.layer, part)}
        found[one.name] = ways[one.tensor](part)
    return found


def sparsity_of(network: Network, weights: Tensor) -> float:
    """The fraction, 0..1, of the weights that layers compute with that are zero at `weights` [P] (`effective`)."""
    if not network.is_mixed and not computed_weights(network):
        return float((weights == 0).double().mean())
    values = effective(network, weights).values()
    return sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)


def _computed(name: str, part: nn.Module) -> Iterator[tuple[Computed, Any]]:
    """The computed weights of one layer, each with a function of a copy of the layer that gives it."""

    def named(*keys: str) -> tuple[str, ...]:
        return tuple(f"{name}.{key}".removeprefix(".") for key in keys)

    layer = f"module.{name}" if name else "module"
    if parametrize.is_parametrized(part):
        parametrizations: Any = part.parametrizations
        for tensor, ways in parametrizations.items():
            keys = [f"parametrizations.{tensor}.{key}" for key, _ in ways.named_parameters()]
            way = ", ".join(type(one).__name__.lstrip("_") for one in ways)
            call = f'torch.nn.utils.parametrize.remove_parametrizations({layer}, "{tensor}")'
            yield Computed(name, tensor, named(*keys), way, call), lambda copy, tensor=tensor: getattr(copy, tensor)
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            call = f'torch.nn.utils.remove_weight_norm({layer}, "{hook.name}")'
            keys = [f"{hook.name}_g", f"{hook.name}_v"]
            yield Computed(name, hook.name, named(*keys), "weight_norm", call), hook.compute_weight
        elif isinstance(hook, SpectralNorm):
            call = f'torch.nn.utils.remove_spectral_norm({layer}, "{hook.name}")'
            computed = Computed(name, hook.name, named(f"{hook.name}_orig"), "spectral_norm", call)
            yield computed, lambda copy, hook=hook: hook.compute_weight(copy, do_power_iteration=False)
        elif isinstance(hook, BasePruningMethod):
            tensor = hook._tensor_name
            call = f'torch.nn.utils.prune.remove({layer}, "{tensor}")'
            yield Computed(name, tensor, named(f"{tensor}_orig"), "a pruning mask", call), hook.apply_mask
