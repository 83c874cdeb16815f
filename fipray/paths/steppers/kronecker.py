"""Natural steps in a Kronecker-factored metric, one pair of factors per layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import Layer, Metric
from fipray.geometry.solvers import eigh
from fipray.paths.problem import Problem
from fipray.paths.state import State
from fipray.paths.stepper import Proposal, Situation, needs_outputs_alone, promised
from fipray.registry import spec


@spec("kronecker")
@checked
@dataclass(frozen=True)
class Kronecker:
    """Natural step in a Kronecker-factored metric (K-FAC), which is cheap to invert.

    With slope l, change of the embedded outputs `e = s(w) - s(w0)` on the batch, damping m and `t = radius / |l|`:

        d = -(g + m I)^-1 (m t l + J^T e / N)

    For a linear layer or convolution `g = A (x) B`: A is the mean of `a a^T` over the layer's inputs, summed over
    positions; B is the mean of `b b^T` over the sensitivities at its output for random u ~ N(0, I) at the network's
    output, whose expectation is that of `J^T J`. For every other weight g is its diagonal, estimated from the same u.
    Layers do not interact.

    Cost per step: the objective's gradient, one pass and its backward pass for e, and four products of a
    layer's size each; every `refresh` steps one more backward pass and an eigendecomposition of every factor. Memory:
    twice the squares of every layer's input and output sizes.

    Needs: outputs on the anchors as the only kept quantity.

    Source: Martens & Grosse 2015; for convolutions Grosse & Martens 2016.

    Args:
        damping: m, above 0 and finite. Larger is closer to plain descent.
        refresh: number of steps between two updates of the factors, at least 1.
        memory: weight of the past in the running means of the factors, 0 or more and below 1.

    Raises:
        UsageError: for a setting out of range.
    """

    damping: float = 1e-2
    refresh: int = 20
    memory: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.damping < math.inf:
            raise UsageError(f"damping must be above 0 and finite; {self.damping} was given")
        if not self.refresh >= 1 or not 0 <= self.memory < 1:
            raise UsageError(
                "refresh must be at least 1, and memory at least 0 and below 1; "
                f"refresh={self.refresh} and memory={self.memory} were given"
            )

    def begin(self, problem: Problem) -> State:
        needs_outputs_alone(problem, type(self).__name__)
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        metric = Metric(problem.network, situation.weights, batch.inputs, problem.geometry)
        count = int(state["count"])
        # the count is that of accepted steps: a refused one loses its state, and its refresh is repeated
        if count % self.refresh == 0:
            state = self._refreshed(metric, batch.normal(*metric.embedded.shape), state)
        correction = metric.jt(metric.embedded - batch.reference) / len(batch)
        right = situation.allowed(correction) - self.damping * situation.descent
        displacement = situation.allowed(self._solved(metric.layers, right, state)).neg()
        return promised(situation, displacement, {**state, "count": torch.tensor(count + 1)})

    def _refreshed(self, metric: Metric, sensitivities: Tensor, state: State) -> State:
        """Update the factors with a batch, and their eigenvectors and eigenvalues."""
        carried, product = metric.by_layer(sensitivities)
        # E[u u^T] = I, so (J^T u)_i^2 has the expectation (J^T J)_ii
        found: State = {"diagonal": product.square() / metric.num_inputs}
        for number, (layer, outgoing) in enumerate(zip(metric.layers, carried, strict=True)):
            incoming, outgoing = layer.patches().flatten(0, 1), outgoing.flatten(0, 1)
            # positions of a convolution are summed in A and averaged in B (Grosse & Martens 2016)
            found[f"in.{number}"] = incoming.T @ incoming / metric.num_inputs
            found[f"out.{number}"] = outgoing.T @ outgoing / len(outgoing)
        mixed = {
            name: torch.lerp(value, state[name], self.memory) if name in state else value
            for name, value in found.items()
        }
        # decomposed once per refresh, so that every step solves by products alone; contiguous, as saved tensors must be
        for name, value in list(mixed.items()):
            if value.ndim == 2:
                values, vectors = eigh(value)
                mixed[f"values.{name}"], mixed[f"vectors.{name}"] = values, vectors.contiguous()
        return {**state, **mixed}

    def _solved(self, layers: list[Layer], right: Tensor, state: State) -> Tensor:
        """Solve `(g + m I) d = right` for d [P]."""
        solution = right / (state["diagonal"] + self.damping)
        for number, layer in enumerate(layers):
            rows, columns = (state[f"vectors.{side}.{number}"] for side in ("out", "in"))
            # eigenvalues of a product are products of eigenvalues; rounding may leave the smallest below 0
            values = torch.outer(*(state[f"values.{side}.{number}"].clamp(min=0) for side in ("out", "in")))
            solved = rows @ ((rows.T @ layer.matrix(right) @ columns) / (values + self.damping)) @ columns.T
            # overwrites the diagonal solve, which is meant for the weights outside the layers alone
            layer.put(solution, solved)
        return solution
