"""Shifted copies of images as further anchors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fipray as fip
from fipray.errors import DataError, UsageError
from fipray.networks import for_task
from fipray.paths import Batch, Flipped, Shifted, augmented


def _by_hand(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The image [C, H, W] moved down and to the right."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_a_copy_is_the_image_shifted_by_at_most_so_many_pixels() -> None:
    images = torch.rand(5, 3, 6, 4)
    found = augmented(images, [fip.augmentations.Shifted(copies=7, pixels=2)])
    assert found.shape == (40, 3, 6, 4)
    assert torch.equal(found[:5], images)
    shifts = set()
    for number, copy in enumerate(found[5:]):
        image = images[number % 5]
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(copy, _by_hand(image, down, right))
        ]
        assert len(fits) == 1
        shifts |= set(fits)
    assert len(shifts) > 10


def test_the_same_seed_makes_the_same_copies() -> None:
    images = torch.rand(4, 1, 8, 8)
    first, again, other = (augmented(images, [fip.augmentations.Shifted()], seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flattened_images_keep_what_stands_before_them() -> None:
    images = torch.rand(4, 1, 8, 8)
    copies = augmented(for_task(images, 3), [fip.augmentations.Shifted(image=(1, 8, 8))], seed=5)
    assert torch.equal(copies[:, 0], torch.full((36,), 3.0))
    assert torch.equal(copies[:, 1:].view(-1, 1, 8, 8), augmented(images, [fip.augmentations.Shifted()], seed=5))


def test_inputs_that_are_no_images_are_refused() -> None:
    with pytest.raises(fip.errors.DataError, match="are no images of shape"):
        augmented(torch.rand(4, 65), [fip.augmentations.Shifted()])
    with pytest.raises(fip.errors.DataError, match="are no images of shape"):
        augmented(torch.rand(4, 63), [fip.augmentations.Shifted(image=(1, 8, 8))])
    with pytest.raises(fip.errors.UsageError, match="at least 1"):
        fip.augmentations.Shifted(copies=0)


def test_a_mirrored_image_is_mirrored_from_left_to_right():
    images = torch.arange(24.0).reshape(2, 1, 3, 4)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(Flipped(1.0).of(images, generator), images.flip(3))
    assert torch.equal(Flipped(0.0).of(images, generator), images)
    some = Flipped().of(images.repeat(200, 1, 1, 1), generator)
    assert 0.4 < float((some == images.repeat(200, 1, 1, 1)).flatten(1).all(1).double().mean()) < 0.6
    with pytest.raises(UsageError, match="a chance"):
        Flipped(1.5)
    with pytest.raises(DataError, match="no images"):
        Flipped().of(torch.rand(3, 4), generator)


def test_each_draw_varies_its_inputs_anew_and_keeps_the_outputs_on_the_original_ones():
    images, reference = torch.rand(50, 1, 6, 6), torch.rand(50, 3)
    plain = Batch(images, reference)
    varied = replace(plain, variations=(Shifted(copies=1, pixels=1), Flipped()))
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    (one, same, without) = (
        [batch.draw(20, generator) for _ in range(2)]
        for batch, generator in zip((varied, varied, plain), generators, strict=True)
    )
    for first, again, original in zip(one, same, without, strict=True):
        assert torch.equal(first.inputs, again.inputs)
        assert torch.equal(first.reference, original.reference)
        assert first.seed == original.seed
        assert not torch.equal(first.inputs, original.inputs)
        assert first.variations == ()
    assert not torch.equal(one[0].inputs, one[1].inputs)


def test_a_variation_keeps_the_number_of_inputs():
    batch = Batch(torch.rand(50, 1, 6, 6), torch.rand(50, 3), variations=(Shifted(copies=2),))
    with pytest.raises(UsageError, match=r"Shifted made inputs of shape \[40, 1, 6, 6\]"):
        batch.draw(20, torch.Generator().manual_seed(0))
