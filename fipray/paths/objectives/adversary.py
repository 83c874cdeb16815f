"""Who moves the inputs while a path is walked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import FisherRao, class_logits
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec
from fipray.robustness.threat_models import ThreatModel


@spec("adversary")
@checked
@dataclass(frozen=True)
class Adversary:
    """Looks near the inputs of a batch for those on which a network's outputs are furthest from the start's clean ones.

    `num_steps` steps of length `step_fraction * epsilon / num_steps` up the divergence (see `divergence`), each along
    the steepest direction of the norm (projected gradient ascent, Madry et al. 2018), from a random start in the threat
    model. No labels: what the start says of the clean input is what should be said. Few steps suffice for learning; how
    strong the networks are is for `fipray.robustness` to say.

    Costs num_steps gradients with respect to the inputs alone, some two thirds of a gradient each.
    """

    threat_model: ThreatModel
    num_steps: int = 3
    step_fraction: float = 2.5

    def __post_init__(self) -> None:
        if not (self.num_steps >= 1 and 0 < self.step_fraction < math.inf):
            raise UsageError(
                f"an adversary takes at least 1 step, of a finite length above 0; num_steps={self.num_steps} and "
                f"step_fraction={self.step_fraction} were given"
            )

    def inputs(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Inputs [N, ...] inside the threat model around the batch's, found on the network at `weights` [P].

        Raises UsageError where the batch's inputs lie outside the threat model's bounds.
        """
        clean, threat_model = batch.inputs.detach(), self.threat_model
        smallest, largest = (float(value) for value in clean.aminmax())
        within = threat_model.lower <= smallest and largest <= threat_model.upper
        if not (within or bool(threat_model.contains(clean, clean).all())):
            raise UsageError(
                f"the anchors range over [{smallest:g}, {largest:g}] and the threat model allows "
                f"[{threat_model.lower:g}, {threat_model.upper:g}]: set its lower and upper"
            )
        weights = weights.detach()
        moved = threat_model.starts(clean, torch.Generator().manual_seed(batch.seed))
        for _ in range(self.num_steps):
            moved.requires_grad_(True)
            with torch.enable_grad():
                height = divergence(problem, problem.network(weights, moved), batch.reference).sum()
                (gradient,) = torch.autograd.grad(height, moved)
            step = self.step_fraction * threat_model.epsilon / self.num_steps
            # the steepest way down, so the other way; the direction of a gradient as small as 1e-30 still counts
            moved = threat_model.project(moved.detach() - step * threat_model.steepest(gradient), clean)
        return moved


def divergence(problem: Problem, outputs: Tensor, reference: Tensor) -> Tensor:
    """How far outputs [N, C] are from embedded reference outputs [N, C'], an input each [N].

    For classes (`FisherRao`) the Kullback-Leibler divergence `KL(p0 || p)` of the outputs' probabilities from the
    reference's: half the squared functional distance to second order, and unlike it with a gradient that does not
    vanish where a network is surely wrong. For other geometries half the squared distance.
    """
    if not isinstance(problem.geometry, FisherRao):
        return (problem.geometry.embed(outputs) - reference).square().sum(1) / 2
    outputs = problem.geometry.arranged(outputs)
    chances = (reference / 2).square()
    entropy = -torch.special.entr(chances).sum(1)
    return entropy - (chances * torch.log_softmax(class_logits(outputs), dim=1).flatten(1)).sum(1)
