"""Statistics of batch normalisation, re-estimated where other weights have moved, and folded into scale and shift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fipray.errors import NetworkError
from fipray.networks.compute import undivided
from fipray.networks.network import Network

Moments = tuple[Tensor, Tensor]  # mean and deviation of each channel, [C]
Statistics = dict[str, Tensor]  # the buffers of BatchNorm layers, by their names


@torch.no_grad()
def re_estimated(network: Network, weights: Tensor, before: Tensor, inputs: Tensor) -> Tensor:
    """Re-estimate the statistics of every BatchNorm after other weights have moved.

    Frozen statistics are part of an affine map, like scale and shift, so re-estimating them is done by changing scale
    and shift, and the result is still a point in weight space. Layers are corrected one after the other, in two forward
    passes. Channels that are constant are left as they are.

    Args:
        network: the network.
        weights: [P], to correct.
        before: weights [P] whose means and standard deviations are restored.
        inputs: [N, ...] on which they are computed.

    Returns:
        `weights` [P] with new scales and shifts, with which each channel has the same mean and standard deviation on
        `inputs` as at `before`.

    Raises:
        NetworkError: if no BatchNorm has a scale and a shift in the vector, or some of these may not change.
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
        # A channel that is constant now has no deviation to rescale: dividing by it would only amplify rounding.
        moves = deviation > 1e-6 * (deviation_before + mean.abs())
        ratio = torch.where(moves, deviation_before / deviation.clamp(min=torch.finfo(output.dtype).tiny), 1.0)
        shift = torch.where(moves, mean_before - ratio * mean, 0.0)
        scale_slot, shift_slot = slots[f"{name}.weight"], slots[f"{name}.bias"]
        result[scale_slot.start : scale_slot.stop] *= ratio
        result[shift_slot.start : shift_slot.stop] = result[shift_slot.start : shift_slot.stop] * ratio + shift
        shape = (1, -1, *[1] * (output.ndim - 2))
        return output * ratio.view(shape) + shift.view(shape)

    # A hook that returns a tensor replaces the output, so each layer sees inputs that are corrected already.
    for at, see in ((before, remember), (weights, mend)):
        hooks: list[Any] = [
            part.register_forward_hook(lambda _part, _inputs, output, name=name, see=see: see(name, output))
            for name, part in parts.items()
        ]
        try:
            with undivided():
                network(at, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return result


def statistics_of(network: Network) -> Statistics:
    """Copy the frozen statistics of the BatchNorm layers.

    Args:
        network: the network.

    Returns:
        Copies of their buffers, by name.

    Raises:
        NetworkError: if no BatchNorm has a scale and a shift in the vector.
    """
    return {
        f"{name}.{kind}": buffer.clone()
        for name, part in _normalisations(network)
        for kind, buffer in part.named_buffers()
    }


def normalised(network: Network, weights: Tensor, statistics: Statistics, inputs: Tensor) -> Tensor:
    """Evaluate a network with BatchNorm layers in training mode; differentiable in `weights`.

    Args:
        network: the network.
        weights: [P].
        statistics: running statistics, changed in place: they move towards those of the batch by the layers' momentum.
        inputs: [N, ...].

    Returns:
        Outputs [N, C], with every BatchNorm normalising by the batch.
    """
    parts = [part for _, part in _normalisations(network)]
    try:
        for part in parts:
            part.train()
        # functional_call puts the statistics in the place of the buffers, so BatchNorm updates them instead.
        with undivided():
            return network.evaluated({**network.named(weights), **statistics}, inputs)
    finally:
        for part in parts:
            part.eval()


def folded(network: Network, weights: Tensor, statistics: Statistics) -> Tensor:
    """Express given statistics by scale and shift; differentiable in `weights`.

    Args:
        network: the network.
        weights: [P].
        statistics: running statistics to use instead of the frozen ones.

    Returns:
        Weights [P] with which the network, its statistics frozen, computes the same function as with `weights` and
        `statistics`.
    """
    return _refolded(network, weights, statistics, statistics_of(network))


def unfolded(network: Network, weights: Tensor, statistics: Statistics) -> Tensor:
    """Inverse of `folded`.

    Args:
        network: the network.
        weights: [P], for the frozen statistics.
        statistics: running statistics to use instead.

    Returns:
        Weights [P] with which the network, with `statistics`, computes the same function as with `weights` and its
        frozen statistics.
    """
    return _refolded(network, weights, statistics_of(network), statistics)


def check_norms_move(network: Network) -> None:
    """Check that scale and shift of every BatchNorm in the vector may change, see `Network.only`.

    Args:
        network: the network.

    Raises:
        NetworkError: naming the layers whose scale or shift may not change.
    """
    moving = {slot.name for slot in network.moving}
    held = [name for name, _ in _normalisations(network) if not {f"{name}.weight", f"{name}.bias"} <= moving]
    if held:
        raise NetworkError(
            f"batch statistics are expressed by the scale and shift of every BatchNorm, and those of {', '.join(held)} "
            "may not change on this path: let them move too, or do not re-estimate statistics"
        )


def _refolded(network: Network, weights: Tensor, of: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> Tensor:
    """Weights [P] with which statistics `by` give the function that `weights` [P] give with statistics `of`."""
    named = network.named(weights)
    for name, part in _normalisations(network):
        scale, shift = named[f"{name}.weight"], named[f"{name}.bias"]
        deviation_of, deviation_by = ((s[f"{name}.running_var"] + part.eps).sqrt() for s in (of, by))
        named[f"{name}.weight"] = scale * deviation_by / deviation_of
        between = by[f"{name}.running_mean"] - of[f"{name}.running_mean"]
        named[f"{name}.bias"] = shift + scale * between / deviation_of
    return torch.cat([named[slot.name].reshape(-1) for slot in network.slots])


def _normalisations(network: Network) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """BatchNorm layers with statistics whose scale and shift are in the vector, by name."""
    names = {slot.name for slot in network.slots}
    found = [
        (name, part)
        for name, part in network.parts()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.running_mean is not None
        and {f"{name}.weight", f"{name}.bias"} <= names
    ]
    if not found:
        raise NetworkError("no BatchNorm has a scale and a shift that move, so there are no statistics to re-estimate")
    return iter(found)


def _moments(output: Tensor) -> Moments:
    by_channel = output.transpose(0, 1).flatten(1)
    # BatchNorm normalises by the variance without Bessel's correction, too.
    return by_channel.mean(1), by_channel.std(1, correction=0)
