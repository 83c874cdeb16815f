"""State of one attack: its arguments, and the worst input found so far for each example."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fipray.robustness.margin import Classifier, checked_outputs, correct, margins
from fipray.robustness.threat_models import ThreatModel, each

Chosen = Tensor | slice
"""Indices [K] of examples, or the slice of all of them, which copies nothing."""


class Search:
    """One call of `Attack.perturb`: its arguments, and the worst input found so far for each example.

    An input that the classifier gets wrong is worse than one that it gets right; among equals, the lower margin is
    worse. An example once fooled therefore stays fooled, whatever else is tried.

    Args:
        classifier: classifier under attack.
        inputs: clean inputs [N, ...].
        labels: classes [N].
        threat_model: allowed changes of the inputs.
        generator: source of all random draws.
        until_fooled: whether examples are left alone once they are fooled.

    Attributes:
        worst: worst input of each example [N, ...]; the clean inputs at first.
        margin: margins of `worst` [N]; infinite at first, so that any input whose margin is a number replaces the clean
            one.
        fooled: booleans [N], true for examples that the classifier gets wrong at `worst`; false at first.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        until_fooled: bool,
    ) -> None:
        self.classifier, self.inputs, self.labels = classifier, inputs, labels
        self.threat_model, self.generator, self.until_fooled = threat_model, generator, until_fooled
        # Detached: attacks write into it in place, and inputs may require gradients.
        self.worst = inputs.detach().clone()
        self.margin = self.worst.new_full(labels.shape, math.inf)
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)
        self._are_checked = False

    def remaining(self) -> Chosen:
        """Find the examples still to be attacked: all N, or with `until_fooled` those not yet fooled."""
        if not self.until_fooled:
            return slice(None)
        (indices,) = torch.where(~self.fooled)
        return slice(None) if len(indices) == len(self.fooled) else indices

    def labels_are_checked(self) -> bool:
        """Return whether the labels have been checked against the classifier's classes; true from the second call on.

        The first pass checks them, and the passes after it need not wait for the device.
        """
        before, self._are_checked = self._are_checked, True
        return before

    def starts(self) -> Tensor:
        """Random allowed inputs [N, ...].

        Drawn for all N examples whether or not some are left out, so that `until_fooled` does not change later draws.
        """
        return self.threat_model.starts(self.inputs, self.generator)

    def keep(self, indices: Chosen, candidates: Tensor, outputs: Tensor, margin: Tensor | None = None) -> Tensor:
        """Replace the worst inputs of some examples by candidates that are worse.

        Args:
            indices: the examples, K of them.
            candidates: one allowed input for each of them [K, ...].
            outputs: outputs of the classifier for the candidates [K, C].
            margin: margins of the outputs against all wrong classes [K], where they are known.

        Returns:
            Booleans [K], true for the candidates that the classifier gets wrong.
        """
        labels = self.labels[indices]
        # Outputs may have another dtype than the inputs.
        margin = (margins(outputs, labels) if margin is None else margin).to(self.margin.dtype)
        fooled = ~correct(outputs, labels)
        was_fooled, was_margin = self.fooled[indices], self.margin[indices]
        # Fooled before margin: the margin sums over all wrong classes, so it may be below 0 where none of them wins.
        # NaN is never lower, so it cannot replace an input that fools the classifier by a number.
        worse = torch.where(fooled == was_fooled, margin < was_margin, fooled)
        self.margin[indices] = torch.where(worse, margin, was_margin)
        self.fooled[indices] = torch.where(worse, fooled, was_fooled)
        if worse.device.type == "cpu":
            # Two thirds of the time of `torch.where` on inputs, with less memory.
            (rows,) = torch.where(worse)
            places = rows if isinstance(indices, slice) else indices[rows]
            if len(rows) == len(self.worst):
                self.worst.copy_(candidates.detach())
            else:
                self.worst.index_copy_(0, places, candidates.detach().index_select(0, rows))
        else:
            # Without the rows of a mask, whose number would have to be read from the device.
            self.worst[indices] = torch.where(each(worse, candidates), candidates, self.worst[indices])
        return fooled

    def judge(self, candidates: Tensor) -> None:
        """Run the classifier on the candidates of the remaining examples, and keep those that are worse.

        Args:
            candidates: one allowed input for each of the N examples [N, ...].
        """
        remaining = self.remaining()
        chosen = candidates[remaining]
        if len(chosen):
            labels = None if self.labels_are_checked() else self.labels[remaining]
            self.keep(remaining, chosen, checked_outputs(self.classifier, chosen, labels))
