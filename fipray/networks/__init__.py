"""Modules as functions of flat weights: networks, heads, batch statistics, channels, shrinking, footprints."""

from fipray.networks.batch_statistics import (
    Statistics,
    check_norms_move,
    folded,
    normalised,
    re_estimated,
    statistics_of,
    unfolded,
)
from fipray.networks.channels import Channels, removable_channels
from fipray.networks.compute import Compute
from fipray.networks.deferred import Deferred, Joined, taken
from fipray.networks.derivatives import twice_differentiable
from fipray.networks.effective import computed_weights, effective, refuse_computed_weights, sparsity_of
from fipray.networks.footprint import Footprint, footprint_of
from fipray.networks.form import form_of, formed
from fipray.networks.heads import MultiHead, for_task, grown
from fipray.networks.inputs import check_device, resolved_device
from fipray.networks.modules import copied
from fipray.networks.network import Network
from fipray.networks.normalisation import Normalised
from fipray.networks.packing import Layout, Packed
from fipray.networks.parameters import parameter_names
from fipray.networks.shrinking import fitted, slimmed

__all__ = [
    "Channels",
    "Compute",
    "Deferred",
    "Footprint",
    "Joined",
    "Layout",
    "MultiHead",
    "Network",
    "Normalised",
    "Packed",
    "Statistics",
    "check_device",
    "check_norms_move",
    "computed_weights",
    "copied",
    "effective",
    "fitted",
    "folded",
    "footprint_of",
    "for_task",
    "form_of",
    "formed",
    "grown",
    "normalised",
    "parameter_names",
    "re_estimated",
    "refuse_computed_weights",
    "removable_channels",
    "resolved_device",
    "slimmed",
    "sparsity_of",
    "statistics_of",
    "taken",
    "twice_differentiable",
    "unfolded",
]
