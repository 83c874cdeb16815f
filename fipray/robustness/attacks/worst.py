"""The worst input found so far for each example."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fipray.robustness.margin import correct, margins


class Worst:
    """`inputs` [N, ...], their `margin` [N] and whether the classifier is `fooled` [N]; at first the clean inputs, with
    an infinite margin.

    Being fooled comes first in what is worse, then the lower margin: so an example once fooled stays fooled, whatever
    else is tried.
    """

    def __init__(self, clean: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = clean.clone(), labels
        self.margin = clean.new_full(labels.shape, math.inf)
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)

    def left(self, until_fooled: bool) -> Tensor:
        """Indices of the examples that are still to be attacked: all of them, or those not yet fooled."""
        (standing,) = torch.where(~self.fooled if until_fooled else torch.ones_like(self.fooled))
        return standing

    def keep(self, standing: Tensor, candidates: Tensor, outputs: Tensor) -> Tensor:
        """Keeps those of `candidates` [K, ...], with outputs [K, C], that are worse than what there was for the
        examples `standing` [K]; says which of the candidates fool [K].
        """
        labels = self.labels[standing]
        fooled, margin = ~correct(outputs, labels), margins(outputs, labels).to(self.margin.dtype)
        was_fooled, was_margin = self.fooled[standing], self.margin[standing]
        worse = torch.where(fooled == was_fooled, margin < was_margin, fooled)
        where = standing[worse]
        self.inputs[where], self.margin[where], self.fooled[where] = candidates[worse], margin[worse], fooled[worse]
        return fooled
