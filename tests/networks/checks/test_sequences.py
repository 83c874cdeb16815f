"""Outputs with classes in a dimension of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from fipray.errors import NetworkError, UsageError
from fipray.geometry import FisherRao
from fipray.networks import Network


class Sequences(nn.Module):
    """Logits [N, T, C] of tokens, as a language model has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(7, 5, padding_idx=0), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.embedding(tokens))


class TestClassesOfSequences:
    TOKENS = torch.arange(40).view(10, 4) % 7

    def test_where_the_classes_are_has_to_be_said(self):
        network = Network.of(Sequences().double())
        with pytest.raises(NetworkError, match=r"outputs are \[N, 4, 3\], and classes may be in either dimension"):
            network.check(self.TOKENS, FisherRao())
        network.check(self.TOKENS, FisherRao(dim=-1))
        network.check(self.TOKENS, FisherRao(dim=1))
        with pytest.raises(NetworkError, match="3 dimensions, so none of them is dim=3"):
            network.check(self.TOKENS, FisherRao(dim=3))
        with pytest.raises(UsageError, match="dimension 0 of the outputs"):
            FisherRao(dim=0)

    @pytest.mark.parametrize("stepper", [fip.steppers.Natural(), fip.steppers.FirstOrder(beta=0.1)])
    def test_the_distance_is_that_of_the_probabilities_of_each_token(self, stepper):
        network = Network.of(Sequences().double())
        given = {"anchors": self.TOKENS, "held_out": self.TOKENS, "geometry": FisherRao(dim=-1), "num_steps": 3}
        path = fip.trace(
            network, fip.objectives.RandomWalk(), stepper=stepper, radius=fip.radii.Scheduled(0.1), **given
        )
        one, other = (
            2 * network(weights, self.TOKENS).softmax(-1).sqrt().flatten(1)
            for weights in (network.weights, path.end.weights)
        )
        expected = (one - other).square().sum(1).mean().sqrt()
        torch.testing.assert_close(torch.tensor(path.end.functional_distance_held_out).double(), expected)
        assert expected > 0
