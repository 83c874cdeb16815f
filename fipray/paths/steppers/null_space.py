"""A step that no layer's input can see."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fipray.errors import UsageError
from fipray.geometry import Metric
from fipray.paths.problem import Problem
from fipray.paths.stepper import Proposal, Situation, State, promised


@dataclass(frozen=True)
class InputNullSpaceStep:
    """Down the objective by weights that no input reaches: `dW a = 0` for all that each layer sees.

    Each linear layer and convolution moves only in the null space of the second moment `A = mean a a^T` of its own
    inputs a at the start of the path, so that every layer's output stays, and with them the network's, for steps of any
    length (GPM, Saha et al. 2021; Adam-NSCL, Wang et al. 2021). A direction belongs to the null space when the share of
    the inputs' energy along it is at most `threshold`. Weights outside such layers do not move.

    Only the moments are kept, no data, and they are gathered on the first `num_batches` batches. A step costs the
    objective's gradient; memory is the square of each layer's input size. What rounds the null space is not brought
    back: this is a predictor, and no corrector.
    """

    threshold: float = 1e-6
    num_batches: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UsageError(f"threshold is a share of energy, at least 0 and below 1; {self.threshold} was given")
        if self.num_batches < 1:
            raise UsageError(f"moments are gathered on at least one batch; {self.num_batches} was given")

    def begin(self, problem: Problem) -> State:
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        count = int(state["count"])
        metric = Metric(
            problem.network, problem.start, batch.inputs[: None if count < self.num_batches else 1], problem.geometry
        )
        if count < self.num_batches:
            state = {**state, **self._seen_more(metric, state)}
        free = torch.zeros_like(situation.slope)
        for place, layer in enumerate(metric.layers):
            basis = state[f"free.{place}"]
            layer.put(free, layer.matrix(situation.descent) @ basis @ basis.T)
        displacement = situation.allowed(free)
        length = float(torch.linalg.vector_norm(displacement))
        if length > 0:
            displacement = displacement * (situation.radius / length)
        return promised(situation, displacement, {**state, "count": torch.tensor(count + 1)})

    def _seen_more(self, metric: Metric, state: State) -> State:
        found: State = {}
        for place, layer in enumerate(metric.layers):
            seen = layer.patches().flatten(0, 1).double()
            moment = seen.T @ seen + state.get(f"moment.{place}", 0)
            values, vectors = torch.linalg.eigh(moment)
            quiet = values <= max(self.threshold, len(values) * torch.finfo(layer.output.dtype).eps ** 2) * values.sum()
            found[f"moment.{place}"], found[f"free.{place}"] = moment, vectors[:, quiet].to(layer.output.dtype)
        return found
