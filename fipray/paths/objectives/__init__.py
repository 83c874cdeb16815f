"""The secondary objectives that come with fipray, one module each."""

from fipray.paths.objectives.diversify import Diversify
from fipray.paths.objectives.sparsify import Sparsify

__all__ = ["Diversify", "Sparsify"]
