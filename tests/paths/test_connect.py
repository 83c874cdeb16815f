"""Two networks: alignment, loss profiles, and paths from one to the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import Adaptive, Problem, Settings, aligned, connect, loss_profile
from tests.margins import assert_above, assert_below
from tests.problems import generator, linear, mlp, normal


def convolutional(seed: int = 0) -> Network:
    """Two convolutions, pooling and nested blocks, then two linear layers, for 8 x 8 images, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Conv2d(5, 7, 3, bias=False),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(28, 9),
            nn.ReLU(),
            nn.Linear(9, 3),
        )
    return Network.of(module.double())


def shuffled(network: Network, hidden: list[tuple[str, str]], seed: int = 0) -> Tensor:
    """The network's weights with the neurons between each (layer, next layer) in a random order."""
    weights = network.weights.clone()
    named, draws = network.named(weights), generator(seed)
    for layer, after in hidden:
        size = len(named[f"{layer}.weight"])
        order = torch.randperm(size, generator=draws)
        for key in ("weight", "bias"):
            if f"{layer}.{key}" in named:
                named[f"{layer}.{key}"].copy_(named[f"{layer}.{key}"][order])
        leaving = named[f"{after}.weight"]
        grouped = leaving.reshape(len(leaving), size, -1)[:, order]
        leaving.copy_(grouped.reshape(leaving.shape))
    return weights


NETWORKS = {
    "linear": (mlp(6, 20, 15, 4), [("0", "2"), ("2", "4")], (6,)),
    "convolutional": (convolutional(), [("0.0", "1"), ("1", "4"), ("4", "6")], (1, 8, 8)),
}


class TestAligned:
    @pytest.mark.parametrize("kind", NETWORKS)
    def test_a_copy_with_its_neurons_shuffled_is_brought_back_exactly(self, kind):
        network, hidden, shape = NETWORKS[kind]
        for seed in range(3):
            other = shuffled(network, hidden, seed)
            assert not torch.equal(other, network.weights)
            before = other.clone()
            assert torch.equal(aligned(network, network.weights, other, normal(30, *shape)), network.weights)
            assert torch.equal(other, before)

    @pytest.mark.parametrize("kind", NETWORKS)
    def test_the_function_stays_and_the_distance_falls(self, kind):
        network, _, shape = NETWORKS[kind]
        other, inputs = normal(network.num_weights, seed=5), normal(30, *shape)
        made = aligned(network, network.weights, other, inputs)
        torch.testing.assert_close(network(made, inputs), network(other, inputs), rtol=0, atol=1e-12)
        assert_below((made - network.weights).norm() / (other - network.weights).norm(), 1)
        assert torch.equal(made.sort().values, other.sort().values)

    def test_a_network_without_hidden_neurons_stays_as_it_is(self):
        network, other = linear(5, 3), normal(15)
        assert torch.equal(aligned(network, network.weights, other, normal(4, 5)), other)

    @pytest.mark.parametrize(
        ("make", "shape", "said"),
        [
            (lambda: [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)], (1, 8, 8), "'1', BatchNorm2d"),
            (lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)], (1, 8, 8), "'1', Conv2d"),
            (lambda: [nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)], (3,), "'1', Softmax"),
            (lambda: [nn.Conv2d(1, 3, 3), nn.Linear(6, 2)], (1, 8, 8), "'1' does not take the 3 neurons"),
            (lambda: [nn.Linear(3, 4), nn.Flatten(), nn.Linear(20, 2)], (5, 3), "'2' does not take the 4 neurons"),
            (lambda: [nn.Linear(3, 9), nn.MaxPool1d(3, 1, 1), nn.Linear(9, 2)], (3,), "would have changed places"),
            (lambda: [nn.Flatten(), nn.LayerNorm(3)], (3,), "no layers"),
        ],
    )
    def test_what_cannot_be_aligned_is_named(self, make, shape, said):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network.of(nn.Sequential(*make()))
        other = torch.randn(network.num_weights, generator=generator())
        with pytest.raises(NetworkError, match=said):
            aligned(network, network.weights, other, torch.randn(4, *shape, generator=generator()))

    def test_layers_that_do_not_move_are_named(self):
        network = Network.of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), moving=["0.*", "1.bias"])
        with pytest.raises(NetworkError, match=r"1\.weight does not move"):
            aligned(network, network.weights, network.weights, torch.zeros(2, 3))

    def test_weights_of_another_network_are_refused(self):
        network = mlp(5, 6, 3)
        with pytest.raises(NetworkError, match=f"this network has {network.num_weights} weights"):
            aligned(network, network.weights, normal(7), normal(4, 5))


class TestLossProfile:
    def test_the_barrier_of_a_parabola_over_a_line_is_its_height_over_the_chord(self):
        ends = (torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0]))
        profile = loss_profile(ends, lambda w: float(4 * w[0] * (2 - w[0]) + w[0]), num_between=9)
        assert len(profile.losses) == 11
        assert profile.places == pytest.approx([number / 10 for number in range(11)])
        assert profile.barrier == pytest.approx(4)
        assert profile.maximum == pytest.approx(4 * 1.2 * 0.8 + 1.2)

    def test_places_are_by_length(self):
        corner = [torch.tensor(point) for point in ([0.0, 0.0], [3.0, 0.0], [3.0, 1.0])]
        profile = loss_profile(corner, lambda w: float(w.sum()), num_between=0)
        assert profile.places == (0, 0.75, 1)
        assert profile.losses == (0, 3, 4)
        assert profile.barrier == 0

    def test_a_point_alone_and_equal_points_are_refused(self):
        with pytest.raises(UsageError, match="at least two points"):
            loss_profile([torch.zeros(3)], lambda w: 0.0)
        with pytest.raises(UsageError, match="are equal"):
            loss_profile([torch.zeros(3), torch.zeros(3)], lambda w: 0.0)


NEAR = Adaptive(initial=0.02, tolerance=0.0075)


class TestConnect:
    def test_the_same_network_with_its_neurons_shuffled_is_reached_along_its_own_function(self):
        network, hidden, _ = NETWORKS["linear"]
        other, inputs = shuffled(network, hidden), normal(40, 6)
        made = connect(
            Problem(network, inputs, inputs), other, Settings(radius=NEAR, num_steps=15), allowed_distance=0.01
        )
        assert made.outcome.kind == "connected", str(made.outcome)
        assert torch.equal(made.points[0], network.weights)
        assert torch.equal(made.points[-1], other)

        def distance(weights: Tensor) -> float:
            moved = 2 * (network(weights, inputs).softmax(1).sqrt() - network(other, inputs).softmax(1).sqrt())
            return float(moved.square().sum(1).mean().sqrt())

        straight = loss_profile((network.weights, other), distance, num_between=15)
        assert_above(math.log(straight.maximum / 0.01), 0)
        assert loss_profile(made.points, distance).maximum <= 0.01
        assert made.length > torch.linalg.vector_norm(other - network.weights)

    def test_networks_whose_functions_differ_by_less_than_is_allowed_are_joined_by_the_line(self):
        network, inputs = mlp(5, 6, 3), normal(20, 5)
        other = network.weights + 1e-4 * normal(network.num_weights)
        made = connect(Problem(network, inputs, inputs), other)
        assert len(made.points) == 2 + 3
        assert made.gap == pytest.approx(made.length)

    def test_networks_of_different_functions_are_not_connected_and_the_outcome_says_so(self):
        network, inputs = linear(5, 3), normal(20, 5)
        made = connect(
            Problem(network, inputs, inputs, geometry=Euclidean()),
            -network.weights,
            Settings(num_steps=3),
            allowed_distance=0.1,
            num_rounds=1,
        )
        assert made.outcome.kind == "not connected"
        assert "walk more rounds" in str(made.outcome)

    def test_settings_out_of_range_and_another_architecture_are_refused(self):
        network, inputs = mlp(5, 6, 3), normal(20, 5)
        for other, settings, said in (
            (normal(7), {}, "the same architecture"),
            (-network.weights, {"num_rounds": 0}, "at least 1"),
            (-network.weights, {"allowed_distance": 0.0}, "above 0"),
        ):
            with pytest.raises(UsageError, match=said):
                connect(Problem(network, inputs, inputs), other, **settings)
