"""Distance and curvature: output geometries, kept quantities, the metric that they pull back, null spaces, solvers."""

from fipray.geometry.keeps import Equivariant, Kept, Outputs, Residual, Slopes
from fipray.geometry.kronecker import KroneckerMetric
from fipray.geometry.layers import Layer
from fipray.geometry.least_squares import damped_least_squares
from fipray.geometry.metric import Metric, StreamedMetric
from fipray.geometry.outputs import Euclidean, FisherRao, Heads, Warm, class_logits, functional_distance, num_classes
from fipray.geometry.projections import NullSpace, Projection
from fipray.geometry.solvers import LinearSolution, conjugate_gradients, minimal_residual, solve_in_sample_space
from fipray.geometry.stacked import StackedMetric
from fipray.geometry.sweeps import Sweeps
from fipray.networks.embedding import OutputGeometry

__all__ = [
    "Equivariant",
    "Euclidean",
    "FisherRao",
    "Heads",
    "Kept",
    "KroneckerMetric",
    "Layer",
    "LinearSolution",
    "Metric",
    "NullSpace",
    "OutputGeometry",
    "Outputs",
    "Projection",
    "Residual",
    "Slopes",
    "StackedMetric",
    "StreamedMetric",
    "Sweeps",
    "Warm",
    "class_logits",
    "conjugate_gradients",
    "damped_least_squares",
    "functional_distance",
    "minimal_residual",
    "num_classes",
    "solve_in_sample_space",
]
