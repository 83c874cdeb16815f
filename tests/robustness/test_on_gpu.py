"""Every attack and measure on a GPU: the results of the CPU, no device mixed, and few waits.

Without a GPU this runs on the pretend one (tests/pretend.py), which computes as the CPU does, draws included.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from fipray.networks import Network
from fipray.robustness import (
    FGSM,
    PGD,
    Ensemble,
    EnsembleAccuracy,
    MeanOfPairs,
    OnLogits,
    RandomNoise,
    RandomSearch,
    ReweighedPGD,
    StackedEnsemble,
    TargetedPGD,
    ThreatModel,
    TransferAttack,
    coherence_matrix,
    evaluate,
    greedy_selection,
    masking_warnings,
    measure,
    transfer_matrix,
)
from fipray.robustness.measures import disagreement_matrix
from tests import pretend
from tests.problems import generator

CPU = torch.device("cpu")
LINF, L2 = ThreatModel("linf", 0.05), ThreatModel("l2", 0.3)
NUM_STEPS = 4


@cache
def networks() -> tuple[Network, ...]:
    """Three small convolutional networks with BatchNorm."""
    found = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = nn.Sequential(*(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)))
            module(torch.rand(50, 1, 6, 6))  # statistics other than 0 and 1
        found.append(Network.of(module.double().eval()))
    return tuple(found)


def ensemble(device: torch.device) -> Ensemble:
    def member(network: Network):
        there = network.to(device)
        return lambda inputs: there(there.weights, inputs)

    return Ensemble([member(network) for network in networks()])


def examples(device: torch.device) -> tuple[Tensor, Tensor]:
    inputs = torch.rand(30, 1, 6, 6, generator=generator(1), dtype=torch.float64).to(device)
    labels = ensemble(device)(inputs).argmax(1)
    labels[::5] = (labels[::5] + 1) % 4
    return inputs, labels


def draws(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(3)


ATTACKS = {
    # attack, and its waits, for the examples and for their labels: none of a step
    "fgsm": (FGSM(), 2),
    "pgd": (PGD(NUM_STEPS), 2),
    "pgd, restarts": (PGD(NUM_STEPS, num_restarts=2), 2),
    "targeted": (TargetedPGD(NUM_STEPS, num_targets=2), 2),
    "noise": (RandomNoise(NUM_STEPS), 2),
    "search": (RandomSearch(NUM_STEPS), 2),
    # the wrapped attack checks its examples as well
    "on_logits": (OnLogits(PGD(NUM_STEPS)), 3),
    "reweighed": (ReweighedPGD(NUM_STEPS), 3),
}


def perturbed(device: torch.device, attack, threat_model: ThreatModel, **settings: bool):
    classifier, (inputs, labels) = ensemble(device), examples(device)
    return lambda: attack.perturb(classifier, inputs, labels, threat_model, draws(device), **settings)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_gpu_is_that_of_the_cpu_with_few_waits(name):
    attack, waits = ATTACKS[name]
    expected = perturbed(CPU, attack, LINF)()
    with pretend.gpu() as gpu:
        attacked = perturbed(gpu.device, attack, LINF)
        gpu.taken()
        made = attacked()
        counts = gpu.taken()
        assert made.device == gpu.device
        assert counts.syncs <= waits, counts.waits
        assert counts.to_device == 0
        if gpu.pretends:  # a GPU has other random numbers
            torch.testing.assert_close(made.cpu(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", [PGD(NUM_STEPS), TargetedPGD(NUM_STEPS, num_targets=1), RandomSearch(NUM_STEPS)])
def test_an_attack_until_all_are_fooled_waits_once_a_step(attack):
    expected = perturbed(CPU, attack, LINF, until_fooled=True)()
    with pretend.gpu() as gpu:
        attacked = perturbed(gpu.device, attack, LINF, until_fooled=True)
        gpu.taken()
        made = attacked()
        counts = gpu.taken()
        # The examples, their labels, and which of them are to be attacked; then, which are left after each step.
        assert counts.syncs <= 3 + NUM_STEPS, counts.waits
        assert counts.to_device == 0
        if gpu.pretends:
            torch.testing.assert_close(made.cpu(), expected, rtol=0, atol=1e-9)


def test_a_projection_on_a_ball_waits_at_most_once_a_step():
    expected = perturbed(CPU, PGD(NUM_STEPS), L2)()
    with pretend.gpu() as gpu:
        attacked = perturbed(gpu.device, PGD(NUM_STEPS), L2)
        gpu.taken()
        made = attacked()
        counts = gpu.taken()
        assert counts.syncs <= 2 + 1 + NUM_STEPS, counts.waits
        if gpu.pretends:
            torch.testing.assert_close(made.cpu(), expected, rtol=0, atol=1e-9)


def test_a_transfer_attack_runs_on_the_device():
    with pretend.gpu() as gpu:
        found = []
        for device in (CPU, gpu.device):
            attack = TransferAttack({"one": ensemble(device).members[0]}, PGD(NUM_STEPS))
            found.append(perturbed(device, attack, LINF)().cpu())
        if gpu.pretends:
            torch.testing.assert_close(*found, rtol=0, atol=1e-9)


def test_an_evaluation_on_a_gpu_is_that_of_the_cpu():
    found = []
    with pretend.gpu() as gpu:
        for device in (CPU, gpu.device):
            classifier, (inputs, labels) = ensemble(device), examples(device)
            attacks = [PGD(NUM_STEPS), RandomNoise(2)]
            result = evaluate(classifier, inputs, labels, LINF, attacks, draws(device), batch_size=16)
            assert result.clean.device == device
            found.append((result.clean.tolist(), {name: robust.tolist() for name, robust in result.robust.items()}))
            members = dict(zip("abc", classifier.members, strict=True))
            matrix = transfer_matrix(members, members, inputs, labels, LINF, PGD(2), draws(device), batch_size=16)
            found[-1] += (
                matrix.tolist(),
                masking_warnings(classifier, inputs, labels, LINF, draws(device), num_steps=2, num_queries=2),
            )
        if gpu.pretends:
            assert found[0] == found[1]


def test_an_evaluation_waits_no_more_for_more_steps_than_once_a_step():
    with pretend.gpu() as gpu:
        classifier, (inputs, labels) = ensemble(gpu.device), examples(gpu.device)
        syncs = []
        for num_steps in (2, 6):
            gpu.taken()
            evaluate(classifier, inputs, labels, LINF, [PGD(num_steps)], draws(gpu.device))
            syncs.append(gpu.taken().syncs)
    assert syncs[1] - syncs[0] <= 4


def test_measures_on_a_gpu_are_those_of_the_cpu():
    found = []
    with pretend.gpu() as gpu:
        for device in (CPU, gpu.device):
            classifier, (inputs, labels) = ensemble(device), examples(device)
            first = networks()[0].to(device)
            stack = StackedEnsemble(first, torch.stack([one.weights.to(device) for one in networks()]))
            measured = [measure(one, inputs, labels, inputs.flip(2), classifier.members) for one in (classifier, stack)]
            outputs = torch.stack([member(inputs) for member in classifier.members])
            scores = (
                EnsembleAccuracy(outputs[:, None], labels),
                MeanOfPairs(-coherence_matrix(classifier.members, inputs, labels)),
                MeanOfPairs(disagreement_matrix(outputs.argmax(2))),
            )
            found.append((measured, [greedy_selection(3, 2, score) for score in scores]))
        if gpu.pretends:
            assert repr(found[0]) == repr(found[1])
