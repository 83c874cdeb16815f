"""Ensemble adversarial distillation: match clean predictions on inputs that fool other networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.paths.batch import Batch
from fipray.paths.objectives.adversary import Adversary, divergence
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("ensemble_adversarial_distillation")
@checked
@dataclass(frozen=True)
class EnsembleAdversarialDistillation:
    """Match the base network's clean predictions on inputs that are adversarial for the other networks.

    `value = mean_n KL(p(w0, x_n) || p(w, x'_n))`, x'_n found near x_n on one of the problem's `others`, or on the base
    network where there are none. The inputs of a batch are dealt out among the others, differently in each draw. Inputs
    that fool one member of an ensemble then do not fool this one.

    Cost: the adversary's steps and one gradient on N inputs, whatever the number of others.

    Needs: other networks (`Problem(others=...)`) of the same architecture, inputs within the threat model's bounds; no
    labels. Any output geometry (see `divergence`).

    Source: ensemble adversarial training, Tramer et al. 2018, applied among the members of an ensemble. DVERGE (Yang et
    al. 2020) instead takes inputs on which the features, not the outputs, of the others are wrong.

    Args:
        adversary: finds the adversarial inputs.
    """

    adversary: Adversary

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        sources = problem.others or (problem.start,)
        moved = torch.empty_like(batch.inputs)
        # the seed rotates the dealing, so that every network meets every place of a batch that is always the same
        for number, source in enumerate(sources):
            begin = (number - batch.seed) % len(sources)
            dealt = torch.arange(min(begin, len(batch)), len(batch), len(sources), device=moved.device)
            if len(dealt):
                # the outputs on the anchors alone: an adversary has no use for further kept quantities, on other inputs
                part = Batch(batch.inputs[dealt], batch.reference[dealt], batch.seed)
                moved[dealt] = self.adversary.inputs(problem, source, part)
        return divergence(problem, problem.network(weights, moved), batch.reference).mean()
