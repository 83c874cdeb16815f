"""Situations from which the steppers' tests take a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fipray.paths import (
    Batch,
    Problem,
    Situation,
)
from fipray.testing import Flat
from tests.problems import normal


@dataclass(frozen=True)
class Slope:
    """`<l, w>` with a fixed l."""

    seed: int = 4

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return normal(len(weights), seed=self.seed) @ weights


def off_start(where: Problem, inputs: Batch, radius: float = 10.0, seed: int = 5) -> Situation:
    """Situation off the base weights with an objective of value 0."""
    return Situation(where, Flat(), where.start + 0.02 * normal(len(where.start), seed=seed), inputs, radius)
