"""Steps in the null space of layer inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.geometry import Metric
from fipray.geometry.solvers import eigh
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.paths.state import State
from fipray.paths.stepper import Proposal, Situation, needs_outputs_alone, promised
from fipray.registry import spec


@spec("input_null_space")
@checked
@dataclass(frozen=True)
class InputNullSpace:
    """Gradient descent on the objective within the null space of every layer's inputs.

    Every linear layer and convolution moves by `dW` with `dW a = 0` for its own inputs a at the base weights: `dW` is
    projected on the null space of the second moment `A = mean a a^T`. Then every layer's output stays, and with it the
    network's, for steps of any length. A direction counts as null if the fraction of the inputs' energy (the trace of
    A) along it is at most `threshold`. Weights outside such layers do not move. The tangent of a restriction (the zeros
    of Sparsify) cuts across the null space; there outputs change by as much as the cut removes. Errors of the
    approximate null space are not corrected: this stepper is a predictor, not a corrector.

    Cost per step: the objective's gradient and two products of a layer's size each; on the first `num_batches` steps
    also two passes and an eigendecomposition of every moment. Memory: the square of every layer's input size. Moments
    are stored, data is not.

    Needs: outputs on the anchors as the only kept quantity.

    Source: GPM, Saha et al. 2021; Adam-NSCL, Wang et al. 2021.

    Args:
        threshold: fraction of energy up to which a direction counts as null, at least 0 and below 1.
        num_batches: number of batches from which the moments are gathered, the first of the path; at least 1.

    Raises:
        UsageError: for a setting out of range.
        NetworkError: from the first step, for a network without linear layers or convolutions whose weights are in the
            vector as they are.
    """

    threshold: float = 1e-6
    num_batches: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UsageError(f"threshold must be a fraction, at least 0 and below 1; {self.threshold} was given")
        if not self.num_batches >= 1:
            raise UsageError(f"num_batches must be at least 1; {self.num_batches} was given")

    def begin(self, problem: Problem) -> State:
        needs_outputs_alone(problem, type(self).__name__)
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        count = int(state["count"])
        # once the moments are gathered, one input suffices to list the layers
        inputs = batch.inputs if count < self.num_batches else batch.inputs[:1]
        # at the base weights: along the path inputs of deeper layers drift, and moments of both would mix
        metric = Metric(problem.network, problem.start, inputs, problem.geometry)
        if not metric.layers:
            raise NetworkError(
                "InputNullSpace moves the weights of linear layers and convolutions, and this network has none in full "
                "precision and without a parametrisation: use another stepper"
            )
        if count < self.num_batches:
            state = {**state, **self._gathered(metric, batch, state)}
        descent = situation.descent
        free = torch.zeros_like(descent)
        for layer in metric.layers:
            basis = state[f"free.{layer.weight}"]
            layer.put(free, layer.matrix(descent) @ basis @ basis.T)
        displacement = situation.allowed(free)
        length = float(torch.linalg.vector_norm(displacement))
        # a length of NaN fails the comparison too and stays, so that the proposal is reported as not finite
        if length > 0:
            displacement = displacement * (situation.radius / length)
        return promised(situation, displacement, {**state, "count": torch.tensor(count + 1)})

    def _gathered(self, metric: Metric, batch: Batch, state: State) -> State:
        """Add a batch to the moments, and compute the bases [in, free] of their null spaces."""
        carried, product = metric.by_layer(batch.normal(*metric.embedded.shape))
        found: State = {}
        # random sensitivities u ~ N(0, I): `product` is J^T u, which the layers' parts are compared with
        by_layers = torch.zeros_like(product)
        for layer, sensitivities in zip(metric.layers, carried, strict=True):
            name = f"moment.{layer.weight}"
            patches = layer.patches()
            layer.put(by_layers, layer.matrix(by_layers) + torch.einsum("nto,nti->oi", sensitivities, patches))
            rows = patches.flatten(0, 1).double()  # squares double the condition number, too much for float32
            # a layer may act twice
            found[name] = found.get(name, state.get(name, rows.new_zeros(()))) + rows.T @ rows
        rounding = 1e3 * torch.finfo(product.dtype).eps * float(torch.linalg.vector_norm(product))
        for layer in metric.layers:
            moment = found[f"moment.{layer.weight}"]
            values, vectors = eigh(moment)
            # the floor of rounding, in effect with a threshold of 0
            least = len(values) * torch.finfo(product.dtype).eps ** 2
            is_null = values <= max(self.threshold, least) * values.sum()
            # where the layers do not account for the whole product J^T u, the weights also act elsewhere (tied
            # weights), on inputs that were not recorded, so they are not moved
            if float(torch.linalg.vector_norm(layer.matrix(by_layers - product))) > rounding:
                is_null = torch.zeros_like(is_null)
            found[f"free.{layer.weight}"] = vectors[:, is_null].to(product.dtype).contiguous()
        return found
