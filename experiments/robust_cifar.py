"""One robust path of the published ResNet-20 on all of CIFAR-10, and its mixture with the base network. No labels.

fipray run experiments.robust_cifar:study --into results/robust-cifar        # about an hour of one thread, and attacks
"""

from __future__ import annotations

from typing import Literal

import fipray as fip
from experiments.cifar import cifar10, published_resnet_20

NUM_HELD_OUT = 1000  # last training images; the published network has seen them, the path has not


def study(
    *,
    data_root: str = "",
    epsilon: float = 2 / 255,
    num_steps: int = 1000,
    batch_size: int = 128,
    radius: float = 0.05,
    beta: float = 20.0,
    held: float = 0.05,
    adversary_steps: int = 1,
    orthogonal: bool = True,
    remembers: bool = True,
    base_weight: float = 1 / 3,
    attacks: Literal["pgd", "apgd", "autoattack"] = "apgd",
    num_examples: int = 500,
    seed: int = 0,
) -> fip.Study:
    """One path that distils the base network's predictions onto adversarial images.

    Args:
        data_root: folder that holds `cifar10` and `resnet_cifar10`; if empty, FIPRAY_DATA or the folder `shared/data`
            beside the checkout.
        epsilon: bound (linf) of the attacks; the path's own adversary has 1.1 times as much.
        num_steps: number of steps, each on `batch_size` images; 383 are a pass through the training images.
        batch_size: images in the batch of a step.
        radius: largest step in units of |w0|.
        beta: weight of the adversarial distillation beside the squared functional distance.
        held: fraction of each batch on which that distance is taken.
        adversary_steps: ascent steps of the path's adversary; one step is 1.25 epsilon long from a random start, more
            share 2.5 epsilon.
        orthogonal: whether weight matrices move along orthogonal matrices.
        remembers: whether searches begin where the last one of the same image ended.
        base_weight: weight of the base network in the mixture; 0 for no mixture.
        attacks: "pgd", "apgd" (APGD-CE and APGD-T, the first two parts of AutoAttack) or "autoattack".
        num_examples: test images that are attacked.
        seed: seed of the path.

    Returns:
        The study.
    """
    data = cifar10(data_root)
    reach = 1.25 if adversary_steps == 1 else 2.5
    adversary = fip.objectives.Adversary(
        fip.ThreatModel("linf", 1.1 * epsilon), num_steps=adversary_steps, step_fraction=reach, remembers=remembers
    )
    path = fip.PathSpec(
        "robust",
        fip.objectives.AdversarialDistillation(adversary),
        stepper=fip.steppers.FirstOrder(beta, held=held, batch_statistics=True, orthogonal=orthogonal),
        radius=fip.radii.Scheduled(radius, warmup=0.1),
        num_steps=num_steps,
        batch_size=batch_size,
        variations=(fip.augmentations.Shifted(copies=1, pixels=2), fip.augmentations.Flipped()),
        averaging=min(0.999, 1 - 10 / num_steps),
        save_at=fip.SaveAt(4, solver_state=False),
        seed=seed,
    )
    chosen: dict[str, fip.attacks.Attack] = {
        "pgd": fip.attacks.PGD(),
        "apgd": fip.attacks.AutoAttack(("apgd-ce", "apgd-t")),
        "autoattack": fip.attacks.AutoAttack(),
    }
    weights = (base_weight, 1 - base_weight)
    mixed = (fip.EnsembleSpec("mixed", ("base", "robust"), weights=weights),) if base_weight else ()
    return fip.Study(
        name="robust-cifar",
        module=published_resnet_20(data_root),
        data=fip.Data(
            anchors=data["train_inputs"][:-NUM_HELD_OUT],
            held_out=data["train_inputs"][-NUM_HELD_OUT:],
            test_inputs=data["test_inputs"],
            test_labels=data["test_labels"].astype("int64"),
        ),
        paths=(path,),
        ensembles=mixed,
        evaluation=fip.Evaluation(
            fip.ThreatModel("linf", epsilon), attacks=(chosen[attacks],), num_examples=num_examples, seed=seed
        ),
        parameters={
            "epsilon": epsilon,
            "num_steps": num_steps,
            "batch_size": batch_size,
            "radius": radius,
            "beta": beta,
            "held": held,
            "adversary_steps": adversary_steps,
            "orthogonal": orthogonal,
            "remembers": remembers,
            "base_weight": base_weight,
            "attacks": attacks,
            "num_examples": num_examples,
            "seed": seed,
        },
    )
