"""Quickstart: sparse, diverse and robust variants of a small CNN for digits, in under two minutes on two cores."""

from __future__ import annotations

from dataclasses import replace

import fipray as fip
from experiments.adversarial_training import AdversarialTraining
from experiments.data import digits
from experiments.networks import small_cnn
from experiments.paths import diverse
from experiments.training import Recipe, trained
from fipray.recipes import robust_ensemble

NUM_HELD_OUT = 300


def study(
    *, members: int = 3, sparsity: float = 0.9, epsilon: float = 0.1, num_steps: int = 500, seed: int = 0
) -> fip.Study:
    """Sparse networks, a diverse ensemble, and the recipe `robust-ensemble` beside adversarial training with labels.

    Args:
        members: number of members of each ensemble.
        sparsity: fraction of weights that are zero at the end of the pruning paths.
        epsilon: bound (linf) of the attacks, in units of the pixels' range 0..1.
        num_steps: steps of each robust member; adversarial training takes as many as all members together.
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    everything = digits()
    labelled = everything.train_inputs[:-NUM_HELD_OUT], everything.train_labels[:-NUM_HELD_OUT]
    data = everything.for_paths(NUM_HELD_OUT)
    recipe = Recipe("small_cnn", data.digest, num_steps=800, seed=seed)
    base = trained(small_cnn, *labelled, recipe)
    # A budget in steps makes the same study on any machine; one in seconds would not.
    robust = robust_ensemble(base, data, epsilon=epsilon, budget={"steps": num_steps}, members=members, seed=seed).study
    walk = robust.paths[0]
    adversarial_training = fip.PathSpec(
        name="adversarial-training",
        objective=AdversarialTraining("digits", fip.ThreatModel("linf", epsilon), batch_size=walk.batch_size),
        stepper=fip.steppers.FirstOrder(beta=1.0, held=0.0),
        radius=walk.radius,
        num_steps=num_steps * members,
        batch_size=walk.batch_size,
        save_at=fip.SaveAt(5),
        seed=seed,
    )
    sparse = [
        fip.PathSpec(
            name=f"sparse-{level:g}",
            objective=fip.objectives.Sparsify(sparsity=level),
            stepper=fip.steppers.FirstOrder(),
            radius=fip.radii.Scheduled(initial=0.03),
            num_steps=600,
            batch_size=128,
            seed=seed,
        )
        for level in sorted({0.8, sparsity, 0.95})
    ]
    plain = diverse(members, num_steps=30, batch_size=256, seed=seed)
    return fip.Study(
        name="quickstart",
        module=base,
        base_id=recipe.base_id,
        data=replace(data, tasks={"digits": fip.Task(*labelled)}),
        paths=(*sparse, *plain, *robust.paths, adversarial_training),
        ensembles=(fip.EnsembleSpec("diverse", ("base", *(path.name for path in plain))), robust.ensembles[0]),
        evaluation=fip.Evaluation(fip.ThreatModel("linf", epsilon), num_examples=500, seed=seed),
        measures=robust.measures,
        parameters={
            "members": members,
            "sparsity": sparsity,
            "epsilon": epsilon,
            "num_steps": num_steps,
            "seed": seed,
        },
    )
