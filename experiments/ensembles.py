"""Ensembles of paths that are diverse or robust: every objective, on LeNet, ResNet-20 or a network of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import fipray as fip
from experiments.data import mnist
from experiments.subjects import DataName, NetworkName, own, subject

ObjectiveName = Literal[
    "random_walk",
    "weight_diversity",
    "gradient_diversity",
    "output_diversity",
    "input_gradient_penalty",
    "ensemble_adversarial_distillation",
    "adversarial_distillation",
    "mixed_adversarial_distillation",
]


@dataclass(frozen=True)
class Settings:
    """Settings of first-order paths that suit a network and data set.

    Args:
        radius: initial radius, in units of |w0|.
        batch_size: inputs per step.
        num_steps: steps per member.
        epsilon: bound (linf) of the attacks.
        batch_statistics: whether BatchNorm uses the statistics of each batch (`fip.steppers.FirstOrder`).
    """

    radius: float
    batch_size: int
    num_steps: int
    epsilon: float
    batch_statistics: bool = False


SETTINGS: dict[tuple[str, str], Settings] = {
    ("mnist", "lenet_300_100"): Settings(0.15, 128, 2400, 0.1),
    ("mnist", "lenet_5"): Settings(0.05, 128, 2400, 0.1),
    ("fashion", "lenet_300_100"): Settings(0.15, 128, 2400, 0.05),
    ("fashion", "lenet_5"): Settings(0.05, 128, 2400, 0.05),
    ("cifar10_subset", "resnet_20"): Settings(0.02, 128, 400, 8 / 255, batch_statistics=True),
}
_OF_ONE_S_OWN = Settings(0.02, 128, 1000, 8 / 255)


def study(
    *,
    data: DataName = "mnist",
    data_root: str = "",
    network: NetworkName = "lenet_300_100",
    base: str = "",
    objective: ObjectiveName = "adversarial_distillation",
    members: int = 5,
    rounds: int = 5,
    beta: float = 0.0,
    epsilon: float = 0.0,
    radius: float = 0.0,
    num_steps: int = 0,
    attacks: Literal["quick", "autoattack"] = "quick",
    num_examples: int = 1000,
    ood: Literal["", "mnist", "fashion"] = "",
    seed: int = 0,
) -> fip.Study:
    """Paths from one base network that follow one objective, and the ensemble of their ends.

    Args:
        data: data set.
        data_root: folder that holds the data set; if empty, MNIST and Fashion-MNIST are downloaded.
        network: architecture of the base network.
        base: your own network and data as `module:function`; called without arguments, it returns the trained
            nn.Module and a
            fipray.Data. `data` and `network` are then ignored.
        objective: secondary objective of all members.
        members: number of paths, at least 1.
        rounds: rounds of an objective that compares with other members.
        beta: weight of the objective; 0 is the default for the objective.
        epsilon: bound (linf) of the attacks in training and evaluation; 0 is the default for the data.
        radius: initial radius, in units of |w0|; 0 is the default for the network.
        num_steps: steps per member; 0 is the default for the network.
        attacks: "quick" (FGSM, PGD, targeted PGD) or "autoattack" (PGD and AutoAttack, minutes per network).
        num_examples: test examples that are attacked.
        ood: second data set, whose first 1,000 test images are out-of-distribution inputs (`ood_auroc`).
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    if base:
        module, arrays, base_id = *own(base), ""
        settings = _OF_ONE_S_OWN
    else:
        module, arrays, base_id = subject(data, network, data_root, seed)
        settings = SETTINGS[data, network]
    if ood:
        arrays = replace(arrays, ood_inputs=mnist(ood, data_root).test_inputs[:1000])
    threat_model = fip.ThreatModel("linf", epsilon or settings.epsilon)
    paths = member_paths(
        objective,
        members,
        threat_model=threat_model,
        settings=settings,
        beta=beta,
        radius=radius,
        num_steps=num_steps,
        seed=seed,
    )
    together = LOOKS_AT_OTHERS[objective] and members > 1
    ensemble = fip.EnsembleSpec("ensemble", tuple(p.name for p in paths), rounds=rounds if together else 0)
    chosen: tuple[fip.attacks.Attack, ...] = (
        (fip.attacks.PGD(), fip.attacks.AutoAttack())
        if attacks == "autoattack"
        else (fip.attacks.FGSM(), fip.attacks.TargetedPGD(), fip.attacks.PGD())
    )
    return fip.Study(
        name=f"{objective.replace('_', '-')}-{'own' if base else f'{data}-{network}'.replace('_', '-')}",
        module=module,
        base_id=base_id,
        data=arrays,
        paths=paths,
        ensembles=(ensemble,) if members > 1 else (),
        evaluation=fip.Evaluation(threat_model, attacks=chosen, num_examples=num_examples, seed=seed),
        parameters={
            "data": data,
            "network": network,
            "base": base,
            "objective": objective,
            "members": members,
            "rounds": rounds,
            "beta": beta,
            "epsilon": threat_model.epsilon,
            "radius": radius,
            "num_steps": num_steps,
            "attacks": attacks,
            "ood": ood,
            "seed": seed,
        },
    )


def member_paths(
    objective: ObjectiveName,
    members: int,
    *,
    threat_model: fip.ThreatModel,
    settings: Settings,
    beta: float = 0.0,
    radius: float = 0.0,
    num_steps: int = 0,
    seed: int = 0,
) -> tuple[fip.PathSpec, ...]:
    """Specs of paths that differ in their seeds alone.

    Args:
        objective: secondary objective.
        members: number of paths.
        threat_model: threat model of adversarial objectives.
        settings: defaults for the network and data.
        beta: weight of the objective; 0 is its default.
        radius: initial radius, in units of |w0|; 0 is the default of `settings`.
        num_steps: steps per member; 0 is the default of `settings`.
        seed: seed that the members' seeds derive from.

    Returns:
        One spec per member.
    """
    usual_beta, make = OBJECTIVES[objective]
    gentle = objective in (
        "weight_diversity",
        "gradient_diversity",
        "output_diversity",
        "input_gradient_penalty",
    )  # their paths are led astray by a large radius
    reach = radius or (settings.radius / 5 if gentle else settings.radius)
    held = 0.25 if "adversarial" in objective and objective != "ensemble_adversarial_distillation" else 1.0
    walks = fip.steppers.FirstOrder(beta or usual_beta, held=held, batch_statistics=settings.batch_statistics)
    return tuple(
        fip.PathSpec(
            name=f"{objective.replace('_', '-')}-{number}",
            objective=make(threat_model),
            stepper=fip.steppers.Natural() if objective == "random_walk" else walks,
            radius=fip.radii.Adaptive(tolerance=0.15)
            if objective == "random_walk"
            else fip.radii.Scheduled(reach, warmup=0.1),
            num_steps=max((num_steps or settings.num_steps) // (20 if objective == "random_walk" else 1), 1),
            batch_size=settings.batch_size,
            save_at=fip.SaveAt(num_points=5),
            seed=1000 * seed + number,
        )
        for number in range(members)
    )


def _adversary(threat_model: fip.ThreatModel) -> fip.objectives.Adversary:
    """Attack of two steps within 1.1 epsilon: robustness at the training radius falls off slightly at test time."""
    return fip.objectives.Adversary(replace(threat_model, epsilon=1.1 * threat_model.epsilon), num_steps=2)


OBJECTIVES: dict[str, tuple[float, Callable[[fip.ThreatModel], fip.objectives.Objective]]] = {
    "random_walk": (0.0, lambda threat_model: fip.objectives.RandomWalk()),
    "weight_diversity": (1.0, lambda threat_model: fip.objectives.WeightDiversity()),
    "gradient_diversity": (0.3, lambda threat_model: fip.objectives.GradientDiversity(noise=threat_model.epsilon)),
    "output_diversity": (0.03, lambda threat_model: fip.objectives.OutputDiversity(sigma=5 * threat_model.epsilon)),
    "input_gradient_penalty": (0.01, lambda threat_model: fip.objectives.InputGradientPenalty()),
    "ensemble_adversarial_distillation": (
        20.0,
        lambda threat_model: fip.objectives.EnsembleAdversarialDistillation(_adversary(threat_model)),
    ),
    "adversarial_distillation": (
        20.0,
        lambda threat_model: fip.objectives.AdversarialDistillation(_adversary(threat_model)),
    ),
    "mixed_adversarial_distillation": (
        20.0,
        lambda threat_model: fip.objectives.WeightedSum(
            (
                (0.7, fip.objectives.AdversarialDistillation(_adversary(threat_model))),
                (0.3, fip.objectives.EnsembleAdversarialDistillation(_adversary(threat_model))),
            )
        ),
    ),
}
"""Of each objective: its weight beta beside the functional distance, and how it is made for a threat model."""

LOOKS_AT_OTHERS = {
    "random_walk": False,
    "weight_diversity": True,
    "gradient_diversity": True,
    "output_diversity": True,
    "input_gradient_penalty": False,
    "ensemble_adversarial_distillation": True,
    "adversarial_distillation": False,
    "mixed_adversarial_distillation": True,
}
