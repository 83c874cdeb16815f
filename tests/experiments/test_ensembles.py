"""Studies of ensembles, on a network of one's own."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from experiments.ensembles import LOOKS_AT_OTHERS, OBJECTIVES, SETTINGS, ObjectiveName, member_paths, study
from experiments.subjects import subject
from fipray import analysis
from tests.margins import assert_above

HERE = "tests.experiments.test_ensembles"


def own() -> tuple[nn.Module, fip.Data]:
    """Untrained, for images of 3 x 3 pixels in 4 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    images = np.random.default_rng(0).random((60, 1, 3, 3), dtype=np.float32)
    labels = np.arange(20, dtype=np.int64) % 4
    return module, fip.Data(images[:30], held_out=images[30:40], test_inputs=images[40:], test_labels=labels)


def not_a_base() -> int:
    return 3


def test_every_objective_that_is_offered_is_there():
    assert set(get_args(ObjectiveName)) == set(OBJECTIVES) == set(LOOKS_AT_OTHERS)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_members_differ_and_a_study_traces_them_together_where_they_look_at_others(objective):
    made = study(base=f"{HERE}:own", objective=objective, members=3, rounds=2, num_steps=100)
    assert len({path.seed for path in made.paths}) == 3
    assert made.ensembles[0].rounds == (2 if LOOKS_AT_OTHERS[objective] else 0)
    assert made.ensembles[0].members == tuple(path.name for path in made.paths)


@pytest.mark.parametrize("objective", ["mixed_adversarial_distillation", "random_walk"])
def test_a_study_of_ones_own_network_gives_other_networks_and_their_figures(tmp_path, objective):
    made = study(base=f"{HERE}:own", objective=objective, members=2, rounds=2, num_steps=40, num_examples=20)
    fip.LocalRunner().run(made, tmp_path)
    results = analysis.load(tmp_path)
    ends = [results.weights(path.name) for path in made.paths]
    base = fip.Network.of(made.module).weights.numpy()
    for one, other in combinations([base, *ends], 2):
        assert_above(np.log10(np.linalg.norm(one - other) / np.linalg.norm(base)), -4)
    assert set(results.robustness["name"]) == {"base", "ensemble", *(path.name for path in made.paths)}
    assert results.measures.set_index("name").loc["ensemble", "coherence"] <= 1


def test_one_member_is_no_ensemble():
    assert study(base=f"{HERE}:own", members=1, num_steps=4).ensembles == ()


def test_the_adversary_reaches_a_little_further_than_the_judge():
    settings = SETTINGS["mnist", "lenet_300_100"]
    (path,) = member_paths("adversarial_distillation", 1, threat_model=fip.ThreatModel("linf", 0.1), settings=settings)
    assert isinstance(path.objective, fip.objectives.AdversarialDistillation)
    assert path.objective.adversary.threat_model.epsilon == pytest.approx(0.11)


def half_a_base() -> tuple[nn.Module, int]:
    return own()[0], 3


@pytest.mark.parametrize(
    "wrong", ["nowhere:own", f"{HERE}:nothing", "own", f"{HERE}:not_a_base", f"{HERE}:half_a_base"]
)
def test_a_base_that_cannot_be_had_is_refused(wrong):
    with pytest.raises(fip.errors.UsageError, match="base="):
        study(base=wrong)


def test_a_network_that_does_not_read_the_data_is_refused():
    with pytest.raises(fip.errors.UsageError, match="resnet_20 goes with cifar10_subset"):
        subject("mnist", "resnet_20", "", 0)
