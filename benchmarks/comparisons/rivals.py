"""Rivals of paths in the comparison of robust networks, with the grids on which they are tuned.

Imported by `python -m benchmarks.comparisons.ensembles`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.baselines import AdversarialDistillation, AdversarialTraining, Baseline, OneStep, Trades
from benchmarks.comparisons.points import Choice, Made, Point
from benchmarks.comparisons.sets import Setting


def trained(setting: Setting, recipe: Baseline, begin: str = "scratch") -> Made:
    """Train by a recipe with labels, from new networks or from the base network."""
    make = partial(copy.deepcopy, setting.base) if begin == "base" else setting.make
    found = recipe.train(make, setting.inputs, setting.labels, seed=setting.seed, seconds=setting.seconds)
    return Made({"members": Point(found.members)}, "members", found.processor_seconds, {})


RATES = (1e-3, 3e-3, 1e-2)
ORTHOGONAL_RATES = (3e-3, 1e-2, 3e-2)
BEGINNINGS = ("base", "scratch")
VARIANTS = ("", "averaged", "varied", "averaged, varied", "averaged, orthogonal")
"""Moving average of the weights (decay .999), images shifted (and mirrored) anew for every batch, and the optimizer of
the recipe's paths (Muon) in place of Adam."""
USUAL_VARIANTS = ("", "averaged, varied", "averaged, orthogonal")


@dataclass(frozen=True)
class Rival:
    """Adversarial training with labels, or distillation from the base network, and the grid of its tuning.

    Attributes:
        recipe: its baseline, with all settings but those of the grid.
        grid: values by setting; "begin" says from which network training begins.
        untuned: choice of a quick run.
        variant: one of `VARIANTS`.
    """

    recipe: AdversarialTraining | Trades | OneStep | AdversarialDistillation
    grid: Mapping[str, tuple[Any, ...]]
    untuned: Choice
    variant: str = ""

    @property
    def choices(self) -> list[Choice]:
        """All combinations of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def made(self, setting: Setting, choice: Choice, num_members: int = 1) -> Made:
        """Train as many members with the settings of a choice."""
        settings = {name: value for name, value in choice.items() if name != "begin"}
        recipe = replace(
            self.recipe,
            num_members=num_members,
            epsilon=setting.epsilon * self.recipe.epsilon,
            averaging=0.999 if "averaged" in self.variant else 0.0,
            vary=setting.varied if "varied" in self.variant else None,
            orthogonal="orthogonal" in self.variant,
            **settings,
        )
        return replace(trained(setting, recipe, choice["begin"]), settings=choice)


def rivals(variants: tuple[str, ...] = USUAL_VARIANTS) -> dict[str, Rival]:
    """Rivals by name. The epsilon of their recipes is in units of the threat model's.

    Inner searches take two steps, as those of the recipe's paths do by default. Distillation moves images by 1.1
    epsilon, as they do, too; the others are as published.
    """
    few: dict[str, Any] = {"inner_steps": 2}
    both, begin = {"rate": RATES, "begin": BEGINNINGS}, {"rate": 3e-3, "begin": "base"}
    kinds = {
        "PGD-AT": Rival(AdversarialTraining(1.0, **few), both, begin),
        "TRADES": Rival(Trades(1.0, **few), {**both, "beta": (1.0, 3.0, 6.0)}, {**begin, "beta": 3.0}),
        "N-FGSM": Rival(OneStep(1.0), {**both, "step": (1.0, 1.25)}, {**begin, "step": 1.0}),
        "distillation": Rival(AdversarialDistillation(1.1, **few), {**both, "begin": ("base",)}, begin),
    }

    def varied(kind: Rival, variant: str) -> Rival:
        rates = ORTHOGONAL_RATES if "orthogonal" in variant else RATES
        return replace(kind, variant=variant, grid={**kind.grid, "rate": rates})

    return {
        f"{name}, {variant}" if variant else name: varied(kind, variant)
        for name, kind in kinds.items()
        for variant in variants
    }
