"""Ensembles and robust networks that others propose, trained with labels: what path ensembles are compared with.

Every baseline is a recipe, a frozen dataclass whose defaults are its source's, with one method:

    train(make, inputs, labels, *, seed, seconds=None) -> Trained

`make()` makes a new network for each member: to begin at given weights, let it return a copy that has them. inputs:
[N, ...], floats in 0..1; labels: int64 [N]. Without `seconds` the recipe's `num_steps` are taken, and the seed decides
the members. With `seconds` it trains for as many processor seconds, all members and the making of them included, and
its rates follow the share of them that is spent: so that methods can be compared at equal compute.

What pruned paths are compared with stands in the modules `pruning` and `surgeon`, with a method of its own.
"""

from benchmarks.baselines.adversarial import AdversarialDistillation, AdversarialTraining, OneStep, Trades
from benchmarks.baselines.diversity import AdaptiveDiversityPromoting, Dverge
from benchmarks.baselines.plain import DeepEnsemble, FastGeometricEnsemble, Snapshot
from benchmarks.baselines.training import Baseline, Trained
from benchmarks.baselines.variations import Varied

__all__ = [
    "AdaptiveDiversityPromoting",
    "AdversarialDistillation",
    "AdversarialTraining",
    "Baseline",
    "DeepEnsemble",
    "Dverge",
    "FastGeometricEnsemble",
    "OneStep",
    "Snapshot",
    "Trades",
    "Trained",
    "Varied",
]
