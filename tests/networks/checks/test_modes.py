"""Modes of torch in which a network cannot be checked are named."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from benchmarks.faults.kinds import Forward, features, mlp
from fipray.errors import DataError, NetworkError, UsageError
from fipray.networks import Network
from tests.networks.checks.checking import checked, more


def test_inference_mode_is_named():
    network, inputs = Network.of(mlp()), features(20)
    with torch.inference_mode():
        made_there, inputs_there = Network.of(mlp()), inputs.clone()
        with pytest.raises(UsageError, match="inference_mode is on"):
            network.check(inputs)
    with pytest.raises(UsageError, match=r"weights of Sequential were made in torch\.inference_mode"):
        made_there.check(inputs)
    with pytest.raises(DataError, match=r"made in torch\.inference_mode.*clone"):
        network.check(inputs_there)
    network.check(inputs)


def test_another_default_device_is_named():
    network, inputs = Network.of(mlp()), features(20)
    with torch.device("meta"), pytest.raises(UsageError, match=r"default device is meta.*set_default_device"):
        network.check(inputs)
    network.check(inputs)


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_named_in_one_line(reentrant: bool):
    module = Forward(lambda self, x: checkpoint(self.more, self.layer(x), use_reentrant=reentrant), **more(5))
    with pytest.raises(NetworkError, match="uses activation checkpointing") as caught:
        checked(module)
    assert "\n" not in str(caught.value)
