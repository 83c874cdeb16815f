"""Secondary objectives, one module each, and the types that an objective of your own uses.

An objective is a scalar function of the weights that a path lowers while the function stays. Costs are given per
evaluation of `value` with its gradient, in passes on a batch of N inputs: a gradient is one forward and one backward
pass.
"""

from fipray.paths.batch import Batch as Batch
from fipray.paths.memory import KroneckerMemory as KroneckerMemory
from fipray.paths.objective import Objective as Objective
from fipray.paths.objectives.adversarial_distillation import AdversarialDistillation as AdversarialDistillation
from fipray.paths.objectives.adversary import Adversary as Adversary
from fipray.paths.objectives.arrival import Arrival as Arrival
from fipray.paths.objectives.ensemble_adversarial_distillation import (
    EnsembleAdversarialDistillation as EnsembleAdversarialDistillation,
)
from fipray.paths.objectives.gradient_diversity import GradientDiversity as GradientDiversity
from fipray.paths.objectives.input_gradient_penalty import InputGradientPenalty as InputGradientPenalty
from fipray.paths.objectives.kronecker_penalty import KroneckerPenalty as KroneckerPenalty
from fipray.paths.objectives.learn_task import LearnTask as LearnTask
from fipray.paths.objectives.output_diversity import OutputDiversity as OutputDiversity
from fipray.paths.objectives.random_walk import RandomWalk as RandomWalk
from fipray.paths.objectives.sparsify import Sparsify as Sparsify
from fipray.paths.objectives.toward import Toward as Toward
from fipray.paths.objectives.weight_diversity import WeightDiversity as WeightDiversity
from fipray.paths.objectives.weighted_sum import WeightedSum as WeightedSum
from fipray.paths.objectives.zeroth_order import ZerothOrder as ZerothOrder
