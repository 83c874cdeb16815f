"""Small problems with known answers, for the tests of all floors."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fipray.geometry import OutputGeometry
from fipray.networks import Network
from fipray.paths import Batch, Problem

# The floors of torch are tested where the rest of the package cannot be imported, too.
needs_studies = pytest.mark.skipif(find_spec("pyarrow") is None, reason="studies need pyarrow, which is not installed")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def mlp(*sizes: int, seed: int = 0) -> Network:
    """A tanh network in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.Tanh()]
    return Network.of(nn.Sequential(*layers[:-1]).double())


def linear(num_inputs: int, num_outputs: int) -> Network:
    """`f = W x` in float64: its Jacobian does not depend on the weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network.of(nn.Linear(num_inputs, num_outputs, bias=False).double())


def problem(network: Network, geometry: OutputGeometry | None = None) -> Problem:
    return Problem(network, geometry=geometry)


def batch(problem: Problem, size: int, num_inputs: int, seed: int = 1) -> Batch:
    return problem.batch(normal(size, num_inputs, seed=seed))


def num_weights_that_are_positive(network: Network, weights: Tensor) -> int:
    """A black box, for specs that name one."""
    return int((weights > 0).sum())
