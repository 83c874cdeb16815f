"""LearnTask against losses computed by hand and optima in closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.geometry import Euclidean
from fipray.paths import Batch, Problem
from tests.margins import assert_above, assert_below

D, C, NUM_ANCHORS, NUM_EXAMPLES = 16, 3, 8, 96


class Linear(nn.Module):
    """`W x`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, D, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight.T


@pytest.fixture
def network() -> fip.Network:
    torch.manual_seed(0)
    return fip.Network.of(Linear())


@pytest.fixture
def examples() -> fip.Examples:
    torch.manual_seed(1)
    return fip.Examples(torch.randn(NUM_EXAMPLES, D, dtype=torch.float64), torch.arange(NUM_EXAMPLES) % C)


@pytest.fixture
def anchors() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(NUM_ANCHORS, D, dtype=torch.float64)


def _problem(network: fip.Network, examples: fip.Examples) -> Problem:
    return Problem(network, tasks={"new": examples})


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_value_is_the_cross_entropy(network, examples, anchors, smoothing):
    problem = _problem(network, examples)
    outputs = network(network.weights, examples.inputs)
    truth = torch.nn.functional.one_hot(examples.labels, C).double() * (1 - smoothing) + smoothing / C
    expected = -(truth * outputs.log_softmax(1)).sum(1).mean()
    objective = fip.objectives.LearnTask("new", batch_size=100, smoothing=smoothing)
    torch.testing.assert_close(objective.value(problem, network.weights, problem.batch(anchors)), expected)


def test_the_squared_loss_is_taken_to_labels_as_unit_vectors(network, examples, anchors):
    problem = _problem(network, examples)
    outputs = network(network.weights, examples.inputs)
    expected = sum(
        float((output - torch.eye(C, dtype=torch.float64)[label]).square().sum()) / 2
        for output, label in zip(outputs, examples.labels, strict=True)
    )
    value = fip.objectives.LearnTask("new", 100, loss="squared").value(problem, network.weights, problem.batch(anchors))
    assert float(value) == pytest.approx(expected / NUM_EXAMPLES, rel=1e-12)


def test_with_own_classes_the_outputs_of_other_classes_do_not_count(network, anchors):
    torch.manual_seed(3)
    few = fip.Examples(torch.randn(20, D, dtype=torch.float64), 2 * (torch.arange(20) % 2))  # classes 0 and 2
    problem = _problem(network, few)
    outputs = network(network.weights, few.inputs)[:, [0, 2]]
    expected = torch.nn.functional.cross_entropy(outputs, few.labels // 2)
    objective = fip.objectives.LearnTask("new", batch_size=100, own_classes=True)
    torch.testing.assert_close(objective.value(problem, network.weights, problem.batch(anchors)), expected)


def test_examples_depend_on_the_draw_alone(network, examples, anchors):
    problem, objective = _problem(network, examples), fip.objectives.LearnTask("new", batch_size=5)
    drawn = problem.batch(anchors)
    generator = torch.Generator().manual_seed(0)
    one, other = drawn.draw(2, generator), drawn.draw(2, generator)
    first = objective.value(problem, network.weights, one)
    assert torch.equal(first, objective.value(problem, network.weights, one))
    assert not torch.equal(first, objective.value(problem, network.weights, other))


def _walked(network, anchors, examples, objective, *, num_steps: int) -> fip.WeightPath:
    return fip.trace(
        fip.Problem(network, anchors=anchors, held_out=anchors, geometry=Euclidean(), tasks={"new": examples}),
        objective,
        fip.Settings(
            stepper=fip.steppers.Projected(),
            radius=fip.radii.Scheduled(0.1),
            num_steps=num_steps,
            save_at=fip.SaveAt(20),
        ),
    )


def test_a_linear_network_learns_to_the_constrained_optimum_and_keeps_its_outputs(network, examples, anchors):
    """The optimum of least squares in what is orthogonal to the anchors: `W0 + (Y - W0 X) (P X)^+ P`."""
    path = _walked(network, anchors, examples, fip.objectives.LearnTask("new", 1000, loss="squared"), num_steps=300)
    before = network(network.weights, anchors)
    for point in path.points:
        assert_below((network(point.weights, anchors) - before).abs().max(), 1e-12)
    start, inputs = network.weights.view(C, D), examples.inputs.T
    away = torch.eye(D, dtype=torch.float64) - torch.linalg.pinv(anchors) @ anchors
    wanted = torch.nn.functional.one_hot(examples.labels, C).double().T
    best = start + (wanted - start @ inputs) @ torch.linalg.pinv(away @ inputs) @ away
    losses = [point.objective_value for point in path.points]
    least = float((best @ inputs - wanted).square().sum(0).mean() / 2)
    unconstrained = wanted @ torch.linalg.pinv(inputs)
    for other in (start, unconstrained):
        assert_above((best - other).norm() / start.norm(), 0.1)
    assert_below(max(later - earlier for earlier, later in pairwise(losses)), 1e-6)
    assert_below(abs(losses[-1] / least - 1), 1e-6)
    assert_below((path.end.weights.view(C, D) - best).abs().max(), 1e-3)


def test_a_linear_classifier_reaches_a_stationary_point_of_the_constrained_cross_entropy(network, examples, anchors):
    path = _walked(network, anchors, examples, fip.objectives.LearnTask("new", 1000), num_steps=300)
    end = path.end.weights.clone().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(network(end, examples.inputs), examples.labels)
    (slope,) = torch.autograd.grad(loss, end)
    away = torch.eye(D, dtype=torch.float64) - torch.linalg.pinv(anchors) @ anchors
    allowed = slope.view(C, D) @ away
    assert_below(allowed.norm() / slope.norm(), 1e-3)
    before = network(network.weights, anchors)
    assert_below((network(path.end.weights, anchors) - before).abs().max(), 1e-12)


def test_unsuitable_tasks_and_settings_are_refused(network, examples, anchors):
    problem = _problem(network, examples)
    with pytest.raises(fip.errors.UsageError, match="no task 'old' to learn; there are: 'new'"):
        fip.objectives.LearnTask("old").value(problem, network.weights, problem.batch(anchors))
    with pytest.raises(fip.errors.DataError, match=r"int64 labels \[N\]"):
        fip.Examples(anchors, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(fip.errors.DataError, match=r"3 classes, 0..2; labels hold 0..3"):
        _walked(
            network,
            anchors,
            fip.Examples(anchors, torch.arange(len(anchors)) % 4),
            fip.objectives.LearnTask("new"),
            num_steps=1,
        )
    with pytest.raises(fip.errors.DataError, match="does not take inputs"):
        _walked(
            network,
            anchors,
            fip.Examples(anchors[:, 1:], torch.arange(len(anchors)) % 3),
            fip.objectives.LearnTask("new"),
            num_steps=1,
        )
    for wrong, message in (
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"smoothing": 1.0}, "smoothing must be a fraction"),
        ({"loss": "hinge"}, "'cross-entropy' or 'squared'"),
    ):
        with pytest.raises(fip.errors.UsageError, match=message):
            fip.objectives.LearnTask("new", **wrong)


class WithoutOutputs:
    """The same objective as a function of the weights alone, not of outputs."""

    def __init__(self, objective: fip.objectives.LearnTask) -> None:
        self._objective = objective

    def value(self, problem: Problem, weights: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._objective.value(problem, weights, batch)


@pytest.mark.parametrize("held", [1.0, 0.5])
def test_one_pass_for_task_and_distance_gives_the_step_of_two_passes(network, examples, anchors, held):
    problem, stepper = _problem(network, examples), fip.steppers.FirstOrder(beta=0.7, held=held)
    batch, learns = problem.batch(anchors), fip.objectives.LearnTask("new", 12)
    start, passes = network.weights + 0.1, []
    real = network._module.forward
    network._module.forward = lambda inputs: passes.append(len(inputs)) or real(inputs)
    steps = [
        stepper.propose(fip.paths.stepper.Situation(problem, objective, start, batch, 0.1), stepper.begin(problem))
        for objective in (learns, WithoutOutputs(learns))
    ]
    num_held = round(held * NUM_ANCHORS)
    assert passes == [num_held + 12, num_held, 12]
    for ours, theirs in zip(*(step.state.values() for step in steps), strict=True):  # Adam's moments: of the gradient
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(steps[0].displacement, steps[1].displacement, rtol=1e-6, atol=1e-9)
