"""A metric of small factors, one pair a layer."""

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
from fipray.paths.stepper import Proposal, Situation, State, needs_outputs_alone, promised
from fipray.registry import spec


@spec("kronecker")
@checked
@dataclass(frozen=True)
class Kronecker:
    """The natural step in an approximate metric that is cheap to invert: K-FAC (Martens & Grosse 2015; for convolutions
    Grosse & Martens 2016).

    For a linear layer or convolution, `g = A (x) B`, with A the mean of `a a^T` over what the layer sees, summed over
    positions, and B the mean of `b b^T` over what reaches its output from random sensitivities u ~ N(0, I), whose
    expectation is that of `J^T J`. For every other weight g is its diagonal, estimated from the same u. Layers do not
    interact. With this g, slope l, drift e and t = radius / |l|:

        d = -(g + m I)^-1 (m t l + J^T e / N)

    A step costs about one gradient, the objective's, and some products of layers' sizes; every `refresh` steps one more
    pass and the eigen-decompositions of the factors. Factors are running means with weight `memory` on the past.
    """

    damping: float = 1e-2
    refresh: int = 20
    memory: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.damping < math.inf:
            raise UsageError(f"damping is above 0 and finite; {self.damping} was given")
        if not self.refresh >= 1 or not 0 <= self.memory < 1:
            raise UsageError(
                f"refresh is at least 1, memory in 0..1, 1 excluded; {self.refresh} and {self.memory} were given"
            )

    def begin(self, problem: Problem) -> State:
        needs_outputs_alone(problem, type(self).__name__)
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        metric = Metric(problem.network, situation.weights, batch.inputs, problem.geometry)
        count = int(state["count"])
        if count % self.refresh == 0:
            state = self._refreshed(metric, batch.normal(*metric.embedded.shape), state)
        drift = metric.jt(metric.embedded - batch.reference) / len(batch)
        right = situation.allowed(drift) - self.damping * situation.descent
        displacement = situation.allowed(self._solved(metric.layers, right, state)).neg()
        return promised(situation, displacement, {**state, "count": torch.tensor(count + 1)})

    def _refreshed(self, metric: Metric, sensitivities: Tensor, state: State) -> State:
        """The state with factors that have seen one more batch, and their eigenvectors and eigenvalues."""
        carried, product = metric.by_layer(sensitivities)
        found: State = {"diagonal": product.square() / metric.num_inputs}
        for place, (layer, outgoing) in enumerate(zip(metric.layers, carried, strict=True)):
            seen, outgoing = layer.patches().flatten(0, 1), outgoing.flatten(0, 1)
            found[f"in.{place}"] = seen.T @ seen / metric.num_inputs
            found[f"out.{place}"] = outgoing.T @ outgoing / len(outgoing)
        mixed = {
            name: torch.lerp(value, state[name], self.memory) if name in state else value
            for name, value in found.items()
        }
        for name, value in list(mixed.items()):
            if value.ndim == 2:
                values, vectors = eigh(value)
                mixed[f"values.{name}"], mixed[f"vectors.{name}"] = values, vectors.contiguous()
        return {**state, **mixed}

    def _solved(self, layers: list[Layer], right: Tensor, state: State) -> Tensor:
        """`(g + m I)^-1 right`."""
        answer = right / (state["diagonal"] + self.damping)
        for place, layer in enumerate(layers):
            rows, columns = (state[f"vectors.{side}.{place}"] for side in ("out", "in"))
            values = torch.outer(*(state[f"values.{side}.{place}"].clamp(min=0) for side in ("out", "in")))
            solved = rows @ ((rows.T @ layer.matrix(right) @ columns) / (values + self.damping)) @ columns.T
            layer.put(answer, solved)
        return answer
