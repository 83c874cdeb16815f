"""Set-ups that the tests of the checks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.faults.kinds import features
from fipray.geometry import FisherRao
from fipray.networks import Network

Make = Callable[[], nn.Module]


def checked(module: nn.Module, inputs: Tensor | None = None, **settings: Any) -> None:
    Network.of(module, **settings).check(features(40) if inputs is None else inputs, FisherRao())


def each(kinds: Mapping[str, Make]):
    return pytest.mark.parametrize("make", kinds.values(), ids=kinds.keys())


def more(num_inputs: int = 12) -> dict[str, nn.Module]:
    return {"more": nn.Linear(num_inputs, 5)}


def rounded(values: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(values, 0.05, 0, -128, 127)
