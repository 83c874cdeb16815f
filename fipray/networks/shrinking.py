"""Smaller dense modules: without the channels that are zero, or in the shapes of a smaller one's weights."""

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
    """A copy of the module at `weights` [P] without the removable channels whose own weights are all zero.

    It computes the same function up to rounding. A layer all of whose channels are zero keeps one. Raises NetworkError
    for a module that torch.fx cannot trace.
    """
    module = network.module_at(weights)
    state = module.state_dict()
    for channels in removable_channels(network):
        kept = channels.present(weights)
        if not bool(kept.any()):
            kept[0] = True
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
    """A copy of `module` that carries `state`, its linear layers, convolutions and normalisations in the sizes that
    `state` has, such as the state_dict of a slimmed copy.

    Raises NetworkError where an entry is missing, is one too many, or has a shape that none of these can take. Whether
    layers fit each other is not looked at.
    """
    made = copy.deepcopy(module)
    entries = made.state_dict()
    for fault, names in (("lacks", entries.keys() - state.keys()), ("has also", state.keys() - entries.keys())):
        if names:
            raise NetworkError(
                f"the state {fault} {', '.join(sorted(names))}, so it is not one of a {type(module).__name__}: give "
                "the module that it was made from"
            )
    for name, part in made.named_modules():
        if isinstance(part, _RESIZED) and part._parameters.keys() == {"weight", "bias"}:
            _resize(part, [state[f"{name}.{key}".lstrip(".")].shape for key in part.state_dict()])
    for name, value in made.state_dict().items():
        if isinstance(value, Tensor) and value.shape != state[name].shape:
            raise NetworkError(
                f"{name} has the shape {tuple(entries[name].shape)} in {type(module).__name__}, and cannot become "
                f"{tuple(state[name].shape)} as in the state: give the module that the state was made from"
            )
    made.load_state_dict(state, strict=True)
    return made


def _resize(part: Any, shapes: list[torch.Size]) -> None:
    """Give the entries of `part` as many rows, and its matrix as many columns, as the first of `shapes` has."""
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
