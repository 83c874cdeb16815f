"""Pruning that sparse networks at the ends of paths are compared with: by magnitude, at once or gradually.

Every recipe is a frozen dataclass with one method:

    prune(module, inputs, labels, sparsity, *, seed, seconds=None) -> Trained

of one member, a copy of `module`. inputs: [N, ...], floats in 0..1; labels: int64 [N]. `sparsity` is the fraction of
all parameters that are exactly zero, as in fipray.Sparsify: only weights of layers are (parameters of two or more
dimensions), by one order over all layers. Budgets are those of the package: `seconds` of the processor, or steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from benchmarks.baselines.adversarial import divergence
from benchmarks.baselines.optimizers import Adam
from benchmarks.baselines.training import Trained, Training, check_fraction, check_positive, cross_entropy, opened
from benchmarks.baselines.variations import shifted
from fipray.errors import UsageError


class Pruner(Protocol):
    """A recipe for a sparse network."""

    def prune(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        sparsity: float,
        *,
        seed: int,
        seconds: float | None = None,
    ) -> Trained: ...


class Mask:
    """Which parameters of a module stay: `kept` [P], true or false, in the order of `module.parameters()`."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = list(module.parameters())
        sizes = [weights.numel() for weights in self.parameters]
        self.kept = torch.ones(sum(sizes), dtype=torch.bool)
        self.prunable = torch.cat([torch.full((n,), w.ndim >= 2) for n, w in zip(sizes, self.parameters, strict=True)])
        self._sizes = sizes
        self._layers: list[Tensor] = [weights for weights in self.parameters if weights.ndim >= 2]
        self._factors = [torch.ones_like(weights) for weights in self._layers]

    @property
    def weights(self) -> Tensor:
        """A copy [P] of all parameters."""
        return torch.cat([weights.detach().reshape(-1) for weights in self.parameters])

    def tighten(self, scores: Tensor, sparsity: float) -> None:
        """Leave out the `round(sparsity P)` weights of layers with the least scores [P], first those already out.

        Raises UsageError where the layers have fewer weights.
        """
        wanted = round(sparsity * len(self.kept))
        if wanted > int(self.prunable.sum()):
            raise UsageError(
                f"sparsity {sparsity} asks for {wanted} zeros, and only {int(self.prunable.sum())} of the "
                f"{len(self.kept)} parameters are weights of layers: ask for less"
            )
        if wanted <= int((~self.kept).sum()):
            return
        ordered = torch.where(self.kept, scores, -torch.inf).masked_fill(~self.prunable, torch.inf)
        self.kept[torch.from_numpy(ordered.numpy().argpartition(wanted - 1)[:wanted])] = False
        parts = [part for part, w in zip(self.kept.split(self._sizes), self.parameters, strict=True) if w.ndim >= 2]
        for factor, part in zip(self._factors, parts, strict=True):
            factor.copy_(part.view_as(factor))
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        torch._foreach_mul_(self._layers, self._factors)

    @torch.no_grad()
    def replace(self, weights: Tensor) -> None:
        """Set all parameters to `weights` [P]."""
        for parameter, part in zip(self.parameters, weights.split(self._sizes), strict=True):
            parameter.copy_(part.view_as(parameter))


class Criterion(Protocol):
    """Decides which weights go, and may move the others when they do."""

    def cut(self, training: Training, member: nn.Module, mask: Mask, sparsity: float) -> None: ...


@dataclass(frozen=True)
class Magnitude:
    """The smallest weights go; the others stay as they are."""

    def cut(self, training: Training, member: nn.Module, mask: Mask, sparsity: float) -> None:
        mask.tighten(mask.weights.abs(), sparsity)


@dataclass(frozen=True)
class OneShot:
    """All at once, and no training after it."""

    criterion: Criterion = Magnitude()

    def prune(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        sparsity: float,
        *,
        seed: int,
        seconds: float | None = None,
    ) -> Trained:
        check_fraction(sparsity=sparsity)
        with opened(lambda: module, inputs, labels, seed=seed, seconds=seconds, batch_size=1) as training:
            member = copy.deepcopy(module).eval()
            self.criterion.cut(training, member, Mask(member), sparsity)
            return training.ended((member,))


@dataclass(frozen=True)
class Gradual:
    """Gradual magnitude pruning (Zhu & Gupta 2017) while training with Adam, then fine-tuning.

    The loss is cross-entropy with labels or, with a `temperature` T above 0, distillation from the given network
    without labels (Hinton et al. 2015): T^2 KL(p_T(base) | p_T), p_T the probabilities of logits / T.

    After a fraction s of the budget the sparsity is `1 - (1 - s / ramp)^3` of the target, in `num_stages` stages.

    rate: of Adam; it rises along the share `warmup`, stays until the share `hold`, and falls to 0 along half a cosine.
    weight_decay: decoupled, per step and unit of rate. frozen: statistics of BatchNorm stay those of the given network.
    shift: random shifts by up to as many pixels, and with `mirrors` random mirroring; 0 for inputs as they are.
    """

    criterion: Criterion = Magnitude()
    ramp: float = 0.5
    num_stages: int = 100
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3
    warmup: float = 0.05
    hold: float = 0.05
    weight_decay: float = 0.0
    frozen: bool = False
    shift: int = 0
    mirrors: bool = True
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_positive(ramp=self.ramp, num_stages=self.num_stages, num_steps=self.num_steps, rate=self.rate)
        check_positive(batch_size=self.batch_size)
        check_fraction(warmup=self.warmup, hold=self.hold)

    def prune(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        sparsity: float,
        *,
        seed: int,
        seconds: float | None = None,
    ) -> Trained:
        check_fraction(sparsity=sparsity)
        with opened(lambda: module, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            member = copy.deepcopy(module).train(not self.frozen)
            mask = Mask(member)

            def loss(inputs: Tensor, labels: Tensor) -> Tensor:
                seen = shifted(inputs, self.shift, training.generator, mirrors=self.mirrors)
                if not self.temperature:
                    return cross_entropy(member, seen, labels)
                with torch.no_grad():
                    taught = (module(seen) / self.temperature).log_softmax(1)
                own = (member(seen) / self.temperature).log_softmax(1)
                return self.temperature**2 * divergence(taught, own) / len(seen)

            def tightened(shares: Iterator[float]) -> Iterator[float]:
                stage = 0
                for fraction in shares:
                    if stage < (due := min(int(fraction / self.ramp * self.num_stages), self.num_stages)):
                        stage = due
                        self.criterion.cut(training, member, mask, sparsity * (1 - (1 - stage / self.num_stages) ** 3))
                    yield fraction
                if stage < self.num_stages:
                    self.criterion.cut(training, member, mask, sparsity)

            optimizer = Adam((member,), self.weight_decay)
            shares = tightened(training.shares(self.num_steps))
            training.descend(optimizer, self.settings, loss, shares, lambda _: mask.apply())
            return training.ended((member,))

    def settings(self, fraction: float) -> Mapping[str, float]:
        """Of Adam after a share of the budget."""
        rising = min(1.0, (fraction + 1e-3) / (self.warmup + 1e-3))
        falling = (1 + math.cos(math.pi * max(0.0, fraction - self.hold) / (1 - self.hold))) / 2
        return {"rate": self.rate * rising * falling, "momentum": 0.9}
