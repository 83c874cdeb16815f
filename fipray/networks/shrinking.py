"""Smaller dense modules: pruned channels removed, or layers resized to a given state_dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import NetworkError
from fipray.networks.channels import removable_channels
from fipray.networks.network import Network

_RESIZED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.modules.batchnorm._BatchNorm)


@checked
def slimmed(network: Network, weights: Tensor) -> nn.Module:
    """Remove pruned channels from a module: removable ones whose own weights are all zero.

    Args:
        network: the network.
        weights: [P].

    Returns:
        A smaller module that computes the same function up to rounding. A layer whose channels are all zero keeps one.

    Raises:
        NetworkError: if torch.fx cannot trace the module.
    """
    module = network.module_at(weights, share_frozen=True)
    state = module.state_dict()
    for channels in removable_channels(network):
        kept = channels.present(weights)
        if not bool(kept.any()):
            kept[0] = True  # layers without channels cannot be evaluated
        # After flattening, a channel has several features: several rows in a norm, several columns in a consumer.
        for name in (channels.layer, *channels.norms):
            for entry in ("weight", "bias", "running_mean", "running_var"):
                if (key := f"{name}.{entry}") in state:
                    state[key] = state[key].unflatten(0, (channels.num, -1))[kept].flatten(0, 1)
        for name, columns in channels.consumers:
            key = f"{name}.weight"
            state[key] = state[key].unflatten(1, (channels.num, columns))[:, kept].flatten(1, 2)
    return fitted(module, state)


@checked
def fitted(module: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Load a state_dict of other sizes, such as that of a slimmed copy, into a module.

    Linear layers, convolutions and normalisations are resized. It is not checked that their sizes fit each other.

    Args:
        module: the module; not changed.
        state: the state_dict.

    Returns:
        A resized copy with the state.

    Raises:
        NetworkError: if an entry is missing, superfluous, or of a shape that its layer cannot take.
    """
    made = copy.deepcopy(module)
    entries = made.state_dict()
    for fault, names in (("lacks", entries.keys() - state.keys()), ("also has", state.keys() - entries.keys())):
        if names:
            raise NetworkError(
                f"the state {fault} {', '.join(sorted(names))}, so it is not that of a {type(module).__name__}: give "
                "the module that it was made from"
            )
    for name, part in made.named_modules():
        if isinstance(part, _RESIZED) and part._parameters.keys() == {"weight", "bias"}:
            _resize(part, [state[f"{name}.{key}".lstrip(".")].shape for key in part.state_dict()])
    for name, value in made.state_dict().items():
        if isinstance(value, Tensor) and value.shape != state[name].shape:
            raise NetworkError(
                f"{name} has shape {tuple(entries[name].shape)} in {type(module).__name__}, and cannot be resized to "
                f"{tuple(state[name].shape)} as in the state: give the module that the state was made from"
            )
    made.load_state_dict(state, strict=True)
    return made


def _resize(part: Any, shapes: list[torch.Size]) -> None:
    """Resize the entries of a part to the rows, and its matrix to the columns, of the first of `shapes`."""
    # The weights of a grouped convolution do not say how many groups there should be, so it keeps its size.
    # With keep_vars, as detached entries would not show which of them are parameters.
    entries = part.state_dict(keep_vars=True)
    if not entries or len(shapes[0]) != next(iter(entries.values())).ndim or getattr(part, "groups", 1) != 1:
        return
    for key, value in entries.items():
        size = (*shapes[0][: min(value.ndim, 2)], *value.shape[2:])
        if value.shape != size:
            made = value.new_empty(size)
            setattr(part, key, nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made)
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = shapes[0]
    elif isinstance(part, nn.Conv1d | nn.Conv2d):
        part.out_channels, part.in_channels = shapes[0][:2]
    else:
        (part.num_features,) = shapes[0]
