"""Secondary objectives, one module each, and the types that an objective of your own uses.

An objective is a scalar function of the weights that a path lowers while the function stays. Costs are given per
evaluation of `value` with its gradient, in passes on a batch of N inputs: a gradient is one forward and one backward
pass.
"""

from fipray.paths.batch import Batch
from fipray.paths.memory import KroneckerMemory
from fipray.paths.objective import Objective
from fipray.paths.objectives.adversarial_distillation import AdversarialDistillation
from fipray.paths.objectives.adversary import Adversary
from fipray.paths.objectives.ensemble_adversarial_distillation import EnsembleAdversarialDistillation
from fipray.paths.objectives.gradient_diversity import GradientDiversity
from fipray.paths.objectives.input_gradient_penalty import InputGradientPenalty
from fipray.paths.objectives.kronecker_penalty import KroneckerPenalty
from fipray.paths.objectives.learn_task import LearnTask
from fipray.paths.objectives.output_diversity import OutputDiversity
from fipray.paths.objectives.random_walk import RandomWalk
from fipray.paths.objectives.sparsify import Sparsify
from fipray.paths.objectives.toward import Toward
from fipray.paths.objectives.weight_diversity import WeightDiversity
from fipray.paths.objectives.weighted_sum import WeightedSum
from fipray.paths.objectives.zeroth_order import ZerothOrder

__all__ = [
    "AdversarialDistillation",
    "Adversary",
    "Batch",
    "EnsembleAdversarialDistillation",
    "GradientDiversity",
    "InputGradientPenalty",
    "KroneckerMemory",
    "KroneckerPenalty",
    "LearnTask",
    "Objective",
    "OutputDiversity",
    "RandomWalk",
    "Sparsify",
    "Toward",
    "WeightDiversity",
    "WeightedSum",
    "ZerothOrder",
]
