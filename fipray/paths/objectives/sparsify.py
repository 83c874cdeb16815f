"""Sparsification: a path to a pruning mask of given sparsity."""

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
from fipray.paths.objective import Masked, Projection
from fipray.paths.problem import Problem
from fipray.paths.sparsity.patterns import Pattern, Unstructured
from fipray.paths.sparsity.saliency import Magnitude, Saliency
from fipray.registry import spec


@spec("sparsify")
@checked
@dataclass(frozen=True)
class Sparsify:
    """Path to a network of which the fraction `sparsity` of the weights is exactly zero.

    `value = |w - h(w)|^2 / 2`, where h zeroes the weights of lowest saliency until the sparsity is reached. The path is
    also restricted: after a fraction p of it, at least

        s(p) = sparsity (1 - (1 - p / ramp)^3)

    of the weights are zero and stay so, in `num_stages` stages, each of which chooses anew among the remaining weights.
    From `p = ramp` on the whole sparsity holds, and the rest of the path recovers the function. `Sparsify(s, ramp=1)`
    in one step is one-shot pruning.

    Cost: the saliency of all weights, once per evaluation of the value and once per stage for the restriction (per step
    of the ramp with `shrink`); no pass through the network with `Magnitude`. `re_estimate` takes two forward passes
    whenever weights are zeroed.

    Needs: weights that are parameters of their layers (no weight_norm); no labels.

    Source: Raghavan & Thomson 2022, arXiv 2205.00334; schedule of Zhu & Gupta 2017, arXiv 1710.01878.

    Args:
        sparsity: fraction of weights that are zero at the end, at least 0 and below 1; the pattern defines of which.
        ramp: fraction of the path, above 0 and at most 1, over which the sparsity rises. None restricts only the last
            point.
        num_stages: number of steps in which the sparsity rises along the ramp, at least 1.
        through: sparsities, increasing and below `sparsity`, that the path passes through. Each of them, and the last,
            has an equal fraction of the path with a ramp and a recovery of its own, and a checkpoint at its end.
        pattern: `Unstructured`, `SemiStructured` or `Structured`.
        saliency: `Magnitude`, `MetricDiagonal` or `OptimalBrainSurgeon`.
        shrink: fraction, above 0 and below 1, by which the chosen weights shrink at every step of the ramp instead of
            being zeroed; they are chosen anew at every step and may grow again, and are zeroed at the end of the ramp
            (Bai et al. 2023, arXiv 2303.09650). None zeroes them at once.
        re_estimate: whether, whenever weights are zeroed, scale and shift of every BatchNorm are set so that its
            channels keep their mean and standard deviation on the batch (`fipray.networks.re_estimated`).

    Raises:
        UsageError: for a setting out of range.
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
                f"sparsity must be a fraction of the weights, at least 0 and below 1; {self.sparsity} was given"
            )
        if self.through and not all(low < high for low, high in pairwise(levels)):
            raise UsageError(
                "through must hold increasing sparsities above 0 and below the last one; "
                f"through={self.through} was given with sparsity={self.sparsity}"
            )
        if self.ramp is not None and not 0 < self.ramp <= 1:
            raise UsageError(
                f"ramp must be a fraction of the path, above 0 and at most 1, or None; {self.ramp} was given"
            )
        if not self.num_stages >= 1:
            raise UsageError(f"num_stages must be at least 1; {self.num_stages} was given")
        if self.shrink is not None and not 0 < self.shrink < 1:
            raise UsageError(f"shrink must be a fraction, above 0 and below 1, or None; {self.shrink} was given")

    def check(self, network: Network) -> None:
        refuse_computed_weights(network, "Sparsify")  # under weight_norm a zero in the vector is no zero in the layer
        if self.re_estimate:
            check_norms_move(network)

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        # the choice is not differentiated, only the chosen weights are
        chosen = self._chosen(problem, weights.detach(), batch, self.sparsity)
        return weights[chosen].square().sum() / 2

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        sparsity, is_reached = self._asked(progress)
        chosen = self._chosen(problem, weights, batch, sparsity)
        if len(chosen) == 0:
            return weights  # the same tensor: a caller sees by identity that nothing was restricted
        if self.shrink is None or is_reached:
            sparse = weights.index_fill(0, chosen, 0.0)
            return re_estimated(problem.network, sparse, weights, batch.inputs) if self.re_estimate else sparse
        return weights.index_put((chosen,), weights[chosen] * (1 - self.shrink))

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        return Masked(self.pattern.free(problem.network, weights))

    def sparsity_after(self, progress: float) -> float:
        """Sparsity that the restriction demands at a point of the path.

        Args:
            progress: fraction of the path that is behind, 0..1.

        Returns:
            Sparsity, 0..`sparsity`.
        """
        return self._asked(progress)[0]

    @property
    def milestones(self) -> tuple[tuple[float, float], ...]:
        levels = (*self.through, self.sparsity)
        return tuple((number / len(levels), level) for number, level in enumerate(levels, 1))

    def _chosen(self, problem: Problem, weights: Tensor, batch: Batch, sparsity: float) -> Tensor:
        """Choose the weights to zero so that `sparsity` is reached; their indices."""
        if sparsity <= 0:
            return torch.empty(0, dtype=torch.int64, device=weights.device)
        return self.pattern.zeroed(problem.network, weights, lambda: self._losses(problem, weights, batch), sparsity)

    def _losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        found = self.saliency.losses(problem, weights, batch)
        return cast(Tensor, shaped_like(found, weights, f"{type(self.saliency).__name__}.losses()"))

    def _asked(self, progress: float) -> tuple[float, bool]:
        """Compute the sparsity demanded at a point of the path, and whether it is that of the end of a ramp."""
        levels = (0.0, *self.through, self.sparsity)
        scaled = progress * (len(levels) - 1)
        # the last step of a level belongs to it, despite rounding
        number = min(max(int(scaled + 1 - 1e-9), 1), len(levels) - 1)
        low, high, part = levels[number - 1], levels[number], scaled - (number - 1)
        if self.ramp is None:
            return (high, True) if part >= 1 - 1e-9 else (low, True)
        # 1e-9 counts a stage as reached that is reached up to rounding
        stage = int(min(part / self.ramp, 1.0) * self.num_stages + 1e-9) / self.num_stages
        return low + (high - low) * (1 - (1 - stage) ** 3), stage >= 1
