"""The statistics of normalisations, estimated again where other weights have moved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fipray.errors import NetworkError
from fipray.geometry.network import Network

Moments = tuple[Tensor, Tensor]  # mean and deviation of each channel, [C]


@torch.no_grad()
def re_estimated(network: Network, weights: Tensor, before: Tensor, inputs: Tensor) -> Tensor:
    """`weights` [P], with scale and shift of every BatchNorm such that on `inputs` each of its channels has the mean
    and the deviation again that it has at the weights `before` [P].

    Frozen statistics are a part of an affine map, as scale and shift are: to estimate them anew is to change these. So
    the result is still a point in weight space. A channel that is constant stays as it is. Layer after layer, in two
    forward passes.

    Raises NetworkError where there is no BatchNorm whose scale and shift move.
    """
    slots = {slot.name: slot for slot in network.slots}
    parts = {
        name: part
        for name, part in network.parts()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and {f"{name}.weight", f"{name}.bias"} <= slots.keys()
    }
    if not parts:
        raise NetworkError("no BatchNorm has a scale and a shift that move, so there are no statistics to estimate")
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


def _moments(output: Tensor) -> Moments:
    by_channel = output.transpose(0, 1).flatten(1)
    return by_channel.mean(1), by_channel.std(1, correction=0)
