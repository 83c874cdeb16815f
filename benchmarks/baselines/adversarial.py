"""Adversarial training, linf: networks trained on the inputs that are worst for them at the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.baselines.training import (
    Make,
    Trained,
    check_fraction,
    check_members,
    check_positive,
    cross_entropy,
    evaluating,
    opened,
)
from benchmarks.baselines.variations import Vary
from fipray.robustness.margin import margins


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy on inputs from projected gradient descent with a random start (PGD-AT; Madry et al. 2018).

    The inner search goes down the margin: the directions of cross-entropy, without its vanishing where the network is
    certain. It sees the network in evaluation mode; the outer step trains it. With `num_members` above 1 the members
    are independent; `num_steps` each.

    epsilon: in units of the inputs. inner_rate: length of an inner step; 2.5 epsilon / inner_steps where None.
    clean_fraction: weight of the loss on clean inputs, 0..1. averaging: decay of a moving average of the weights, 0
    for none. vary: variation of the inputs of each batch, None for none. orthogonal: whether weight matrices move along
    orthogonal ones, as those of paths may.
    """

    epsilon: float = 0.1
    num_members: int = 1
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3
    inner_steps: int = 10
    inner_rate: float | None = None
    clean_fraction: float = 0.0
    averaging: float = 0.0
    vary: Vary | None = None
    orthogonal: bool = False

    def __post_init__(self) -> None:
        _check(self)
        check_fraction(clean_fraction=self.clean_fraction)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        return _independent(self, make, inputs, labels, seed, seconds)

    def loss(self, member: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(1 - c) CE(f(x'), y) + c CE(f(x), y), x' the worst input that was found and c the clean share; scalar."""
        loss = (1 - self.clean_fraction) * cross_entropy(member, self.worst(member, inputs, labels, generator), labels)
        return loss + self.clean_fraction * cross_entropy(member, inputs, labels) if self.clean_fraction else loss

    def worst(self, member: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return adversarial inputs [N, ...] within epsilon and 0..1."""
        draws = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
        with evaluating(member):
            return climb(
                lambda current: -margins(member(current), labels).sum(),
                inputs + (2 * draws - 1) * self.epsilon,
                inputs,
                epsilon=self.epsilon,
                num_steps=self.inner_steps,
                rate=self.inner_rate,
            )


@dataclass(frozen=True)
class OneStep:
    """Cross-entropy on inputs from one signed step out of strong noise (N-FGSM; de Jorge et al. 2022).

    The noise is uniform within `noise` epsilon, the step `step` epsilon long, and neither is clipped to epsilon; both
    stay within 0..1, as in their code, whose defaults these are. The gradient is that of the network in training mode,
    as there, with the same statistics of BatchNorm as in the step that follows.

    The other settings are those of `AdversarialTraining`.
    """

    epsilon: float = 0.1
    num_members: int = 1
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3
    noise: float = 2.0
    step: float = 1.0
    averaging: float = 0.0
    vary: Vary | None = None
    orthogonal: bool = False

    def __post_init__(self) -> None:
        _check(self)
        check_positive(noise=self.noise, step=self.step)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        return _independent(self, make, inputs, labels, seed, seconds)

    def loss(self, member: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """CE(f(x'), y), x' the input after the step; scalar."""
        return cross_entropy(member, self.moved(member, inputs, labels, generator), labels)

    def moved(self, member: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return inputs [N, ...] after noise and step, up to (noise + step) epsilon away and within 0..1."""
        draws = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
        noisy = (inputs + (2 * draws - 1) * self.noise * self.epsilon).clamp_(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(member, noisy, labels), noisy)
        return (noisy.detach() + self.step * self.epsilon * gradient.sign()).clamp_(0, 1)


@dataclass(frozen=True)
class Trades:
    """TRADES (Zhang et al. 2019, equation 5): cross-entropy on clean inputs plus beta times a divergence.

    The divergence is the greatest change of the network's probabilities within the threat model; beta is 1 / lambda of
    the
    source.

    The inner search starts at small Gaussian noise, as the divergence has no gradient at the clean input, and sees the
    network in evaluation mode, as their code does. The other settings are those of `AdversarialTraining`.
    """

    epsilon: float = 0.1
    beta: float = 6.0
    num_members: int = 1
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3
    inner_steps: int = 10
    inner_rate: float | None = None
    noise: float = 1e-3
    averaging: float = 0.0
    vary: Vary | None = None
    orthogonal: bool = False

    def __post_init__(self) -> None:
        _check(self)
        check_positive(beta=self.beta, noise=self.noise)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        return _independent(self, make, inputs, labels, seed, seconds)

    def loss(self, member: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """CE(f(x), y) + beta KL(p(x) | p(x')), a mean over the batch; both p are differentiated."""
        moved = self.worst(member, inputs, generator)
        clean = member(inputs)
        return nn.functional.cross_entropy(clean, labels) + self.beta * divergence(
            clean.log_softmax(1), member(moved).log_softmax(1)
        ) / len(inputs)

    def worst(self, member: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return inputs [N, ...] of greatest divergence within epsilon and 0..1."""
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
        with evaluating(member):
            with torch.no_grad():
                clean = member(inputs).log_softmax(1)
            return climb(
                lambda current: divergence(clean, member(current).log_softmax(1)),
                inputs + self.noise * noise,
                inputs,
                epsilon=self.epsilon,
                num_steps=self.inner_steps,
                rate=self.inner_rate,
            )


@dataclass(frozen=True)
class AdversarialDistillation:
    """Match a network's clean probabilities on adversarial inputs, without labels and without a path.

    Minimise `KL(p(w0, x) | p(w, x'))`, x' the input of greatest divergence from p(w0, x) within epsilon. The teacher w0
    is what `make` gives first, and each member begins at what it gives next: let it return copies of one trained
    network. It is the objective `fip.objectives.AdversarialDistillation` under plain Adam.

    The inner search is that of `AdversarialTraining`, on the divergence; the other settings are its own.
    """

    epsilon: float = 0.1
    num_members: int = 1
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3
    inner_steps: int = 10
    inner_rate: float | None = None
    averaging: float = 0.0
    vary: Vary | None = None
    orthogonal: bool = False

    def __post_init__(self) -> None:
        _check(self)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        return _independent(self, make, inputs, labels, seed, seconds)

    def loss(
        self, member: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator, teacher: nn.Module
    ) -> Tensor:
        """KL(p0(x) | p(x')), a mean over the batch; scalar. The labels are not used."""
        with torch.no_grad():
            target = teacher(inputs).log_softmax(1)
        moved = self.worst(member, inputs, target, generator)
        return divergence(target, member(moved).log_softmax(1)) / len(inputs)

    def worst(self, member: nn.Module, inputs: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return inputs [N, ...] of greatest divergence from log-probabilities [N, C], within epsilon and 0..1."""
        draws = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
        with evaluating(member):
            return climb(
                lambda current: divergence(target, member(current).log_softmax(1)),
                inputs + (2 * draws - 1) * self.epsilon,
                inputs,
                epsilon=self.epsilon,
                num_steps=self.inner_steps,
                rate=self.inner_rate,
            )


Adversarial = AdversarialTraining | OneStep | Trades | AdversarialDistillation


def _independent(
    recipe: Adversarial,
    make: Make,
    inputs: Tensor,
    labels: Tensor,
    seed: int,
    seconds: float | None,
) -> Trained:
    """Train independent members on the loss of a recipe."""
    with opened(
        make, inputs, labels, seed=seed, seconds=seconds, batch_size=recipe.batch_size, vary=recipe.vary
    ) as training:
        loss: Callable[..., Tensor] = partial(recipe.loss, generator=training.generator)
        if isinstance(recipe, AdversarialDistillation):
            loss = partial(loss, teacher=make().eval())
        return training.ended(
            training.independent(
                recipe.num_members,
                loss,
                recipe.num_steps,
                recipe.rate,
                recipe.averaging,
                orthogonal=recipe.orthogonal,
            )
        )


def divergence(of: Tensor, other: Tensor) -> Tensor:
    """sum_n KL(p_n | q_n) of log-probabilities log p and log q [N, C]; scalar."""
    return (of.exp() * (of - other)).sum()


def climb(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    clean: Tensor,
    *,
    epsilon: float,
    num_steps: int,
    rate: float | None = None,
    memory: float = 0.0,
) -> Tensor:
    """Ascend along the sign of the objective's gradient, within epsilon of `clean` and 0..1; return inputs [N, ...].

    rate: length of a step; 2.5 epsilon / num_steps where None. With `memory` the sign is that of the sum of the
    gradients so far, each divided by its L1 norm, and the sum multiplied by the memory before a new one is added (Dong
    et al. 2018). The gradient is taken in the inputs alone.
    """
    rate = 2.5 * epsilon / num_steps if rate is None else rate
    lowest, highest = (clean - epsilon).clamp_min(0), (clean + epsilon).clamp_max(1)
    current, summed = torch.clamp(start, lowest, highest), torch.zeros_like(clean)
    for _ in range(num_steps):
        current.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(current), current)
        if memory:
            size = gradient.abs().flatten(1).sum(1).clamp_min(1e-12)
            gradient = summed = memory * summed + gradient / size.view(-1, *[1] * (clean.dim() - 1))
        current = torch.clamp(current.detach() + rate * gradient.sign(), lowest, highest)
    return current


def _check(recipe: Adversarial) -> None:
    check_members(recipe.num_members)
    check_fraction(averaging=recipe.averaging)
    check_positive(epsilon=recipe.epsilon, num_steps=recipe.num_steps, batch_size=recipe.batch_size, rate=recipe.rate)
    if not isinstance(recipe, OneStep):
        check_positive(
            inner_steps=recipe.inner_steps, inner_rate=1.0 if recipe.inner_rate is None else recipe.inner_rate
        )
