"""Quickstart: ten paths from a small CNN for handwritten digits, in under two minutes on two cores."""

from __future__ import annotations

import fipray as fip
from experiments.data import digits
from experiments.networks import small_cnn
from experiments.paths import diverse, pruning_baselines
from experiments.training import Recipe, trained


def study(*, members: int = 4, sparsity: float = 0.9, epsilon: float = 0.1, seed: int = 0) -> fip.Study:
    """Paths with gradient diversity and their ensemble, and paths that prune.

    Args:
        members: number of diverse paths.
        sparsity: fraction of weights that are zero at the end of the pruning paths.
        epsilon: bound (linf) of the attacks, in units of the pixels' range 0..1.
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    evaluation = fip.Evaluation(fip.ThreatModel("linf", epsilon), num_examples=500, seed=seed)
    members_of_ensemble = diverse(members, num_steps=40, batch_size=256, seed=seed)
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
    natural = fip.PathSpec(
        name="sparse-natural",
        objective=fip.objectives.Sparsify(sparsity=sparsity),
        stepper=fip.steppers.Natural(),
        radius=fip.radii.Adaptive(initial=0.05, tolerance=0.15),
        num_steps=60,
        batch_size=256,
        seed=seed,
    )
    baselines = pruning_baselines(sparsity, num_steps=600, seed=seed)
    everything = digits()
    data = everything.for_paths(num_held_out=300)
    recipe = Recipe("small_cnn", data.digest, num_steps=800, seed=seed)
    base = trained(small_cnn, everything.train_inputs[:-300], everything.train_labels[:-300], recipe)
    return fip.Study(
        name="quickstart",
        module=base,
        base_id=recipe.base_id,
        data=data,
        paths=(*members_of_ensemble, *sparse, natural, *baselines),
        ensembles=(fip.EnsembleSpec("ensemble", ("base", *(path.name for path in members_of_ensemble))),),
        evaluation=evaluation,
        parameters={"members": members, "sparsity": sparsity, "epsilon": epsilon, "seed": seed},
    )
