"""The protocol of an attack, and the part that the library's own attacks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked
from fipray.robustness.attacks.search import Search
from fipray.robustness.margin import Classifier, check_examples
from fipray.robustness.threat_models import ThreatModel


@runtime_checkable
class Attack(Protocol):
    """A search for allowed inputs that a classifier gets wrong."""

    @property
    def name(self) -> str:
        """Name of the attack and its strength in tables, such as "pgd-20x1"."""
        ...

    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        """Search for adversarial inputs.

        Args:
            classifier: function of inputs [N, ...] to logits or log-probabilities [N, C].
            inputs: clean inputs [N, ...], floating point, within the threat model's bounds.
            labels: classes [N], int64.
            threat_model: allowed changes of the inputs.
            generator: source of all random draws; equal states give equal results.
            until_fooled: if true, an example may be left alone once it is fooled. Which examples are fooled stays the
                same. If false, every example is pushed as far as the attack can, as replaying on other networks needs.

        Returns:
            Adversarial inputs [N, ...] within the threat model, with the shape, dtype and device of `inputs`.
        """
        ...


class BuiltInAttack(ABC):
    """Base of the library's attacks: it checks the examples once, and leaves the search to one hook.

    Subclasses implement `name` and `_adversarial`. Attacks of users need only satisfy `Attack`.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the attack and its strength in tables."""

    @abstractmethod
    def _adversarial(self, search: Search) -> Tensor:
        """Make adversarial inputs [N, ...] for the examples of `search`.

        It runs in the caller's gradient mode: an attack may wrap one of a user that relies on it. An attack that needs
        no graph of its own turns gradients off.
        """

    @final
    @checked
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        with torch.no_grad():  # torch warns when the inputs' extremes become numbers while they require gradients
            check_examples(inputs, labels, threat_model)
        return self._adversarial(Search(classifier, inputs, labels, threat_model, generator, until_fooled))
