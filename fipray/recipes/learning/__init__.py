"""Recipe `learn`: further tasks, one after the other, while what was known stays."""

from fipray.recipes.learning.choices import LearningChoices
from fipray.recipes.learning.design import learn

__all__ = ["LearningChoices", "learn"]
