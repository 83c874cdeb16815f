"""Effective weights: those that layers compute with, where these are not the parameters themselves.

They are computed by parametrisations (`torch.nn.utils.parametrizations`), hooks (old-style weight_norm and
spectral_norm) and pruning masks (`torch.nn.utils.prune`).
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

    Args:
        layer: name of the layer.
        tensor: the layer's attribute that holds the weight.
        sources: names of the parameters that it is computed from.
        way: name of the parametrisation or hook.
        remove: the call that replaces it by a plain parameter.
    """

    layer: str
    tensor: str
    sources: tuple[str, ...]
    way: str
    remove: str

    @property
    def name(self) -> str:
        """Full name of the weight in the module."""
        return f"{self.layer}.{self.tensor}".removeprefix(".")


def computed_weights(network: Network) -> tuple[Computed, ...]:
    """Weights that are computed from at least one parameter that may change.

    Args:
        network: the network.

    Returns:
        The weights, layer by layer.
    """
    moving = {slot.name for slot in network.moving}
    found = (one for name, part in network.parts() for one, _ in _computed(name, part))
    return tuple(one for one in found if moving.intersection(one.sources))


def refuse_computed_weights(network: Network, what: str) -> None:
    """Raise where a parameter of zero is not a weight of zero in a layer, or a layer has zeros of its own.

    Args:
        network: the network, checked before: zeros that its forward makes are known from `Network.check`.
        what: name of the objective or sparsity pattern that asks for zeros, for the error message.

    Raises:
        NetworkError: naming the layer, and the call that replaces it by one with plain parameters.
    """
    if found := computed_weights(network):
        one = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise NetworkError(
            f"{what} sets parameters to zero, but {one.name}{more} is computed from {', '.join(one.sources)} by "
            f"{one.way}, so a zero there is not a zero in the layer: call {one.remove} first"
        )
    for slot in network.moving:
        if way := network.zeroed.get(slot.name):
            raise NetworkError(
                f"{what} sets parameters to zero, but {way}() in the network's forward makes others of {slot.name} "
                "zero, so the layer has more zeros than its parameter: remove it from forward, and set the parameter "
                "to zero there once (with torch.no_grad(): weight *= mask)"
            )


@torch.no_grad()
def effective(network: Network, weights: Tensor) -> dict[str, Tensor]:
    """Compute the weights that layers use.

    Args:
        network: the network.
        weights: [P].

    Returns:
        Effective weights by name, each in its own dtype: the parameters in the vector, with computed weights in place
        of their sources.
    """
    own = {name: value.to(network.dtype_of(name)) for name, value in network.named(weights).items()}
    every = (one for name, part in network.parts() for one, _ in _computed(name, part))
    made = [one for one in every if own.keys() & set(one.sources)]
    if not made:
        return own
    module = network.module_at(weights, share_frozen=True)
    parts = dict(module.named_modules())
    inside = {source for one in made for source in one.sources}
    found = {name: value for name, value in own.items() if name not in inside}
    for one in made:
        part = parts[one.layer]
        ways = {computed.tensor: compute for computed, compute in _computed(one.layer, part)}
        found[one.name] = ways[one.tensor](part)
    return found


def sparsity_of(network: Network, weights: Tensor) -> float:
    """Compute the fraction of effective weights that are zero.

    Args:
        network: the network.
        weights: [P].

    Returns:
        Sparsity, 0..1.
    """
    # In half precision small weights may round to zero, so a mixed network is counted in its parameters' own dtypes.
    if not network.is_mixed and not computed_weights(network):
        return float((weights == 0).double().mean())
    values = effective(network, weights).values()
    return sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)


def _computed(name: str, part: nn.Module) -> Iterator[tuple[Computed, Any]]:
    """List the computed weights of one layer, each with a function that computes it from a copy of the layer."""

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
            # A power iteration would write into buffers, and give another weight than a pass in evaluation mode.
            yield computed, lambda copy, hook=hook: hook.compute_weight(copy, do_power_iteration=False)
        elif isinstance(hook, BasePruningMethod):
            tensor = hook._tensor_name
            call = f'torch.nn.utils.prune.remove({layer}, "{tensor}")'
            yield Computed(name, tensor, named(f"{tensor}_orig"), "a pruning mask", call), hook.apply_mask
