"""Pruning masks: sparsity patterns and the saliencies that rank weights within them."""

from fipray.paths.sparsity.patterns import (
    Pattern as Pattern,
    SemiStructured as SemiStructured,
    Structured as Structured,
    Unstructured as Unstructured,
)
from fipray.paths.sparsity.saliency import (
    Magnitude as Magnitude,
    MetricDiagonal as MetricDiagonal,
    OptimalBrainSurgeon as OptimalBrainSurgeon,
    Saliency as Saliency,
)
