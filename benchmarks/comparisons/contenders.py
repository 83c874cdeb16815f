"""Robust networks and ensembles that are compared, each made within the same processor seconds of one thread.

Imported by `python -m benchmarks.comparisons.ensembles`. Paths are what `fip.recipes.robust_ensemble` makes with no
setting given but the budget, out of which it pays its trial. Rivals are tuned on validation images, for free.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

import fipray as fip
from benchmarks.baselines import (
    AdaptiveDiversityPromoting,
    Baseline,
    DeepEnsemble,
    Dverge,
    FastGeometricEnsemble,
    Snapshot,
)
from benchmarks.comparisons.points import Choice, Made, Point, deployed, outputs
from benchmarks.comparisons.rivals import USUAL_VARIANTS, VARIANTS, rivals, trained
from benchmarks.comparisons.sets import Setting
from fipray.analysis import Results
from fipray.recipes.ensembles.robust import BASE_WEIGHTS

Kind = Literal["base", "paths", "ablated", "rival", "other"]
Maker = Callable[[Setting], Made]
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
