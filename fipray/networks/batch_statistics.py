"""The statistics of normalisations, estimated again where other weights have moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fipray.errors import NetworkError
from fipray.networks.network import Network

Moments = tuple[Tensor, Tensor]  # mean and deviation of each channel, [C]
Statistics = dict[str, Tensor]  # the buffers of BatchNorm layers, by their names


@torch.no_grad()
def re_estimated(network: Network, weights: Tensor, before: Tensor, inputs: Tensor) -> Tensor:
    """`weights` [P], with scale and shift of every BatchNorm such that on `inputs` each of its channels has the mean
    and the deviation again that it has at the weights `before` [P].

    Frozen statistics are a part of an affine map, as scale and shift are: to estimate them anew is to change these. So
    the result is still a point in weight space. A channel that is constant stays as it is. Layer after layer, in two
    forward passes.

    Raises NetworkError where there is no BatchNorm whose scale and shift move, or where some may not change.
    """
    check_norms_move(network)
    slots = {slot.name: slot for slot in network.slots}
    parts = dict(_normalisations(network))
    wanted: dict[str, Moments] = {}
    result = weights.clone()

    def remember(name: str, output: Tensor) -> None:
        wanted[name] = _moments(output)

    def mend(name: str, output: Tensor) -> Tensor:
        mean, deviation = _moments(output)
        mean_before, deviation_before = wanted[name]
        moves = deviation > 1e-6 * (deviation_before + mean.abs())
        ratio = torch.where(moves, deviation_before / deviation.clamp(min=torch.finfo(output.dtype).tiny), 1.0)
        shift = torch.where(moves, mean_before - ratio * mean, 0.0)
        scale_slot, shift_slot = slots[f"{name}.weight"], slots[f"{name}.bias"]
        result[scale_slot.start : scale_slot.stop] *= ratio
        result[shift_slot.start : shift_slot.stop] = result[shift_slot.start : shift_slot.stop] * ratio + shift
        shape = (1, -1, *[1] * (output.ndim - 2))
        return output * ratio.view(shape) + shift.view(shape)

    for at, see in ((before, remember), (weights, mend)):
        hooks: list[Any] = [
            part.register_forward_hook(lambda _part, _inputs, output, name=name, see=see: see(name, output))
            for name, part in parts.items()
        ]
        try:
            network(at, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return result


def statistics_of(network: Network) -> Statistics:
    """A copy of the statistics that the network's BatchNorm layers have frozen.

    Raises NetworkError where there is no BatchNorm whose scale and shift move.
    """
    return {
        f"{name}.{kind}": buffer.clone()
        for name, part in _normalisations(network)
        for kind, buffer in part.named_buffers()
    }


def normalised(network: Network, weights: Tensor, statistics: Statistics, inputs: Tensor) -> Tensor:
    """Outputs [N, C] at `weights` [P] where every BatchNorm normalises by the batch, as in training, and moves the
    `statistics`, in place, its momentum's share of the way to the batch's. Differentiable in `weights`.
    """
    parts = [part for _, part in _normalisations(network)]
    try:
        for part in parts:
            part.train()
        return network.evaluated({**network.named(weights), **statistics}, inputs)
    finally:
        for part in parts:
            part.eval()


def folded(network: Network, weights: Tensor, statistics: Statistics) -> Tensor:
    """Weights [P] with which the network, its statistics frozen, computes what it computes at `weights` [P] with these
    `statistics`: frozen statistics are a part of an affine map, as scale and shift are. Differentiable in `weights`.
    """
    return _refolded(network, weights, statistics, statistics_of(network))


def unfolded(network: Network, weights: Tensor, statistics: Statistics) -> Tensor:
    """The inverse of `folded`."""
    return _refolded(network, weights, statistics_of(network), statistics)


def check_norms_move(network: Network) -> None:
    """Raise NetworkError where a BatchNorm's scale and shift are in the vector, but may not change (`Network.only`)."""
    moving = {slot.name for slot in network.moving}
    held = [name for name, _ in _normalisations(network) if not {f"{name}.weight", f"{name}.bias"} <= moving]
    if held:
        raise NetworkError(
            f"statistics are kept in the scale and shift of every BatchNorm, and those of {', '.join(held)} may not "
            "change on this path: let them move too, or leave the statistics as they are"
        )


def _refolded(network: Network, weights: Tensor, of: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> Tensor:
    """Scales and shifts that go with the statistics `of`, as they are with those of `by`."""
    named = network.named(weights)
    for name, part in _normalisations(network):
        scale, shift = named[f"{name}.weight"], named[f"{name}.bias"]
        deviation_of, deviation_by = ((s[f"{name}.running_var"] + part.eps).sqrt() for s in (of, by))
        named[f"{name}.weight"] = scale * deviation_by / deviation_of
        between = by[f"{name}.running_mean"] - of[f"{name}.running_mean"]
        named[f"{name}.bias"] = shift + scale * between / deviation_of
    return torch.cat([named[slot.name].reshape(-1) for slot in network.slots])


def _normalisations(network: Network) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """The BatchNorm layers whose scale and shift move, by name."""
    names = {slot.name for slot in network.slots}
    found = [
        (name, part)
        for name, part in network.parts()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.running_mean is not None
        and {f"{name}.weight", f"{name}.bias"} <= names
    ]
    if not found:
        raise NetworkError("no BatchNorm has a scale and a shift that move, so there are no statistics to estimate")
    return iter(found)


def _moments(output: Tensor) -> Moments:
    by_channel = output.transpose(0, 1).flatten(1)
    return by_channel.mean(1), by_channel.std(1, correction=0)
