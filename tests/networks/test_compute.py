"""Passes of a bounded size against one pass in float64, lower precision, and memory that runs out."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.errors import UsageError
from fipray.networks import Compute, Network
from fipray.networks.compute import Room, is_out_of_memory, undivided
from tests.margins import assert_below
from tests.problems import normal


def images() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 25, 3)
    )
    return Network.of(module.double().eval())


INPUTS = normal(11, 2, 5, 5, seed=3)


def counted(network: Network) -> list[int]:
    """Sizes of the passes that follow."""
    sizes: list[int] = []
    first = next(part for _, part in network.parts() if isinstance(part, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    return sizes


@pytest.mark.parametrize("micro_batch", [1, 4, 10, 11, 99])
def test_passes_of_a_bounded_size_have_the_outputs_and_gradients_of_one_pass(micro_batch):
    whole = images()
    parts = whole.computed(Compute(micro_batch=micro_batch))
    results = []
    for network in (whole, parts):
        weights, inputs = whole.weights.clone().requires_grad_(True), INPUTS.clone().requires_grad_(True)
        outputs = network(weights, inputs)
        first = torch.autograd.grad(outputs.softmax(1).square().sum(), [weights, inputs], create_graph=True)
        # and of a second derivative, as a penalty on input gradients takes it
        second = torch.autograd.grad(first[1].square().sum(), weights)
        results.append((outputs, *first, *second))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_no_pass_is_larger_than_the_micro_batch_and_a_differentiated_one_is_repeated_for_its_gradient():
    network = images().computed(Compute(micro_batch=4))
    sizes = counted(network)
    network.outputs(network.weights, INPUTS)
    assert sizes == [4, 4, 3]
    sizes.clear()
    weights = network.weights.clone().requires_grad_(True)
    torch.autograd.grad(network(weights, INPUTS).sum(), weights)
    assert sorted(sizes) == [3, 3, 4, 4, 4, 4]


def test_an_undivided_pass_ignores_the_micro_batch():
    network = images().computed(Compute(micro_batch=4))
    sizes = counted(network)
    with undivided():
        network(network.weights, INPUTS)
    assert sizes == [11]


def test_a_stack_of_weights_has_the_outputs_and_gradients_of_one_pass():
    whole = images()
    stack = torch.stack([whole.weights, 1.1 * whole.weights])
    found = []
    for network in (whole, whole.computed(Compute(micro_batch=3))):
        inputs = INPUTS.clone().requires_grad_(True)
        outputs = network.stacked(stack, inputs)
        found.append((outputs, torch.autograd.grad(outputs.square().sum(), inputs)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_bfloat16_computes_layers_in_low_precision_and_everything_else_in_that_of_the_weights():
    torch.manual_seed(0)
    network = Network.of(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)))
    low = network.computed(Compute(precision="bf16"))
    inputs = normal(20, 64).float()
    exact, rounded = (one.outputs(network.weights, inputs) for one in (network, low))
    assert rounded.dtype is torch.float32
    error = float((exact - rounded).abs().max() / exact.abs().max())
    assert error > 0
    assert_below(error, 0.05)


def test_a_precision_below_that_of_the_weights_is_refused():
    with pytest.raises(UsageError, match="float64"):
        images().computed(Compute(precision="bf16"))


def test_a_micro_batch_below_one_is_refused():
    with pytest.raises(UsageError, match="micro_batch"):
        Compute(micro_batch=0)


def test_channels_last_changes_the_layout_in_memory_and_no_value():
    seen = []
    network = images()
    first = next(part for _, part in network.parts() if isinstance(part, nn.Conv2d))
    first.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    plain = network.outputs(network.weights, INPUTS)
    other = network.computed(Compute(channels_last=True)).outputs(network.weights, INPUTS)
    assert seen == [False, True]
    torch.testing.assert_close(plain, other, rtol=1e-12, atol=1e-13)


class Short:
    """Network whose passes run out of memory above a number of inputs."""

    def __init__(self, largest: int) -> None:
        self.largest, self.network = largest, images()
        first = next(part for _, part in self.network.parts() if isinstance(part, nn.Conv2d))
        first.register_forward_pre_hook(self._refuse)

    def _refuse(self, _part: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if len(given[0]) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")


class TestWhenMemoryRunsOut:
    def test_passes_are_halved_until_they_fit_and_stay_so(self, caplog):
        network = Short(3).network
        with caplog.at_level(logging.WARNING):
            found = network.outputs(network.weights, INPUTS)
        torch.testing.assert_close(found, images().outputs(network.weights, INPUTS), rtol=1e-12, atol=1e-13)
        assert network.micro_batch == network.at(1.5 * network.weights).micro_batch == 2
        assert [record.getMessage() for record in caplog.records] == [
            "memory ran out with passes of 11 inputs; now 5 at a time",
            "memory ran out with passes of 5 inputs; now 2 at a time",
        ]

    @pytest.mark.parametrize(
        "stepper",
        [
            fip.steppers.FirstOrder(beta=0.1),
            fip.steppers.Natural(),
            fip.steppers.Projected(),
            fip.steppers.Published(),
            fip.steppers.Corrected(fip.steppers.FirstOrder(beta=0.1), fip.steppers.Natural()),
        ],
        ids=lambda stepper: type(stepper).__name__,
    )
    @pytest.mark.parametrize("radius", [fip.radii.Scheduled(1e-2), fip.radii.Adaptive(1e-2, tolerance=10.0)])
    def test_a_path_goes_on_with_smaller_passes_and_is_the_same(self, stepper, radius):
        def end(short: Short) -> torch.Tensor:
            largest, short.largest = short.largest, 1000  # checks of the network are no part of the path
            where = fip.Problem(short.network, INPUTS, INPUTS[:2])
            short.largest = largest
            settings = fip.Settings(stepper=stepper, radius=radius, num_steps=3, batch_size=9)
            path = fip.trace(where, fip.objectives.InputGradientPenalty(), settings)
            assert path.outcome.kind == "completed"
            return path.end.weights

        torch.testing.assert_close(end(Short(3)), end(Short(1000)), rtol=1e-7, atol=1e-9)

    def test_a_pass_of_one_input_that_does_not_fit_raises_the_error(self):
        def act():
            raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(torch.OutOfMemoryError):
            Room().fitting(act, 8)

    def test_other_errors_are_not_retried(self):
        calls = []

        def act():
            calls.append(1)
            raise RuntimeError("shapes differ")

        with pytest.raises(RuntimeError, match="shapes"):
            Room().fitting(act, 8)
        assert len(calls) == 1

    def test_the_processor_s_own_error_is_recognised(self):
        program = (
            "import resource, torch\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))\n"
            "from fipray.networks.compute import is_out_of_memory\n"
            "try:\n    torch.empty(2**36)\n"
            "except RuntimeError as error:\n    print(is_out_of_memory(error))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"
        assert not is_out_of_memory(RuntimeError("shapes differ"))
