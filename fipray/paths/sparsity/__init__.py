"""Pruning masks: sparsity patterns and the saliencies that rank weights within them."""

from fipray.paths.sparsity.patterns import Pattern, SemiStructured, Structured, Unstructured
from fipray.paths.sparsity.saliency import Magnitude, MetricDiagonal, OptimalBrainSurgeon, Saliency

__all__ = [
    "Magnitude",
    "MetricDiagonal",
    "OptimalBrainSurgeon",
    "Pattern",
    "Saliency",
    "SemiStructured",
    "Structured",
    "Unstructured",
]
