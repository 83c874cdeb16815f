"""What weight space looks like: networks as functions of their weights, output geometries, the pulled-back metric."""

from fipray.geometry.channels import Channels, removable_channels
from fipray.geometry.derivatives import twice_differentiable
from fipray.geometry.effective import computed_weights, effective, refuse_computed_weights, sparsity_of
from fipray.geometry.heads import MultiHead, for_task, grown
from fipray.geometry.inputs import check_device
from fipray.geometry.keeps import Equivariant, Kept, Outputs, Residual, Slopes
from fipray.geometry.kronecker import KroneckerMetric
from fipray.geometry.layers import Layer
from fipray.geometry.linear import LinearSolution, conjugate_gradients, minimal_residual, solve_in_sample_space
from fipray.geometry.metric import Metric, StreamedMetric
from fipray.geometry.modules import copied, parameter_names
from fipray.geometry.network import Network
from fipray.geometry.outputs import (
    Euclidean,
    FisherRao,
    Heads,
    OutputGeometry,
    Warm,
    class_logits,
    functional_distance,
    num_classes,
)
from fipray.geometry.projections import NullSpace, Projected
from fipray.geometry.sizes import Sizes, sizes_of
from fipray.geometry.slim import fitted, slimmed
from fipray.geometry.stacked import StackedMetric
from fipray.geometry.statistics import (
    Statistics,
    check_norms_move,
    folded,
    normalised,
    re_estimated,
    statistics_of,
    unfolded,
)
from fipray.geometry.sweeps import Sweeps

__all__ = [
    "Channels",
    "Equivariant",
    "Euclidean",
    "FisherRao",
    "Heads",
    "Kept",
    "KroneckerMetric",
    "Layer",
    "LinearSolution",
    "Metric",
    "MultiHead",
    "Network",
    "NullSpace",
    "OutputGeometry",
    "Outputs",
    "Projected",
    "Residual",
    "Sizes",
    "Slopes",
    "StackedMetric",
    "Statistics",
    "StreamedMetric",
    "Sweeps",
    "Warm",
    "check_device",
    "check_norms_move",
    "class_logits",
    "computed_weights",
    "conjugate_gradients",
    "copied",
    "effective",
    "fitted",
    "folded",
    "for_task",
    "functional_distance",
    "grown",
    "minimal_residual",
    "normalised",
    "num_classes",
    "parameter_names",
    "re_estimated",
    "refuse_computed_weights",
    "removable_channels",
    "sizes_of",
    "slimmed",
    "solve_in_sample_space",
    "sparsity_of",
    "statistics_of",
    "twice_differentiable",
    "unfolded",
]
