"""Diverse and pruned variants of LeNet-300-100 or LeNet-5 on MNIST or Fashion-MNIST."""

from __future__ import annotations

from typing import Literal

import fipray as fip
from experiments import networks
from experiments.data import mnist
from experiments.paths import diverse, pruning_baselines
from experiments.training import Recipe, trained


def study(
    *,
    data: Literal["mnist", "fashion"] = "mnist",
    data_root: str = "",
    network: Literal["lenet_300_100", "lenet_5"] = "lenet_300_100",
    members: int = 3,
    sparsity: float = 0.9,
    epsilon: float = 0.1,
    num_steps: int = 2000,
    seed: int = 0,
) -> fip.Study:
    """Paths with gradient diversity and their ensemble; pruning by the first-order path and by two baselines.

    Args:
        data: data set.
        data_root: folder with the data set's four files in torchvision's layout; if empty, they are downloaded.
        network: architecture of the base network.
        members: number of diverse paths.
        sparsity: fraction of weights that are zero at the end of the pruning paths.
        epsilon: bound (linf) of the attacks, in units of the pixels' range 0..1.
        num_steps: steps of the first-order paths.
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    evaluation = fip.Evaluation(fip.ThreatModel("linf", epsilon), num_examples=1000, seed=seed)
    members_of_ensemble = diverse(members, num_steps=60, batch_size=512, seed=seed)
    sparse = fip.PathSpec(
        name="sparse",
        objective=fip.objectives.Sparsify(sparsity=sparsity),
        stepper=fip.steppers.FirstOrder(),
        radius=fip.radii.Scheduled(initial=0.05),
        num_steps=num_steps,
        batch_size=200,
        seed=seed,
    )
    baselines = pruning_baselines(sparsity, num_steps=num_steps, seed=seed)
    everything = mnist(data, data_root)
    arrays = everything.for_paths(num_held_out=5000)
    recipe = Recipe(network, arrays.digest, num_steps=3000, seed=seed)
    base = trained(getattr(networks, network), everything.train_inputs[:-5000], everything.train_labels[:-5000], recipe)
    return fip.Study(
        name=f"{data}-{network}",
        module=base,
        base_id=recipe.base_id,
        data=arrays,
        paths=(*members_of_ensemble, sparse, *baselines),
        ensembles=(fip.EnsembleSpec("ensemble", ("base", *(path.name for path in members_of_ensemble))),),
        evaluation=evaluation,
        parameters={
            "data": data,
            "network": network,
            "members": members,
            "sparsity": sparsity,
            "epsilon": epsilon,
            "num_steps": num_steps,
            "seed": seed,
        },
    )
