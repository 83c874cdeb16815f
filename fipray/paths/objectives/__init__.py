"""The secondary objectives that come with fipray, one module each."""

from fipray.paths.objectives.adversary import Adversary
from fipray.paths.objectives.black_box import BlackBox
from fipray.paths.objectives.disagree import Disagree
from fipray.paths.objectives.diversify import Diversify
from fipray.paths.objectives.learn_task import LearnTask
from fipray.paths.objectives.move_away import MoveAway
from fipray.paths.objectives.random_walk import RandomWalk
from fipray.paths.objectives.remember import Remember
from fipray.paths.objectives.resist import Resist
from fipray.paths.objectives.smooth import Smooth
from fipray.paths.objectives.sparsify import Sparsify
from fipray.paths.objectives.toward import Toward
from fipray.paths.objectives.vaccinate import Vaccinate
from fipray.paths.objectives.weighted_sum import WeightedSum

__all__ = [
    "Adversary",
    "BlackBox",
    "Disagree",
    "Diversify",
    "LearnTask",
    "MoveAway",
    "RandomWalk",
    "Remember",
    "Resist",
    "Smooth",
    "Sparsify",
    "Toward",
    "Vaccinate",
    "WeightedSum",
]
