"""Ensembles whose members are trained together, to differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.baselines.adversarial import climb
from benchmarks.baselines.training import (
    Make,
    Trained,
    check_base,
    check_members,
    check_positive,
    cross_entropy,
    evaluating,
    opened,
)
from fipray.errors import NetworkError


@dataclass(frozen=True)
class AdaptiveDiversityPromoting:
    """Adaptive diversity promoting training (ADP; Pang et al. 2019, equation 5).

    Members are trained together for a mean prediction of high entropy and for predictions of wrong classes that differ.

    alpha, beta: weights of the entropy and of the log-determinant. More members than wrong classes have a determinant
    of 0, which the source's offset of 1e-6 on the diagonal keeps finite.
    """

    num_members: int = 3
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3
    alpha: float = 2.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        check_members(self.num_members, least=2)
        check_positive(num_steps=self.num_steps, batch_size=self.batch_size, rate=self.rate)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            members = tuple(make().train() for _ in range(self.num_members))

            def loss(inputs: Tensor, labels: Tensor) -> Tensor:
                return self.loss(torch.stack([member(inputs) for member in members]), labels)

            training.one_cycle(members, loss, training.shares(self.num_steps), self.rate)
            return training.ended(members)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """sum_m CE(f_m, y) - alpha H - beta log det of outputs [M, N, C], a mean over the batch."""
        fit = nn.functional.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs))) * len(outputs)
        diversity = self.alpha * mean_entropy(outputs) + self.beta * log_determinant(outputs, labels)
        return fit - diversity.mean()


def mean_entropy(outputs: Tensor) -> Tensor:
    """Entropy [N], in nats, of the members' mean probabilities; outputs [M, N, C]."""
    logarithms = outputs.log_softmax(2).logsumexp(0) - math.log(len(outputs))
    return -(logarithms.exp() * logarithms).sum(1)


def log_determinant(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the log-determinant `log det(V^T V + 1e-6 I)` [N] of members' predictions of wrong classes.

    The columns of V [C - 1, M] are each member's probabilities of the wrong classes, normalised to length 1; outputs
    are
    [M, N, C].

    The length takes out what the right class leaves to the others, so that their own softmax serves, which does not
    underflow. The determinant is taken in float64: in float32 the offset is near the rounding.
    """
    num_members, num_examples, num_classes = outputs.shape
    wrong = torch.ones(num_examples, num_classes, dtype=torch.bool, device=outputs.device)
    wrong.scatter_(1, labels[:, None], False)
    others = outputs.movedim(0, 1)[wrong[:, None].expand(-1, num_members, -1)]
    others = others.view(num_examples, num_members, num_classes - 1).softmax(2).double()
    directions = others / others.norm(dim=2, keepdim=True)
    offset = 1e-6 * torch.eye(num_members, dtype=directions.dtype, device=directions.device)
    return torch.linalg.slogdet(directions @ directions.mT + offset)[1].to(outputs.dtype)


@dataclass(frozen=True)
class Dverge:
    """Members trained on each other's vulnerabilities (DVERGE; Yang et al. 2020, algorithm 1).

    For two batches x and x_s, `distilled` gives the input near x_s whose features in member j are those of x; all other
    members learn to call it the label of x_s. Members are trained by themselves first, for `base_steps` each or
    `base_share` of the seconds; with `base_steps` 0 they are as `make` gives them. Unlike in the source, the hidden
    layer is drawn anew at every step and not every epoch (short budgets have few), and features are distilled in
    evaluation mode.

    epsilon, inner_rate: how far x_s is moved, all in all (linf) and at each of `inner_steps` steps; a tenth of epsilon
    where None. memory: of the gradients, see `climb`.
    """

    epsilon: float = 0.1
    num_members: int = 3
    num_steps: int = 3000
    base_steps: int = 3000
    base_share: float = 0.3
    batch_size: int = 128
    rate: float = 1e-3
    base_rate: float = 2e-3
    inner_steps: int = 10
    inner_rate: float | None = None
    memory: float = 1.0

    def __post_init__(self) -> None:
        check_members(self.num_members, least=2)
        check_base(self.base_steps, self.base_share)
        check_positive(
            epsilon=self.epsilon,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            rate=self.rate,
            base_rate=self.base_rate,
            inner_steps=self.inner_steps,
        )

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            begin = self.base_share if self.base_steps else 0.0
            members = training.independent(self.num_members, cross_entropy, self.base_steps, self.base_rate, end=begin)
            num_layers = len(hidden_layers(members[0]))

            def loss(sources: Tensor, labels: Tensor) -> Tensor:
                targets, _ = next(training.batches)
                layer = int(torch.randint(num_layers, (), generator=training.generator))
                return self.loss(members, sources, labels, targets, layer)

            training.one_cycle(members, loss, training.shares(self.num_steps, begin), self.rate)
            return training.ended(members)

    def loss(
        self, members: Sequence[nn.Module], sources: Tensor, labels: Tensor, targets: Tensor, layer: int
    ) -> Tensor:
        """sum_i sum_{j != i} CE(f_i(x'_j), y_s): members share no weights, so that each sees its own loss alone."""
        made = [self.distilled(member, sources, targets, layer) for member in members]
        losses = [
            cross_entropy(member, inputs, labels)
            for number, member in enumerate(members)
            for other, inputs in enumerate(made)
            if other != number
        ]
        return torch.stack(losses).sum()

    def distilled(self, member: nn.Module, sources: Tensor, targets: Tensor, layer: int) -> Tensor:
        """Return inputs [N, ...] near `sources` whose features at a hidden layer are close to those of `targets`."""
        with evaluating(member):
            with torch.no_grad():
                aim = features(member, targets, layer)
            return climb(
                lambda current: -(features(member, current, layer) - aim).square().sum(),
                sources,
                sources,
                epsilon=self.epsilon,
                num_steps=self.inner_steps,
                rate=self.epsilon / 10 if self.inner_rate is None else self.inner_rate,
                memory=self.memory,
            )


def hidden_layers(member: nn.Module) -> Sequence[nn.Module]:
    """Return the linear layers and convolutions except the last. Raises NetworkError if there are none."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [layer for layer in member.modules() if isinstance(layer, kinds)]
    if len(layers) < 2:
        raise NetworkError(
            f"the network has {len(layers)} linear layers and convolutions, so none that is hidden: give a deeper one"
        )
    return layers[:-1]


def features(member: nn.Module, inputs: Tensor, layer: int) -> Tensor:
    """Return the pre-activations of a hidden layer for inputs [N, ...]."""
    seen: list[Tensor] = []
    hook = hidden_layers(member)[layer].register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        member(inputs)
    finally:
        hook.remove()
    return seen[0]
