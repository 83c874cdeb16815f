"""First-order steps against torch.optim.Adam, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import (
    FirstOrder,
    GradientDiversity,
    Problem,
    Situation,
)
from fipray.paths.objective import Asked
from fipray.testing import CorrectorContract, RestrictedStepperContract
from tests.margins import assert_below
from tests.problems import batch, mlp, normal, problem


class TestFirstOrder(RestrictedStepperContract, CorrectorContract):
    stepper = FirstOrder(beta=0.1)


@pytest.mark.parametrize(("held", "num_held"), [(1.0, 8), (0.3, 3)])
def test_steps_are_those_of_torchs_adam(held, num_held):
    """Three steps of the stepper against torch.optim.Adam on the same function."""
    where, radius, beta = problem(mlp(5, 6, 3)), 1e-2, 0.3
    inputs, stepper = batch(where, 8, 5), FirstOrder(beta=beta, held=held)
    few = inputs.first(num_held)
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([theirs], lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for _ in range(3):
        adam.zero_grad()
        embedded = where.geometry.embed(where.network(theirs, few.inputs))
        distance = (embedded - few.reference).square().sum(1).mean()
        (distance + beta * GradientDiversity().value(where, theirs, inputs)).backward()
        adam.step()
        made = stepper.propose(Situation(where, GradientDiversity(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)


def test_with_infinite_temperature_the_distance_is_between_centred_logits():
    where, radius = problem(mlp(5, 6, 3)), 1e-2
    inputs, stepper = batch(where, 8, 5), FirstOrder(temperature=math.inf)
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([theirs], lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for _ in range(3):
        adam.zero_grad()
        difference = where.network(theirs, inputs.inputs) - where.network(where.start, inputs.inputs)
        (difference - difference.mean(1, keepdim=True)).square().mean().backward()
        adam.step()
        made = stepper.propose(Situation(where, GradientDiversity(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="FisherRao"):
        stepper.begin(problem(mlp(5, 6, 3), geometry=Euclidean()))


@pytest.mark.parametrize("temperature", [1.0, 3.0, math.inf])
def test_with_outputs_the_distance_is_between_conditional_probabilities(temperature):
    """Two of four classes: Adam's first moment is a tenth of the gradient of the distance over their softmax."""
    where, radius = problem(mlp(5, 6, 4)), 1e-2
    inputs, stepper = batch(where, 8, 5), FirstOrder(temperature=temperature, outputs=2)
    start = (where.start + 0.05 * normal(where.network.num_weights, seed=5)).requires_grad_(True)
    now, before = (where.network(weights, inputs.inputs)[:, :2] for weights in (start, where.start))
    if math.isinf(temperature):
        difference = ((now - before) - (now - before).mean(1, keepdim=True)) / 2**0.5
    else:
        now, before = (2 * (outputs / temperature).softmax(1).sqrt() for outputs in (now, before))
        difference = temperature * (now - before)
    (slope,) = torch.autograd.grad(difference.square().sum(1).mean(), start)
    made = stepper.propose(Situation(where, GradientDiversity(), start.detach(), inputs, radius), stepper.begin(where))
    torch.testing.assert_close(made.state["mean"], 0.1 * slope, rtol=1e-9, atol=1e-12)
    with pytest.raises(UsageError, match="at least 1 output"):
        FirstOrder(outputs=0)


def test_a_high_temperature_approaches_the_infinite_one():
    where = problem(mlp(5, 6, 4))
    inputs, start = batch(where, 8, 5), where.start + 0.05 * normal(where.network.num_weights, seed=5)
    slopes = [
        stepper.propose(Situation(where, GradientDiversity(), start, inputs, 1e-2), stepper.begin(where)).state["mean"]
        for stepper in (FirstOrder(temperature=1e4), FirstOrder(temperature=math.inf))
    ]
    assert_below((slopes[0] - slopes[1]).norm() / slopes[1].norm(), 1e-3)
    for refused in (0.0, -1.0):
        with pytest.raises(UsageError, match="temperature is above 0"):
            FirstOrder(temperature=refused)


class _LargeOutputs:
    def value(self, problem, weights, batch):
        return -problem.network(weights, batch.inputs).square().mean()


def test_with_batch_statistics_steps_are_adams_on_a_module_in_training():
    """Three steps against torch.optim.Adam on a module in training: the points, their statistics folded into scale and
    shift, compute what the module then computes in evaluation."""
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    where, radius, beta, objective = problem(Network.of(module)), 0.1, 0.3, _LargeOutputs()
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs, stepper = where.network.module_at(start).train(), FirstOrder(beta=beta, batch_statistics=True)
    adam = torch.optim.Adam(theirs.parameters(), lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for seed in range(3):
        inputs = batch(where, 8, 5, seed=seed)
        module = theirs.eval()
        in_evaluation = Network.of(module).weights.requires_grad_(True)  # the objective sees the statistics frozen
        value = objective.value(
            Problem(Network.of(module).at(where.start), geometry=where.geometry), in_evaluation, inputs
        )
        far = torch.autograd.grad(value, in_evaluation)[0].split([p.numel() for p in theirs.parameters()])
        theirs.train()
        adam.zero_grad()
        (where.geometry.embed(theirs(inputs.inputs)) - inputs.reference).square().sum(1).mean().backward()
        for parameter, its in zip(theirs.parameters(), far, strict=True):
            parameter.grad += beta * its.view_as(parameter)
        adam.step()
        made = stepper.propose(Situation(where, objective, ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    seen = normal(20, 5, seed=9)
    torch.testing.assert_close(where.network(ours, seen), theirs.eval()(seen).detach(), rtol=1e-8, atol=1e-8)
    with pytest.raises(NetworkError, match="BatchNorm"):
        stepper.begin(problem(mlp(5, 6, 3)))


class _LargeOutputsInOnePass(_LargeOutputs):
    def asks(self, problem, weights, batch):
        return Asked(batch.inputs + 1, lambda outputs: -outputs.square().mean())


def test_with_batch_statistics_an_objective_of_outputs_shares_the_batch():
    """Two steps against torch.optim.Adam: held inputs and those that the objective asks for are one batch."""
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    where, radius, beta = problem(Network.of(module)), 0.1, 0.3
    ours = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs, stepper = where.network.module_at(ours).train(), FirstOrder(beta=beta, held=0.5, batch_statistics=True)
    adam, state = (
        torch.optim.Adam(theirs.parameters(), lr=radius / where.network.num_weights**0.5),
        stepper.begin(where),
    )
    for seed in range(2):
        inputs = batch(where, 8, 5, seed=seed)
        here, there = theirs(torch.cat([inputs.inputs[:4], inputs.inputs + 1])).split([4, 8])
        adam.zero_grad()
        distance = (where.geometry.embed(here) - inputs.reference[:4]).square().sum(1).mean()
        (distance - beta * there.square().mean()).backward()
        adam.step()
        made = stepper.propose(Situation(where, _LargeOutputsInOnePass(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    seen = normal(20, 5, seed=9)
    torch.testing.assert_close(where.network(ours, seen), theirs.eval()(seen).detach(), rtol=1e-8, atol=1e-8)


def test_with_nothing_held_an_objective_of_outputs_alone_makes_step_and_statistics():
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    where, radius, beta = problem(Network.of(module)), 0.1, 0.3
    ours = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs, stepper = where.network.module_at(ours).train(), FirstOrder(beta=beta, held=0.0, batch_statistics=True)
    adam, state = (
        torch.optim.Adam(theirs.parameters(), lr=radius / where.network.num_weights**0.5),
        stepper.begin(where),
    )
    for seed in range(2):
        inputs = batch(where, 8, 5, seed=seed)
        adam.zero_grad()
        (-beta * theirs(inputs.inputs + 1).square().mean()).backward()
        adam.step()
        made = stepper.propose(Situation(where, _LargeOutputsInOnePass(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    seen = normal(20, 5, seed=9)
    torch.testing.assert_close(where.network(ours, seen), theirs.eval()(seen).detach(), rtol=1e-8, atol=1e-8)
    with pytest.raises(UsageError, match="_LargeOutputs is none"):
        stepper.propose(Situation(where, _LargeOutputs(), ours, inputs, radius), stepper.begin(where))


def test_beta_changes_by_a_constant_factor_per_step():
    stepper = FirstOrder(beta=0.4, final_beta=0.1)
    assert [stepper.beta_after(progress) for progress in (0, 0.5, 1)] == pytest.approx([0.4, 0.2, 0.1])
    assert FirstOrder(beta=0.4).beta_after(1.0) == 0.4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: FirstOrder(beta=-0.1),
        lambda: FirstOrder(decay=1.0),
        lambda: FirstOrder(held=-0.1),
        lambda: FirstOrder(final_beta=0.2),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()
