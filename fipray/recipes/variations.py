"""Choice of the variations of a recipe: changes of images under which the base network already predicts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from fipray.geometry import class_logits
from fipray.paths import Augmentation, Flipped, Problem, Shifted
from fipray.paths.problem import anchors_and_held_out
from fipray.recipes.anchors import are_images

LEAST_AGREEMENT = 0.9
"""Agreement of the base network with itself under a change that is made. On MNIST it is 96 % under shifts by one pixel,
which help, and 85 % under shifts by two, which harm."""
MOST_PIXELS = 4
SIDES_A_PIXEL = 8  # an image is shifted by at most this part of its shorter side
NUM_JUDGED = 256


def variations_of(pixels: int, mirrored: bool) -> tuple[Augmentation, ...]:
    """Make variations from settings.

    Args:
        pixels: largest shift of an image; 0 for none.
        mirrored: whether images are mirrored at random.

    Returns:
        Variations for `Settings.variations`.
    """
    shifts: tuple[Augmentation, ...] = (Shifted(copies=1, pixels=pixels),) if pixels else ()
    return (*shifts, *((Flipped(),) if mirrored else ()))


def chosen_variations(problem: Problem, bounds: tuple[float, float], seed: int) -> tuple[int, bool, str]:
    """Choose shifts and mirroring for images, as far as the base network predicts the same class after them.

    A network that is to keep its predictions under a change that turns one class into another, such as mirrored
    digits, would be asked for the impossible. No labels are used.

    Args:
        problem: base network and held-out inputs.
        bounds: least and greatest value of an input; shifts fill with zeros, which must lie within.
        seed: seed of the shifts.

    Returns:
        Largest shift in pixels, whether images are mirrored, and the reason as a sentence; empty for other inputs.
    """
    _, held_out = anchors_and_held_out(problem)
    inputs = held_out.inputs[:NUM_JUDGED]
    if not are_images(inputs):
        return 0, False, ""
    classes = _classes(problem, inputs)

    def agreement(variation: Augmentation) -> float:
        generator = torch.Generator(inputs.device).manual_seed(seed)
        return float((_classes(problem, variation.of(inputs, generator)) == classes).double().mean())

    pixels, said = 0, list[str]()
    most = min(MOST_PIXELS, min(inputs.shape[2:]) // SIDES_A_PIXEL) if bounds[0] <= 0 <= bounds[1] else 0
    for tried in range(1, most + 1):
        same = agreement(Shifted(copies=1, pixels=tried))
        said.append(f"{same:.0%} after shifts by up to {tried}")
        if same < LEAST_AGREEMENT:
            break
        pixels = tried
    same = agreement(Flipped(1.0))
    mirrored = same >= LEAST_AGREEMENT
    made = [*([f"shifted by up to {pixels} pixels" if pixels > 1 else "shifted by a pixel"] if pixels else [])]
    made += ["mirrored"] if mirrored else []
    return (
        pixels,
        mirrored,
        f"Anchors are {' and '.join(made) if made else 'neither shifted nor mirrored'}: of {len(inputs)} held-out "
        f"images the base network puts {', '.join([*said, f'{same:.0%} after mirroring'])} into the same class.",
    )


def _classes(problem: Problem, inputs: Tensor) -> Tensor:
    return class_logits(problem.network.outputs(problem.start, inputs)).argmax(1)
