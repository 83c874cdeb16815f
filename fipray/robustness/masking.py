"""Signs of gradient masking, which makes a robust accuracy under gradient-based attacks unreliable.

After Athalye, Carlini & Wagner (2018) and the checklist of Carlini et al. (2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fipray.border import checked
from fipray.errors import UsageError
from fipray.robustness.attacks.attack import Attack
from fipray.robustness.attacks.auto_attack import AutoAttack
from fipray.robustness.attacks.black_box import RandomSearch
from fipray.robustness.attacks.gradient import PGD
from fipray.robustness.evaluation import evaluate
from fipray.robustness.margin import Classifier, check_examples, checked_outputs, margin_gradient
from fipray.robustness.threat_models import ThreatModel

_POINT = 0.01  # one percentage point of accuracy
_FLAT_FRACTION = 0.01  # tolerated fraction of examples without a gradient
_LEFT_ACCURACY = 0.05  # tolerated accuracy under the largest epsilon
_SAME_OUTPUTS = 1e-4  # relative difference: sums on a GPU may run in another order
_LARGEST_WITHOUT_BOUNDS = 16  # largest epsilon without finite bounds, in units of the threat model's


@checked
def masking_warnings(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    generator: torch.Generator,
    *,
    num_steps: int = 20,
    num_queries: int = 1000,
) -> tuple[str, ...]:
    """Look for signs that gradient-based attacks overestimate the robustness of a classifier.

    Reported are:

    - outputs that change between two calls;
    - clean inputs without a gradient, more than 1 % of them;
    - a black-box search that beats PGD by more than 1 percentage point (Square where pyautoattack is installed and the
      threat model is linf with finite bounds, else `RandomSearch`);
    - PGD that gains more than 2 points from 5 times `num_steps`;
    - robust accuracy that rises with epsilon by more than 1 point, or that stays above 5 % at the largest epsilon, at
      which all inputs can be made equal.

    Costs about (5 + the number of doublings of epsilon) * num_steps gradients and num_queries forward passes an
    example.

    Args:
        classifier: classifier to check.
        inputs: inputs [N, ...] as for `evaluate`; N of 100 or more, since accuracies are compared to one point.
        labels: classes [N], int64.
        threat_model: threat model of the evaluation in question.
        generator: source of all random draws.
        num_steps: steps of PGD.
        num_queries: queries of the black-box search.

    Returns:
        Warnings, one sentence each; empty if nothing was found.

    Raises:
        DataError: see `evaluate`.
    """
    check_examples(inputs, labels, threat_model)
    checks = _Checks(classifier, inputs, labels, threat_model, generator, generator.get_state())
    found = [*checks.repeatable(), *checks.flat()]
    if checks.has_gradients():
        found += [*checks.steps_and_search(num_steps, num_queries), *checks.growing_epsilon(num_steps)]
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Checks:
    classifier: Classifier
    inputs: Tensor
    labels: Tensor
    threat_model: ThreatModel
    generator: torch.Generator
    state: Tensor

    def robust_accuracy(self, attack: Attack, threat_model: ThreatModel) -> float:
        """Accuracy under one attack, from the same random starts for all attacks."""
        self.generator.set_state(self.state)
        return evaluate(
            self.classifier, self.inputs, self.labels, threat_model, [attack], self.generator
        ).worst_accuracy

    @torch.no_grad()
    def repeatable(self) -> Iterator[str]:
        first, second = (checked_outputs(self.classifier, self.inputs, self.labels) for _ in range(2))
        # Minus infinity is allowed: it is the logarithm of a probability of 0.
        if broken := int((~(first < math.inf)).any(1).sum()):
            yield f"the outputs for {broken} of {len(first)} inputs hold NaN or plus infinity and have no gradient"
        difference = (first - second).abs().amax(1)
        changed = int((difference > _SAME_OUTPUTS * first.abs().amax(1).clamp_min(1)).sum())
        if changed:
            yield (
                f"the outputs for {changed} of {len(first)} inputs change between two calls, by up to "
                f"{float(difference.max()):.2g}: attack their expectation, or make the classifier deterministic"
            )

    def has_gradients(self) -> bool:
        try:
            margin_gradient(self.classifier, self.inputs[:1], self.labels[:1])
        except UsageError:
            return False
        return True

    def flat(self) -> Iterator[str]:
        if not self.has_gradients():
            yield "the outputs carry no gradient back to the inputs, so no gradient-based attack can run"
            return
        # Both are looked at: an attack of a user's own may follow cross-entropy.
        _, _, of_margin = margin_gradient(self.classifier, self.inputs, self.labels)
        with torch.enable_grad():
            inputs = self.inputs.detach().requires_grad_()
            # Summed: a mean would divide by N, and small gradients could underflow to 0 by that alone.
            loss = cross_entropy(self.classifier(inputs), self.labels, reduction="sum")
            (of_loss,) = torch.autograd.grad(loss, inputs)
        for gradient, name in ((of_margin, "margin"), (of_loss, "cross-entropy")):
            fraction = float((gradient == 0).flatten(1).all(1).double().mean())
            if fraction > _FLAT_FRACTION:
                yield f"the gradient of the {name} is exactly 0 at {fraction:.1%} of the clean inputs"

    def steps_and_search(self, num_steps: int, num_queries: int) -> Iterator[str]:
        short, long, search = PGD(num_steps), PGD(5 * num_steps), self.search(num_queries)
        by_short, by_long, by_search = (self.robust_accuracy(each, self.threat_model) for each in (short, long, search))
        # From equal starts the long attack begins with the iterates of the short one: only the further steps can gain.
        if by_short - by_long > 2 * _POINT:
            yield (
                f"more steps still help: robust accuracy {by_short:.1%} under {short.name} and {by_long:.1%} under "
                f"{long.name}"
            )
        if by_long - by_search > _POINT:
            yield (
                f"a black-box search beats gradient-based attacks: robust accuracy {by_search:.1%} under "
                f"{search.name} and {by_long:.1%} under {long.name}"
            )

    def search(self, num_queries: int) -> Attack:
        # Square, the stronger search, works within bounds, and in l2 not on small images.
        bounded = math.isfinite(self.threat_model.lower) and math.isfinite(self.threat_model.upper)
        if find_spec("pyautoattack") and bounded and self.threat_model.norm == "linf":
            return AutoAttack(attacks=("square",), num_queries=num_queries)
        return RandomSearch(num_queries)

    def growing_epsilon(self, num_steps: int) -> Iterator[str]:
        found = [
            (epsilon, self.robust_accuracy(PGD(num_steps), self.threat_model_with(epsilon)))
            for epsilon in self.epsilons()
        ]
        for (smaller, before), (larger, after) in pairwise(found):
            if after - before > _POINT:
                yield (
                    f"robust accuracy rises with epsilon: {before:.1%} at {smaller:.3g} and {after:.1%} at {larger:.3g}"
                )
        largest, left = found[-1]
        if left > _LEFT_ACCURACY:
            yield f"robust accuracy does not fall to 0 as epsilon grows: {left:.1%} remain at {largest:.3g}"

    def epsilons(self) -> list[float]:
        """Epsilons doubled up to half the range of every coordinate, at which all inputs can be made grey."""
        half = (self.threat_model.upper - self.threat_model.lower) / 2
        length = 1.0 if self.threat_model.norm == "linf" else math.sqrt(self.inputs[0].numel())
        epsilon = self.threat_model.epsilon
        largest = half * length if math.isfinite(half) else _LARGEST_WITHOUT_BOUNDS * epsilon
        epsilons = [epsilon]
        # The first comparison ends the loop for an epsilon of 0, which doubling does not change.
        while 0 < 2 * epsilons[-1] < largest:
            epsilons.append(2 * epsilons[-1])
        return [*epsilons, largest] if largest > epsilons[-1] else epsilons

    def threat_model_with(self, epsilon: float) -> ThreatModel:
        return ThreatModel(self.threat_model.norm, epsilon, self.threat_model.lower, self.threat_model.upper)
