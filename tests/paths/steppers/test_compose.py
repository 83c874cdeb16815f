"""Steppers composed of steppers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fipray.errors import UsageError
from fipray.geometry import FisherRao, functional_distance
from fipray.paths import (
    Corrected,
    FirstOrder,
    Natural,
    Situation,
    Switch,
)
from fipray.testing import CorrectorContract, Flat, RestrictedStepperContract
from tests.margins import assert_below
from tests.paths.steppers.situations import Slope, off_start
from tests.problems import batch, mlp, problem


class TestCorrected(RestrictedStepperContract, CorrectorContract):
    stepper = Corrected(FirstOrder(), Natural())


class TestSwitch(RestrictedStepperContract, CorrectorContract):
    stepper = Switch(FirstOrder(0.1), Natural())


class TestSwitchNearTheEnd(RestrictedStepperContract, CorrectorContract):
    stepper = Switch(FirstOrder(0.1), Natural(), at=0.3)


class TestComposed:
    def test_the_corrector_reduces_the_functional_distance_that_the_predictor_leaves(self):
        where = problem(mlp(5, 8, 3))
        inputs = batch(where, 9, 5)
        alone, back = Natural(damping=1e6), Natural(damping=1e-4, iterations=None)
        situation = Situation(where, Slope(), where.start, inputs, 0.3)
        drifts = []
        for stepper in (alone, Corrected(alone, back)):
            made = stepper.propose(situation, stepper.begin(where))
            embedded = FisherRao().embed(where.network(where.start + made.displacement, inputs.inputs))
            drifts.append(float(functional_distance(embedded, inputs.reference)))
            assert made.predicted_gain > 0
        assert_below(drifts[1] / drifts[0], 0.2)

    def test_a_corrected_step_is_the_sum_of_its_steppers_displacements(self):
        where = problem(mlp(5, 8, 3))
        ahead, back = FirstOrder(beta=1.0), Natural()
        situation = replace(off_start(where, batch(where, 9, 5), radius=0.01), objective=Slope())
        first = ahead.propose(situation, ahead.begin(where))
        second = back.propose(
            replace(situation, objective=Flat(), weights=situation.weights + first.displacement), back.begin(where)
        )
        composed = Corrected(ahead, back)
        made = composed.propose(replace(situation, radius=0.01), composed.begin(where))
        both = first.displacement + second.displacement
        both = both * min(1.0, 0.01 / float(torch.linalg.vector_norm(both)))
        torch.testing.assert_close(made.displacement, both)
        assert set(made.state) == {"predictor.mean", "predictor.square", "predictor.count"}

    @pytest.mark.parametrize(("progress", "part"), [(0.1, "far"), (0.6, "far"), (0.61, "near"), (1.0, "near")])
    def test_a_switch_steps_as_far_up_to_its_fraction_of_the_path_and_then_as_near(self, progress, part):
        where = problem(mlp(5, 8, 3))
        parts = {"far": FirstOrder(beta=1.0), "near": Natural()}
        switch = Switch(parts["far"], parts["near"], at=0.6)
        situation = replace(off_start(where, batch(where, 9, 5)), objective=Slope(), progress=progress)
        made = switch.propose(situation, switch.begin(where))
        expected = parts[part].propose(situation, parts[part].begin(where))
        assert torch.equal(made.displacement, expected.displacement)
        assert int(made.state["far.count"]) == (part == "far")


def test_each_part_of_a_switched_path_has_progress_from_0_to_1():
    where = problem(mlp(5, 6, 3))
    whole = [
        Situation(where, Slope(), where.start, batch(where, 4, 5), 1.0, progress=step / 10, fraction=0.1)
        for step in range(1, 11)
    ]
    parts = [situation.part_of(0.8) for situation in whole]
    assert [part.progress for part in parts] == pytest.approx([n / 8 for n in range(1, 9)] + [0.5, 1.0])
    assert [part.fraction for part in parts] == pytest.approx([1 / 8] * 8 + [1 / 2] * 2)


@pytest.mark.parametrize("wrong", [lambda: Switch(FirstOrder(), Natural(), at=1.0)])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()
