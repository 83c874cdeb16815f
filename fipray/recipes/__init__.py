"""Ready-made studies for anyone's network and data: a short trial chooses the settings, and says why.

`prune(module, data).run("results/pruned")`; `fipray recipes` lists all of them.
"""

from fipray.recipes.anchors import AnchorChoice
from fipray.recipes.budget import Budget
from fipray.recipes.catalogue import catalogue, find, recipe
from fipray.recipes.connecting import ConnectChoices, connect
from fipray.recipes.ensembles import DiverseChoices, RobustChoices, diverse_ensemble, robust_ensemble
from fipray.recipes.learning import LearningChoices, learn
from fipray.recipes.pruning import PruningChoices, prune
from fipray.recipes.recipe import Chosen, Design, Plan, Recipe, Setting
from fipray.recipes.rules import FirstMeasured, FirstWithin, SparsestWithin
from fipray.recipes.subject import Subject

__all__ = [
    "AnchorChoice",
    "Budget",
    "Chosen",
    "ConnectChoices",
    "Design",
    "DiverseChoices",
    "FirstMeasured",
    "FirstWithin",
    "LearningChoices",
    "Plan",
    "PruningChoices",
    "Recipe",
    "RobustChoices",
    "Setting",
    "SparsestWithin",
    "Subject",
    "catalogue",
    "connect",
    "diverse_ensemble",
    "find",
    "learn",
    "prune",
    "recipe",
    "robust_ensemble",
]
