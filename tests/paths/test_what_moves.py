"""Weights that may not change keep every bit on a path, with every stepper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from fipray.errors import NetworkError, UsageError
from fipray.networks import Network
from fipray.paths import (
    Corrected,
    FirstOrder,
    InputNullSpace,
    Kronecker,
    LearnTask,
    Natural,
    Projected,
    Proposal,
    Published,
    RandomWalk,
    Scheduled,
    Sparsify,
    Switch,
)
from fipray.paths.examples import Examples
from fipray.paths.sparsity.patterns import SemiStructured, Structured, Unstructured
from tests.problems import mlp, needs_studies, normal

MOVING = ["2.*"]


class Everywhere:
    """Stepper that moves all weights."""

    def begin(self, problem):
        return {}

    def propose(self, situation, state):
        return Proposal(torch.full_like(situation.weights, 1e-3), 0.0)


STEPPERS = [
    Natural(),
    Natural(iterations=None),
    Natural(chunk=5, warm=True),
    Projected(),
    Projected(dense=1),
    Kronecker(),
    InputNullSpace(threshold=0.1),
    FirstOrder(beta=1.0),
    Published(),
    Corrected(FirstOrder(beta=1.0), Projected()),
    Switch(FirstOrder(beta=1.0), Natural(), at=0.5),
    Everywhere(),
]


def network() -> Network:
    """Three layers, 6 to 8 to 8 to 3, with zeros of both signs among the weights."""
    made = mlp(6, 8, 8, 3)
    weights = made.weights.clone()
    weights[:4] = torch.tensor([0.0, -0.0, 0.0, -0.0])
    return made.at(weights)


def walked(of: Network, **settings):
    defaults = {"objective": RandomWalk(), "radius": Scheduled(0.05), "num_steps": 4, "batch_size": 10}
    return fip.trace(of, anchors=normal(20, 6), held_out=normal(9, 6, seed=1), **{**defaults, **settings})


def bits(weights: Tensor) -> Tensor:
    return weights.contiguous().view(torch.int64)


def inside(of: Network) -> Tensor:
    """[P], true for the weights of the second layer."""
    return torch.cat([torch.full((slot.shape.numel(),), slot.name.startswith("2.")) for slot in of.slots])


@pytest.mark.parametrize("objective", [RandomWalk(), Sparsify(0.2, ramp=0.5)], ids=["walk", "sparsify"])
@pytest.mark.parametrize("stepper", STEPPERS, ids=lambda stepper: type(stepper).__name__)
def test_weights_that_may_not_change_keep_their_bits_with_every_stepper(stepper, objective):
    of = network()
    path = walked(of.only(MOVING), stepper=stepper, objective=objective)
    moves = inside(of)
    for point in path.points:
        assert torch.equal(bits(point.weights)[~moves], bits(of.weights)[~moves])
    if not isinstance(stepper, InputNullSpace) or isinstance(objective, Sparsify):
        assert not torch.equal(path.end.weights[moves], of.weights[moves])


@pytest.mark.parametrize(
    "stepper",
    [
        FirstOrder(beta=1.0),
        Natural(iterations=200),
        Natural(iterations=None),
        Projected(),
        Projected(dense=1, tolerance=1e-10),
    ],
)
def test_a_path_of_some_weights_is_that_of_a_network_that_has_no_others(stepper):
    """To 1e-5 of its length, where solves are exact or iterated to their end."""
    whole = mlp(6, 8, 8, 3)
    module = whole.module_at(whole.weights)
    task = Examples(normal(30, 6, seed=7), torch.arange(30) % 3)
    settings = {"stepper": stepper, "objective": LearnTask("new"), "tasks": {"new": task}}
    held = walked(whole.only(MOVING), **settings)
    alone = walked(Network.of(module, moving=MOVING), **settings)
    length = float((alone.end.weights - alone.points[0].weights).norm())
    assert length > 0.01
    torch.testing.assert_close(held.end.weights[inside(whole)], alone.end.weights, rtol=0, atol=1e-5 * length)


@pytest.mark.parametrize("pattern", [Unstructured(), Unstructured(across="layer")])
def test_sparsity_is_reached_with_the_weights_that_may_change(pattern):
    of, moves = network(), inside(network())
    end = walked(of.only(MOVING), stepper=FirstOrder(), objective=Sparsify(0.3, pattern=pattern)).end
    zeros = end.weights == 0
    assert int(zeros.sum()) == round(0.3 * of.num_weights)
    assert int(zeros[~moves].sum()) == 4  # that were zero before
    assert end.sparsity == pytest.approx(0.3, abs=1 / of.num_weights)


def test_more_sparsity_than_the_weights_that_may_change_allow_is_refused():
    with pytest.raises(UsageError, match=r"only 64 of the 155 weights lie in layers and may change"):
        walked(network().only(MOVING), objective=Sparsify(0.6))


def test_groups_of_n_of_m_are_those_of_layers_that_may_change():
    of = network()
    end = walked(of.only(MOVING), stepper=FirstOrder(), objective=Sparsify(0.5, pattern=SemiStructured())).end
    groups = of.named(end.weights)["2.weight"].unflatten(1, (-1, 4))
    assert bool(((groups == 0).sum(2) == 2).all())


def test_whole_channels_are_those_of_layers_that_may_change():
    of = network()
    pattern = Structured()
    end = walked(of.only(["2.*", "4.*"]), stepper=FirstOrder(), objective=Sparsify(0.5, pattern=pattern)).end
    second = of.named(end.weights)["2.weight"]
    assert int((second == 0).all(1).sum()) == 4
    assert not bool((second == 0).all(0).any())  # no channel of the first layer is gone
    assert torch.equal(of.named(end.weights)["0.weight"], of.named(of.weights)["0.weight"])


def test_statistics_that_would_change_what_may_not_are_refused():
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    of = Network.of(module).only(["3.*"])
    for settings in (
        {"stepper": FirstOrder(beta=1.0, batch_statistics=True)},
        {"objective": Sparsify(0.1, re_estimate=True)},
    ):
        with pytest.raises(NetworkError, match="those of 1 may not change"):
            walked(of, **settings)


def test_names_of_what_moves_are_checked_against_what_may():
    of = network()
    with pytest.raises(NetworkError, match=r"'7\.\*'.*there are: 0\.weight"):
        of.only(["7.*"])
    with pytest.raises(NetworkError, match=r"'0\.\*'"):
        of.only(MOVING).only(["0.*"])


def test_a_resumed_path_of_some_weights_is_the_uninterrupted_one():
    of = network().only(MOVING)
    settings = {"stepper": FirstOrder(beta=1.0), "num_steps": 6}
    whole, first = walked(of, **settings), walked(of, until=3, **settings)
    again = walked(of, resume=first.points, **settings)
    assert torch.equal(bits(again.end.weights), bits(whole.end.weights))


@needs_studies
def test_what_moves_belongs_to_the_ids_of_studies_and_paths():
    anchors = normal(20, 6).float().numpy()

    def made(moving=(), of_path=(), *, frozen=False) -> fip.Study:
        module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        with torch.no_grad():
            for number, parameter in enumerate(module.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=number))
        module[0].requires_grad_(not frozen)
        path = fip.PathSpec("one", RandomWalk(), moving=of_path)
        return fip.Study("s", module, fip.Data(anchors, anchors), (path,), moving=moving)

    everything, head, path = made(), made(("2.*",)), made(of_path=("2.*",))
    assert len({one.path_ids["one"] for one in (everything, head, path)}) == 3
    assert made(frozen=True).path_ids == head.path_ids
    assert made(("*",), frozen=True).path_ids == everything.path_ids
    assert [names for names, _ in head.manifest["parameters_of_module"]] == [["2.weight"], ["2.bias"]]
    with pytest.raises(NetworkError, match=r"path 'one': no parameter is named '7'"):
        made(of_path=("7",))
