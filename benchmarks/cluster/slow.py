"""A study of short paths that take their time without the processor's, so that many hosts on few cores walk at once.

It stands alone: a copy of this file, under any name, is a study of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

import fipray as fip
from experiments.data import digits
from experiments.networks import small_cnn
from fipray.paths import Problem, Proposal, Situation, Stepper
from fipray.paths.state import State


@dataclass(frozen=True)
class Slowly:
    """The steps of another stepper, each after a pause."""

    stepper: Stepper
    pause_seconds: float

    def begin(self, problem: Problem) -> State:
        return self.stepper.begin(problem)

    def propose(self, situation: Situation, state: State) -> Proposal:
        time.sleep(self.pause_seconds)
        return self.stepper.propose(situation, state)


def study(*, paths: int = 8, num_steps: int = 60, points: int = 20, pause_seconds: float = 0.1) -> fip.Study:
    """`paths` that prune an untrained network for handwritten digits, each from its own seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = small_cnn().eval()
    return fip.Study(
        name="slow",
        module=module,
        data=digits().for_paths(num_held_out=300),
        paths=tuple(
            fip.PathSpec(
                name=f"path-{number}",
                objective=fip.objectives.Sparsify(sparsity=0.8),
                stepper=Slowly(fip.steppers.FirstOrder(), pause_seconds),
                radius=fip.radii.Scheduled(initial=0.03),
                num_steps=num_steps,
                batch_size=64,
                save_at=fip.SaveAt(points),
                seed=number,
            )
            for number in range(paths)
        ),
        parameters={"paths": paths, "num_steps": num_steps, "points": points, "pause_seconds": pause_seconds},
    )
