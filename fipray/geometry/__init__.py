"""What weight space looks like: networks as functions of their weights, output geometries, the pulled-back metric."""

from fipray.geometry.channels import Channels, removable_channels
from fipray.geometry.derivatives import twice_differentiable
from fipray.geometry.heads import MultiHead, for_task, grown
from fipray.geometry.inputs import check_device
from fipray.geometry.kronecker import KroneckerMetric
from fipray.geometry.layers import Layer
from fipray.geometry.linear import LinearSolution, conjugate_gradients, minimal_residual, solve_in_sample_space
from fipray.geometry.metric import Metric, StreamedMetric
from fipray.geometry.network import Network
from fipray.geometry.outputs import Euclidean, FisherRao, Heads, OutputGeometry, Warm, functional_distance
from fipray.geometry.projections import NullSpace, Projected
from fipray.geometry.sizes import Sizes, sizes_of
from fipray.geometry.slim import fitted, slimmed
from fipray.geometry.statistics import Statistics, folded, normalised, re_estimated, statistics_of, unfolded
from fipray.geometry.sweeps import Sweeps

__all__ = [
    "Channels",
    "Euclidean",
    "FisherRao",
    "Heads",
    "KroneckerMetric",
    "Layer",
    "LinearSolution",
    "Metric",
    "MultiHead",
    "Network",
    "NullSpace",
    "OutputGeometry",
    "Projected",
    "Sizes",
    "Statistics",
    "StreamedMetric",
    "Sweeps",
    "Warm",
    "check_device",
    "conjugate_gradients",
    "fitted",
    "folded",
    "for_task",
    "functional_distance",
    "grown",
    "minimal_residual",
    "normalised",
    "re_estimated",
    "removable_channels",
    "sizes_of",
    "slimmed",
    "solve_in_sample_space",
    "statistics_of",
    "twice_differentiable",
    "unfolded",
]
