"""What a classifier withstands: accuracy per example, clean and under attacks, and how attacks carry over to others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fipray.border import checked, described
from fipray.errors import UsageError
from fipray.robustness.attacks.attack import Attack
from fipray.robustness.margin import Classifier, check_examples, checked_outputs, correct
from fipray.robustness.threat_models import ThreatModel


@dataclass(frozen=True, eq=False)
class Robustness:
    """Whether each of N examples is classified correctly: `clean` [N] as it is, `robust` [N] under each attack by name.

    A robust example is a clean one too, so no robust accuracy exceeds the clean accuracy.
    """

    clean: Tensor
    robust: Mapping[str, Tensor]

    @property
    def worst(self) -> Tensor:
        """Whether each example [N] withstands all the attacks."""
        return torch.stack(list(self.robust.values())).all(0)

    @property
    def clean_accuracy(self) -> float:
        return _share(self.clean)

    def robust_accuracy(self, attack: str) -> float:
        """Accuracy, 0..1, under the attack of that name."""
        if attack not in self.robust:
            raise UsageError(f"no attack is named {attack!r}; there are: {', '.join(self.robust)}")
        return _share(self.robust[attack])

    @property
    def worst_accuracy(self) -> float:
        """Accuracy, 0..1, under the worst attack for each example: "robust accuracy" where no attack is named."""
        return _share(self.worst)


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
    """Try every attack on every example that is right as it is.

    inputs [N, ...] within the threat model's bounds; labels int64 [N]. Every adversarial input is checked to lie in the
    threat model and judged by a forward pass of its own, whatever the attack thinks that it found.

    Raises DataError for NaN, for inputs outside the bounds, and for labels outside the classes; UsageError for no
    attacks, two of one name, or an attack that leaves the threat model.
    """
    _check_batch_size(batch_size)
    names = [attack.name for attack in attacks]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"attacks need a name each, and there must be at least one; given: {', '.join(names) or 'none'}"
        )
    check_examples(inputs, labels, threat_model)
    clean = _correct(classifier, inputs, labels, batch_size)
    (standing,) = torch.where(clean)
    robust = {name: clean.clone() for name in names}
    for some in standing.split(batch_size) if len(standing) else ():
        for attack in attacks:
            adversarial = _adversarial(
                attack, classifier, inputs[some], labels[some], threat_model, generator, until_fooled=True
            )
            robust[attack.name][some] = _correct(classifier, adversarial, labels[some], batch_size)
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
    """Accuracies [A, B], 0..1: of target b on the inputs that the attack made of all examples on maker a.

    Every maker is attacked from the same random starts. Raises as `evaluate` does.
    """
    _check_batch_size(batch_size)
    check_examples(inputs, labels, threat_model)
    accuracies = torch.zeros(len(sources), len(targets), dtype=torch.float64)
    before = generator.get_state()
    for row, source in enumerate(sources.values()):
        generator.set_state(before)
        made = torch.cat(
            [
                _adversarial(attack, source, some, their_labels, threat_model, generator, until_fooled=False)
                for some, their_labels in _batches(inputs, labels, batch_size)
            ]
        )
        for column, target in enumerate(targets.values()):
            accuracies[row, column] = _share(_correct(target, made, labels, batch_size))
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
    """What the attack makes of the inputs [N, ...], inside the threat model."""
    made: Any = attack.perturb(classifier, inputs, labels, threat_model, generator, until_fooled=until_fooled)
    if not isinstance(made, Tensor) or made.shape != inputs.shape or made.dtype != inputs.dtype:
        raise UsageError(
            f"attack {attack.name!r} made {described(made)} of inputs that are {described(inputs)}: let its perturb() "
            "return one for each, of the same kind"
        )
    made = made.detach()
    outside = int((~threat_model.contains(made, inputs)).sum())
    if outside:
        raise UsageError(
            f"attack {attack.name!r} left the threat model on {outside} of {len(inputs)} inputs: end its perturb() "
            "with threat_model.project(adversarial, inputs)"
        )
    return made


@torch.no_grad()
def _correct(classifier: Classifier, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Whether each example [N] gets its label."""
    return torch.cat(
        [correct(checked_outputs(classifier, *some), some[1]) for some in _batches(inputs, labels, batch_size)]
    )


def _batches(inputs: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(inputs.split(batch_size), labels.split(batch_size), strict=True)


def _check_batch_size(batch_size: int) -> None:
    if not batch_size >= 1:
        raise UsageError(f"batch_size is {batch_size}: give at least 1")


def _share(per_example: Tensor) -> float:
    return float(per_example.double().mean())
