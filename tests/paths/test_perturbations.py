"""Perturbations of anchors that are remembered: their frame, duplicates, and paths that use them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.errors import UsageError
from fipray.paths import AdversarialDistillation, Adversary, FirstOrder, Flipped, Problem, Shifted
from fipray.paths.objectives import WeightedSum
from fipray.paths.perturbations import Perturbations
from fipray.paths.problem import anchors_and_held_out
from fipray.study.canonical import to_json
from tests.problems import normal

EPSILON = 0.127  # a unit of what is stored is .001


def images(count: int = 6, size: int = 5) -> torch.Tensor:
    return torch.rand(count, 2, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 3)).double()


def units(*shape: int) -> torch.Tensor:
    """Perturbations that are stored without rounding."""
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(4)).double() / 1000


def test_what_is_kept_is_recalled():
    inputs = images()
    every, change = Perturbations.random(inputs, EPSILON, 0), units(2, 2, 5, 5)
    chosen, others = torch.tensor([4, 1]), [0, 2, 3, 5]
    before = every.stored.clone()
    every.of(inputs[chosen], chosen, (), 0).keep(change)
    torch.testing.assert_close(every.of(inputs[chosen], chosen, (), 0).moved(), inputs[chosen] + change)
    assert torch.equal(every.stored[others], before[others])


def test_they_are_random_within_epsilon_at_first():
    inputs = images(2000)
    every = Perturbations.random(inputs, EPSILON, 1)
    change = every.of(inputs, slice(None), (), 0).moved() - inputs
    assert float(change.abs().max()) == pytest.approx(EPSILON)
    assert float(change.mean()) == pytest.approx(0, abs=1e-3)
    assert float(change.std()) == pytest.approx(EPSILON / 3**0.5, rel=0.02)
    assert torch.equal(every.stored, Perturbations.random(inputs, EPSILON, 1).stored)
    assert not torch.equal(every.stored, Perturbations.random(inputs, EPSILON, 2).stored)


@pytest.mark.parametrize(
    "variations", [(Flipped(1.0),), (Shifted(copies=1, pixels=2),), (Shifted(copies=1, pixels=1), Flipped())]
)
def test_perturbations_follow_variations_and_come_back(variations):
    """An image that was perturbed while it was shifted and mirrored is perturbed at the same pixels of the original."""
    inputs, seed = images(40), 7
    every = Perturbations(torch.zeros(inputs.shape, dtype=torch.int8), EPSILON)
    chosen = torch.arange(40)
    original = units(40, 2, 5, 5)
    clean = fip.paths.augmentations.varied(inputs, variations, seed)
    change = fip.paths.augmentations.varied(original, variations, seed)
    recalled = every.of(inputs, chosen, variations, seed)
    torch.testing.assert_close(recalled.moved(), clean)
    recalled.keep(change)
    torch.testing.assert_close(recalled.moved(), clean + change)
    stored = every.stored.double() / 1000
    seen = fip.paths.augmentations.varied(torch.ones_like(inputs), variations, seed) > 0
    assert float((stored != 0).double().mean()) == pytest.approx(float((seen & (change != 0)).double().mean()))
    torch.testing.assert_close(stored[stored != 0], original[stored != 0])


def test_of_an_anchor_that_is_drawn_twice_the_last_is_kept():
    inputs = images()
    every, chosen, change = Perturbations.random(inputs, EPSILON, 0), torch.tensor([3, 1, 3, 3]), units(4, 2, 5, 5)
    every.of(inputs[chosen], chosen, (), 0).keep(change)
    torch.testing.assert_close(every.stored[[1, 3]].double() / 1000, change[[1, 3]])


def test_a_search_goes_on_where_the_last_one_ended():
    """Many searches of one step each, on the same anchors and weights, find what one search of many steps finds."""
    inputs = images(30)
    problem = Problem(network(), inputs, images(10))
    anchors, _ = anchors_and_held_out(problem)
    weights = problem.start + 0.3 * normal(len(problem.start))
    threat = fip.ThreatModel("linf", EPSILON)
    one = Adversary(threat, num_steps=1, step_fraction=0.25, remembers=True)
    every = Perturbations.random(inputs, EPSILON, 0)

    def height(adversary, batch):
        return float(AdversarialDistillation(adversary).value(problem, weights, batch))

    heights = []
    for seed in range(12):
        drawn = fip.paths.batch.replace(anchors, perturbations=every).draw(30, torch.Generator().manual_seed(seed))
        heights.append(height(one, drawn))
    many = height(Adversary(threat, num_steps=12, step_fraction=3.0), anchors.draw(30, torch.Generator()))
    forgetful = height(Adversary(threat, num_steps=1, step_fraction=0.25), drawn)
    assert heights[-1] == pytest.approx(many, rel=0.05)
    assert heights[-1] > heights[0]
    assert heights[-1] > 1.2 * forgetful


def traced(objective=None, **given):
    adversary = Adversary(fip.ThreatModel("linf", EPSILON), num_steps=1, remembers=True)
    settings = {
        "anchors": images(50),
        "held_out": images(10),
        "stepper": FirstOrder(beta=5.0, held=0.25),
        "radius": fip.radii.Scheduled(0.05),
        "num_steps": 10,
        "batch_size": 16,
        "variations": (Shifted(copies=1, pixels=1), Flipped()),
        **given,
    }
    return fip.trace(network(), objective or AdversarialDistillation(adversary), **settings)


def test_a_resumed_path_is_the_uninterrupted_one():
    whole, first = traced(), traced(until=4)
    kept = first.points[-1].solver_state["perturbations"]
    assert kept.dtype == torch.int8
    before = kept.clone()
    second = traced(resume=first.points)
    assert torch.equal(kept, before)
    assert torch.equal(whole.points[-1].weights, second.points[-1].weights)
    assert torch.equal(whole.points[-1].solver_state["perturbations"], second.points[-1].solver_state["perturbations"])


def test_a_walks_points_have_perturbations_of_their_own():
    problem = Problem(network(), images(50), images(10))
    anchors, _ = anchors_and_held_out(problem)
    adversary = Adversary(fip.ThreatModel("linf", EPSILON), num_steps=1, remembers=True)
    settings = fip.Settings(stepper=FirstOrder(beta=5.0), radius=fip.radii.Scheduled(0.05), num_steps=4, batch_size=16)
    objective = AdversarialDistillation(adversary)
    points = list(fip.paths.walk(problem, anchors, objective, settings))
    end = list(fip.paths.walk(problem, anchors, objective, settings, resume=points[1]))[-1]
    assert torch.equal(end.weights, points[-1].weights)


def test_a_sum_remembers_and_a_path_without_remembers_nothing():
    adversary = Adversary(fip.ThreatModel("linf", EPSILON), num_steps=1, remembers=True)
    path = traced(WeightedSum(((1.0, AdversarialDistillation(adversary)),)), num_steps=3)
    assert "perturbations" in path.points[-1].solver_state
    plain = AdversarialDistillation(Adversary(fip.ThreatModel("linf", EPSILON), num_steps=1))
    assert "perturbations" not in traced(plain, num_steps=3).points[-1].solver_state


def test_a_point_without_perturbations_or_with_those_of_other_anchors_is_refused():
    plain = AdversarialDistillation(Adversary(fip.ThreatModel("linf", EPSILON), num_steps=1))
    with pytest.raises(UsageError, match=r"50 anchors, and point 4 holds none"):
        traced(resume=traced(plain, until=4).points)
    with pytest.raises(UsageError, match=r"40 anchors, and point 4 holds those of 50 anchors"):
        traced(resume=traced(until=4).points, anchors=images(40))


def test_variations_without_a_derivative_are_refused():
    class Rounded:
        def of(self, inputs, generator):
            return inputs.detach().round()

    with pytest.raises(UsageError, match="Rounded have none"):
        traced(variations=(Rounded(),))


def test_ids_are_what_they_were():
    assert "remembers" not in to_json(Adversary(fip.ThreatModel("linf", EPSILON)))
    assert "orthogonal" not in to_json(FirstOrder())
