"""Robust networks and ensembles that are compared, each made within the same processor seconds of one thread.

Imported by `python -m benchmarks.comparisons.ensembles`. Paths are what `fip.recipes.robust_ensemble` makes with no
setting given but the budget, out of which it pays its trial. Rivals are tuned on validation images, for free.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

import fipray as fip
from benchmarks.baselines import (
    AdaptiveDiversityPromoting,
    AdversarialDistillation,
    AdversarialTraining,
    Baseline,
    DeepEnsemble,
    Dverge,
    FastGeometricEnsemble,
    OneStep,
    Snapshot,
    Trades,
)
from benchmarks.comparisons.sets import Setting
from fipray.analysis import Results
from fipray.recipes.ensembles.robust import BASE_WEIGHTS
from fipray.robustness import Classifier

Kind = Literal["base", "paths", "ablated", "rival", "other"]
Choice = Mapping[str, Any]
ALLOWANCE = 0.02
"""Default of the recipe: largest loss of clean accuracy."""
NUM_JUDGED = 2000
"""Validation images that the recipe is given as held-out inputs: it judges by no more."""
POINTS = {"members": "", **{name[1:].replace("-", " "): name for name in BASE_WEIGHTS}}
"""Ends of the names of the recipe's ensembles, by the name of the point."""
ABLATED: Mapping[str, Mapping[str, Any]] = {
    "Adam": {"orthogonal": False},
    "random starts": {"remembers": False},
    "no average": {"averaging": 0.0},
    "no variations": {"pixels": 0, "mirrored": False},
}
"""The recipe without one of its parts each, by what stands in its place."""
MIXED = "mixture"
NUM_MIXED_ON = 1000
"""Validation images on which the mixture is chosen."""


@dataclass(frozen=True, eq=False)
class Point:
    """Network that is judged: the average of its members, or the mixture of this with an accurate network."""

    members: tuple[nn.Module, ...]
    weights: tuple[float, ...] = ()
    accurate: nn.Module | None = None
    mixture: fip.robustness.Mixture | None = None

    @property
    def num_members(self) -> int:
        return len(self.members) + (self.accurate is not None)

    @property
    def classifier(self) -> Classifier:
        robust = deployed(self.members, self.weights)
        if self.accurate is None or self.mixture is None:
            return robust
        both, mixture = [deployed((self.accurate,)), robust], self.mixture
        return fip.Ensemble(both, weights=mixture.weights, temperatures=mixture.temperatures)


@dataclass(frozen=True, eq=False)
class Made:
    """Networks that a contender made, by name, which of them is its result, and what it cost.

    Paths make several: their members mixed with the base network, too. Only the choice of the mixture takes any time,
    which is part of the seconds.
    """

    points: Mapping[str, Point]
    result: str
    seconds: float
    settings: Choice


Maker = Callable[[Setting], Made]


def deployed(members: tuple[nn.Module, ...], weights: tuple[float, ...] = ()) -> Classifier:
    """Take the network, or the average of all: by one call for all members if they differ in their weights alone."""
    networks = [fip.Network.of(member) for member in members]
    classifiers = [partial(network, network.weights) for network in networks]
    if len(networks) == 1:
        return classifiers[0]
    if any(True for _ in members[0].buffers()):
        return fip.Ensemble(classifiers, weights=weights)
    stack = torch.stack([network.weights for network in networks])
    return fip.robustness.StackedEnsemble(networks[0], stack, member_weights=weights)


def paths(setting: Setting, **given: Any) -> Made:
    """Run the recipe `robust-ensemble`, without labels of anchors and without test images, so that it attacks nothing.

    The result is the recipe's own, chosen on the validation images: the members alone, or a mixture in which the base
    network has a third or two thirds of the weight, whichever first loses no more than the allowance; else the base
    network. The recipe has the labels of these images if the setting says so, and estimates its loss otherwise.
    """
    data = fip.Data(
        anchors=setting.inputs.numpy(),
        held_out=setting.validation_inputs[:NUM_JUDGED].numpy(),
        held_out_labels=setting.validation_labels[:NUM_JUDGED].numpy() if setting.labelled else None,
    )
    with tempfile.TemporaryDirectory() as directory:
        began = time.process_time()
        recipe = fip.recipes.robust_ensemble(
            setting.base,
            data,
            epsilon=setting.epsilon,
            allowance=ALLOWANCE,
            budget=f"{setting.seconds:g} s",
            seed=setting.seed,
            **given,
        )
        results = recipe.run(directory, fip.LocalRunner(threads=1))
        points = mixtures(results)
        points |= {MIXED: mixed(setting, points["members"])} if setting.mixes else {}
        points["base"] = Point((setting.base,))
        seconds = time.process_time() - began
    return Made(points, point_of(results.named["ensemble"]), seconds, dict(recipe.chosen.values))


def mixed(setting: Setting, robust: Point) -> Point:
    """Mix members with the base network as `fip.robustness.mixture` chooses, on validation images without labels."""
    accurate, own = deployed((setting.base,)), robust.classifier
    inputs = setting.validation_inputs[:NUM_MIXED_ON]
    classes = outputs(accurate, inputs).argmax(1)
    generator = torch.Generator().manual_seed(setting.seed)
    attacked = [
        outputs(own, attack.perturb(classifier, inputs, classes, setting.threat_model, generator))
        for attack in (fip.attacks.PGD(), fip.attacks.TargetedPGD())
        for classifier in (own, lambda some: own(some) / 0.1)
    ]
    try:
        found = fip.robustness.mixture(outputs(accurate, inputs), outputs(own, inputs), attacked, classes)
    except fip.errors.UsageError:  # too little robust accuracy to keep any of it
        return robust
    return Point(robust.members, accurate=setting.base, mixture=found)


def mixtures(results: Results) -> dict[str, Point]:
    """Networks that a finished recipe made, by name."""
    ensembles = results.manifest["ensembles"]
    whole = max((results.members(name) for name in ensembles), key=len)
    members = tuple(results.module(name) for name in whole if name != "base")
    found = {"members": Point(members)}
    for name, ending in POINTS.items():
        for ensemble, described in ensembles.items():
            if ending and ensemble.endswith(ending):
                chosen = tuple(results.module(one) for one in described["members"])
                found[name] = Point(chosen, tuple(described.get("weights", ())))
    return found


def point_of(network: str) -> str:
    """Name of the point for a network of the recipe: of the base network, of members or of a mixture of both."""
    if network == "base":
        return network
    return next((name for name, ending in POINTS.items() if ending and network.endswith(ending)), "members")


@torch.no_grad()
def outputs(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Compute outputs [N, C] in batches."""
    return torch.cat([classifier(part) for part in inputs.split(500)])


def diverse(setting: Setting, *, diversity: str) -> Made:
    """Run the recipe `diverse-ensemble`, whose members are judged alone."""
    data = fip.Data(anchors=setting.inputs.numpy(), held_out=setting.validation_inputs[:NUM_JUDGED].numpy())
    with tempfile.TemporaryDirectory() as directory:
        began = time.process_time()
        recipe = fip.recipes.diverse_ensemble(
            setting.base,
            data,
            diversity=diversity,
            epsilon=setting.epsilon,
            budget=f"{setting.seconds:g} s",
            seed=setting.seed,
        )
        results = recipe.run(directory, fip.LocalRunner(threads=1))
        seconds = time.process_time() - began
        members = mixtures(results)["members"]
    return Made({"members": members}, "members", seconds, dict(recipe.chosen.values))


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


@dataclass(frozen=True)
class Contender:
    """Contender by its kind; `rival` names the one whose tuning it takes, where there is one."""

    kind: Kind
    make: Callable[[Setting, Choice], Made]
    rival: str = ""


def contenders(num_members: int, *, everything: bool = False) -> dict[str, Contender]:
    """All by their names in the table; `everything`: ablations, all variants, and ensembles that are diverse only."""

    def alone(make: Maker, kind: Kind) -> Contender:
        return Contender(kind, lambda setting, _: make(setting))

    found = {
        "base": alone(lambda setting: Made({"base": Point((setting.base,))}, "base", 0.0, {}), "base"),
        "paths: recipe": alone(paths, "paths"),
        "paths: recipe, one member": alone(partial(paths, members=1), "paths"),
        f"paths: recipe, {num_members} members": alone(partial(paths, members=num_members), "paths"),
    }
    for name, rival in rivals(VARIANTS if everything else USUAL_VARIANTS).items():
        found[name] = Contender("rival", rival.made, name)
        found[f"{name}, x{num_members}"] = Contender("rival", partial(rival.made, num_members=num_members), name)
    if not everything:
        return found
    for name, settings in ABLATED.items():
        found[f"paths: recipe, {name}"] = alone(partial(paths, **settings), "ablated")
    for diversity in ("outputs", "gradients", "weights"):
        found[f"paths: diverse {diversity}"] = alone(partial(diverse, diversity=diversity), "other")
    plain: dict[str, Callable[[float], Baseline]] = {
        "deep ensemble": lambda epsilon: DeepEnsemble(num_members),
        "snapshot": lambda epsilon: Snapshot(num_members),
        "fast geometric": lambda epsilon: FastGeometricEnsemble(num_members),
        "ADP": lambda epsilon: AdaptiveDiversityPromoting(num_members),
        "DVERGE-like": lambda epsilon: Dverge(epsilon, num_members),
    }
    for name, recipe in plain.items():
        found[name] = alone(lambda setting, recipe=recipe: trained(setting, recipe(setting.epsilon)), "other")  # type: ignore[misc]
    return found
