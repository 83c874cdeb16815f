"""Steps in the null space of layer inputs, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import (
    InputNullSpace,
    Situation,
)
from fipray.testing import RestrictedStepperContract
from tests.margins import assert_above
from tests.paths.steppers.situations import Slope
from tests.problems import batch, generator, linear, mlp, normal, problem


class TestInputNullSpaceContract(RestrictedStepperContract):
    stepper = InputNullSpace(num_batches=2)


class TestInputNullSpace:
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
    def test_a_long_step_changes_no_output_of_a_deep_network_to_rounding(self, activation):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = [nn.Linear(20, 30), activation(), nn.Linear(30, 25), activation(), nn.Linear(25, 3)]
            network = Network.of(nn.Sequential(*parts).double())
        where = problem(network, Euclidean())
        inputs = where.batch(normal(12, 6, seed=1) @ normal(6, 20, seed=2))  # rank 6 of 20
        stepper = InputNullSpace()
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        assert float(torch.linalg.vector_norm(made.displacement)) == pytest.approx(10)
        assert made.predicted_gain > 0
        after = network.outputs(where.start + made.displacement, inputs.inputs)
        torch.testing.assert_close(after, inputs.reference, rtol=0, atol=1e-9)

    def test_every_layer_whose_inputs_have_a_null_space_moves(self):
        where = problem(mlp(20, 30, 25, 3), Euclidean())
        inputs, stepper = batch(where, 6, 20), InputNullSpace()
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        parts = where.network.named(made.displacement)
        assert_above(min(parts[f"{place}.weight"].abs().max() for place in (0, 2, 4)), 0.01)

    def test_a_layer_used_twice_and_tied_weights_change_no_output(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.twice = nn.Embedding(15, 12), nn.Linear(12, 12)
                self.head = nn.Linear(12, 15, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, inputs):
                return self.head(self.twice(self.twice(self.embedding(inputs).mean(1)).tanh()).tanh())

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network.of(Tied().double())
        where = problem(network, Euclidean())
        inputs = where.batch(torch.randint(15, (4, 3), generator=generator(1)))
        stepper = InputNullSpace()
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        parts = network.named(made.displacement)
        assert not parts["embedding.weight"].any()
        assert_above(parts["twice.weight"].abs().max(), 0.1)
        after = network.outputs(where.start + made.displacement, inputs.inputs)
        torch.testing.assert_close(after, inputs.reference, rtol=0, atol=1e-9)

    def test_nothing_moves_if_inputs_span_the_whole_space(self):
        where = problem(mlp(4, 5, 3))
        inputs, stepper = batch(where, 200, 4), InputNullSpace(threshold=0)
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        assert not made.displacement.any()
        assert made.predicted_gain == 0

    def test_moments_are_gathered_over_the_first_batches(self):
        where, stepper = problem(linear(10, 3), Euclidean()), InputNullSpace(num_batches=2)
        state, free = stepper.begin(where), []
        for seed in range(3):
            situation = Situation(where, Slope(), where.start, batch(where, 3, 10, seed=seed), 1.0)
            state = stepper.propose(situation, state).state
            free.append(state["free.0"].shape[1])
        assert free == [7, 4, 4]


@pytest.mark.parametrize("wrong", [lambda: InputNullSpace(threshold=1.0), lambda: InputNullSpace(num_batches=0)])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()
