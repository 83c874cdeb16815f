"""Outputs for an input do not depend on the other inputs of its batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from benchmarks.faults.kinds import Forward, features
from fipray.errors import NetworkError
from tests.networks.checks.checking import Make, checked, each, more

BATCHED: Mapping[str, Make] = {
    "a normalisation that counts little": lambda: Forward(
        lambda self, x: self.layer(x) + 0.02 * self.norm(self.more(x)),
        norm=nn.BatchNorm1d(5, track_running_stats=False),
        **more(),
    ),
    "a mean": lambda: Forward(lambda self, x: self.layer(x - 0.03 * x.mean(0))),
    "a mean that counts little": lambda: Forward(lambda self, x: self.layer(x - 3e-4 * x.mean(0))),
    "the number of inputs": lambda: Forward(lambda self, x: self.layer(x) * (1 + 1e-3 * len(x))),
    "the place in the batch": lambda: Forward(lambda self, x: self.layer(x) + 0.01 * torch.arange(len(x))[:, None]),
    "a mean in half precision": lambda: Forward(lambda self, x: self.layer(x - 0.03 * x.mean(0))).bfloat16(),
}


@each(BATCHED)
def test_outputs_that_depend_a_little_on_other_inputs_are_refused(make: Make):
    module = make()
    with pytest.raises(NetworkError, match="depend on the other inputs of its batch"):
        checked(module, features(40).to(next(module.parameters()).dtype))


def test_rounding_that_differs_with_the_size_of_the_batch_is_allowed():
    kernel = nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 64, 3, padding=1), nn.Flatten(), nn.Linear(256, 5))
    checked(kernel)
    checked(copy.deepcopy(kernel).bfloat16(), features(40).bfloat16())
