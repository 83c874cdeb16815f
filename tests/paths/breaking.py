"""Steppers, objectives and networks that turn NaN or infinite at a known step, and paths with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fipray.networks import Network
from fipray.paths import (
    Acceptance,
    Candidate,
    PathPoint,
    Proposal,
    SaveAt,
    Scheduled,
    WeightPath,
    trace,
)
from tests.problems import mlp, normal

ANCHORS, HELD_OUT = normal(30, 6, seed=1), normal(20, 6, seed=2)
BROKEN = (math.nan, math.inf, -math.inf)


@dataclass(frozen=True)
class Moving:
    """Every weight moves by 0.01 a step, unless something is to be `broken` at a step."""

    at: int = 10**9
    displacement: float = 0.01
    gain: float = 0.0

    def begin(self, problem):
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation, state):
        count = int(state["count"]) + 1
        displacement, gain = (self.displacement, self.gain) if count == self.at else (0.01, 0.0)
        state = {"count": torch.tensor(count)}
        return Proposal(torch.full_like(situation.weights, displacement), gain, state)


def steps_from(start: Tensor, weights: Tensor) -> int:
    return round(float((weights - start)[0]) / 0.01)


@dataclass(frozen=True)
class Breaks:
    """An objective, an event, a probe and a radius control in one: `value` from step `at` on."""

    value_of: float
    at: int
    start: Tensor = field(default_factory=lambda: network().weights)
    goal: bool = False
    limit: bool = False

    def value(self, problem, weights, batch):
        return weights.sum() * 0 + (self.value_of if self._is_there(weights) else 1.0)

    def reason(self, point: PathPoint) -> Any:
        return self.value_of if self._is_there(point.weights) else None

    def probe(self, weights: Tensor) -> float:
        return self.value_of if self._is_there(weights) else 1.0

    def begin(self, problem):
        return 1.0

    def judge(self, candidate: Candidate) -> Acceptance:
        return Acceptance(True, self.value_of if self._is_there(candidate.after) else 1.0)

    def _is_there(self, weights: Tensor) -> bool:
        return steps_from(self.start, weights.detach()) >= self.at


def network() -> Network:
    return mlp(6, 5, 4)


def traced(objective: Any = None, stepper: Any = None, **changes: Any) -> WeightPath:
    usual = {"radius": Scheduled(1.0), "num_steps": 8, "save_at": SaveAt(8), "batch_size": 10}
    given = {"anchors": ANCHORS, "held_out": HELD_OUT, **usual, **changes}
    return trace(network(), objective=objective or Breaks(1.0, 0), stepper=stepper or Moving(), **given)


def assert_ended(path: WeightPath, step: int, cause: str) -> None:
    """The path ended at `step`, where all is finite, because of something later on."""
    assert path.outcome.kind == "not finite"
    assert path.outcome.sentence.startswith(f"{cause}, so the path ended at step {step}, its last finite point")
    assert [point.step for point in path.points] == list(range(step + 1))
    assert_finite(path)


def assert_finite(path: WeightPath) -> None:
    for point in path.points:
        numbers = (point.functional_distance, point.functional_distance_held_out, point.objective_value, point.radius)
        assert all(map(math.isfinite, (*numbers, point.sparsity, *point.probes.values())))
        assert bool(torch.isfinite(point.weights).all())


class Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.log(inputs * self.scale)
