"""Hyper-parameter search on handwritten digits: a sparse network that is close to the base network and robust."""

from __future__ import annotations

import fipray as fip
from experiments.data import digits
from experiments.networks import small_cnn
from experiments.training import Recipe, trained


def search(
    *, sparsity: float = 0.9, num_steps: int = 400, epsilon: float = 0.1, trials: int = 16, seed: int = 0
) -> fip.search.Search:
    """Search over the radius, its decay, the pruning schedule and the momentum of Adam, at one sparsity.

    Small steps stay close to the base network while few weights are pruned, and end far from it: the ranking of
    trials early
    on is the reverse of the final one. So the search prunes early, and stops no trial before most weights are
    pruned.

    Args:
        sparsity: fraction of weights that are zero.
        num_steps: steps per trial.
        epsilon: bound (linf) of the attacks, in units of the pixels' range 0..1.
        trials: number of trials.
        seed: seed of the search and of training.

    Returns:
        The search.
    """
    everything = digits()
    data = everything.for_paths(num_held_out=300)
    recipe = Recipe("small_cnn", data.digest, num_steps=800, seed=seed)
    path = fip.PathSpec(
        name="sparse",
        objective=fip.objectives.Sparsify(sparsity=sparsity, ramp=0.3),
        stepper=fip.steppers.FirstOrder(),
        radius=fip.radii.Scheduled(initial=0.03),
        num_steps=num_steps,
        batch_size=128,
        save_at=fip.SaveAt(20),
        seed=seed,
    )
    study = fip.Study(
        name="digits-search",
        module=trained(small_cnn, everything.train_inputs[:-300], everything.train_labels[:-300], recipe),
        base_id=recipe.base_id,
        data=data,
        paths=(path,),
        evaluation=fip.Evaluation(fip.ThreatModel("linf", epsilon), num_examples=200, seed=seed),
        parameters={"sparsity": sparsity, "num_steps": num_steps, "epsilon": epsilon, "trials": trials, "seed": seed},
    )
    return fip.search.Search(
        study,
        space={
            "radius.initial": fip.search.LogUniform(0.001, 0.3),
            "radius.warmup": fip.search.Uniform(0.0, 0.3),
            "stepper.decay": fip.search.Choice((0.0, 0.5, 0.9, 0.98)),
            "stepper.decay_squares": fip.search.Choice((0.9, 0.99, 0.999)),
        },
        objectives={"functional_distance_held_out": "min", "robust_accuracy": "max"},
        num_trials=trials,
        searcher="optuna",
        scheduler="asha",
        grace=0.15,
        seed=seed,
    )
