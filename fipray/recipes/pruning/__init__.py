"""Recipe `prune`: a sparse network that predicts as the base network does."""

from fipray.recipes.pruning.choices import PruningChoices
from fipray.recipes.pruning.design import prune

__all__ = ["PruningChoices", "prune"]
