"""Adam's displacement of a large vector, in blocks that fit into a processor's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fipray.paths.state import State

BLOCK = 2**19
"""Weights of a block on a CPU: gradient, displacement, moments and mask of so many take a few megabytes."""


def first_moments(weights: Tensor) -> State:
    """Make Adam's state before the first step.

    Args:
        weights: [P].

    Returns:
        Moments [P] of zero, and the number of steps.
    """
    # The fused kernel takes its step count as a float32 tensor on the device of the weights.
    count = weights.new_zeros((), dtype=torch.float32)
    return {"mean": torch.zeros_like(weights), "square": torch.zeros_like(weights), "count": count}


@torch.no_grad()
def adam_displacement(
    slopes: Sequence[Tensor],
    state: State,
    *,
    rate: float,
    decays: tuple[float, float],
    pull: Tensor | None = None,
    weight: float = 0.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Displacement by Adam, and its length.

    Memory's bandwidth bounds the time of all this, so every block is summed, masked, stepped and measured while it is
    in the cache. A GPU takes one block, as each launches kernels.

    Args:
        slopes: pieces of the gradient [P], in order; overwritten.
        state: state of `first_moments`, overwritten.
        rate: learning rate.
        decays: decay rates of the first and second moments.
        pull: second gradient [P] that is added to the first, or None.
        weight: factor of `pull`.
        mask: factors [P] of gradient and displacement, or None.

    Returns:
        The displacement [P] and its L2 length, a scalar on its device.
    """
    displacement = torch.empty_like(state["mean"])
    # The kernel does not count its writes, by which `proposed` sees that a stepper has begun to overwrite its state.
    increment_version(state["mean"])
    state["count"] = state["count"] + 1
    lengths, begin = [], 0
    for pieces in _blocks(slopes, BLOCK if displacement.device.type == "cpu" else displacement.numel()):
        sizes = [len(piece) for piece in pieces]
        block = slice(begin, begin := begin + sum(sizes))
        if pull is not None:
            torch._foreach_add_(pieces, pull[block].split(sizes), alpha=weight)
        moved = displacement[block].zero_()
        if mask is not None:
            torch._foreach_mul_(pieces, mask[block].split(sizes))
        # `torch.optim.adam.adam` calls the same kernel, and spends as long on its arguments as this on a block.
        torch._fused_adam_(
            list(moved.split(sizes)),
            pieces,
            list(state["mean"][block].split(sizes)),
            list(state["square"][block].split(sizes)),
            [],
            [state["count"]] * len(pieces),
            amsgrad=False,
            lr=rate,
            beta1=decays[0],
            beta2=decays[1],
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        # Momentum may lead off a restriction that has tightened since, so the step is projected as well.
        if mask is not None:
            moved.mul_(mask[block])
        lengths.append(torch.linalg.vector_norm(moved))
    return displacement, torch.linalg.vector_norm(torch.stack(lengths))


def _blocks(pieces: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Divide and group pieces of a vector so that each group has at most `size` entries; none is empty."""
    group, total = list[Tensor](), 0
    for piece in pieces:
        for part in piece.split(size):
            if group and total + len(part) > size:
                yield group
                group, total = [], 0
            group.append(part)
            total += len(part)
    if group:
        yield group
