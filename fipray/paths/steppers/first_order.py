"""First-order stepper: Adam on squared functional distance plus beta times the objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.networks import check_norms_move
from fipray.paths.calls import of_call, scalar, unchanged
from fipray.paths.objective import Asked, OfOutputs
from fipray.paths.problem import Problem
from fipray.paths.state import State, taken
from fipray.paths.stepper import Proposal, Situation, needs_outputs_alone, within
from fipray.paths.steppers.adam import adam_displacement, first_moments
from fipray.paths.steppers.modes import EvaluationMode, TrainingMode, initial_statistics, mode_of
from fipray.paths.steppers.orthogonal import orthogonalise
from fipray.paths.steppers.squared_distance import SquaredDistance
from fipray.registry import ADDED, spec


@spec("first_order")
@checked
@dataclass(frozen=True)
class FirstOrder:
    """Adam on squared functional distance plus beta times the objective.

    Minimises `D(w)^2 + beta objective(w)`, D the functional distance to the base network on the batch. The diagonal of
    Adam's second moments takes the place of the metric. The learning rate is `radius / sqrt(P)`, P the number of
    weights that may change, so a step in which every weight moves at the full rate is as long as the radius; longer
    displacements are scaled down to it.

    Cost per step: one gradient (a forward and a backward pass) on the held part of the batch, plus the objective's
    gradient. Objectives that are functions of outputs (`OfOutputs`: `AdversarialDistillation`, `LearnTask`) share one
    pass with the distance. Memory: two vectors [P].

    Needs: nothing beyond the batch. Any kept quantities and any output geometry; `temperature` needs FisherRao.

    Source: Adam, Kingma & Ba 2015. For `orthogonal`: Jordan et al. 2024; Bernstein & Newhouse 2024.

    Args:
        beta: weight of the objective, at least 0. 0 ignores the objective except for its restriction, and is accepted
            only with objectives that restrict, such as `Sparsify`.
        final_beta: weight of the objective at the end of the path, above 0; beta changes by a constant factor per
            step. Above `beta`, the function is held tightly first and loosely last; below, the other way round. None
            keeps beta constant.
        decay: decay rate of Adam's first moments, 0 or more and below 1.
        decay_squares: decay rate of Adam's second moments, 0 or more and below 1.
        held: fraction, 0..1, of each batch on which D is taken; the objective always sees all of it. A part suffices,
            and is cheaper, where the objective itself holds the function, as `AdversarialDistillation` does; 0 may
            suffice with it, and does with `KroneckerPenalty`.
        temperature: temperature of the classes, above 0: any value but 1 takes D in `fipray.geometry.Warm`.
        outputs: number of leading outputs on which D is taken, for classifiers between the probabilities given that
            the class is one of these. None takes all. For a network whose head has grown: the base network defines no
            function on the new outputs.
        batch_statistics: whether every BatchNorm normalises by the batch during a step, as in training, and its running
            statistics follow the batches. They are folded into scale and shift (`fipray.networks.folded`), so every
            point of the path remains a vector of weights; their change does not count towards the radius. The inputs
            of an objective of outputs are a part of that batch; any other objective sees frozen statistics.
        orthogonal: whether each weight matrix (`Network.matrices`) moves along the orthogonal matrix nearest to Adam's
            first moment of it: steepest descent with a bound on the change of a layer's outputs, whatever its inputs,
            in place of a bound on the change of each weight (Muon; Jordan et al. 2024). A matrix of m rows and n
            columns moves by 0.2 of the learning rate in root mean square; everything else by Adam. Far fewer steps are
            needed. Each costs about `4 m n k + 10 k^3` multiply-adds more for a matrix, k the smaller of m and n:
            little beside a convolution's pass, but several times the pass of wide linear layers on small batches.

    Raises:
        UsageError: for a setting out of range, or one that has no effect beside the others.
    """

    beta: float = 0.0
    final_beta: float | None = None
    decay: float = 0.9
    decay_squares: float = 0.999
    held: float = 1.0
    temperature: float = 1.0
    outputs: int | None = None
    batch_statistics: bool = False
    orthogonal: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise UsageError(f"beta must be at least 0 and finite; {self.beta} was given")
        if self.final_beta is not None and not (0 < self.final_beta < math.inf and self.beta > 0):
            raise UsageError(
                "with a final_beta, both it and beta must be above 0 and finite; "
                f"beta={self.beta} and final_beta={self.final_beta} were given"
            )
        if not 0 <= self.held <= 1:
            raise UsageError(f"held must be a fraction of each batch, 0..1; {self.held} was given")
        if self.held == 0 and not (self.beta > 0 and self.temperature == 1 and self.outputs is None):
            raise UsageError(
                "held=0 leaves no functional distance, so it needs a beta above 0, and temperature and outputs must be "
                f"left at their defaults; beta={self.beta}, temperature={self.temperature} and "
                f"outputs={self.outputs} were given"
            )
        _ = self._distance  # raises for a temperature or a number of outputs out of range
        if not (0 <= self.decay < 1 and 0 <= self.decay_squares < 1):
            raise UsageError(
                "decay and decay_squares must be at least 0 and below 1; "
                f"{self.decay} and {self.decay_squares} were given"
            )

    @property
    def ignores_objective(self) -> str:
        return "" if self.beta > 0 else "its beta is 0"

    def begin(self, problem: Problem) -> State:
        self._distance.check(problem)
        if self.batch_statistics:
            needs_outputs_alone(problem, "FirstOrder(batch_statistics=True)")
            check_norms_move(problem.network)
        state = first_moments(problem.start)
        return state | initial_statistics(problem.network) if self.batch_statistics else state

    def propose(self, situation: Situation, state: State) -> Proposal:
        # the fused kernel writes in place
        network, after = situation.problem.network, taken(state)
        mode = mode_of(network, situation.weights, after)
        slopes, pull = self._slopes(situation, mode)
        # a projection that is no mask needs whole vectors
        whole = situation.restricted and situation.mask is None
        rate = situation.radius / network.num_moving**0.5
        displacement, norm = adam_displacement(
            [situation.allowed(torch.cat(slopes))] if whole else slopes,
            after,
            rate=rate,
            decays=(self.decay, self.decay_squares),
            pull=pull,
            weight=self._beta(situation),
            mask=situation.mask,
        )
        del slopes, pull  # vectors less for the rest of the step
        if self.orthogonal:
            norm = orthogonalise(network, displacement, after["mean"], rate, situation.mask)
        if whole:
            # momentum may lead off a restriction that has tightened since, so the step is projected as well
            displacement = situation.allowed(displacement)
            norm = torch.linalg.vector_norm(displacement)
        displacement, length = within(situation.radius, displacement, norm)
        # no predicted gain: the step descends the distance as well, and momentum points elsewhere than the slope
        proposal = Proposal(mode.folded(displacement), 0.0, after)
        return proposal.of_length(length) if proposal.displacement is displacement else proposal

    def beta_after(self, progress: float) -> float:
        """Weight of the objective at a point of the path.

        Args:
            progress: fraction of the path that is behind, 0..1.

        Returns:
            `beta (final_beta / beta)^progress`, or `beta` without a final_beta.
        """
        return self.beta if self.final_beta is None else self.beta * (self.final_beta / self.beta) ** progress

    @property
    def _distance(self) -> SquaredDistance:
        return SquaredDistance(self.temperature, self.outputs)

    def _slopes(self, situation: Situation, mode: EvaluationMode | TrainingMode) -> tuple[list[Tensor], Tensor | None]:
        """Gradient of `D^2 + beta objective`, from as few passes as possible.

        In pieces of the vector [P], in order: one for each parameter. Where the objective's gradient comes from another
        pass, it is the second result, without the factor beta.
        """
        problem, beta, distance = situation.problem, self._beta(situation), self._distance
        batch = situation.batch.first(math.ceil(self.held * len(situation.batch)))
        asked = self._asked(situation)
        if not len(batch) and not asked:
            if self.batch_statistics:
                raise UsageError(
                    "batch_statistics=True takes its statistics from the held part of each batch and from the inputs "
                    f"of an objective of outputs; held=0, and {type(situation.objective).__name__} is none: set held "
                    "above 0"
                )
            return [torch.zeros_like(situation.weights)], situation.slope
        with torch.enable_grad():
            terms = []
            if asked:
                # one pass for both, which in training mode also means one update of the statistics
                inputs = torch.cat([batch.inputs, asked.inputs]) if len(batch) else asked.inputs
                held, others = mode.outputs(inputs).split([len(batch), len(asked.inputs)])
                terms = [distance.of_outputs(problem, held, batch)] if len(batch) else []
                terms.append(beta * scalar(asked.value(others), situation.objective))
            elif batch.keeps_outputs:
                terms = [distance.of_outputs(problem, mode.outputs(batch.inputs), batch)]
            if batch.parts and len(batch):
                terms.append(distance.of_parts(problem, mode.moving, batch))
            loss = sum(terms[1:], start=terms[0])
        return mode.slopes(loss), mode.pulled_back(situation.slope) if beta and not asked else None

    def _asked(self, situation: Situation) -> Asked | None:
        """Return what an objective of outputs asks for; None where one pass cannot serve it and the distance."""
        if not (self._beta(situation) and isinstance(situation.objective, OfOutputs)):
            return None
        given = of_call(situation.problem, situation.weights, situation.batch)
        with unchanged(f"{type(situation.objective).__name__}.asks()", given):
            asked = situation.objective.asks(situation.problem, situation.weights.detach(), situation.batch)
        # inputs of other shapes cannot be concatenated, and without kept outputs there is no pass to share
        batch = situation.batch
        return asked if asked.inputs.shape[1:] == batch.inputs.shape[1:] and batch.keeps_outputs else None

    def _beta(self, situation: Situation) -> float:
        return self.beta_after(situation.progress) if self.beta > 0 else 0.0
