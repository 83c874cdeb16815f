"""Normalisation of inputs inside a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import DataError, NetworkError


@checked
class Normalised(nn.Module):
    """Module of pixels in 0..1, around one that takes normalised inputs: `module((x - mean) / std)`.

    An epsilon of 8/255 is then in pixels, whatever the normalisation.

    Args:
        module: the module.
        mean: mean of each channel (dimension 1), or one number for all.
        std: standard deviation of each channel, above 0, or one number for all.

    Raises:
        NetworkError: for a standard deviation that is not above 0, and for different numbers of channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        means, stds = (numbers(one) for one in (mean, std))
        if len(means) != len(stds) or not all(one > 0 for one in stds):
            raise NetworkError(f"mean and std must have one length and std be above 0; given: {means} and {stds}")
        self.module = module
        first = next((each for each in module.parameters() if each.is_floating_point()), torch.zeros(()))
        # Not in the state_dict: they are no weights, and a state without them stays loadable.
        self.register_buffer("mean", first.new_tensor(means), persistent=False)
        self.register_buffer("std", first.new_tensor(stds), persistent=False)
        self.train(module.training)

    def forward(self, inputs: Tensor) -> Any:
        """Normalise the inputs and call the module.

        Args:
            inputs: [N, C, ...], 0..1.

        Returns:
            What the module returns.

        Raises:
            DataError: for inputs of another number of channels.
        """
        mean, std = (per_channel(one, inputs) for one in (self.mean, self.std))
        return self.module((inputs - mean) / std)


def numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    """List one number or several.

    Args:
        given: a number, or a sequence of them.

    Returns:
        The numbers.
    """
    return (float(given),) if isinstance(given, (int, float)) else tuple(float(one) for one in given)


def per_channel(values: Tensor, inputs: Tensor) -> Tensor:
    """Reshape one value a channel for arithmetic with inputs.

    Args:
        values: [C], or [1] for all channels.
        inputs: [N, C, ...].

    Returns:
        The values [C, 1, ...].

    Raises:
        DataError: for another number of channels.
    """
    if len(values) > 1 and (inputs.ndim < 2 or inputs.shape[1] != len(values)):
        raise DataError(
            f"a mean of {len(values)} channels needs inputs [N, {len(values)}, ...]; shape {tuple(inputs.shape)} "
            "was given"
        )
    return values.view(-1, *[1] * max(inputs.ndim - 2, 0))
