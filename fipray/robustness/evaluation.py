"""Robustness evaluation: per-example correctness, clean and under attacks, and transfer of attacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fipray.border import checked, described
from fipray.errors import UsageError
from fipray.networks import taken
from fipray.robustness.attacks.attack import Attack
from fipray.robustness.margin import Classifier, check_examples, checked_outputs, correct
from fipray.robustness.threat_models import ThreatModel

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Robustness:
    """Per-example results of an evaluation on N examples.

    An example counts as robust only if it is also classified correctly when clean, so no robust accuracy exceeds the
    clean accuracy.

    Args:
        clean: booleans [N], true for examples classified correctly without an attack.
        robust: for each attack by name, booleans [N], true for examples classified correctly under it.
    """

    clean: Tensor
    robust: Mapping[str, Tensor]

    @property
    def worst(self) -> Tensor:
        """Booleans [N], true for examples that withstand all attacks."""
        return torch.stack(list(self.robust.values())).all(0)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy without an attack, 0..1."""
        return _accuracy(self.clean)

    def robust_accuracy(self, attack: str) -> float:
        """Accuracy under one attack.

        Args:
            attack: name of the attack.

        Returns:
            The accuracy, 0..1.

        Raises:
            UsageError: if no attack has this name; the error lists the names.
        """
        if attack not in self.robust:
            raise UsageError(f"no attack is named {attack!r}; there are: {', '.join(self.robust)}")
        return _accuracy(self.robust[attack])

    @property
    def worst_accuracy(self) -> float:
        """Accuracy under the worst attack for each example, 0..1: the robust accuracy where no attack is named."""
        return _accuracy(self.worst)


@checked
def evaluate(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    attacks: Sequence[Attack],
    generator: torch.Generator,
    *,
    batch_size: int = 500,
) -> Robustness:
    """Run every attack on every example that is classified correctly when clean.

    Every adversarial input is checked to lie in the threat model and classified again in a forward pass of its own, so
    the result does not depend on what an attack reports.

    Args:
        classifier: function of inputs [N, ...] to logits or log-probabilities [N, C].
        inputs: clean inputs [N, ...] within the threat model's bounds.
        labels: classes [N], int64.
        threat_model: allowed changes of the inputs.
        attacks: attacks with different names, at least one.
        generator: source of all random draws.
        batch_size: examples attacked at a time, at least 1.

    Returns:
        Per-example results under each attack.

    Raises:
        DataError: for NaN in the inputs, inputs outside the bounds, and labels outside the classes.
        UsageError: for no attacks, two attacks of one name, or an attack that leaves the threat model.
    """
    _check_batch_size(batch_size)
    names = [attack.name for attack in attacks]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"attacks need a name each, and there must be at least one; given: {', '.join(names) or 'none'}"
        )
    check_examples(inputs, labels, threat_model)
    clean = _correct(classifier, inputs, labels, batch_size)
    # Examples that are wrong when clean count as not robust already, so no attack is spent on them.
    (indices,) = torch.where(clean)
    robust = {name: clean.clone() for name in names}
    # An empty tensor splits into one empty batch, which no attack takes.
    for number, batch in enumerate(indices.split(batch_size) if len(indices) else ()):
        for attack in attacks:
            last = min((number + 1) * batch_size, len(indices))
            _logger.info("%s on examples %d to %d of %d", attack.name, number * batch_size + 1, last, len(indices))
            adversarial = _adversarial(
                attack, classifier, taken(inputs, batch), labels[batch], threat_model, generator, until_fooled=True
            )
            robust[attack.name][batch] = _correct(classifier, adversarial, labels[batch], batch_size)
    return Robustness(clean, robust)


@checked
def transfer_matrix(
    sources: Mapping[str, Classifier],
    targets: Mapping[str, Classifier],
    inputs: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    attack: Attack,
    generator: torch.Generator,
    *,
    batch_size: int = 500,
) -> Tensor:
    """Accuracy of each target on the adversarial inputs made on each source.

    All examples are attacked as far as the attack can, and every source from the same random starts.

    Args:
        sources: classifiers that are attacked, by name.
        targets: classifiers that are evaluated, by name.
        inputs: clean inputs [N, ...] within the threat model's bounds.
        labels: classes [N], int64.
        threat_model: allowed changes of the inputs.
        attack: attack on each source.
        generator: source of all random draws.
        batch_size: examples attacked at a time, at least 1.

    Returns:
        Accuracies [A, B], 0..1, float64: one row a source, one column a target.

    Raises:
        DataError: see `evaluate`.
        UsageError: if the attack leaves the threat model.
    """
    _check_batch_size(batch_size)
    check_examples(inputs, labels, threat_model)
    accuracies = torch.zeros(len(sources), len(targets), dtype=torch.float64)
    # Equal starts, so that rows differ by the networks alone.
    before = generator.get_state()
    for row, (name, source) in enumerate(sources.items()):
        _logger.info("%s on %s, network %d of %d", attack.name, name, row + 1, len(sources))
        generator.set_state(before)
        # Batch by batch, so that the adversarial inputs of one batch alone are in memory.
        for batch, batch_labels in _batches(inputs, labels, batch_size):
            made = _adversarial(attack, source, batch, batch_labels, threat_model, generator, until_fooled=False)
            for column, target in enumerate(targets.values()):
                accuracies[row, column] += int(_correct(target, made, batch_labels, batch_size).sum())
    accuracies /= len(labels)
    return accuracies


def _adversarial(
    attack: Attack,
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    generator: torch.Generator,
    *,
    until_fooled: bool,
) -> Tensor:
    """Run an attack and check that its inputs [N, ...] lie in the threat model."""
    # Attacks may be a user's own, so the annotation of the result is not trusted.
    made: Any = attack.perturb(classifier, inputs, labels, threat_model, generator, until_fooled=until_fooled)
    if not isinstance(made, Tensor) or made.shape != inputs.shape or made.dtype != inputs.dtype:
        raise UsageError(
            f"attack {attack.name!r} made {described(made)} of inputs that are {described(inputs)}: its perturb() must "
            "return a tensor of the same shape and dtype"
        )
    # With its graph, an attack of a user's own would keep the passes of every batch in memory.
    made = made.detach()
    # Comparisons with NaN are false, so inputs with NaN count as outside.
    outside = int((~threat_model.contains(made, inputs)).sum())
    if outside:
        raise UsageError(
            f"attack {attack.name!r} left the threat model on {outside} of {len(inputs)} inputs: end its perturb() "
            "with threat_model.project(adversarial, inputs)"
        )
    return made


@torch.no_grad()
def _correct(classifier: Classifier, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Return for each example [N] whether it is classified correctly."""
    return torch.cat(
        [correct(checked_outputs(classifier, *batch), batch[1]) for batch in _batches(inputs, labels, batch_size)]
    )


def _batches(inputs: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(inputs.split(batch_size), labels.split(batch_size), strict=True)


def _check_batch_size(batch_size: int) -> None:
    if not batch_size >= 1:
        raise UsageError(f"batch_size is {batch_size}: give at least 1")


def _accuracy(per_example: Tensor) -> float:
    # torch has no mean of booleans, and in float32 one of ten would come back as 0.10000000149.
    return float(per_example.double().mean())
