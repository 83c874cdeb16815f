"""Inputs that were moved to fool the other networks."""

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
    """Say of inputs that an adversary moved to fool the *other* networks what the start says of them unmoved.

    `value = mean_n KL(p(w0, x_n) || p(w, x'_n))`, x'_n found near x_n on one of the others, or on the start where
    there are none; the inputs of a batch are dealt out among them, another way each draw. What fools one network then
    does not fool this one: ensemble adversarial training (Tramer et al. 2018) among the members of an ensemble. DVERGE
    (Yang et al. 2020) takes inputs whose features, not whose outputs, the others mistake.

    Costs the adversary's steps and one gradient, whatever the number of others.
    """

    adversary: Adversary

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        sources = problem.others or (problem.start,)
        first = torch.arange(len(batch)) + batch.seed % len(sources)
        moved = torch.empty_like(batch.inputs)
        for number, source in enumerate(sources):
            (dealt,) = torch.where((first % len(sources) == number).to(moved.device))
            if len(dealt):
                part = Batch(batch.inputs[dealt], batch.reference[dealt], batch.seed)
                moved[dealt] = self.adversary.inputs(problem, source, part)
        return divergence(problem, problem.network(weights, moved), batch.reference).mean()
