"""The secondary objectives that come with fipray, one module each."""

from fipray.paths.objectives.black_box import BlackBox
from fipray.paths.objectives.diversify import Diversify
from fipray.paths.objectives.random_walk import RandomWalk
from fipray.paths.objectives.sparsify import Sparsify
from fipray.paths.objectives.toward import Toward
from fipray.paths.objectives.weighted_sum import WeightedSum

__all__ = ["BlackBox", "Diversify", "RandomWalk", "Sparsify", "Toward", "WeightedSum"]
