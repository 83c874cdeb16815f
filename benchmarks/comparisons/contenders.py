"""The ensembles and robust networks that are compared, each made within the same seconds of compute."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fipray as fip
from benchmarks.baselines import (
    AdaptiveDiversityPromoting,
    AdversarialTraining,
    Baseline,
    DeepEnsemble,
    Dverge,
    FastGeometricEnsemble,
    Snapshot,
    Trades,
)
from experiments.ensembles import LOOKS_AT_OTHERS, Settings, member_paths
from fipray.paths import Problem
from fipray.robustness import Classifier


@dataclass(frozen=True, eq=False)
class Setting:
    """What every contender is given: a base network and its training data. Paths see no label."""

    make: Callable[[], nn.Module]
    base: nn.Module
    inputs: Tensor
    labels: Tensor
    held_out: Tensor
    settings: Settings
    seconds: float
    num_members: int
    seed: int

    @property
    def threat_model(self) -> fip.ThreatModel:
        return fip.ThreatModel("linf", self.settings.epsilon)


@dataclass(frozen=True, eq=False)
class Contender:
    """Members [M] of one architecture, and the processor seconds that they cost beyond the base."""

    members: tuple[nn.Module, ...]
    seconds: float

    @property
    def classifiers(self) -> list[Classifier]:
        networks = [fip.Network.of(member) for member in self.members]
        return [partial(network, network.weights) for network in networks]

    @property
    def deployed(self) -> Classifier:
        """The network, or the average of all. One call for all members where they differ in their weights alone."""
        networks = [fip.Network.of(member) for member in self.members]
        if len(networks) == 1:
            return self.classifiers[0]
        if any(True for _ in self.members[0].buffers()):
            return fip.Ensemble(self.classifiers)
        return fip.robustness.StackedEnsemble(networks[0], torch.stack([network.weights for network in networks]))


Maker = Callable[[Setting], Contender]


def paths(
    setting: Setting,
    *,
    objective: str,
    num_members: int = 0,
    beta: float = 0.0,
    rounds: int = 5,
    num_shifted: int = 0,
) -> Contender:
    """Paths that pursue one objective, with as many steps as the seconds allow.

    num_shifted: copies of all anchors that are added, each image moved by up to a pixel: anchors need no labels.
    """
    members = num_members or setting.num_members
    specs = member_paths(
        objective,  # type: ignore[arg-type]
        members,
        threat_model=setting.threat_model,
        settings=setting.settings,
        beta=beta,
        seed=setting.seed,
    )
    network = fip.Network.of(setting.base)
    others = members - 1 if LOOKS_AT_OTHERS[objective] else 0
    anchors = with_shifted(setting.inputs, num_shifted, setting.seed)
    an_anchor, a_step = _seconds_of(network, setting, specs[0], others)
    to_walk = 0.95 * setting.seconds / members - an_anchor * len(anchors)
    num_steps = max(rounds, int(to_walk / a_step))
    specs = tuple(replace(spec, num_steps=num_steps, save_at=fip.SaveAt(num_points=1)) for spec in specs)
    ensemble = fip.EnsembleSpec("ensemble", tuple(s.name for s in specs), rounds=rounds if others else 0)
    study = fip.Study(
        "contender",
        setting.base,
        fip.Data(anchors=anchors.numpy(), held_out=setting.held_out.numpy()),
        specs,
        ensembles=(ensemble,),
    )
    with tempfile.TemporaryDirectory() as directory:
        began = time.process_time()
        store = fip.LocalRunner().run(study, directory)
        seconds = time.process_time() - began
        ends = {row["name"]: row for row in store.read_table("paths").to_pylist()}
        weights = [
            torch.from_numpy(
                store.read_weights(ends[s.name]["weights_file"], ends[s.name]["weights_sha256"])["weights"]
            )
            for s in specs
        ]
    return Contender(tuple(network.module_at(w).eval() for w in weights), seconds)


def _seconds_of(network: fip.Network, setting: Setting, spec: fip.PathSpec, num_others: int) -> tuple[float, float]:
    """Processor seconds of what the base says of an anchor, and of a step, the first few left out."""
    problem = Problem(network, others=(network.weights,) * num_others)
    problem.batch(setting.inputs[: spec.batch_size])  # the first call is slow
    began = time.process_time()
    anchors = problem.batch(setting.inputs[: 4 * spec.batch_size])
    an_anchor = (time.process_time() - began) / len(anchors)
    marks = [
        time.process_time()
        for _ in fip.walk(
            problem,
            anchors,
            spec.objective,
            fip.Settings(stepper=spec.stepper, radius=spec.radius, num_steps=12, batch_size=spec.batch_size),
        )
    ]
    return an_anchor, (marks[-1] - marks[4]) / (len(marks) - 5)


def baseline(setting: Setting, *, recipe: Baseline, from_base: bool = False, num_shifted: int = 0) -> Contender:
    made = recipe.train(
        partial(copy.deepcopy, setting.base) if from_base else setting.make,
        with_shifted(setting.inputs, num_shifted, setting.seed),
        setting.labels.repeat(1 + num_shifted),
        seed=setting.seed,
        seconds=setting.seconds,
    )
    return Contender(made.members, made.processor_seconds)


def with_shifted(inputs: Tensor, num_copies: int, seed: int) -> Tensor:
    """Images [N, C, H, W] and `num_copies` of each, moved by -1, 0 or 1 pixel down and to the right: [(1 + k) N, ...].

    What is moved in from outside is black.
    """
    generator = torch.Generator().manual_seed(seed)
    padded = nn.functional.pad(inputs, (1, 1, 1, 1))
    copies = [inputs]
    for _ in range(num_copies):
        ways, moved = torch.randint(9, (len(inputs),), generator=generator), torch.empty_like(inputs)
        for way in range(9):
            down, right = divmod(way, 3)
            moved[ways == way] = padded[ways == way, :, down : down + inputs.shape[2], right : right + inputs.shape[3]]
        copies.append(moved)
    return torch.cat(copies)


def base(setting: Setting) -> Contender:
    return Contender((setting.base,), 0.0)


def contenders(epsilon: float, members: int, rate: float) -> dict[str, Maker]:
    """All by their names in the table; rate: of adversarial training."""
    strongest: dict[str, Any] = {"rate": rate, "inner_steps": 2, "batch_size": 128}
    made: dict[str, Maker] = {"base": base}
    for name, objective in (
        ("random walk", "random_walk"),
        ("weight diversity", "weight_diversity"),
        ("gradient diversity", "gradient_diversity"),
        ("output diversity", "output_diversity"),
        ("input-gradient penalty", "input_gradient_penalty"),
        ("ensemble adversarial distillation", "ensemble_adversarial_distillation"),
    ):
        made[f"paths: {name}"] = partial(paths, objective=objective)
    for beta in (2.0, 20.0):
        made[f"one path: adversarial distillation, beta {beta:g}"] = partial(
            paths, objective="adversarial_distillation", num_members=1, beta=beta
        )
        made[f"paths: adversarial distillation, beta {beta:g}"] = partial(
            paths, objective="adversarial_distillation", beta=beta
        )
    made["one path: adversarial distillation, shifted anchors"] = partial(
        paths, objective="adversarial_distillation", num_members=1, num_shifted=2
    )
    made["paths: adversarial distillation, shifted anchors"] = partial(
        paths, objective="adversarial_distillation", num_shifted=2
    )
    made["paths: mixed adversarial distillation"] = partial(paths, objective="mixed_adversarial_distillation")
    recipes: dict[str, Baseline] = {
        "deep ensemble": DeepEnsemble(num_members=members),
        "snapshot": Snapshot(num_members=members),
        "fast geometric": FastGeometricEnsemble(num_members=members),
        "ADP": AdaptiveDiversityPromoting(num_members=members),
        "DVERGE-like": Dverge(num_members=members, epsilon=epsilon),
        "PGD-AT, no clean examples": AdversarialTraining(epsilon=epsilon, **strongest),
        "PGD-AT, clean fraction 0.3": AdversarialTraining(epsilon=epsilon, clean_fraction=0.3, **strongest),
        **{f"TRADES, beta {beta:g}": Trades(epsilon=epsilon, beta=beta, **strongest) for beta in (1.0, 3.0, 6.0)},
        "PGD-AT ensemble": AdversarialTraining(epsilon=epsilon, num_members=members, **strongest),
    }
    made |= {name: partial(baseline, recipe=recipe) for name, recipe in recipes.items()}
    made["PGD-AT from the base"] = partial(
        baseline, recipe=AdversarialTraining(epsilon=epsilon, **strongest), from_base=True
    )
    made["TRADES, beta 3, from the base"] = partial(
        baseline, recipe=Trades(epsilon=epsilon, beta=3.0, **strongest), from_base=True
    )
    made["PGD-AT, shifted images"] = partial(
        baseline, recipe=AdversarialTraining(epsilon=epsilon, **strongest), num_shifted=2
    )
    made["TRADES, beta 3, shifted images"] = partial(
        baseline, recipe=Trades(epsilon=epsilon, beta=3.0, **strongest), num_shifted=2
    )
    return made
