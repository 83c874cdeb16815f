"""Warnings of gradient masking, and their absence."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from fipray.robustness import ThreatModel, masking_warnings
from tests.problems import generator
from tests.robustness.classifiers import FREE_L2, FREE_LINF, L2, LINF, Linear, Tanh, images, predictions

EFFORT = {"num_steps": 5, "num_queries": 60}


def warned(classifier, threat_model=LINF, labels_of=None, **settings) -> tuple[str, ...]:
    inputs = images(40, 9)
    labels = predictions(labels_of or classifier, inputs)
    return masking_warnings(classifier, inputs, labels, threat_model, generator(), **{**EFFORT, **settings})


def about(warnings: tuple[str, ...], pattern: str) -> bool:
    return any(re.search(pattern, warning) for warning in warnings)


@pytest.mark.parametrize("threat_model", [LINF, L2, FREE_LINF, FREE_L2])
def test_linear_classifier_gives_no_warning(threat_model):
    assert warned(Linear.drawn(9, 2), threat_model) == ()


def test_smooth_network_gives_no_warning():
    assert warned(Tanh.drawn(), num_steps=20) == ()


def test_rounded_inputs_have_no_gradient_and_a_search_beats_pgd():
    """Inputs rounded to steps of 1/20, which the search crosses."""
    linear = Linear.drawn(9, 2)
    warnings = warned(lambda inputs: linear((20 * inputs).round() / 20))
    assert about(warnings, r"gradient of the margin is exactly 0 at 100\.0% of the clean inputs")
    assert about(warnings, r"gradient of the cross-entropy is exactly 0 at 100\.0%")
    assert about(warnings, r"black-box search beats")
    assert not about(warnings, r"change between two calls")


def test_outputs_that_are_not_finite_are_reported():
    linear = Linear.drawn(9, 2)
    warnings = warned(lambda inputs: linear(inputs).masked_fill(inputs[:, :1] > 0.5, torch.nan), labels_of=linear)
    broken = int((images(40, 9)[:, 0] > 0.5).sum())
    assert 0 < broken < 40
    assert about(warnings, f"the outputs for {broken} of 40 inputs hold NaN or plus infinity")


def test_outputs_that_differ_between_calls_are_reported():
    linear, noise = Linear.drawn(9, 2), generator(9)

    def restless(inputs):
        return linear(inputs) + torch.randn(len(inputs), 2, generator=noise, dtype=inputs.dtype)

    assert about(
        warned(restless, labels_of=linear), r"outputs for 40 of 40 inputs change between two calls, by up to \d"
    )


def test_saturated_softmax_has_no_cross_entropy_gradient():
    linear = Linear.drawn(9, 2)
    warnings = warned(lambda inputs: (1000 * linear(inputs)).float())
    assert about(warnings, r"gradient of the cross-entropy is exactly 0 at \d")
    assert not about(warnings, r"gradient of the margin")


def test_robustness_that_never_falls_is_reported():
    """Constant outputs."""
    warnings = warned(lambda inputs: torch.tensor([[1.0, 0.0]]).double() + 0 * inputs[:, :2])
    assert about(warnings, r"does not fall to 0 as epsilon grows: 100\.0% remain at 0\.5")


def test_robustness_that_rises_with_epsilon_is_reported():
    """The margin is a narrow valley beside each input: long steps jump over it."""
    inputs, labels = torch.full((20, 1), 0.5, dtype=torch.float64), torch.zeros(20, dtype=torch.int64)

    def valley(inputs):
        return torch.cat([1 - (1 - ((inputs - 0.5).abs() - 0.1).abs() / 0.03).clamp_min(0) * 2, 0 * inputs], 1)

    warnings = masking_warnings(valley, inputs, labels, LINF, generator(), num_steps=2, num_queries=5)
    assert about(warnings, r"robust accuracy rises with epsilon: .*% at 0\.\d+ and .*% at 0\.\d")


def test_steps_that_still_help_are_reported():
    """The margin is a valley that two long steps jump over and ten shorter ones find."""
    inputs, labels = torch.full((20, 1), 0.5, dtype=torch.float64), torch.zeros(20, dtype=torch.int64)
    narrow = lambda inputs: torch.cat([(inputs - 0.52).abs() - 0.015, 0 * inputs], 1)  # noqa: E731
    warnings = masking_warnings(narrow, inputs, labels, LINF, generator(), num_steps=2, num_queries=5)
    assert about(warnings, r"more steps still help: robust accuracy .*% under pgd-2x1 and .*% under pgd-10x1")


def test_classifier_without_input_gradients_is_reported_alone():
    linear = Linear.drawn(9, 2)
    (only,) = warned(lambda inputs: linear(inputs.detach()))
    assert only.startswith("the outputs carry no gradient back to the inputs")


def test_epsilon_beyond_half_the_range_is_the_largest():
    wide = dataclasses.replace(LINF, epsilon=0.7)
    assert isinstance(wide, ThreatModel)
    assert warned(Linear.drawn(9, 2), wide) == ()
