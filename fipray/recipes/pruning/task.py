"""What the recipe `prune` is asked for, and the parts of a path that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fipray.errors import NetworkError
from fipray.paths import (
    FirstOrder,
    Natural,
    Pattern,
    Scheduled,
    SemiStructured,
    Settings,
    Sparsify,
    Stepper,
    Structured,
    Unstructured,
)
from fipray.recipes.budget import Budget
from fipray.recipes.pruning.choices import PruningChoices
from fipray.recipes.subject import Subject
from fipray.study import Data

PatternName = Literal["unstructured", "2:4", "channels"]
PATTERNS: dict[str, tuple[type[Pattern], float]] = {
    "unstructured": (Unstructured, 0.9),
    "2:4": (SemiStructured, 0.5),
    "channels": (Structured, 0.5),
}
"""Pattern and usual sparsity by name."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be pruned, and how; the arguments are those of the recipe."""

    subject: Subject
    sparsity: float
    pattern: PatternName
    allowance: float
    budget: Budget
    seed: int
    overrides: Mapping[str, Any]

    @property
    def data(self) -> Data:
        return self.subject.data

    @cached_property
    def zeros(self) -> Pattern:
        """Pattern of zeros."""
        return PATTERNS[self.pattern][0]()

    def check(self) -> None:
        """Refuse what cannot be pruned, before anything is measured.

        Raises:
            NetworkError: for a network in which the pattern finds nothing to prune.
            UsageError: for a sparsity that the pattern cannot reach there.
        """
        network = self.subject.network
        if not any(len(slot.shape) >= 2 for slot in network.moving):
            raise NetworkError(
                "the network has no layers whose weights can be pruned: no parameter that requires a gradient has two "
                "or more dimensions. Set requires_grad on those that may change"
            )
        self.subject.check()
        self.zeros.zeroed(network, network.weights, network.weights.square, self.sparsity)

    def objective(self, ramp: float, sparsity: float = 0.0) -> Sparsify:
        """Objective of a path, and of the trial's short ones.

        Args:
            ramp: fraction of the path over which the sparsity rises.
            sparsity: sparsity at its end; 0 takes that which was asked for.

        Returns:
            The objective.
        """
        return Sparsify(sparsity or self.sparsity, ramp=ramp, pattern=self.zeros)

    def stepper(self, choices: PruningChoices) -> Stepper:
        """Stepper of the path.

        Args:
            choices: settings.

        Returns:
            The stepper.
        """
        if choices.stepper == "natural":
            return Natural()
        temperature = math.inf if choices.matches == "logits" else 1.0
        return FirstOrder(temperature=temperature, batch_statistics=choices.batch_statistics)

    def short(self, choices: PruningChoices) -> tuple[Sparsify, Settings]:
        """Compress a path into few steps, for a trial.

        Args:
            choices: settings, with the number of steps of the trial.

        Returns:
            Objective and settings.
        """
        return self.objective(0.5), Settings(
            stepper=self.stepper(choices),
            radius=Scheduled(choices.radius),
            num_steps=choices.num_steps,
            batch_size=choices.batch_size,
            seed=self.seed,
        )
