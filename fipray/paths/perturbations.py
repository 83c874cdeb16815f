"""Perturbations of anchors that are remembered from one draw of an anchor to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.networks import Deferred
from fipray.paths.augmentations import Augmentation, varied

_LARGEST = 127  # of a signed byte


@dataclass(frozen=True, eq=False)
class Perturbations:
    """Last perturbation of every anchor.

    Args:
        stored: int8 [N, ...], in units of epsilon / 127; written in place.
        epsilon: bound on each coordinate of a perturbation.
    """

    stored: Tensor
    epsilon: float

    @classmethod
    def random(cls, inputs: Tensor, epsilon: float, seed: int) -> Perturbations:
        """Draw the perturbations before the first step, uniformly within epsilon.

        Args:
            inputs: anchors [N, ...].
            epsilon: bound on each coordinate.
            seed: seed of the draw.

        Returns:
            Perturbations of all anchors.

        Raises:
            UsageError: for anchors that are read by reference, of which there may be too many.
        """
        if isinstance(inputs, Deferred):
            raise UsageError(
                f"remembers=True keeps a perturbation of every anchor, and {len(inputs):,} are read by reference: "
                "leave it out, or give the anchors as an array"
            )
        generator = torch.Generator(inputs.device).manual_seed(seed)
        stored = torch.empty(inputs.shape, dtype=torch.int8, device=inputs.device)
        return cls(stored.random_(-_LARGEST, _LARGEST + 1, generator=generator), epsilon)

    def of(self, inputs: Tensor, chosen: Tensor | slice, variations: Sequence[Augmentation], seed: int) -> Recalled:
        """Select those of drawn anchors.

        Args:
            inputs: the drawn anchors [M, ...], before variations.
            chosen: their indices.
            variations: changes that the draw made to them.
            seed: seed of these changes.

        Returns:
            Perturbations of the drawn anchors.
        """
        return Recalled(self, inputs, chosen, tuple(variations), seed)


@dataclass(frozen=True, eq=False)
class Recalled:
    """Perturbations of drawn anchors, which follow their variations: those of a shifted image are shifted with it.

    Args:
        every: perturbations of all anchors.
        inputs: drawn anchors [M, ...], before variations.
        chosen: their indices.
        variations: changes that the draw made to them.
        seed: seed of these changes.
    """

    every: Perturbations
    inputs: Tensor
    chosen: Tensor | slice
    variations: tuple[Augmentation, ...]
    seed: int

    def moved(self) -> Tensor:
        """Drawn anchors [M, ...] with their last perturbations, and varied."""
        change = self.every.stored[self.chosen].to(self.inputs.dtype).mul_(self.every.epsilon / _LARGEST)
        return varied(change.add_(self.inputs), self.variations, self.seed)

    def keep(self, change: Tensor) -> None:
        """Remember new perturbations.

        Args:
            change: [M, ...], of the varied anchors. It is carried back by the transpose of the variations' derivative,
                which for shifts and mirrored images is their inverse.

        Raises:
            UsageError: for a variation that cannot be differentiated by its inputs.
        """
        if self.variations:
            with torch.enable_grad():
                inputs = self.inputs.detach().requires_grad_(True)
                made = varied(inputs, self.variations, self.seed)
                if not made.requires_grad:
                    raise UsageError(
                        "a perturbation is remembered through the derivative of variations by their inputs, and "
                        f"{', '.join(type(one).__name__ for one in self.variations)} have none: leave remembers out"
                    )
                (change,) = torch.autograd.grad(made, inputs, change)
        stored = (change * (_LARGEST / self.every.epsilon)).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
        if isinstance(self.chosen, slice):
            self.every.stored[self.chosen] = stored
        else:
            # Anchors are drawn with replacement. All entries of one get the same value, whichever is written last.
            in_order, places = self.chosen.sort(stable=True)
            last = places[torch.searchsorted(in_order, self.chosen, right=True) - 1]
            self.every.stored[self.chosen] = stored[last]
