"""Memory of earlier inputs as Kronecker factors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.geometry import Euclidean, KroneckerMetric, Metric
from fipray.paths import Problem, packed, unpacked
from tests.margins import assert_below
from tests.problems import mlp, normal

D, C = 6, 3


def _linear() -> fip.Network:
    torch.manual_seed(0)
    return fip.Network.of(nn.Linear(D, C, bias=False).double())


def test_a_linear_network_comes_to_the_optimum_that_the_inputs_themselves_would_give():
    """`sum_n |W x - e|^2 / 2 N + c |(W - W0) A|^2 / M` is least at `W = (E X^T / N + 2 c W0 K) (X X^T / N + 2 c K)^-1`,
    `K = A A^T / M`; no step sees A."""
    network, gone, weight = _linear(), normal(40, D, seed=1), 0.3
    examples = fip.Examples(normal(30, D, seed=2), torch.arange(30) % C)
    problem = Problem(network, geometry=Euclidean())
    metric = fip.objectives.KroneckerMemory(("gone",), num_inputs=40, fraction=1.0, temperature=1.0).of(problem, gone)
    path = fip.trace(
        fip.Problem(
            network,
            anchors=normal(2, D, seed=3),
            held_out=gone,
            geometry=Euclidean(),
            tasks={"new": examples},
            memory=[metric],
        ),
        fip.objectives.WeightedSum(
            ((1.0, fip.objectives.LearnTask("new", 30, loss="squared")), (weight, fip.objectives.KroneckerPenalty()))
        ),
        fip.Settings(stepper=fip.steppers.FirstOrder(1.0, held=0.0), radius=fip.radii.Scheduled(0.05), num_steps=1500),
    )
    start, inputs = network.weights.view(C, D), examples.inputs
    truth = torch.nn.functional.one_hot(examples.labels, C).double()
    held = 2 * weight * gone.T @ gone / 40
    best = (truth.T @ inputs / 30 + start @ held) @ torch.linalg.inv(inputs.T @ inputs / 30 + held)
    assert_below((path.end.weights.view(C, D) - best).norm() / best.norm(), 1e-3)
    moved = (path.end.weights.view(C, D) - start) @ gone.T
    assert path.end.functional_distance_held_out**2 == pytest.approx(float(moved.square().sum(0).mean()))


def test_metrics_of_several_tasks_add_up():
    network = mlp(5, 6, 3)
    problem = Problem(network)
    both = [fip.objectives.KroneckerMemory(("any",)).of(problem, normal(9, 5, seed=seed)) for seed in (1, 2)]
    weights = network.weights + 0.1 * normal(network.num_weights, seed=3)
    batch = problem.batch(normal(2, 5))
    values = [
        fip.objectives.KroneckerPenalty().value(
            Problem(network, geometry=problem.geometry, memory=some), weights, batch
        )
        for some in ((both[0],), (both[1],), tuple(both))
    ]
    torch.testing.assert_close(values[0] + values[1], values[2])


def test_memory_is_of_evenly_spaced_inputs_and_warm_classes():
    network, inputs = mlp(5, 6, 3), normal(20, 5, seed=1)
    problem, v = Problem(network), normal(network.num_weights, seed=2)
    found = fip.objectives.KroneckerMemory(("any",), num_inputs=5, fraction=1.0, temperature=2.0).of(problem, inputs)
    by_hand = KroneckerMetric.of(Metric(network, network.weights, inputs[::4], fip.geometry.Warm(2.0)))
    torch.testing.assert_close(found.squared_length(v), by_hand.squared_length(v))


def test_packed_memory_is_unpacked_among_other_arrays():
    network = mlp(5, 6, 3)
    problem, v = Problem(network), normal(network.num_weights, seed=2)
    memory = [fip.objectives.KroneckerMemory(("any",)).of(problem, normal(9, 5, seed=seed)) for seed in range(11)]
    again = unpacked({"weights": network.weights, **packed(memory)})
    assert [float(one.squared_length(v)) for one in again] == [float(one.squared_length(v)) for one in memory]
    assert unpacked({"weights": network.weights}) == ()


def test_a_missing_memory_and_settings_out_of_range_are_refused():
    network = mlp(5, 6, 3)
    inputs = normal(4, 5)
    with pytest.raises(fip.errors.UsageError, match="needs a memory, and the problem has none: give the path one"):
        fip.trace(
            fip.Problem(network, anchors=inputs, held_out=inputs),
            fip.objectives.KroneckerPenalty(),
            fip.Settings(num_steps=1),
        )
    with pytest.raises(fip.errors.UsageError, match="one or more sets"):
        fip.objectives.KroneckerMemory(())
    with pytest.raises(fip.errors.UsageError, match="above 0 and up to 1"):
        fip.objectives.KroneckerMemory(("a",), fraction=0.0)
    with pytest.raises(fip.errors.UsageError, match="temperature is above 0"):
        fip.objectives.KroneckerMemory(("a",), temperature=-math.inf)
    with pytest.raises(fip.errors.UsageError, match=r"0\.\.1; 1\.5 was given"):
        fip.steppers.FirstOrder(held=1.5)
