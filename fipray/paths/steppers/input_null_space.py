"""A step that no layer's input can see."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.geometry import Metric
from fipray.geometry.solvers import eigh
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.paths.stepper import Proposal, Situation, State, needs_outputs_alone, promised
from fipray.registry import spec


@spec("input_null_space")
@checked
@dataclass(frozen=True)
class InputNullSpace:
    """Down the objective by weights that no input reaches: `dW a = 0` for all that each layer sees.

    Each linear layer and convolution moves only in the null space of the second moment `A = mean a a^T` of its own
    inputs a at the start of the path, so that every layer's output stays, and with them the network's, for steps of any
    length (GPM, Saha et al. 2021; Adam-NSCL, Wang et al. 2021). A direction belongs to the null space when the share of
    the inputs' energy along it is at most `threshold`. Weights that act outside such layers do not move. The tangent of
    a restriction (Sparsify's zeros) cuts across the null space: there outputs move by as much as it cuts off.

    Only the moments are kept, no data, and they are gathered on the first `num_batches` batches. A step costs the
    objective's gradient; memory is the square of each layer's input size. What rounds the null space is not brought
    back: this is a predictor, and no corrector.
    """

    threshold: float = 1e-6
    num_batches: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UsageError(f"threshold is a share of energy, at least 0 and below 1; {self.threshold} was given")
        if not self.num_batches >= 1:
            raise UsageError(f"moments are gathered on at least one batch; {self.num_batches} was given")

    def begin(self, problem: Problem) -> State:
        needs_outputs_alone(problem, type(self).__name__)
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        count = int(state["count"])
        metric = Metric(
            problem.network, problem.start, batch.inputs[: None if count < self.num_batches else 1], problem.geometry
        )
        if not metric.layers:
            raise NetworkError(
                "no linear layer or convolution holds weights of the vector as they are, so InputNullSpace could "
                "move none: layers in half precision or under a parametrisation are none; take another stepper"
            )
        if count < self.num_batches:
            state = {**state, **self._seen_more(metric, batch, state)}
        free = torch.zeros_like(situation.slope)
        for layer in metric.layers:
            basis = state[f"free.{layer.weight}"]
            layer.put(free, layer.matrix(situation.descent) @ basis @ basis.T)
        displacement = situation.allowed(free)
        length = float(torch.linalg.vector_norm(displacement))
        if length > 0:
            displacement = displacement * (situation.radius / length)
        return promised(situation, displacement, {**state, "count": torch.tensor(count + 1)})

    def _seen_more(self, metric: Metric, batch: Batch, state: State) -> State:
        """The moments with one more batch in them, and the bases [in, free] of their null spaces."""
        carried, product = metric.by_layer(batch.normal(*metric.embedded.shape))
        found: State = {}
        told = torch.zeros_like(product)
        for layer, one in zip(metric.layers, carried, strict=True):
            name = f"moment.{layer.weight}"
            patches = layer.patches()
            layer.put(told, layer.matrix(told) + torch.einsum("nto,nti->oi", one, patches))
            seen = patches.flatten(0, 1).double()
            found[name] = found.get(name, state.get(name, torch.zeros(()))) + seen.T @ seen  # a layer may act twice
        allowed = 1e3 * torch.finfo(product.dtype).eps * float(torch.linalg.vector_norm(product))
        for layer in metric.layers:
            moment = found[f"moment.{layer.weight}"]
            values, vectors = eigh(moment)
            least = len(values) * torch.finfo(product.dtype).eps ** 2
            quiet = values <= max(self.threshold, least) * values.sum()
            if float(torch.linalg.vector_norm(layer.matrix(told - product))) > allowed:
                quiet = torch.zeros_like(quiet)  # its weights act elsewhere too, where nobody saw their inputs
            found[f"free.{layer.weight}"] = vectors[:, quiet].to(product.dtype).contiguous()
        return found
