"""Scheduled radii against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.errors import UsageError
from fipray.paths import (
    Candidate,
    FirstOrder,
    Problem,
    RandomWalk,
    Scheduled,
    Settings,
    Situation,
    Switched,
    Toward,
    trace,
)
from tests.paths.steppers.situations import Slope
from tests.problems import batch, mlp, normal, problem


def radii(control: Scheduled, num_steps: int) -> list[float]:
    """The radius of each step of a path, in units of |w0|."""
    where = problem(mlp(5, 3))
    inputs, length = batch(where, 3, 5), float(where.start.norm())
    found = [control.begin(where)]
    for step in range(1, num_steps):
        made = Situation(where, Toward(), where.start, inputs, found[-1], step / num_steps, 1 / num_steps)
        found.append(control.judge(Candidate(made, where.start, 0.0, inputs)).radius)
    return [radius / length for radius in found]


def test_a_radius_without_warmup_falls_along_half_a_cosine():
    expected = [0.1 + 0.2 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert radii(Scheduled(0.5, 0.1), 8) == pytest.approx(expected)


def test_a_radius_with_warmup_rises_linearly_and_then_falls():
    found = radii(Scheduled(0.5, warmup=0.2), 20)
    assert found[:4] == pytest.approx([0.005, 0.125, 0.25, 0.375])
    assert found[4:] == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 16)) for step in range(16)])


def test_cycles_repeat_the_whole_schedule():
    once = radii(Scheduled(0.5, 0.1, 0.25), 8)
    twice = radii(Scheduled(0.5, 0.1, 0.25, (1.0, 3.0)), 16)
    assert twice == pytest.approx(once + [3 * radius for radius in once])


def test_a_radius_near_zero_between_cycles_does_not_end_a_path():
    where = problem(mlp(5, 3))
    inputs = normal(20, 5, seed=1)
    radius = Scheduled(1e-9, cycles=(1.0, 2.0))
    path = trace(
        Problem(where.network, anchors=inputs, held_out=inputs),
        RandomWalk(),
        Settings(stepper=FirstOrder(0.1), radius=radius, num_steps=8),
    )
    assert (path.outcome.kind, path.end.step) == ("completed", 8)


@pytest.mark.parametrize(
    "wrong",
    [{"warmup": 1.0}, {"warmup": -0.1}, {"final": 1.0}, {"cycles": ()}, {"cycles": (0.0,)}, {"initial": 0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        Scheduled(**wrong)


def test_a_switched_radius_falls_to_its_final_value_before_the_switch():
    where = problem(mlp(5, 6, 3))
    inputs, control = batch(where, 4, 5), Switched(Scheduled(0.1), Scheduled(0.05), at=0.5)
    radii = [
        control.judge(
            Candidate(
                Situation(where, Slope(), where.start, inputs, 1.0, progress=step / 8, fraction=1 / 8),
                where.start,
                0.0,
                inputs,
            )
        ).radius
        for step in range(1, 9)
    ]
    first = float(torch.linalg.vector_norm(where.start))
    half_cosine = [(1 + math.cos(math.pi * n / 4)) / 2 for n in range(1, 5)]
    expected = [0.1 * r for r in half_cosine[:3]] + [0.05] + [0.05 * r for r in half_cosine]
    assert radii == pytest.approx([first * r for r in expected], abs=1e-9)
