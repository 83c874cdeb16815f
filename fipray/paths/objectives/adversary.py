"""Adversary of a path: projected gradient ascent on the divergence from the base network's clean outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import FisherRao, class_logits
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import ADDED, spec
from fipray.robustness.threat_models import ThreatModel


@spec("adversary")
@checked
@dataclass(frozen=True)
class Adversary:
    """Search for inputs near a batch's on which a network's outputs are furthest from the base network's clean ones.

    Projected gradient ascent on the `divergence`: `num_steps` steps of length `step_fraction * epsilon / num_steps`,
    each along the steepest direction of the norm, from a random start inside the threat model. Few steps suffice for
    learning; how robust a network is must be measured with `fipray.robustness`.

    Cost: `num_steps` gradients with respect to the inputs, each about two thirds of a full one.

    Needs: inputs within the threat model's bounds; no labels.

    Source: PGD, Madry et al. 2018; for `remembers`, "Efficient Adversarial Training with Transferable Adversarial
    Examples", Zheng et al. 2020.

    Args:
        threat_model: norm, epsilon and bounds of the inputs.
        num_steps: number of ascent steps, at least 1.
        step_fraction: summed length of the steps in units of epsilon, above 0 and finite.
        remembers: whether a search begins where the last one of the same anchor ended, and at a random place the first
            time: once a path has drawn its anchors several times, few steps find what many would (Zheng et al. 2020).
            Takes a byte for each number in the anchors, and as much in each solver state that is kept. Perturbations
            follow `Settings.variations`. Not for anchors that are read by reference.

    Raises:
        UsageError: for a setting out of range.
    """

    threat_model: ThreatModel
    num_steps: int = 3
    step_fraction: float = 2.5
    remembers: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        if not (self.num_steps >= 1 and 0 < self.step_fraction < math.inf):
            raise UsageError(
                "num_steps must be at least 1, and step_fraction above 0 and finite; "
                f"num_steps={self.num_steps} and step_fraction={self.step_fraction} were given"
            )

    def inputs(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Find adversarial inputs for the network at `weights`.

        Args:
            problem: supplies the network and its output geometry.
            weights: [P], the network that is attacked.
            batch: clean inputs [N, ...] with the base network's embedded outputs; its seed draws the random starts.

        Returns:
            Inputs [N, ...] inside the threat model around the batch's, without a graph.

        Raises:
            UsageError: where the batch's inputs lie outside the threat model's bounds.
        """
        clean, threat_model = batch.inputs.detach(), self.threat_model
        # the range of all inputs decides cheaply; only where it fails does `contains` allow for rounding
        smallest, largest = torch.stack(clean.aminmax()).tolist()  # both at once: a GPU is waited for once
        within = threat_model.lower <= smallest and largest <= threat_model.upper
        if not (within or bool(threat_model.contains(clean, clean).all())):
            raise UsageError(
                f"the anchors range over [{smallest:g}, {largest:g}], outside the threat model's bounds "
                f"[{threat_model.lower:g}, {threat_model.upper:g}]: set its lower and upper to the range of the inputs"
            )
        weights = weights.detach()
        # a random start: for the base network the divergence is least at the clean input itself, with gradient 0
        project, divergences = threat_model.projection(clean), divergence_from(problem, batch.reference)
        recalled = batch.recalled if self.remembers else None
        if recalled is None:
            moved = threat_model.starts(clean, torch.Generator(clean.device).manual_seed(batch.seed))
        else:
            moved = project(recalled.moved())
        for _ in range(self.num_steps):
            moved.requires_grad_(True)
            with torch.enable_grad():
                height = divergences(problem.network(weights, moved)).sum()
                (gradient,) = torch.autograd.grad(height, moved)
            step = self.step_fraction * threat_model.epsilon / self.num_steps
            # `steepest` points downhill, hence the minus; it depends on the gradient's direction alone, so that a
            # gradient of 1e-30 on an input far from the decision boundary still gives a full step
            moved = project(moved.detach() - step * threat_model.steepest(gradient))
        if recalled is not None:
            recalled.keep(moved - clean)
        return moved


def divergence(problem: Problem, outputs: Tensor, reference: Tensor) -> Tensor:
    """Divergence of outputs from embedded reference outputs, for each input.

    For classes (`FisherRao`) the Kullback-Leibler divergence `KL(p0 || p)` of the outputs' probabilities p from the
    reference's p0: half the squared functional distance to second order, and unlike it with a gradient that does not
    vanish where a network is confidently wrong. For other geometries half the squared distance. Maps of classes
    [N, C, ...] are summed over their places.

    Args:
        problem: supplies the output geometry.
        outputs: [N, C], or [N, C, ...]; differentiable.
        reference: [N, C'], embedded outputs of the base network.

    Returns:
        Divergences [N], at least 0 up to rounding.
    """
    return divergence_from(problem, reference)(outputs)


def divergence_from(problem: Problem, reference: Tensor) -> Callable[[Tensor], Tensor]:
    """Prepare divergences from the same reference outputs, as the steps of an adversary need them.

    Args:
        problem: supplies the output geometry.
        reference: [N, C'], embedded outputs of the base network.

    Returns:
        `divergence` as a function of the outputs alone.
    """
    geometry = problem.geometry
    if not isinstance(geometry, FisherRao):
        return lambda outputs: (geometry.embed(outputs) - reference).square().sum(1) / 2
    probabilities = (reference / 2).square()
    # entr is 0 at probability 0, where p log p would give NaN
    entropy = -torch.special.entr(probabilities).sum(1)

    def divergences(outputs: Tensor) -> Tensor:
        logarithms = torch.log_softmax(class_logits(geometry.arranged(outputs)), dim=1).flatten(1)
        return entropy - (probabilities * logarithms).sum(1)

    return divergences
