"""Adversarial training with labels, as the objective of a path: the rival of robust ensembles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import fipray as fip
from fipray.paths import Batch, Problem


@fip.spec("experiments.adversarial_training")
@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy on inputs from projected gradient ascent with a random start (PGD-AT; Madry et al. 2018).

    Args:
        task: name of the task with the labelled examples.
        threat_model: allowed changes of the inputs.
        num_steps: ascent steps, each 2.5 epsilon / num_steps long.
        batch_size: labelled examples per step.
    """

    task: str
    threat_model: fip.ThreatModel
    num_steps: int = 2
    batch_size: int = 128

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the problem must have."""
        return (self.task,)

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Compute the loss.

        Args:
            problem: network and task.
            weights: weights [P].
            batch: its seed draws examples and random starts; its inputs are not used.

        Returns:
            Mean cross-entropy.
        """
        drawn = problem.task(self.task).draw(self.batch_size, batch.seed)
        network, model, fixed = problem.network, self.threat_model, weights.detach()
        moved = model.starts(drawn.inputs, torch.Generator().manual_seed(batch.seed))
        for _ in range(self.num_steps):
            moved.requires_grad_(True)
            with torch.enable_grad():
                loss = functional.cross_entropy(network(fixed, moved), drawn.labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
            step = 2.5 * model.epsilon / self.num_steps
            moved = model.project(moved.detach() - step * model.steepest(gradient), drawn.inputs)
        return functional.cross_entropy(network(weights, moved), drawn.labels)
