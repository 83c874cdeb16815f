"""Adversarial distillation: match the base network's clean predictions on adversarial inputs."""

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
    """Match the base network's clean predictions on adversarial inputs (adversarial training without labels).

    `value = mean_n max_{x' near x_n} KL(p(w0, x_n) || p(w, x'))`, the maximum as the adversary finds it on `w` itself.
    The gradient is taken at the x' found (Danskin 1967). Together with the functional distance, which holds the clean
    outputs, it is TRADES with the base network as teacher in place of the labels.

    Cost: the adversary's steps and one gradient on N inputs. `FirstOrder` computes that gradient together with the
    functional distance's.

    Needs: inputs within the threat model's bounds; no labels. Any output geometry (see `divergence`).

    Source: TRADES, Zhang et al. 2019, equation 5.

    Args:
        adversary: finds the adversarial inputs.
    """

    adversary: Adversary

    @property
    def remembered_epsilon(self) -> float:
        return self.adversary.threat_model.epsilon if self.adversary.remembers else 0.0

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        asked = self.asks(problem, weights, batch)
        return asked.value(problem.network(weights, asked.inputs))

    def asks(self, problem: Problem, weights: Tensor, batch: Batch) -> Asked:
        moved = self.adversary.inputs(problem, weights, batch)
        return Asked(moved, lambda outputs: divergence(problem, outputs, batch.reference).mean())
