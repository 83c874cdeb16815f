"""Other networks of a study: where paths go, what they differ from, and where they start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import NetworkError, UsageError
from fipray.execution import LocalRunner
from tests.recipes.conftest import small_data, trained


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def rival(base) -> nn.Module:
    made = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return made


ARRIVAL = fip.PathSpec(
    "rival", fip.objectives.Arrival(), stepper=fip.steppers.OneShot(), num_steps=1, networks=("given",)
)


def study(base: nn.Module, **more) -> fip.Study:
    return fip.Study("networks", base, small_data(), **{"paths": (ARRIVAL,), **more})


def test_a_given_network_is_the_end_of_a_path_and_the_start_of_others(base, rival, tmp_path):
    later = fip.PathSpec("later", fip.objectives.RandomWalk(), num_steps=2, start="rival", save_at=fip.SaveAt(1))
    unlike = fip.PathSpec("unlike", fip.objectives.OutputDiversity(), num_steps=2, networks=("given",))
    made = study(
        base,
        paths=(ARRIVAL, later, unlike),
        networks={"given": rival},
        evaluation=fip.Evaluation(fip.ThreatModel("linf", 0.1, -10.0, 10.0), (fip.attacks.FGSM(),), num_examples=20),
        ensembles=(fip.EnsembleSpec("both", ("base", "rival")),),
    )
    LocalRunner().run(made, tmp_path / "out")
    results = analysis.load(tmp_path / "out")
    expected = torch.cat([parameter.detach().flatten() for parameter in rival.parameters()])
    torch.testing.assert_close(torch.from_numpy(results.weights("rival")), expected, rtol=0, atol=0)
    first = results.points.query("name == 'later' and step == 0")
    assert float(first["functional_distance"].iloc[0]) == 0  # kept is the function of the network where it starts
    outputs = rival(torch.from_numpy(made.data.test_inputs[:20])).argmax(1).numpy()
    row = results.robustness.query("name == 'rival' and attack == 'none'").iloc[0]
    assert row["clean_accuracy"] == pytest.approx(
        float((rival(torch.from_numpy(made.data.test_inputs)).argmax(1).numpy() == made.data.test_labels).mean())
    )
    assert len(outputs) == 20
    assert "both" in set(results.robustness["name"])


def test_ids_depend_on_the_weights_of_other_networks(base, rival):
    one, same, other = (
        study(base, networks={"given": each}) for each in (rival, copy.deepcopy(rival), trained_again())
    )
    assert one.path_ids == same.path_ids
    assert one.path_ids != other.path_ids


def trained_again() -> nn.Module:
    made = trained()
    with torch.no_grad():
        made[0].bias += 1.0
    return made


def test_unknown_and_different_networks_are_refused(base, rival):
    with pytest.raises(UsageError, match=r"names the unknown 'given'; the study has the other networks \(none\)"):
        study(base)
    with pytest.raises(
        NetworkError,
        match=r"'given' is not of .*: they differ in 0\.bias, 0\.weight, 2\.weight",
    ):
        study(base, networks={"given": nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3)).eval()})
    first, second = (nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval() for _ in range(2))
    second[1].running_mean += 1
    with pytest.raises(NetworkError, match=r"differs from the base network in 1\.running_mean, which no path moves"):
        fip.Study("norms", first, small_data(), (ARRIVAL,), networks={"given": second})


def test_arrival_restricts_at_the_end_alone(base, rival):
    network, goal = fip.Network.of(base), fip.Network.of(rival).weights
    problem = fip.Problem(network, anchors=torch.zeros(2, 8), held_out=torch.zeros(2, 8), others=(goal,))
    objective, batch = fip.objectives.Arrival(), problem.batch(torch.zeros(2, 8))
    assert objective.restrict(problem, network.weights, 0.99, batch) is network.weights
    assert objective.restrict(problem, network.weights, 1.0, batch).equal(goal)
    there = goal.clone()
    assert objective.restrict(problem, there, 1.0, batch) is there
