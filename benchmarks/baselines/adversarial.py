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
from fipray.robustness.margin import margins


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy on inputs from projected gradient descent with a random start (PGD-AT; Madry et al. 2018).

    The inner search goes down the margin: the directions of cross-entropy, without its vanishing where the network is
    certain. It sees the network in evaluation mode; the outer step trains it. With `num_members` above 1 the members
    are independent; `num_steps` each.

    epsilon: in units of the inputs. inner_rate: length of an inner step; 2.5 epsilon / inner_steps where None.
    clean_fraction: weight of the loss on clean inputs, 0..1. averaging: decay of a moving average of the weights, 0
    for none.
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

    def __post_init__(self) -> None:
        _check(self)
        check_fraction(clean_fraction=self.clean_fraction)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            loss = partial(self.loss, generator=training.generator)
            return training.ended(
                training.independent(self.num_members, loss, self.num_steps, self.rate, self.averaging)
            )

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

    def __post_init__(self) -> None:
        _check(self)
        check_positive(beta=self.beta, noise=self.noise)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            loss = partial(self.loss, generator=training.generator)
            return training.ended(
                training.independent(self.num_members, loss, self.num_steps, self.rate, self.averaging)
            )

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


def _check(recipe: AdversarialTraining | Trades) -> None:
    check_members(recipe.num_members)
    check_fraction(averaging=recipe.averaging)
    check_positive(
        epsilon=recipe.epsilon,
        num_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        rate=recipe.rate,
        inner_steps=recipe.inner_steps,
        inner_rate=1.0 if recipe.inner_rate is None else recipe.inner_rate,
    )
