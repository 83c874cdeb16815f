"""The cheap step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import FisherRao, Warm, class_logits
from fipray.networks import Statistics, check_norms_move, folded, normalised, statistics_of, unfolded
from fipray.paths.batch import Batch
from fipray.paths.calls import of_call, scalar, unchanged
from fipray.paths.objective import Asked, OfOutputs
from fipray.paths.problem import Problem
from fipray.paths.stepper import Proposal, Situation, State, needs_outputs_alone, within
from fipray.registry import spec

_CLASSES_FIRST = FisherRao(dim=1)
_STATISTICS = "statistics "  # in the state, before the name of a buffer


@spec("first_order")
@checked
@dataclass(frozen=True)
class FirstOrder:
    """Adam (Kingma & Ba 2015) on `D(w)^2 + beta objective(w)`, D the functional distance on the batch.

    The diagonal of Adam's second moments stands for the metric. The rate is `radius / sqrt(P)`, P the number of weights
    that may change, so that a step in which all of them move at the full rate is as long as the radius. One gradient a
    step, and the objective's; one for both where the objective is one of outputs (`OfOutputs`).

    beta: the objective's share of what is descended, at least 0. With 0 it is ignored, but for a restriction: such a
        stepper goes with objectives that restrict, such as `Sparsify`, alone.
    final_beta: where given, beta goes to it along the path, by the same factor each step: upwards, a path that begins
        tight and is let go; downwards, one that begins loose and ends tight.
    held: the share, 0..1, of each batch on which D is taken; the objective always sees all of it. Where the objective
        itself holds the function, as `AdversarialDistillation` does, a part is enough, and the step cheaper; with `KroneckerPenalty`, nothing.
    temperature: of the classes, above 0: D is the distance of `fipray.geometry.Warm` instead. For classifiers.
    outputs: take D on the first so many outputs alone, of classifiers between the probabilities of these given that it
        is one of them; None for all. A head that grows has outputs beyond them that the function was never about.
    batch_statistics: whether every BatchNorm normalises by the batch while a step is made, as in training (what an
        objective of outputs asks for is a part of that batch, any other sees the network as it is), and its
        statistics follow the batches, kept in its scale and shift (`fipray.geometry.folded`), so that the path still
        has its points in weight space. That these follow is not a part of a step's length.
    """

    beta: float = 0.0
    final_beta: float | None = None
    decay: float = 0.9
    decay_squares: float = 0.999
    held: float = 1.0
    temperature: float = 1.0
    outputs: int | None = None
    batch_statistics: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise UsageError(f"beta is at least 0 and finite; {self.beta} was given")
        if self.final_beta is not None and not (0 < self.final_beta < math.inf and self.beta > 0):
            raise UsageError(
                f"with a final_beta both are above 0 and finite; {self.beta} and {self.final_beta} were given"
            )
        if not 0 <= self.held <= 1:
            raise UsageError(f"held is a share of each batch, 0..1; {self.held} was given")
        if self.held == 0 and self.batch_statistics:
            raise UsageError("statistics follow what is held of a batch: batch_statistics asks for a held above 0")
        if self.held == 0 and not (self.beta > 0 and self.temperature == 1 and self.outputs is None):
            raise UsageError(
                "with held=0 there is no D: a step goes down the objective alone, which asks for a beta above 0, and "
                f"temperature and outputs, which are settings of D, have no effect; beta={self.beta}, "
                f"temperature={self.temperature} and outputs={self.outputs} were given"
            )
        Warm(self.temperature)  # refuses what is none
        if self.outputs is not None and not self.outputs >= 1:
            raise UsageError(f"D is taken on at least 1 output; outputs={self.outputs} was given")
        if not (0 <= self.decay < 1 and 0 <= self.decay_squares < 1):
            raise UsageError(f"decays lie in 0..1, 1 excluded; {self.decay} and {self.decay_squares} were given")

    @property
    def ignores_objective(self) -> str:
        return "" if self.beta > 0 else "its beta is 0"

    def begin(self, problem: Problem) -> State:
        if self.temperature != 1 and not isinstance(problem.geometry, FisherRao):
            raise UsageError(
                f"temperature={self.temperature} asks for outputs that are classes: it needs geometry=FisherRao()"
            )
        if self.outputs == 1 and isinstance(problem.geometry, FisherRao):
            raise UsageError("of a single class the probability is always 1: give outputs of at least 2, or None")
        if self.batch_statistics:
            needs_outputs_alone(problem, "FirstOrder(batch_statistics=True)")
            check_norms_move(problem.network)
        zeros = torch.zeros_like(problem.start)
        state = {"mean": zeros, "square": zeros, "count": zeros.new_zeros((), dtype=torch.float32)}
        if self.batch_statistics:
            state |= {_STATISTICS + name: value for name, value in statistics_of(problem.network).items()}
        return state

    def propose(self, situation: Situation, state: State) -> Proposal:
        network, after = situation.problem.network, {name: value.clone() for name, value in state.items()}
        before, now = _statistics_in(state), _statistics_in(after)
        slope = self._slope_apart(situation, before, now) if before else self._slope(situation)
        displacement = torch.zeros_like(slope)
        with torch.no_grad():
            adam(  # in one pass over memory: on a CPU ten times as fast as what it is made of
                *([displacement], [slope], [after["mean"]], [after["square"]], [], [after["count"]]),
                fused=True,
                amsgrad=False,
                beta1=self.decay,
                beta2=self.decay_squares,
                lr=situation.radius / network.num_moving**0.5,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
            displacement = within(situation.radius, situation.allowed(displacement))
            if now:
                moved = unfolded(network, situation.weights, before) + displacement
                displacement = folded(network, moved, now) - situation.weights
        return Proposal(displacement, 0.0, after)

    def _slope(self, situation: Situation) -> Tensor:
        """The gradient [P] of what is descended, along the tangent of a restriction, from as few passes as will do."""
        problem, batch, beta = situation.problem, self._held(situation.batch), self._beta(situation)
        if not len(batch):
            return beta * situation.slope
        moving = situation.weights.detach().requires_grad_(True)
        asked = self._asked(situation, batch)
        with torch.enable_grad():
            if asked:
                loss = self._loss(situation, batch, asked, beta, partial(problem.network, moving))
                loss = loss + self._of_parts(problem, moving, batch)
                return situation.allowed(torch.autograd.grad(loss, moving)[0])
            distance = self._of_parts(problem, moving, batch)
            if batch.keeps_outputs:
                distance = distance + self._squared_distance(problem, problem.network(moving, batch.inputs), batch)
            slope = situation.allowed(torch.autograd.grad(distance, moving)[0])
        return slope + beta * situation.slope if beta else slope

    def _slope_apart(self, situation: Situation, before: Statistics, now: Statistics) -> Tensor:
        """The same by the weights as they are apart from the statistics; moves these."""
        problem, batch, beta = situation.problem, self._held(situation.batch), self._beta(situation)
        moving = unfolded(problem.network, situation.weights, before).detach().requires_grad_(True)
        outputs_on = partial(normalised, problem.network, moving, now)
        asked = self._asked(situation, batch)
        with torch.enable_grad():
            if asked:
                loss = self._loss(situation, batch, asked, beta, outputs_on)
                return situation.allowed(torch.autograd.grad(loss, moving)[0])
            distance = self._squared_distance(problem, outputs_on(batch.inputs), batch)
            slope = situation.allowed(torch.autograd.grad(distance, moving)[0])
            if beta:
                whole = folded(problem.network, moving, before)
                (theirs,) = torch.autograd.grad(whole, moving, situation.slope)
                slope = slope + beta * theirs
        return slope

    def _asked(self, situation: Situation, batch: Batch) -> Asked | None:
        """What the objective asks, where one pass can serve it and the inputs on which D is taken."""
        if not (self._beta(situation) and isinstance(situation.objective, OfOutputs)):
            return None
        given = of_call(situation.problem, situation.weights, situation.batch)
        with unchanged(f"{type(situation.objective).__name__}.asks()", given):
            asked = situation.objective.asks(situation.problem, situation.weights.detach(), situation.batch)
        return asked if asked.inputs.shape[1:] == batch.inputs.shape[1:] and batch.keeps_outputs else None

    def _loss(
        self, situation: Situation, batch: Batch, asked: Asked, beta: float, outputs_on: Callable[[Tensor], Tensor]
    ) -> Tensor:
        problem, objective = situation.problem, situation.objective
        here, there = outputs_on(torch.cat([batch.inputs, asked.inputs])).split([len(batch), len(asked.inputs)])
        return self._squared_distance(problem, here, batch) + beta * scalar(asked.value(there), objective)

    def _held(self, batch: Batch) -> Batch:
        return batch.first(math.ceil(self.held * len(batch)))

    def _of_parts(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """`D^2` of what is kept beside the outputs on the anchors."""
        found = weights.new_zeros(())
        for part in batch.parts:
            drift = part.kept.quantities(problem.network, weights, part.inputs).flatten(1) - part.target
            found = found + drift.square().sum(1).mean()
        return found

    def _squared_distance(self, problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
        """Of the start and of the function that has these outputs on the batch."""
        reference = batch.reference
        geometry = problem.geometry
        if isinstance(geometry, FisherRao):
            geometry, outputs = _CLASSES_FIRST, class_logits(geometry.arranged(outputs))
        if self.outputs is not None:
            outputs, reference = outputs[:, : self.outputs], reference[:, : self.outputs]
            if isinstance(geometry, FisherRao):
                reference = 2 * functional.normalize(reference, dim=1)
        if self.temperature == 1:
            drift = geometry.embed(outputs) - reference
        else:
            warm, of_start = Warm(self.temperature), _log_probabilities(reference).view_as(outputs)
            drift = warm.embed(outputs) - warm.embed(of_start)
        return drift.square().sum(1).mean()

    def _beta(self, situation: Situation) -> float:
        return self.beta_after(situation.progress) if self.beta > 0 else 0.0

    def beta_after(self, progress: float) -> float:
        """Beta after a share `progress` of the path."""
        return self.beta if self.final_beta is None else self.beta * (self.final_beta / self.beta) ** progress


def _statistics_in(state: State) -> Statistics:
    return {name.removeprefix(_STATISTICS): state[name] for name in state if name.startswith(_STATISTICS)}


def _log_probabilities(reference: Tensor) -> Tensor:
    """Of the start: its embedded outputs are `2 sqrt(p)`."""
    return 2 * (reference / 2).clamp(min=torch.finfo(reference.dtype).tiny).log()
