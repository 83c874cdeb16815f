"""Preparation of inputs: dtypes, channels, normalisation and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fipray.errors import DataError
from fipray.study.sources.examples import Channels

_CHANNELS = (1, 3, 4)
_SLACK = 1e-4  # of un-normalised pixels, by rounding in float32 (float16: more, and refused)
Array = NDArray[Any]


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of inputs that a source applied, `(x - mean) / std`.

    Args:
        mean: mean of each channel (dimension 1), or one number.
        std: standard deviation of each channel, above 0, or one number.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> Normalisation | None:
        """Make a normalisation from what a user gives.

        Args:
            mean: one number, one for each channel, or None.
            std: in the same way.

        Returns:
            The normalisation; None where neither is given.

        Raises:
            DataError: for one without the other.
        """
        if (mean is None) != (std is None):
            raise DataError("mean= and std= must be given together: give both or neither")
        return None if mean is None or std is None else cls(_numbers(mean), _numbers(std))

    def undone(self, name: str, inputs: Array) -> Array:
        """Undo the normalisation.

        Args:
            name: name of the inputs, for messages.
            inputs: normalised inputs [N, C, ...], floats.

        Returns:
            Inputs in 0..1.

        Raises:
            DataError: for another number of channels, and for results outside 0..1.
        """
        if inputs.dtype.kind != "f":
            raise DataError(f"{name} are {inputs.dtype}, which are not normalised: leave mean= and std= out")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise DataError(f"mean= and std= must have one length and std be above 0; given: {self.mean}, {self.std}")
        if len(self.mean) not in (1, inputs.shape[1]):
            raise DataError(f"mean= has {len(self.mean)} channels, but {name} have shape {inputs.shape}")
        shape = (-1, *[1] * (inputs.ndim - 2))
        mean, std = (np.asarray(one, inputs.dtype).reshape(shape) for one in (self.mean, self.std))
        pixels = inputs * std + mean
        low, high = float(pixels.min()), float(pixels.max())
        if low < -_SLACK or high > 1 + _SLACK:
            raise DataError(
                f"{name} lie in {low:.4g}..{high:.4g} after undoing the normalisation, not in 0..1: mean= and std= "
                "must be those by which the source normalised pixels of 0..1"
            )
        return pixels.clip(0, 1)


def prepared(
    name: str, array: Array, channels: Channels, normalisation: Normalisation | None, *, alone: bool
) -> tuple[Array, list[str]]:
    """Prepare one input for a network: uint8 to 0..1, channels first, normalisation undone.

    Args:
        name: name of the inputs, for messages.
        array: inputs [N, ...].
        channels: where images have their channels, as far as is known.
        normalisation: to undo; None for none.
        alone: whether it is the only input; several are images only with three dimensions or more.

    Returns:
        Inputs [N, ...], and notes on what was done.

    Raises:
        DataError: for images whose channels are ambiguous, and for a normalisation that does not fit.
    """
    notes: list[str] = []
    is_bytes = array.dtype == np.uint8 and (alone or array.ndim >= 3)
    if normalisation is not None and is_bytes:
        raise DataError(f"{name} are uint8, which are not normalised: leave mean= and std= out")
    if is_bytes or (array.dtype.kind == "f" and array.ndim == 4):
        array, note = _channels_first(name, array, channels)
        notes += note
    if is_bytes:
        array = array.astype(np.float32) / np.float32(255)
        notes.append(f"{name} are divided by 255")
    elif array.dtype == np.float64 and channels != "first" and torch.get_default_dtype() == torch.float32:
        # Everything in numpy is float64 that nobody chose to be otherwise; a tensor of torch ("first") is by choice.
        array = array.astype(np.float32)
        notes.append(f"{name} are converted from float64 to float32")
    if normalisation is not None and (alone or array.dtype.kind == "f"):
        array = normalisation.undone(name, array)
        notes.append(f"the normalisation of {name} is undone: give the network as fipray.networks.Normalised")
    return array, notes


def _channels_first(name: str, array: Array, channels: Channels) -> tuple[Array, list[str]]:
    if array.ndim == 3 and array.dtype == np.uint8:
        return array[:, None], [f"{name} [N, H, W] get a channel: [N, 1, H, W]"]
    if array.ndim != 4 or channels == "first":
        return array, []
    first, last = (array.shape[place] in _CHANNELS for place in (1, 3))
    if channels == "unknown" and first and last:
        raise DataError(
            f"{name} have shape {array.shape}, and whether they are [N, C, H, W] or [N, H, W, C] cannot be told: give "
            "a tensor of floats [N, C, H, W], as by .permute(0, 3, 1, 2)"
        )
    if channels == "last" or (last and not first):
        return array.transpose(0, 3, 1, 2), [f"{name} [N, H, W, C] are transposed to [N, C, H, W]"]
    return array, []


def bounds_of(arrays: Sequence[Array]) -> tuple[tuple[float, float], str]:
    """Choose the bounds of inputs.

    Args:
        arrays: all inputs that an attack may perturb, and those like them.

    Returns:
        0..1 if they lie within it, and otherwise their smallest and largest value; and a note, or "".

    Raises:
        DataError: for NaN and infinity among the inputs.
    """
    low, high = (_extreme(extreme, arrays) for extreme in (np.min, np.max))
    if not (math.isfinite(low) and math.isfinite(high)):
        broken = sum(int((~np.isfinite(array.reshape(len(array), -1))).any(1).sum()) for array in arrays)
        raise DataError(f"{broken} of the inputs hold NaN or infinity: leave these examples out, or fill them in")
    if low >= 0 and high <= 1:
        return (0.0, 1.0), ""
    high = high if high > low else low + 1
    return (low, high), f"the bounds of attacks are the smallest and largest input, {low:.6g}..{high:.6g}"


def _extreme(of: Callable[[Any], Any], arrays: Sequence[Array]) -> float:
    return float(of([of(array) for array in arrays]))


def resized(size: int) -> Callable[[Any], Any]:
    """Transform that resizes images to one size.

    Args:
        size: height and width; the shorter side is resized to it, and the longer one cropped around its middle.

    Returns:
        Transform of images of Pillow and tensors.

    Raises:
        DataError: for a size below 1.
    """
    if size < 1:
        raise DataError(f"size must be at least 1, got {size}")
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(size), v2.CenterCrop(size)])


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    return (float(given),) if isinstance(given, (int, float)) else tuple(float(one) for one in given)
