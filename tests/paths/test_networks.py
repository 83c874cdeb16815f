"""Every kind of network with every stepper: the weights move, the objective improves, the function stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from fipray.errors import NetworkError
from fipray.geometry import Euclidean, FisherRao, Heads, Metric, OutputGeometry, functional_distance
from fipray.networks import Network
from fipray.paths import (
    Adaptive,
    Batch,
    Corrected,
    FirstOrder,
    GradientDiversity,
    Kronecker,
    Natural,
    Problem,
    SaveAt,
    Settings,
    Stepper,
    trace,
)
from tests.margins import assert_above, assert_below
from tests.networks.test_second_derivatives import Once
from tests.problems import generator, normal

NUM_INPUTS, TOLERANCE = 10, 0.05


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.body(inputs)


class Recurrent(nn.Module):
    """Tokens or sequences to classes, by the last state."""

    def __init__(self, body: nn.RNNBase, num_tokens: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, body.input_size) if num_tokens else nn.Identity()
        self.body, self.head = body, nn.Linear(body.hidden_size, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(inputs))[0][:, -1])


class BagOfTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 16), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.embedding(inputs).mean(1).tanh())


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.place = nn.Linear(6, 24), nn.Linear(24, 3), nn.Linear(24, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.body(inputs).tanh()
        return torch.cat([self.classes(seen), self.place(seen)], 1)


def convolutional() -> nn.Module:
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 3)
    )
    module.train()(torch.randn(64, 1, 8, 8))  # statistics that are not those of a fresh layer
    return module


def residual() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), Residual(block), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, groups=2),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GroupNorm(2, 8),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def vision_transformer() -> nn.Module:
    module = VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=3)
    nn.init.normal_(module.heads[-1].weight, std=0.5)  # torchvision begins with a head of zeros
    return module


def super_resolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))


@dataclass(frozen=True)
class Kind:
    """A kind of network, made under a seed; the shape of its inputs, or the shape and number of its tokens."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    num_tokens: int = 0
    geometry: OutputGeometry = FisherRao()
    dtype: torch.dtype = torch.float64

    def network(self) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Network.of(self.make().to(self.dtype).eval())

    def inputs(self, size: int = NUM_INPUTS) -> Tensor:
        if self.num_tokens:
            return torch.randint(self.num_tokens, (size, *self.shape), generator=generator(1))
        return normal(size, *self.shape, seed=1).to(self.dtype)


KINDS = {
    "fully connected": Kind(lambda: nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3)), (6,)),
    "float32": Kind(lambda: nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3)), (6,), dtype=torch.float32),
    "convolutional": Kind(convolutional, (1, 8, 8)),
    "residual": Kind(residual, (1, 8, 8)),
    "grouped": Kind(grouped, (2, 8, 8)),
    "vision transformer": Kind(vision_transformer, (3, 16, 16)),
    "gru": Kind(lambda: Recurrent(nn.GRU(4, 8, batch_first=True)), (6, 4)),
    "lstm": Kind(lambda: Recurrent(nn.LSTM(4, 8, batch_first=True)), (6, 4)),
    "token lstm": Kind(lambda: Recurrent(nn.LSTM(4, 8, batch_first=True), num_tokens=12), (5,), num_tokens=12),
    "bag of tokens": Kind(BagOfTokens, (5,), num_tokens=12),
    "super-resolution": Kind(super_resolution, (1, 3, 3), geometry=Euclidean()),
    "dynamics": Kind(lambda: nn.Sequential(nn.Linear(4, 24), nn.SiLU(), nn.Linear(24, 3)), (4,), geometry=Euclidean()),
    "two heads": Kind(TwoHeads, (6,), geometry=Heads((FisherRao(), Euclidean()), sizes=(3, 2))),
}


@dataclass(frozen=True)
class Walk:
    """A stepper, what it is given, over how many slopes the mean is taken, and how many times nearer than the straight
    way it stays at least."""

    stepper: Stepper
    num_steps: int
    num_slopes: int
    nearer: float


WALKS = {
    "natural": Walk(Natural(1e-3), 6, 1, 2.0),
    "first order": Walk(FirstOrder(beta=1e-3), 40, 2, 1.2),
    "kronecker": Walk(Kronecker(refresh=1), 15, 3, 1.2),
    "corrected": Walk(Corrected(FirstOrder(beta=1e-3), Natural(1e-3)), 6, 2, 1.2),
}


@dataclass(frozen=True, eq=False)
class Slope:
    """`<l, w - w0>` with a fixed l of length 1: what is improved by every step that is not against it."""

    direction: Tensor

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return self.direction @ (weights - problem.start)


def drawn(network: Network, seed: int = 4) -> Tensor:
    """A direction of length 1."""
    return unit(normal(network.num_weights, seed=seed).to(network.weights))


def unit(direction: Tensor) -> Tensor:
    return direction / torch.linalg.vector_norm(direction)


@dataclass(frozen=True)
class Walked:
    """Logarithms of what a path has reached along a slope.

    gain: of the objective, for each length moved; at most log 1.
    length: of the way from the start to the end, in units of |w0|.
    nearer: the functional distance of the straight way as long, in units of the path's.
    """

    gain: float
    length: float
    nearer: float


def walked(chosen: Kind, how: Walk, seed: int) -> Walked:
    """Half of the slope is the direction that the function depends on most: descent loses the function for certain,
    whatever else is drawn, and what is free of it is gained."""
    network, anchors = chosen.network(), chosen.inputs()
    jacobian = Metric(network, network.weights, anchors, chosen.geometry).jacobian()
    sensitive, other = torch.linalg.svd(jacobian, full_matrices=False).Vh[0], drawn(network, seed)
    slope = unit(other + sensitive * (sensitive @ other).sign())  # the sign of a singular vector is arbitrary
    path = trace(
        Problem(network, anchors=anchors, held_out=anchors, geometry=chosen.geometry),
        Slope(slope),
        Settings(
            stepper=how.stepper,
            radius=Adaptive(initial=0.02, tolerance=TOLERANCE),
            num_steps=how.num_steps,
            save_at=SaveAt(1),
        ),
    )
    assert path.outcome.kind == "completed"
    assert path.end.functional_distance <= TOLERANCE
    length = float(torch.linalg.vector_norm(path.end.weights - network.weights))
    ends = network.weights - length * slope, network.weights
    straight = functional_distance(*(chosen.geometry.embed(network.outputs(weights, anchors)) for weights in ends))
    return Walked(
        gain=math.log(-path.end.objective_value / length),
        length=math.log(length / float(torch.linalg.vector_norm(network.weights))),
        nearer=math.log(float(straight) / path.end.functional_distance),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("walk", WALKS)
def test_the_objective_improves_and_the_function_stays_which_a_straight_way_as_long_leaves(kind, walk):
    chosen, how = KINDS[kind], WALKS[walk]
    found = [walked(chosen, how, seed=4 + number) for number in range(how.num_slopes)]
    assert_above(fmean(one.gain for one in found), math.log(0.01))
    assert_above(fmean(one.length for one in found), math.log(1e-5))
    assert_above(fmean(one.nearer for one in found), math.log(how.nearer))


def test_a_network_without_a_second_derivative_takes_first_order_steps_and_else_is_named():
    network = Network.of(nn.Sequential(nn.Linear(4, 3), Once()).double())
    settings = {"anchors": normal(8, 4), "held_out": normal(8, 4), "objective": Slope(drawn(network)), "num_steps": 3}
    with pytest.raises(NetworkError, match=r"^1 \(Once\) has no second derivative"):
        trace(network, **settings)
    assert_below(trace(network, stepper=FirstOrder(beta=1.0), **settings).end.objective_value, 0)


def test_a_vision_transformer_can_be_diversified():
    chosen = KINDS["vision transformer"]
    network, anchors = chosen.network(), chosen.inputs()
    path = trace(Problem(network, anchors=anchors, held_out=anchors), GradientDiversity(), Settings(num_steps=4))
    assert_above(math.log10(1 - path.end.objective_value), -6)  # 1 at the start
