"""Pruning by second derivatives: the Optimal Brain Surgeon with an empirical Fisher matrix, all weights at once.

The loss is taken to be quadratic, its Hessian `F = lambda I + G^T G / m` with the gradients G [m, P] of m labelled
examples (WoodFisher, Singh & Alistarh 2020; in this form M-FAC, Frantar et al. 2021). No block is cut out of F: what is
needed of its inverse follows from `m lambda I + G G^T` [m, m].
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.baselines.pruning import Mask
from benchmarks.baselines.training import Trained, Training, check_fraction, check_positive, cross_entropy, opened

_AT_ONCE = 32768
"""Columns of G that are worked on together: a few of its sizes are never held in whole."""


@dataclass(frozen=True)
class Surgeon:
    """Optimal Brain Surgeon with an empirical Fisher matrix F.

    Removes the weights of least saliency `w_i^2 / (2 [F^-1]_ii)` and moves the others to the minimum of the quadratic
    loss. With
    `by_magnitude` it removes the smallest weights.

    num_gradients: m, the examples whose gradients make F, drawn anew at every cut. damping: lambda.
    """

    num_gradients: int = 256
    damping: float = 1e-4
    by_magnitude: bool = False

    def __post_init__(self) -> None:
        check_positive(num_gradients=self.num_gradients, damping=self.damping)

    def cut(self, training: Training, member: nn.Module, mask: Mask, sparsity: float) -> None:
        free, weights = mask.kept.clone(), mask.weights
        slopes = self._gradients(training, member, mask)
        scores = weights.abs()
        if not self.by_magnitude:
            scores[free] = saliencies(weights[free], slopes, self.damping)
        mask.tighten(scores, sparsity)
        weights[free] = refitted(weights[free], mask.kept[free], slopes, self.damping)
        mask.replace(weights)

    def _gradients(self, training: Training, member: nn.Module, mask: Mask) -> Tensor:
        """[m, number of weights that are kept], the network in evaluation mode."""
        was_training, num_kept = member.training, int(mask.kept.sum())
        member.eval()
        num = min(self.num_gradients, len(training.inputs))
        chosen = torch.randperm(len(training.inputs), generator=training.generator)[:num]
        rows = mask.parameters[0].new_empty(num, num_kept)
        for row, one in zip(rows, chosen.split(1), strict=True):
            loss = cross_entropy(member, training.inputs[one], training.labels[one])
            parts = torch.autograd.grad(loss, mask.parameters)
            row.copy_(torch.cat([part.reshape(-1) for part in parts])[mask.kept])
        member.train(was_training)
        return rows


@dataclass(frozen=True)
class InStages:
    """Cuts without training in between: after k of n stages a fraction `(1 - sparsity)^(k / n)` is not zero.

    With seconds as many stages as they allow, at least one, whatever `num_stages`.
    """

    criterion: Surgeon = Surgeon()
    num_stages: int = 10

    def __post_init__(self) -> None:
        check_positive(num_stages=self.num_stages)

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
            mask, done = Mask(member), 0.0
            while done < 1:
                before = training.processor_seconds
                if seconds is None:
                    done = (training.num_steps + 1) / self.num_stages
                elif training.num_steps:
                    stages_left = max(1, int((seconds - before) / (before / training.num_steps)))
                    done = 1 - (1 - done) * (1 - 1 / stages_left)
                else:
                    done = 0.01  # what a stage costs is known after the first
                self.criterion.cut(training, member, mask, 1 - (1 - sparsity) ** done)
                training.num_steps += 1
            return training.ended((member,))


def saliencies(weights: Tensor, slopes: Tensor, damping: float) -> Tensor:
    """`w_i^2 / (2 [F^-1]_ii)` [P] for weights [P] and the gradients `slopes` [m, P].

    `[F^-1]_ii = (1 - g_i^T (m lambda I + G G^T)^-1 g_i) / lambda`, g_i a column of G.
    """
    factor = _factor(slopes, damping)
    parts = []
    for columns in slopes.split(_AT_ONCE, dim=1):
        explained = torch.linalg.solve_triangular(factor, columns, upper=False).square().sum(0)
        parts.append((1 - explained).clamp(min=torch.finfo(slopes.dtype).eps))
    return weights.square() * damping / (2 * torch.cat(parts))


def refitted(weights: Tensor, kept: Tensor, slopes: Tensor, damping: float) -> Tensor:
    """Return the minimum [P] of `(v - w)^T F (v - w)` over v that are zero wherever `kept` [P] is false.

    `v_K = w_K + G_K^T (m lambda I + G_K G_K^T)^-1 G_Q w_Q`, K what is kept and Q what is not.
    """
    of_kept = slopes * kept
    lost = slopes @ torch.where(kept, 0, weights)
    solved = torch.cholesky_solve(lost.unsqueeze(1), _factor(of_kept, damping)).squeeze(1)
    return torch.where(kept, weights + solved @ of_kept, 0)


def _factor(slopes: Tensor, damping: float) -> Tensor:
    """Return the Cholesky factor L [m, m] of `m lambda I + G G^T`."""
    gram = (slopes @ slopes.T).double()
    gram.diagonal().add_(len(slopes) * damping)
    return torch.linalg.cholesky(gram).to(slopes.dtype)
