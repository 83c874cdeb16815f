"""Variations that a recipe chooses: changes of images under which the base network predicts the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.paths import Flipped, Problem, Shifted
from fipray.recipes.ensembles.choices import RobustChoices
from fipray.recipes.variations import chosen_variations, variations_of

IMAGES = torch.zeros(64, 1, 16, 16)
for number in range(64):  # a bright square in the left or the right half, away from the border
    column = 4 if number % 2 else 10
    IMAGES[number, 0, 6:10, column : column + 3] = 1


class Brightest(nn.Module):
    """Compares sums of an image's parts, each given as a mask [16, 16]."""

    def __init__(self, *masks: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack(masks))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nchw,khw->nk", images, self.weight)


def halves() -> Brightest:
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    return Brightest(left, 1 - left)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        pytest.param(halves(), (2, False), id="left and right are classes"),
        pytest.param(Brightest(torch.ones(16, 16), torch.zeros(16, 16)), (2, True), id="brightness alone"),
        pytest.param(Brightest(IMAGES[0, 0], IMAGES[1, 0] - 0.01), (2, False), id="places"),
    ],
)
def test_what_the_base_network_does_not_mind_is_varied(module, expected):
    pixels, mirrored, reason = chosen_variations(Problem(module, IMAGES, IMAGES), (0.0, 1.0), seed=0)
    assert (pixels, mirrored) == expected
    assert "held-out images the base network puts" in reason
    assert ("mirrored" in reason) == mirrored or "neither" in reason


def test_where_every_pixel_counts_nothing_is_shifted():
    checkerboard = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float()
    images = torch.stack([checkerboard, 1 - checkerboard])[:, None].repeat(32, 1, 1, 1)
    found = chosen_variations(Problem(Brightest(checkerboard, 1 - checkerboard), images, images), (0.0, 1.0), seed=0)
    assert found[:2] == (0, False)
    assert found[2].startswith("Anchors are neither shifted nor mirrored")


def test_other_inputs_and_bounds_without_zero():
    flat = torch.rand(20, 5)
    assert chosen_variations(Problem(nn.Linear(5, 3), flat, flat), (0.0, 1.0), seed=0) == (0, False, "")
    pixels, mirrored, _ = chosen_variations(
        Problem(Brightest(torch.ones(16, 16), torch.zeros(16, 16)), IMAGES, IMAGES), (0.1, 1.0), seed=0
    )
    assert (pixels, mirrored) == (0, True)


def test_settings_become_variations():
    assert variations_of(0, False) == ()
    assert variations_of(2, True) == (Shifted(copies=1, pixels=2), Flipped())


def test_a_negative_shift_is_refused():
    with pytest.raises(UsageError, match="pixels=-1 was given"):
        RobustChoices(pixels=-1)
