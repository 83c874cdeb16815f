"""Threat models, and attacks that look for the worst input inside one.

Every attack here ascends the cross-entropy, but never through a softmax. With the margin

    m(x) = z_y(x) - log sum_{k != y} exp z_k(x)          (outputs z [C]: logits or log-probabilities)

cross-entropy is log(1 + exp(-m)), a falling function of m: both have the same maximisers and the same directions. Its own
gradient, however, carries the factor 1 - p_y, which is exactly zero in float32 as soon as the logits are some 17 apart: most examples of
a well-trained network then look robust because the attack stands still. The margin's gradient does not vanish.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from fipray.errors import DataError, UsageError

Classifier = Callable[[Tensor], Tensor]
"""inputs [N, ...] -> logits or log-probabilities [N, C], C >= 2. Deterministic, and each example judged by itself (eval mode)."""


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker may do: move an input at most `epsilon` (in `norm`), staying within [lower, upper] everywhere.

    `epsilon`, `lower` and `upper` are in the units of the classifier's inputs. A bound may be infinite.
    """

    norm: Literal["linf", "l2"]
    epsilon: float
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise UsageError(f"unknown norm {self.norm!r}: choose 'linf' or 'l2'")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise UsageError(
                f"epsilon is {self.epsilon}: give a finite number of at least 0, in the units of the inputs"
            )
        if not self.lower < self.upper:
            raise UsageError(f"the bounds are [{self.lower}, {self.upper}]: give a lower bound below the upper one")

    def project(self, adversarial: Tensor, clean: Tensor) -> Tensor:
        """The nearest allowed inputs [N, ...], in Euclidean distance; `clean` [N, ...] lies within the bounds."""
        if self.norm == "linf":
            lowest = (clean - self.epsilon).clamp_min(self.lower)
            highest = (clean + self.epsilon).clamp_max(self.upper)
            return torch.minimum(torch.maximum(adversarial, lowest), highest)
        change = (adversarial - clean).flatten(1)
        nearest = _shorten(change, self.lower - clean.flatten(1), self.upper - clean.flatten(1), self.epsilon)
        # clean + (upper - clean) may round to just above upper
        return (clean + nearest.view_as(clean)).clamp(self.lower, self.upper)

    def contains(self, adversarial: Tensor, clean: Tensor, atol: float = 1e-6) -> Tensor:
        """Whether each example [N] is allowed, up to `atol` in units of the largest of 1, epsilon and the finite bounds."""
        slack = atol * max(1.0, *(abs(size) for size in (self.epsilon, self.lower, self.upper) if math.isfinite(size)))
        change = (adversarial - clean).flatten(1)
        length = change.abs().amax(1) if self.norm == "linf" else change.norm(dim=1)
        flat = adversarial.flatten(1)
        inside = (flat >= self.lower - slack) & (flat <= self.upper + slack)
        return (length <= self.epsilon + slack) & inside.all(1)

    def starts(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Random allowed inputs [N, ...]: uniform in the ball around each of `clean`, then projected on the bounds.

        Drawn where the generator lives and moved, so that a seed means the same on every device.
        """
        if self.norm == "linf":
            draws = torch.rand(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
            change = (2 * draws - 1) * self.epsilon
        else:
            draws = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
            share = torch.rand(len(clean), generator=generator, dtype=clean.dtype, device=generator.device)
            change = _unit(draws) * _each(self.epsilon * share ** (1 / clean[0].numel()), draws)
        return self.project(clean + change.to(clean.device), clean)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction [N, ...] of length 1 (in `norm`) in which a function with this gradient falls fastest; 0 where the gradient is."""
        finite = gradient.nan_to_num(nan=0.0)
        return -finite.sign() if self.norm == "linf" else -_unit(finite)


class Attack(Protocol):
    """A search for inputs that a classifier gets wrong."""

    @property
    def name(self) -> str:
        """Names the attack and its strength in tables."""
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
        """Inputs [N, ...] inside the threat model around `inputs` [N, ...] that `classifier` should not call `labels` [N].

        With `until_fooled` only the verdicts matter, and an example may be left alone once it is fooled; the verdicts are the
        same. Without it every example is pushed as far as the attack can, which is what replaying on other networks needs.
        """
        ...


@dataclass(frozen=True)
class FGSM:
    """One step of length epsilon from the clean input (Goodfellow et al. 2015; for l2, along the normalised gradient)."""

    @property
    def name(self) -> str:
        return "fgsm"

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
        check_examples(inputs, labels, threat_model)
        gradient = margin_gradient(classifier, inputs, labels)
        return threat_model.project(inputs + threat_model.epsilon * threat_model.steepest(gradient), inputs)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent on the margin (Madry et al. 2018) from random starts, keeping each example's best iterate.

    The first step is `step_fraction * epsilon` long; an example's step is halved whenever two steps in a row brought it no new
    lowest margin. That needs neither tuning nor to know how many steps will follow, so that the iterates of a short attack are the first
    iterates of a longer one, and it is as strong as APGD (Croce & Hein 2020), whose first step is 2 epsilon too.

    Costs num_steps gradients and one more forward pass a restart, for the examples still standing.
    """

    num_steps: int = 20
    num_restarts: int = 1
    step_fraction: float = 2.0

    def __post_init__(self) -> None:
        _check_counts(num_steps=self.num_steps, num_restarts=self.num_restarts)
        _check_step_fraction(self.step_fraction)

    @property
    def name(self) -> str:
        return f"pgd-{self.num_steps}x{self.num_restarts}"

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
        check_examples(inputs, labels, threat_model)
        search = _Search(classifier, inputs, labels, threat_model, self.num_steps, self.step_fraction, until_fooled)
        for _ in range(self.num_restarts):
            search.descend(threat_model.starts(inputs, generator), rivals=None)
        return search.best


@dataclass(frozen=True)
class TargetedPGD:
    """PGD towards one wrong class at a time: the `num_targets` that the clean input is closest to, each from a random start.

    It descends z_y - z_k, as APGD-T does (Croce & Hein 2020), and finds what the untargeted attack, which follows whichever class
    is closest at the moment, cannot. On a linear classifier it is exact once every wrong class is a target.
    """

    num_steps: int = 20
    num_targets: int = 9
    step_fraction: float = 2.0

    def __post_init__(self) -> None:
        _check_counts(num_steps=self.num_steps, num_targets=self.num_targets)
        _check_step_fraction(self.step_fraction)

    @property
    def name(self) -> str:
        return f"targeted-pgd-{self.num_steps}x{self.num_targets}"

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
        check_examples(inputs, labels, threat_model)
        with torch.no_grad():
            outputs = checked_outputs(classifier, inputs, labels)
        ranked = outputs.scatter(1, labels[:, None], -math.inf).argsort(1, descending=True)
        search = _Search(classifier, inputs, labels, threat_model, self.num_steps, self.step_fraction, until_fooled)
        for rivals in ranked[:, : min(self.num_targets, outputs.shape[1] - 1)].unbind(1):
            search.descend(threat_model.starts(inputs, generator), rivals)
        return search.best


class _Search:
    """The descents of one call of `perturb`, and the best input found so far for each example.

    `fooled` [N] comes first in what is better, then the lower `margin` [N]: so an example once fooled stays fooled, whatever
    else is tried.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        num_steps: int,
        step_fraction: float,
        until_fooled: bool,
    ) -> None:
        self.classifier, self.inputs, self.labels, self.threat_model = classifier, inputs, labels, threat_model
        self.num_steps, self.first_step, self.until_fooled = (
            num_steps,
            step_fraction * threat_model.epsilon,
            until_fooled,
        )
        self.best = inputs.clone()
        self.margin = torch.full_like(inputs.flatten(1)[:, 0], math.inf)
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)

    def descend(self, starts: Tensor, rivals: Tensor | None) -> None:
        """Walks from `starts` [N, ...] towards the classes `rivals` [N] or, without them, away from the labels."""
        everyone = torch.ones_like(self.fooled)
        (standing,) = torch.where(~self.fooled if self.until_fooled else everyone)
        current, clean = starts[standing], self.inputs[standing]
        step = torch.full_like(self.margin[standing], self.first_step)
        lowest = torch.full_like(step, math.inf)
        stalled = torch.zeros_like(standing)
        for index in range(self.num_steps + 1):
            if len(standing) == 0:
                return
            labels = self.labels[standing]
            if index == self.num_steps:
                with torch.no_grad():
                    outputs = checked_outputs(self.classifier, current, labels)
                self._keep(standing, current, outputs, labels)
                return
            outputs, height, gradient = _heights(
                self.classifier, current, labels, None if rivals is None else rivals[standing]
            )
            fooled = self._keep(standing, current, outputs, labels)
            stalled = torch.where(height < lowest, 0, stalled + 1)
            lowest = torch.minimum(lowest, height)
            step = torch.where(stalled == 2, step / 2, step)
            stalled = stalled % 2
            current = self.threat_model.project(
                current + _each(step, current) * self.threat_model.steepest(gradient), clean
            )
            if self.until_fooled and fooled.any():
                left = ~fooled
                standing, current, clean = standing[left], current[left], clean[left]
                step, lowest, stalled = step[left], lowest[left], stalled[left]

    def _keep(self, standing: Tensor, current: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
        """Keeps what is better than the best so far; says which of the standing are fooled."""
        fooled, margin = ~correct(outputs, labels), margins(outputs, labels)
        was_fooled, was_margin = self.fooled[standing], self.margin[standing]
        better = torch.where(fooled == was_fooled, margin < was_margin, fooled)
        where = standing[better]
        self.best[where], self.margin[where], self.fooled[where] = current[better], margin[better], fooled[better]
        return fooled


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """z_y - log sum_{k != y} exp z_k [N] of outputs [N, C]: how far cross-entropy is from being high, without saturation."""
    others = outputs.scatter(1, labels[:, None], -math.inf)
    return _of_class(outputs, labels) - others.logsumexp(1)


def correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether each example [N] gets its label; outputs [N, C] with a NaN are wrong, whatever the largest is."""
    return (outputs.argmax(1) == labels) & ~outputs.isnan().any(1)


def margin_gradient(classifier: Classifier, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient [N, ...] of each example's margin in its input."""
    return _heights(classifier, inputs, labels, rivals=None)[2]


def _heights(
    classifier: Classifier, inputs: Tensor, labels: Tensor, rivals: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [N, C]; what is to descend [N]: the margin over all classes, or over `rivals` [N]; its gradient [N, ...] in the inputs."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        outputs = checked_outputs(classifier, inputs, labels)
        height = margins(outputs, labels) if rivals is None else _of_class(outputs, labels) - _of_class(outputs, rivals)
        if not height.requires_grad:
            raise UsageError(
                "the classifier's outputs carry no gradient back to its inputs, which this attack needs: "
                "let it compute them in torch, without detach(), no_grad() or inference_mode()"
            )
        (gradient,) = torch.autograd.grad(height.sum(), inputs, materialize_grads=True)
    return outputs.detach(), height.detach(), gradient


def check_examples(inputs: Tensor, labels: Tensor, threat_model: ThreatModel | None = None) -> None:
    """Raises DataError unless inputs [N, ...] are finite floats within the threat model's bounds, and labels are int64 [N]."""
    if inputs.dim() < 2 or len(inputs) == 0 or not inputs.is_floating_point():
        raise DataError(
            f"the inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: give floats of shape [N, ...] with at least one example"
        )
    if labels.dtype != torch.int64 or labels.shape != inputs.shape[:1]:
        raise DataError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)}: give one int64 class for each of the {len(inputs)} inputs"
        )
    smallest, largest = (float(value) for value in inputs.aminmax())
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        (broken,) = torch.where(~inputs.flatten(1).isfinite().all(1))
        raise DataError(
            f"{len(broken)} of {len(inputs)} inputs hold NaN or infinity, the first at index {int(broken[0])}: remove them"
        )
    if threat_model and not (threat_model.lower <= smallest and largest <= threat_model.upper):
        raise DataError(
            f"the inputs range over [{smallest:g}, {largest:g}] and the threat model allows [{threat_model.lower:g}, "
            f"{threat_model.upper:g}]: scale the inputs into it and let the classifier normalise them, or set its lower and upper"
        )


def checked_outputs(classifier: Classifier, inputs: Tensor, labels: Tensor) -> Tensor:
    """classifier(inputs) [N, C]; raises DataError where that is no such matrix, or the labels are outside its classes."""
    outputs = classifier(inputs)
    if outputs.dim() != 2 or len(outputs) != len(inputs) or outputs.shape[1] < 2:
        raise DataError(
            f"the classifier gave outputs of shape {tuple(outputs.shape)} for {len(inputs)} inputs: "
            "give one row an input and one column a class, two classes or more"
        )
    smallest, largest = (int(value) for value in labels.aminmax())
    if smallest < 0 or largest >= outputs.shape[1]:
        raise DataError(
            f"the labels range over {smallest}..{largest} and the classifier tells classes 0..{outputs.shape[1] - 1} apart: "
            "give labels of this classifier's classes"
        )
    return outputs


def _shorten(change: Tensor, lowest: Tensor, highest: Tensor, radius: float) -> Tensor:
    """The nearest point [N, D] to `change` [N, D] in the box [lowest, highest], which holds 0, and the ball of this radius.

    It is clip(t * change) for the largest t <= 1 that fits in the ball (the Karush-Kuhn-Tucker conditions). Its squared length, sum_i
    min(t^2 change_i^2, bound_i^2), is concave and piecewise linear in t^2: Newton's iteration rises from t = 0 without ever
    passing the root, and meets it after finitely many steps. Clipping and scaling in turn would stop short of it.
    """
    square = change.square()
    bound = torch.where(change > 0, highest, lowest).square()
    scale = torch.zeros_like(square[:, :1])
    for _ in range(_MOST_NEWTON_STEPS):
        free = scale * square < bound
        left = radius**2 - torch.where(free, 0, bound).sum(1, keepdim=True)
        slope = torch.where(free, square, 0).sum(1, keepdim=True)
        larger = (left.clamp_min(0) / slope.clamp_min(torch.finfo(slope.dtype).tiny)).clamp_max(1)
        if not (larger > scale).any():
            break
        scale = torch.maximum(scale, larger)
    return torch.minimum(torch.maximum(scale.sqrt() * change, lowest), highest)


_MOST_NEWTON_STEPS = 32
"""Every iterate is inside the ball, so a bound costs nothing but tightness; about 5 are needed for images."""


def _unit(vectors: Tensor) -> Tensor:
    """Each example of `vectors` [N, ...] at length 1, or 0. Scaled first: the square of 1e-30 is zero in float32."""
    tiny = torch.finfo(vectors.dtype).tiny
    flat = vectors.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
    return (flat / flat.norm(dim=1, keepdim=True).clamp_min(tiny)).view_as(vectors)


def _each(values: Tensor, like: Tensor) -> Tensor:
    """`values` [N], shaped to multiply each example of `like` [N, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _of_class(outputs: Tensor, classes: Tensor) -> Tensor:
    """The output [N] of one class an example."""
    return outputs.gather(1, classes[:, None]).squeeze(1)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} is {count}: give at least 1")


def _check_step_fraction(step_fraction: float) -> None:
    if not (math.isfinite(step_fraction) and step_fraction > 0):
        raise UsageError(f"step_fraction is {step_fraction}: give a finite number above 0, relative to epsilon")
