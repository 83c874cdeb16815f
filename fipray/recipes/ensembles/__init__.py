"""Recipes `robust_ensemble` and `diverse_ensemble`: ensembles of networks traced from one base network."""

from fipray.recipes.ensembles.choices import DiverseChoices, RobustChoices
from fipray.recipes.ensembles.diverse import diverse_ensemble
from fipray.recipes.ensembles.robust import robust_ensemble

__all__ = ["DiverseChoices", "RobustChoices", "diverse_ensemble", "robust_ensemble"]
