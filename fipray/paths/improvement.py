"""Comparison of the objective at the start of a path with its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fipray.paths.objective import Objective, is_compared
from fipray.paths.outcome import Outcome
from fipray.paths.path import PathPoint


def judged(outcome: Outcome, objective: Objective, points: Sequence[PathPoint]) -> Outcome:
    """Append the change of the objective to the sentence of an outcome.

    Args:
        outcome: reason why the path ended.
        objective: objective of the path.
        points: its measured points, one or more; the first and the last are compared.

    Returns:
        The extended outcome, or the same one where values of the objective are not compared.
    """
    said = improvement(objective, points[0], points[-1])
    return replace(outcome, sentence=f"{outcome.sentence}; {said}") if said else outcome


def improvement(objective: Objective, start: PathPoint, end: PathPoint) -> str:
    """Describe the change of an objective between two points.

    Args:
        objective: objective of the path.
        start: measured point at the beginning.
        end: measured point at the end.

    Returns:
        A text such as "objective 0.470 -> 0.500: worse". The last word is "better", "worse", or "no better" where the
        difference may be rounding. Empty for an objective whose values are not compared (`is_compared`).
    """
    if not is_compared(objective):
        return ""
    before, after = start.objective_value, end.objective_value
    rounding = 8 * torch.finfo(end.weights.dtype).eps * max(abs(before), abs(after))
    word = "no better" if abs(after - before) <= rounding else "better" if after < before else "worse"
    # As many digits as it takes for two different numbers to look different.
    texts = [(f"{before:#.{digits}g}", f"{after:#.{digits}g}") for digits in range(3, 10)]
    first, last = next((pair for pair in texts if pair[0] != pair[1]), texts[0])
    return f"objective {first} -> {last}: {word}"
