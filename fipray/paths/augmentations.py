"""Augmentations: further anchors made from stored inputs by changes that should not change the outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.networks import Deferred
from fipray.networks.deferred import AT_ONCE
from fipray.registry import spec


@runtime_checkable
class Augmentation(Protocol):
    """Makes further inputs from given ones. A frozen dataclass, so that it can be part of a spec."""

    def of(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Make further inputs.

        Args:
            inputs: [N, ...].
            generator: generator on the inputs' device for all random numbers.

        Returns:
            Inputs [M, ...] of the same shape, dtype and device.
        """
        ...


@spec("shifted")
@checked
@dataclass(frozen=True)
class Shifted:
    """Copies of images shifted by whole pixels at random, filled with zeros at the border.

    Where a small replay buffer stands for many inputs, a function that is held on it alone may change between its
    inputs. Shifted copies hold it there too, and take memory only while a path is traced.

    Args:
        copies: number of copies of each image, at least 1.
        pixels: largest shift in each direction, at least 1.
        image: shape [C, H, W] of an image where inputs [N, ...] are flattened; () where they are images. Numbers that
            precede the image in an input, such as the number of the task for a `MultiHead`, are left as they are.

    Raises:
        UsageError: for a number out of range.
        DataError: when it is applied to inputs that hold no such image.
    """

    copies: int = 8
    pixels: int = 2
    image: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.copies >= 1 and self.pixels >= 1):
            raise UsageError(f"copies and pixels are at least 1; {self.copies} and {self.pixels} were given")

    def of(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        shape = self.image or tuple(inputs.shape[1:])
        size, num_entries = math.prod(shape), inputs[0].numel()
        if len(shape) < 2 or size > num_entries:
            raise DataError(
                f"inputs of shape {tuple(inputs.shape[1:])} are no images of shape {shape}: give the "
                "shape of an image, Shifted(image=...)"
            )
        flat = inputs.flatten(1).repeat(self.copies, 1)
        before, images = flat.split([num_entries - size, size], 1)
        height, width = shape[-2:]
        wide = functional.pad(images.reshape(len(flat), -1, height, width), (self.pixels,) * 4)
        down, right = (
            torch.randint(2 * self.pixels + 1, (len(flat), 1), generator=generator, device=inputs.device)
            for _ in range(2)
        )
        # An offset of `pixels` into the padded image is no shift; 0 and 2 `pixels` are the largest ones.
        rows = down + torch.arange(height, device=inputs.device)
        columns = right + torch.arange(width, device=inputs.device)
        # One gather with an own offset per image, instead of a loop over images; its derivative is as cheap.
        places = (rows[:, :, None] * wide.shape[-1] + columns[:, None, :]).flatten(1)
        moved = wide.flatten(2).gather(2, places[:, None].expand(-1, wide.shape[1], -1))
        return torch.cat([before, moved.flatten(1)], 1).reshape(-1, *inputs.shape[1:])


@spec("flipped")
@checked
@dataclass(frozen=True)
class Flipped:
    """Images that are mirrored, left to right, at random.

    For variations of a path (`Settings.variations`): the number of images stays.

    Args:
        probability: chance, 0..1, that an image is mirrored.

    Raises:
        UsageError: for a number out of range.
        DataError: when it is applied to inputs that are no images [N, ..., H, W].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UsageError(f"probability is a chance, 0..1; {self.probability} was given")

    def of(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        if inputs.ndim < 3:
            raise DataError(f"inputs of shape {tuple(inputs.shape[1:])} are no images: leave out Flipped()")
        chosen = torch.rand(len(inputs), generator=generator, device=inputs.device) < self.probability
        return torch.where(chosen.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)


def varied(inputs: Tensor, variations: Sequence[Augmentation], seed: int) -> Tensor:
    """Change inputs at random, one variation after the other.

    Args:
        inputs: [N, ...].
        variations: augmentations that keep the number of inputs.
        seed: seed of all random numbers.

    Returns:
        Inputs [N, ...] of the same shape.

    Raises:
        UsageError: for an augmentation that returns anything else, such as more copies.
    """
    # Not the numbers that others draw from the same seed: an adversary's starts must not depend on the shifts.
    if not variations:
        return inputs
    generator = torch.Generator(inputs.device).manual_seed(seed ^ 1)
    for variation in variations:
        found = variation.of(inputs, generator)
        if found.shape != inputs.shape or found.dtype != inputs.dtype:
            raise UsageError(
                f"{type(variation).__name__} made inputs of shape {list(found.shape)} and {found.dtype} from "
                f"{list(inputs.shape)} and {inputs.dtype}: a variation changes inputs and keeps their number, as "
                "Shifted(copies=1) does"
            )
        inputs = found
    return inputs


@checked
def augmented(inputs: Tensor, augmentations: Sequence[Augmentation], seed: int = 0) -> Tensor:
    """Append augmented copies to inputs.

    Args:
        inputs: [N, ...].
        augmentations: augmentations, each applied to the given inputs.
        seed: seed of all random numbers.

    Returns:
        The inputs, followed by the results of each augmentation.
    """
    if not augmentations:
        return inputs
    if isinstance(inputs, Deferred) and inputs.nbytes > AT_ONCE:
        raise DataError(
            f"augmentations of a path make copies of all inputs, and {len(inputs):,} that are read by reference would "
            f"take {inputs.nbytes / 1e9:.1f} GB: let the source transform them at random, DataRef(..., augments=True)"
        )
    generator = torch.Generator(inputs.device).manual_seed(seed)
    return torch.cat([inputs, *(augmentation.of(inputs, generator) for augmentation in augmentations)])
