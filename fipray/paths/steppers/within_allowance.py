"""First-order steps whose weight of the objective follows what the network loses on held-out inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import FisherRao, class_logits
from fipray.paths.problem import Problem
from fipray.paths.state import State, part_of_state
from fipray.paths.stepper import Proposal, Situation
from fipray.paths.steppers.first_order import FirstOrder
from fipray.registry import spec

_BETA = "beta of the allowance"  # name in a state; part of the format of saved paths


@spec("within_allowance")
@checked
@dataclass(frozen=True)
class WithinAllowance:
    """First-order stepper whose beta is adjusted to what the network loses on held-out inputs.

    From the fraction `after` of the path on, the loss of accuracy is estimated `num_looks` times: the mean over
    held-out inputs of `p0(y0) - p0(y)`, with p0 the base network's probabilities, y0 its class and y the network's.
    Above the allowance beta is divided by `factor`, and below 0.8 of it multiplied, between a fiftieth and a thousand
    times its first value. Steps use no held-out input for anything else.

    Cost: that of `stepper`, and `num_looks` forward passes on `num_inputs` inputs in all.

    Needs: class probabilities (FisherRao); held-out inputs.

    Args:
        stepper: the stepper; its beta is the first one.
        allowance: loss of accuracy as a fraction, above 0 and below 1.
        after: fraction of the path, 0..1, 1 excluded, before which beta stays: large steps lose what later ones regain.
        num_looks: number of adjustments, at least 1.
        factor: factor of an adjustment, above 1.
        num_inputs: number of held-out inputs, from the first one, at least 1.

    Raises:
        UsageError: for a number out of range.
    """

    stepper: FirstOrder
    allowance: float
    after: float = 0.6
    num_looks: int = 20
    factor: float = 1.3
    num_inputs: int = 1000

    def __post_init__(self) -> None:
        if not (0 < self.allowance < 1 and 0 <= self.after < 1):
            raise UsageError(
                "allowance is above 0 and below 1, and after at least 0 and below 1; "
                f"{self.allowance} and {self.after} were given"
            )
        if not (self.num_looks >= 1 and self.num_inputs >= 1 and 1 < self.factor < math.inf):
            raise UsageError(
                "num_looks and num_inputs are at least 1, and factor is above 1 and finite; "
                f"{self.num_looks}, {self.num_inputs} and {self.factor} were given"
            )

    @property
    def ignores_objective(self) -> str:
        return self.stepper.ignores_objective

    def begin(self, problem: Problem) -> State:
        if not isinstance(problem.geometry, FisherRao):
            raise UsageError("an allowance of accuracy needs class probabilities: take it with FisherRao outputs")
        return self.stepper.begin(problem) | {_BETA: torch.tensor(self.stepper.beta, dtype=problem.start.dtype)}

    def propose(self, situation: Situation, state: State) -> Proposal:
        inner = part_of_state(state, {name: value for name, value in state.items() if name != _BETA})
        beta = self._beta(situation, float(state[_BETA]))
        proposal = replace(self.stepper, beta=beta).propose(situation, inner)
        state = proposal.state | {_BETA: torch.tensor(beta, dtype=situation.weights.dtype)}
        return replace(proposal, state=state).of_length(proposal.length)

    def _beta(self, situation: Situation, beta: float) -> float:
        step, num_steps = round(situation.progress / situation.fraction), round(1 / situation.fraction)
        first = math.ceil(self.after * num_steps)
        every = max(1, (num_steps - first) // self.num_looks)
        # Paths have held-out inputs; a step that is tried alone may have none.
        if step < first or (step - first) % every or situation.problem.held_out is None:
            return beta
        lost = self.loss(situation.problem, situation.weights)
        if not lost <= self.allowance:
            return max(beta / self.factor, self.stepper.beta / 50)
        return min(beta * self.factor, self.stepper.beta * 1000) if lost < 0.8 * self.allowance else beta

    @torch.no_grad()
    def loss(self, problem: Problem, weights: Tensor) -> float:
        """Estimate the loss of accuracy of a network at a point of the path.

        Args:
            problem: network and held-out inputs.
            weights: [P].

        Returns:
            Loss as a fraction, at least 0.

        Raises:
            UsageError: for a problem without held-out inputs.
        """
        if problem.held_out is None:
            raise UsageError("the loss of accuracy is estimated on held-out inputs, and the problem has none")
        held_out = problem.held_out.first(self.num_inputs)
        before = (held_out.reference / 2).square()
        own = class_logits(problem.network.outputs(weights, held_out.inputs))
        now = before.gather(1, own.argmax(1, keepdim=True)).squeeze(1)
        return float((before.amax(1) - now).mean())
