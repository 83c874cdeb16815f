"""Dry run of a study when it is made: mistakes that would only show in a worker are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from tests.studies import Fails, data, module

GOOD = data()
assert GOOD.test_inputs is not None
THREAT = fip.ThreatModel("linf", 0.1)
ALL = fip.EnsembleSpec("all", ("base", "p"))


class Rows(nn.Module):
    """Network for inputs of any dtype, with outputs `finish(logits)`."""

    def __init__(self, finish=lambda logits: logits) -> None:
        super().__init__()
        self.net, self.finish = module(), finish

    def forward(self, inputs: Tensor) -> Tensor:
        return self.finish(self.net(inputs.float()))


class WithoutGradient(nn.Module):
    """Network that detaches its inputs, so that its outputs have no gradient in them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = module()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs.detach())


class Packed(nn.Module):
    """Network with an extra state in its state_dict."""

    def __init__(self, state: object) -> None:
        super().__init__()
        self.net, self.state = module(), state

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state = state

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


def converted(dtype: str, scale: int = 1) -> fip.Data:
    arrays = [(scale * each).astype(dtype) for each in (GOOD.anchors, GOOD.held_out, GOOD.test_inputs)]
    return fip.Data(*arrays, GOOD.test_labels, bounds=(0, scale))


def made(net: nn.Module | None = None, objective=None, *, threat=THREAT, given=GOOD, **more) -> fip.Study:
    stepper = more.pop("stepper", fip.steppers.FirstOrder(beta=0.1))
    path = {name: more.pop(name) for name in ("uncertainty_fraction", "augmentations", "radius") if name in more}
    evaluation = fip.Evaluation(
        threat, **{name: more.pop(name) for name in ("attacks", "check_masking") if name in more}
    )
    settings = {"evaluation": evaluation} | more
    paths = (fip.PathSpec("p", objective or fip.objectives.GradientDiversity(), stepper=stepper, **path),)
    return fip.Study("s", (net or module()).eval(), given, paths, **settings)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: made(Rows(), given=converted("uint8", 255), threat=replace(THREAT, upper=255)), "dtype uint8"),
        (
            lambda: made(Rows(), given=converted("int64", 9), threat=replace(THREAT, upper=9)),
            "dtype int64, but attacks need floats",
        ),
        (lambda: made(threat=replace(THREAT, lower=-1.0)), "allows inputs in -1..1, but the data's bounds are 0..1"),
        (lambda: made(given=replace(GOOD, bounds=(-1, 1))), "lower=-1, upper=1), or Data(..., bounds=(0.0, 1.0))"),
        (
            lambda: made(
                objective=fip.objectives.AdversarialDistillation(fip.objectives.Adversary(replace(THREAT, upper=2.0)))
            ),
            "path 'p': the threat model of its objective allows inputs in 0..2",
        ),
        (lambda: made(Rows(lambda z: z.view(-1, 3, 1, 1).expand(-1, 3, 4, 4))), "shape (1, 3, 4, 4), but accuracies"),
        (
            lambda: made(Rows(lambda z: z[:, :1]), geometry=fip.Euclidean()),
            "the network has 2 classes, 0..1, but test_labels holds 2",
        ),
        (
            lambda: made(WithoutGradient()),
            "attack fgsm on the base network cannot work: the classifier's outputs carry",
        ),
        (lambda: made(Packed([1, 2])), "_extra_state in the module's state_dict is a list"),
        (lambda: made(Packed(torch.zeros(2, dtype=torch.complex64))), "which cannot be saved"),
        (
            lambda: made(attacks=(fip.attacks.AutoAttack(("apgd-t",)),)),
            "on the base network cannot work: apgd-t needs 4 classes",
        ),
        (lambda: made(augmentations=(fip.augmentations.Shifted(1),)), "path 'p': its augmentations of the anchors"),
        (
            lambda: made(uncertainty_fraction=0.5, geometry=fip.Euclidean(), evaluation=None),
            "uncertainty_fraction=0.5 needs geometry=FisherRao()",
        ),
        (
            lambda: made(Rows(), fip.objectives.InputGradientPenalty(), given=converted("uint8", 255), evaluation=None),
            "path 'p': its objective, InputGradientPenalty, fails on 2 inputs: RuntimeError",
        ),
    ],
)
def test_a_study_that_cannot_be_carried_out_is_refused_when_it_is_made(make, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        make()
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "attack", [fip.attacks.FGSM(), fip.attacks.PGD(500), fip.attacks.TargetedPGD(500), fip.attacks.RandomSearch(10**6)]
)
def test_every_attack_is_tried_with_one_step_on_networks_and_stacks(attack):
    made(attacks=(attack,), ensembles=(ALL,), check_masking=True)


def test_bytes_and_dense_outputs_are_fine_without_an_evaluation():
    made(Rows(), fip.objectives.WeightDiversity(), given=converted("uint8", 255), evaluation=None)
    made(
        Rows(lambda z: z.view(-1, 3, 1, 1).expand(-1, 3, 4, 4)),
        given=fip.Data(GOOD.anchors, GOOD.held_out),
        evaluation=None,
        geometry=fip.Euclidean(),
        objective=fip.objectives.WeightDiversity(),
    )


@dataclass(frozen=True)
class Counts:
    """Attack of the user's own."""

    name: str = "counts"

    def perturb(self, *_, **__):
        raise ZeroDivisionError


def test_code_of_the_users_own_is_not_run():
    made(objective=Fails("not run"), attacks=(Counts(),))


def test_paths_that_differ_in_numbers_alone_are_tried_once(monkeypatch):
    calls = []
    value = fip.objectives.GradientDiversity.value

    def counted(self, *arguments):
        calls.append(1)
        return value(self, *arguments)

    monkeypatch.setattr(fip.objectives.GradientDiversity, "value", counted)
    paths = [
        fip.PathSpec(f"p{i}", fip.objectives.GradientDiversity(), stepper=fip.steppers.FirstOrder(beta=i + 1.0), seed=i)
        for i in range(200)
    ]
    fip.Study("s", module(), GOOD, tuple(paths))
    few = len(calls)
    calls.clear()
    fip.Study("s", module(), GOOD, tuple(paths[:1]))
    assert len(calls) == few


def test_outputs_that_the_geometry_is_not_for_are_refused_when_the_study_is_made():
    module = nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)).eval()
    with pytest.raises(fip.errors.NetworkError, match="probabilities"):
        fip.Study("s", module, GOOD, (fip.PathSpec("p", fip.objectives.RandomWalk(), num_steps=1),))


def test_outputs_that_never_change_are_refused_when_the_study_is_made():
    module = nn.Sequential(nn.Linear(6, 3), nn.Threshold(1e9, 0.0)).eval()
    with pytest.raises(fip.errors.NetworkError, match="the same at all weights"):
        fip.Study("s", module, GOOD, (fip.PathSpec("p", fip.objectives.RandomWalk(), num_steps=1),))
