"""What weight space looks like: networks as functions of their weights, output geometries, the pulled-back metric."""

from fipray.geometry.derivatives import twice_differentiable
from fipray.geometry.layers import Layer
from fipray.geometry.linear import LinearSolution, conjugate_gradients, minimal_residual, solve_in_sample_space
from fipray.geometry.metric import Metric, StreamedMetric
from fipray.geometry.network import Network
from fipray.geometry.outputs import Euclidean, FisherRao, Heads, OutputGeometry, functional_distance
from fipray.geometry.projections import NullSpace, Projected
from fipray.geometry.statistics import re_estimated
from fipray.geometry.sweeps import Sweeps

__all__ = [
    "Euclidean",
    "FisherRao",
    "Heads",
    "Layer",
    "LinearSolution",
    "Metric",
    "Network",
    "NullSpace",
    "OutputGeometry",
    "Projected",
    "StreamedMetric",
    "Sweeps",
    "conjugate_gradients",
    "functional_distance",
    "minimal_residual",
    "re_estimated",
    "solve_in_sample_space",
    "twice_differentiable",
]
