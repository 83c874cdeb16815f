"""Radius control that switches, and the inputs of a memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

import fipray as fip
from fipray.paths import Acceptance, Candidate, Problem, Situation
from tests.problems import batch, mlp, normal, problem


@dataclass(frozen=True)
class Always:
    """Accepts every step."""

    radius: float

    def begin(self, problem: Problem) -> float:
        return self.radius

    def judge(self, candidate: Candidate) -> Acceptance:
        return Acceptance(True, self.radius)


def candidate(progress: float, fraction: float, displacement: float = 0.0) -> Candidate:
    where = problem(mlp(6, 5, 3))
    drawn = batch(where, 8, 6)
    situation = Situation(where, fip.objectives.RandomWalk(), where.start, drawn, 0.1, progress, fraction)
    return Candidate(situation, where.start + displacement, 0.0, batch(where, 8, 6, seed=2))


def test_switched_radius_tells_of_quantities_that_are_not_finite():
    made, plain = candidate(0.2, 0.01, math.nan), candidate(0.2, 0.01, math.nan)
    fip.radii.Adaptive().judge(plain)
    fip.radii.Switched(fip.radii.Adaptive(), fip.radii.Scheduled(0.1)).judge(made)
    assert plain.not_finite
    assert made.not_finite == plain.not_finite


@pytest.mark.parametrize("num_steps", [50, 100, 200, 1000])
def test_second_radius_begins_right_after_the_last_step_of_the_first_part(num_steps):
    for percent in range(2, 100, 2):
        last = num_steps * percent // 100
        control = fip.radii.Switched(Always(1.0), Always(2.0), at=percent / 100)
        before, at_mark = (
            control.judge(candidate(step / num_steps, 1 / num_steps)).radius for step in (last - 1, last)
        )
        assert (before, at_mark) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("num_inputs", "marks"), [(5, [0, 1, 2, 4, 5]), (4, [0, 1, 3, 5]), (7, list(range(7))), (2, [0, 3])]
)
def test_memory_takes_evenly_spaced_inputs(num_inputs, marks):
    where, inputs = problem(mlp(6, 5, 3)), normal(7, 6)
    found, expected = (
        fip.objectives.KroneckerMemory(("a",), num_inputs=number).of(where, given).arrays()
        for number, given in ((num_inputs, inputs), (len(marks), inputs[marks]))
    )
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
