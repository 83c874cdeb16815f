"""Inputs that were moved to fool the network itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fipray.border import checked
from fipray.paths.batch import Batch
from fipray.paths.objective import Asked
from fipray.paths.objectives.adversary import Adversary, divergence
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("adversarial_distillation")
@checked
@dataclass(frozen=True)
class AdversarialDistillation:
    """Say of inputs that an adversary moved what the start says of them unmoved: adversarial training without labels.

    `value = mean_n max_{x' near x_n} KL(p(w0, x_n) || p(w, x'))`, the maximum as the adversary finds it on `w` itself.
    The gradient is taken at the x' found (Danskin 1967). Together with the functional distance, which holds the clean
    outputs, it is TRADES (Zhang et al. 2019, equation 5) with the start as teacher in place of the labels.

    Costs the adversary's steps and one gradient.
    """

    adversary: Adversary

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        asked = self.asks(problem, weights, batch)
        return asked.value(problem.network(weights, asked.inputs))

    def asks(self, problem: Problem, weights: Tensor, batch: Batch) -> Asked:
        moved = self.adversary.inputs(problem, weights, batch)
        return Asked(moved, lambda outputs: divergence(problem, outputs, batch.reference).mean())
