"""Fewer weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry import Network
from fipray.paths.problem import Batch, Problem


@dataclass(frozen=True)
class Sparsify:
    """Walk to `sparsity`, the fraction of all moving weights that are exactly zero, 0..1.

    `value = |w - h(w)|^2 / 2`, where h zeroes the smallest weights until the asked sparsity is reached (Raghavan &
    Thomson 2022). The path is also restricted: after a share p of it, at least `s(p) = sparsity (1 - (1 - p / ramp)^3)`
    of the weights are zero and stay so (the schedule of Zhu & Gupta 2017), in `num_stages` stages; from p = `ramp` on
    the whole asked sparsity holds, and what is left of the path is used to recover the function. With `ramp=1` and one
    step this is one-shot magnitude pruning; `ramp=None` restricts only the last point.

    Only weights of layers are zeroed (parameters of two or more dimensions), never a bias or a normalisation's scale.
    """

    sparsity: float
    ramp: float | None = 0.6
    num_stages: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UsageError(
                f"sparsity is a fraction of the weights, at least 0 and below 1; {self.sparsity} was given"
            )
        if self.ramp is not None and not 0 < self.ramp <= 1:
            raise UsageError(f"ramp is a fraction of the path, above 0 and at most 1, or None; {self.ramp} was given")
        if self.num_stages < 1:
            raise UsageError(f"there is at least one stage; num_stages={self.num_stages} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        kept = _smallest_zeroed(problem.network, weights.detach(), self.sparsity)
        return torch.where(kept == 0, weights, 0).square().sum() / 2

    def restrict(self, problem: Problem, weights: Tensor, progress: float) -> Tensor:
        return _smallest_zeroed(problem.network, weights, self.sparsity_after(progress))

    def tangent(self, problem: Problem, weights: Tensor, vector: Tensor) -> Tensor:
        return vector * ((weights != 0) | ~_prunable(problem.network, weights.device))

    def sparsity_after(self, progress: float) -> float:
        """The sparsity that the restriction asks for after a share `progress` of the path."""
        if self.ramp is None:
            return self.sparsity if progress >= 1 else 0.0
        stage = int(min(progress / self.ramp, 1.0) * self.num_stages + 1e-9) / self.num_stages
        return self.sparsity * (1 - (1 - stage) ** 3)


def _prunable(network: Network, device: torch.device) -> Tensor:
    """[P], true for weights of layers."""
    return torch.cat([torch.full((slot.shape.numel(),), len(slot.shape) >= 2, device=device) for slot in network.slots])


def _smallest_zeroed(network: Network, weights: Tensor, sparsity: float) -> Tensor:
    """`weights` [P] with the smallest weights of layers zeroed, so that `round(sparsity P)` of all are zero."""
    wanted = round(sparsity * network.num_weights) - int((weights == 0).sum())
    if wanted <= 0:
        return weights
    sizes = torch.where(_prunable(network, weights.device) & (weights != 0), weights.abs(), torch.inf)
    available = int(torch.isfinite(sizes).sum())
    if wanted > available:
        raise UsageError(
            f"sparsity {sparsity} asks for {wanted} more zeros, but only {available} of the {network.num_weights} "
            "moving weights are weights of layers that are not zero yet: ask for less"
        )
    # argpartition of numpy: three times as fast on a CPU as topk for large counts
    if weights.device.type == "cpu":
        chosen = torch.from_numpy(sizes.numpy().argpartition(wanted - 1)[:wanted])
    else:
        chosen = sizes.topk(wanted, largest=False).indices
    return weights.index_fill(0, chosen, 0.0)
