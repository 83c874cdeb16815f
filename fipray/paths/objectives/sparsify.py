"""Fewer weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from fipray.border import checked, shaped_like
from fipray.errors import UsageError
from fipray.networks import Network, check_norms_move, re_estimated, refuse_computed_weights
from fipray.paths.batch import Batch
from fipray.paths.objective import Projection
from fipray.paths.problem import Problem
from fipray.paths.sparsity.patterns import Pattern, Unstructured
from fipray.paths.sparsity.saliency import Magnitude, Saliency
from fipray.registry import spec


@spec("sparsify")
@checked
@dataclass(frozen=True)
class Sparsify:
    """Walk to `sparsity`, the fraction, 0..1, of weights that are exactly zero; of which weights, the pattern says.

    `value = |w - h(w)|^2 / 2`, where h zeroes the weights with which least is lost until the asked sparsity is reached
    (Raghavan & Thomson 2022). The path is also restricted: after a share p of it, at least
    `s(p) = sparsity (1 - (1 - p / ramp)^3)` of the weights are zero and stay so (the schedule of Zhu & Gupta 2017), in
    `num_stages` stages, each of which chooses anew among what is left; from p = `ramp` on the whole asked sparsity
    holds, and what is left of the path is used to recover the function. With `ramp=1` and one step this is one-shot
    pruning; `ramp=None` restricts only the last point.

    through: sparsities, increasing and below `sparsity`, that the path passes through: a family. Each, and the last,
        has an equal share of the path, with a ramp and a recovery of its own, at whose end a point is kept.
    pattern: `Unstructured`, `SemiStructured`, `Structured`; it says what `sparsity` is a fraction of.
    saliency: what is lost with a weight: `Magnitude`, `MetricDiagonal`, `OptimalBrainSurgeon`.
    shrink: where given, above 0 and below 1, weights are not zeroed at once: what the schedule chooses shrinks by this
        share of itself at every step of the ramp, is chosen anew at every step, and may grow again (Bai et al. 2023,
        arXiv 2303.09650); at the ramp's end what is chosen then is zeroed.
    re_estimate: whether, whenever weights are zeroed, every BatchNorm's scale and shift are set so that on the batch
        its channels have the mean and the deviation that they had before (`fipray.geometry.re_estimated`).
    """

    sparsity: float
    ramp: float | None = 0.6
    num_stages: int = 100
    through: tuple[float, ...] = ()
    pattern: Pattern = Unstructured()
    saliency: Saliency = Magnitude()
    shrink: float | None = None
    re_estimate: bool = False

    def __post_init__(self) -> None:
        levels = (0.0, *self.through, self.sparsity)
        if not 0 <= self.sparsity < 1:
            raise UsageError(
                f"sparsity is a fraction of the weights, at least 0 and below 1; {self.sparsity} was given"
            )
        if self.through and not all(low < high for low, high in pairwise(levels)):
            raise UsageError(
                f"a path passes through increasing sparsities above 0 and below its own; through={self.through} was "
                f"given, with sparsity={self.sparsity}"
            )
        if self.ramp is not None and not 0 < self.ramp <= 1:
            raise UsageError(f"ramp is a fraction of the path, above 0 and at most 1, or None; {self.ramp} was given")
        if not self.num_stages >= 1:
            raise UsageError(f"there is at least one stage; num_stages={self.num_stages} was given")
        if self.shrink is not None and not 0 < self.shrink < 1:
            raise UsageError(f"what shrinks loses a share of itself, above 0 and below 1; {self.shrink} was given")

    def check(self, network: Network) -> None:
        """Raise NetworkError where a zero among the weights is no zero in a layer, as under weight_norm."""
        refuse_computed_weights(network, "Sparsify")
        if self.re_estimate:
            check_norms_move(network)

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        going = self._going(problem, weights.detach(), batch, self.sparsity)
        return weights[going].square().sum() / 2

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        sparsity, whole = self._asked(progress)
        going = self._going(problem, weights, batch, sparsity)
        if len(going) == 0:
            return weights
        if self.shrink is None or whole:
            sparse = weights.index_fill(0, going, 0.0)
            return re_estimated(problem.network, sparse, weights, batch.inputs) if self.re_estimate else sparse
        return weights.index_put((going,), weights[going] * (1 - self.shrink))

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        return self.pattern.free(problem.network, weights).mul

    def sparsity_after(self, progress: float) -> float:
        """The sparsity that the restriction asks for after a share `progress` of the path."""
        return self._asked(progress)[0]

    @property
    def milestones(self) -> tuple[tuple[float, float], ...]:
        levels = (*self.through, self.sparsity)
        return tuple((number / len(levels), level) for number, level in enumerate(levels, 1))

    def _going(self, problem: Problem, weights: Tensor, batch: Batch, sparsity: float) -> Tensor:
        """Indices of what is to be zeroed so that `sparsity` is reached."""
        if sparsity <= 0:
            return torch.empty(0, dtype=torch.int64, device=weights.device)
        return self.pattern.zeroed(problem.network, weights, lambda: self._losses(problem, weights, batch), sparsity)

    def _losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        found = self.saliency.losses(problem, weights, batch)
        return cast(Tensor, shaped_like(found, weights, f"{type(self.saliency).__name__}.losses()"))

    def _asked(self, progress: float) -> tuple[float, bool]:
        """The sparsity that is asked for after a share of the path, and whether it is that of a ramp's end."""
        levels = (0.0, *self.through, self.sparsity)
        scaled = progress * (len(levels) - 1)
        number = min(max(int(scaled + 1 - 1e-9), 1), len(levels) - 1)  # a level's last step is still its own
        low, high, part = levels[number - 1], levels[number], scaled - (number - 1)
        if self.ramp is None:
            return (high, True) if part >= 1 - 1e-9 else (low, True)
        stage = int(min(part / self.ramp, 1.0) * self.num_stages + 1e-9) / self.num_stages
        return low + (high - low) * (1 - (1 - stage) ** 3), stage >= 1
