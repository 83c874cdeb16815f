"""Wrong arguments are refused at the call, in words that say what was expected."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fipray as fip
from fipray import analysis, geometry, networks, paths, robustness, study
from fipray.border import checked
from fipray.border.checking import _hints, is_checked
from fipray.border.wording import classes_that_fit
from fipray.networks.arrays import Inputs, Labels, Stack, Weights
from fipray.study.canonical import from_json, to_json

LINF = fip.ThreatModel("linf", 0.1)


@checked
@dataclass(frozen=True)
class Spec:
    number: float = 1.0
    count: int | None = None
    names: tuple[str, ...] = ()
    pairs: Mapping[str, tuple[float, int]] | None = None
    kind: Literal["a", "b"] = "a"
    flag: bool = False


@checked
def arrays(inputs: Inputs, labels: Labels | None = None, weights: Weights | None = None, stack: Stack | None = None):
    return inputs


@checked
def called(function: Callable[[Tensor, Tensor], float], items: Sequence[int] = ()):
    return items


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(fip.errors.UsageError) as refused:
        call()
    assert "\n" not in str(refused.value)
    assert "beartype" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"number": True}, "Spec(): number is True; expected a number"),
        ({"number": float("nan")}, "number is nan; expected a number. NaN is not a number"),
        ({"number": "0.5"}, "number is '0.5'; expected a number"),
        ({"number": torch.tensor(0.5)}, "expected a number. Give its number: value.item()"),
        ({"number": 10**400}, "expected a number"),
        ({"count": 2.0}, "count is 2.0; expected an integer or None. Give 2"),
        ({"count": 2**63}, "expected an integer or None"),
        (
            {"names": "ab"},
            "expected a tuple, of which each item is a string. Give a tuple of one: ('ab',)",
        ),
        ({"names": ("a", 3)}, "names[1] is 3; expected a string"),
        ({"pairs": {"x": (1.0, 2.5)}}, "pairs['x'][1] is 2.5; expected an integer"),
        ({"pairs": {3: (1.0, 2)}}, "the key 3 is 3; expected a string"),
        ({"kind": "c"}, "kind is 'c'; expected 'a' or 'b'"),
        ({"flag": 1}, "flag is 1; expected True or False"),
        ({"nmber": 1}, "got an unexpected keyword argument 'nmber'; it takes: number, count, names, pairs, kind, flag"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_there_and_what_is_expected(wrong, said):
    assert said in refusal(lambda: Spec(**wrong))


def test_lists_become_tuples_and_numbers_of_numpy_become_those_of_python():
    made = Spec(np.float32(0.5), np.int64(3), ["a"], {"x": [1, np.int32(2)]}, flag=np.bool_(True))
    assert made == Spec(0.5, 3, ("a",), {"x": (1, 2)}, flag=True)
    assert type(made.number) is float
    assert type(made.count) is int
    assert type(made.names) is tuple
    assert type(made.pairs["x"][1]) is int


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"inputs": np.zeros((3, 2))},
            "a float64 numpy array [3, 2]; expected a tensor [N, ...]. Convert it",
        ),
        ({"inputs": torch.tensor(1.0)}, "a float32 tensor []; expected a tensor [N, ...]"),
        ({"inputs": torch.eye(2).to_sparse()}, "sparse"),
        ({"inputs": torch.zeros(2, 2, device="meta")}, "dense one that holds numbers"),
        (
            {"inputs": DataLoader(TensorDataset(torch.zeros(2, 2)))},
            "expected a tensor [N, ...]. Join the inputs",
        ),
        ({"inputs": TensorDataset(torch.zeros(2, 2))}, "a TensorDataset; expected a tensor [N, ...]. Stack its inputs"),
        ({"inputs": [[0.0]]}, "Convert it with torch.tensor(values)"),
        ({"labels": torch.zeros(2)}, "a float32 tensor [2]; expected an int64 tensor [N]"),
        ({"weights": torch.zeros(2, 2)}, "expected a floating-point tensor [P]"),
        ({"weights": torch.zeros(2), "stack": torch.zeros(1, 3)}, "stack is a float32 tensor [1, 3]"),
    ],
)
def test_arrays_are_checked_by_kind_dtype_and_shape(wrong, said):
    with pytest.raises(fip.errors.DataError) as refused:
        arrays(**{"inputs": torch.zeros(2, 2)} | wrong)
    assert said in str(refused.value)


@pytest.mark.parametrize("wrong", [lambda a: 0.0, lambda: 0.0, int, "f", None])
def test_functions_are_asked_whether_they_take_what_they_are_called_with(wrong):
    assert "expected a function of a Tensor, a Tensor" in refusal(lambda: called(wrong))
    assert called(lambda a, b: 0.0, [1]) == [1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: fip.objectives.AdversarialDistillation(LINF),
            "expected an Adversary. Make one: Adversary(threat_model)",
        ),
        (
            lambda: fip.PathSpec("a", LINF),
            "expected an Objective, such as AdversarialDistillation, Arrival, EnsembleAdversarialDistillation, ",
        ),
        (
            lambda: fip.PathSpec("a", fip.objectives.GradientDiversity),
            "is the class GradientDiversity; expected an Objective",
        ),
        (
            lambda: fip.PathSpec("a", fip.objectives.GradientDiversity(), stepper="adam"),
            "expected a Stepper, such as Corrected, ",
        ),
        (
            lambda: fip.PathSpec("a", fip.objectives.GradientDiversity(), stepper=fip.radii.Adaptive()),
            "Adaptive lacks propose",
        ),
        (
            lambda: fip.PathSpec("a", fip.objectives.GradientDiversity(), events=fip.events.ObjectiveBelow(0)),
            "Give a tuple, even of one item",
        ),
        (lambda: fip.PathSpec("a", fip.objectives.GradientDiversity(), seed=-1), "seed is -1; expected a seed"),
        (lambda: fip.Evaluation(LINF, attacks=(fip.attacks.PGD,)), "attacks[0] is the class PGD"),
        (lambda: fip.Network.of(fip.objectives.GradientDiversity()), "expected a Module"),
        (lambda: analysis.summary("results"), "Load it: fipray.analysis.load(directory)"),
        (lambda: fip.LocalRunner(threads=0), "at least one thread"),
        (lambda: fip.LocalRunner(device="abacus"), "there is no device 'abacus' here"),
        (lambda: fip.RayRunner(address=3), "expected a string or None"),
    ],
)
def test_frequent_mistakes_are_refused_at_the_call_with_what_helps(call, said):
    assert said in refusal(call)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (
            {"network": "resnet"},
            fip.errors.NetworkError,
            "problem is 'resnet'; expected a Problem, a Network or a Module",
        ),
        ({"anchors": np.zeros((4, 2))}, fip.errors.DataError, "torch.from_numpy(array)"),
        ({"anchors": torch.rand(4, 2).requires_grad_()}, fip.errors.DataError, "inputs.detach()"),
        ({"held_out": torch.rand(4, 2, device="meta")}, fip.errors.DataError, "expected a tensor"),
        (
            {"others": (torch.zeros(3),)},
            fip.errors.NetworkError,
            "this network has 6 weights; a float32 tensor [3] was given",
        ),
        ({"others": torch.zeros(2, 6)}, fip.errors.UsageError, "Give a tuple"),
        ({"num_steps": 2.0}, fip.errors.UsageError, "Give 2"),
        ({"seed": 2**63}, fip.errors.UsageError, "expected a seed"),
        ({"probes": {"a": lambda: 0.0}}, fip.errors.UsageError, "probes['a'] is a function"),
        ({"events": "stop"}, fip.errors.UsageError, "events is 'stop'"),
        (
            {"helt_out": 1},
            fip.errors.UsageError,
            "argument 'helt_out'; it takes: problem, objective, settings",
        ),
    ],
)
def test_trace_refuses_arguments_that_do_not_fit_before_it_walks(wrong, error, said):
    arguments = traced_with() | wrong
    with pytest.raises(error) as refused:
        walked(**arguments)
    assert said in str(refused.value)


def walked(network: Any, objective: Any, **given: Any) -> fip.WeightPath:
    return fip.trace(network, objective, **given)


def traced_with() -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, inputs = fip.Network.of(nn.Linear(2, 2)), torch.rand(8, 2)
    return {
        "network": network,
        "anchors": inputs,
        "held_out": inputs,
        "objective": fip.objectives.WeightDiversity(),
        "num_steps": 1,
    }


@dataclass(frozen=True)
class Answering:
    """An objective, stepper, radius control, event, saliency and geometry that answers the same whatever is asked."""

    answer: Any
    goal: bool = False
    limit: bool = False

    def value(self, problem, weights, batch):
        return self.answer(weights) if callable(self.answer) else self.answer

    def begin(self, problem):
        return self.answer

    def propose(self, situation, state):
        return self.answer

    def judge(self, candidate):
        return self.answer

    def reason(self, point):
        return self.answer

    def embed(self, outputs):
        return self.answer

    def losses(self, problem, weights, batch):
        return self.answer


class Steps(Answering):
    def begin(self, problem):
        return {}


class Radii(Answering):
    def begin(self, problem):
        return 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": Answering(0.5)}, "Answering.value() returned 0.5; expected a scalar tensor"),
        ({"objective": Answering(lambda w: w)}, "returned a float32 tensor [6]; expected a scalar"),
        ({"objective": Answering(lambda w: w.detach().sum())}, "without a gradient by the weights"),
        ({"objective": Answering(lambda w: torch.zeros(()))}, "without a gradient by the weights"),
        ({"objective": fip.objectives.WeightedSum(((1.0, Answering(0.5)),))}, "Answering.value() returned 0.5"),
        (
            {"objective": fip.objectives.Sparsify(0.5, saliency=Answering(torch.zeros(2)))},
            "Answering.losses() returned a float32",
        ),
        ({"stepper": Answering(None)}, "Answering.begin() returned None; expected a dict"),
        ({"stepper": Steps(torch.zeros(6))}, "Steps.propose() returned a float32 tensor [6]; expected a Proposal"),
        (
            {"stepper": Steps(paths.Proposal(torch.zeros(3), 0.0))},
            "tensor [3]; expected a float32 tensor [6]",
        ),
        ({"radius": Answering("far")}, "Answering.begin() returned 'far'; expected a number"),
        ({"radius": Radii(True)}, "Radii.judge() returned True; expected an Acceptance"),
        ({"events": (Answering(True),)}, "Answering.reason() returned True; expected a sentence"),
        ({"probes": {"a": lambda w: w}}, "probe 'a' returned a float32 tensor [6]; expected a number"),
    ],
)
def test_answers_of_a_users_own_objects_are_checked_when_they_come(wrong, said):
    assert said in refusal(lambda: walked(**traced_with() | wrong))


def test_an_embedding_has_a_row_for_each_of_the_outputs():
    network = traced_with()["network"]
    problem = paths.Problem(network, geometry=Answering(torch.zeros(2)))
    said = "Answering.embed() returned a float32 tensor [2] for 8 outputs"
    assert said in refusal(lambda: problem.batch(torch.rand(8, 2)))


def test_a_classifier_is_one_of_tensors_and_an_attack_returns_some():
    inputs, labels, generator = torch.rand(4, 2), torch.zeros(4, dtype=torch.int64), torch.Generator()
    assert "expected a function" in refusal(
        lambda: fip.robustness.evaluate(
            traced_with()["network"], inputs, labels, LINF, (fip.attacks.FGSM(),), generator
        )
    )
    assert "the classifier gave 3" in refusal(
        lambda: fip.robustness.evaluate(lambda x: 3, inputs, labels, LINF, (fip.attacks.FGSM(),), generator)
    )
    assert "does not take inputs" in refusal(
        lambda: fip.robustness.evaluate(nn.Linear(3, 2), inputs, labels, LINF, (fip.attacks.FGSM(),), generator)
    )


def test_points_of_another_network_or_stepper_resume_no_path():
    arguments = traced_with()
    points = walked(**arguments | {"num_steps": 2}, until=1).points
    other = arguments["network"].at(arguments["network"].weights + 1)
    assert "from other weights" in refusal(lambda: walked(**arguments | {"network": other}, resume=points))
    stepper = fip.steppers.Kronecker()
    assert "which Kronecker keeps" in refusal(
        lambda: walked(**arguments | {"num_steps": 2}, stepper=stepper, resume=points)
    )


# What users are given, and do not make.
RESULTS = {
    *("Channels", "Connection", "LossProfile", "Measures", "Outcome", "PathPoint", "Footprint", "WeightPath"),
    *("Network", "__version__", "Batch", "Proposal", "Situation"),
}


def test_every_public_name_checks_its_arguments():
    homes = (fip, fip.attacks, fip.measures, fip.objectives, fip.search, fip.sparsity, fip.steppers)
    there = {name: value for home in homes for name, value in vars(home).items() if name[0] != "_"}
    there = {name: one for name, one in there.items() if name in fip.search.__all__ or name not in vars(fip.search)}
    there = {name: one for name, one in there.items() if getattr(one, "__module__", "").startswith("fipray.")}
    there = {name: one for name, one in there.items() if callable(one) and name not in RESULTS | {"spec"}}
    there = {name: one for name, one in there.items() if not getattr(one, "_is_protocol", False)}
    made = {name: one for name, one in there.items() if not (isinstance(one, type) and issubclass(one, Exception))}
    assert [name for name, one in made.items() if not is_checked(one)] == []
    assert is_checked(fip.Network.of)


def everything_checked() -> list[Any]:
    homes = (paths, geometry, networks, robustness, study, analysis)
    there = [getattr(home, name) for home in homes for name in home.__all__]
    there += [fip.RayRunner, fip.RayRunner.run, fip.search.run, fip.LocalRunner.run]
    return [one for one in there if is_checked(one)]


def test_every_annotation_of_what_is_checked_can_be_resolved():
    there = everything_checked()
    assert len(there) > 100
    for one in there:
        function, owner = (one.__init__, one) if isinstance(one, type) else (one, None)
        assert not any(isinstance(hint, str) for hint in _hints(function.__wrapped__, owner).values())


def test_all_public_protocols_name_what_fits():
    protocols = [
        one for home in (paths, geometry, networks, robustness, study) for one in map(home.__dict__.get, home.__all__)
    ]
    protocols = [one for one in protocols if getattr(one, "_is_protocol", False)]
    assert {one.__name__ for one in protocols} >= {
        "Objective",
        "Stepper",
        "RadiusControl",
        "Event",
        "Attack",
        "Pattern",
    }
    for protocol in protocols:
        isinstance(object(), protocol)
        if protocol not in (paths.Restriction, robustness.RoundScore):
            assert classes_that_fit(protocol), protocol


def test_what_is_checked_is_copied_pickled_and_written_as_before():
    for spec in (
        fip.objectives.Sparsify(0.5),
        fip.attacks.PGD(3),
        fip.steppers.Natural(),
        fip.PathSpec("a", fip.objectives.GradientDiversity(), seed=3),
        LINF,
    ):
        assert is_dataclass(spec)
        assert (
            pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == replace(spec) == from_json(to_json(spec)) == spec
        )
    assert fip.trace.__doc__.startswith("Trace one functionally invariant path")
    assert pickle.loads(pickle.dumps(fip.trace)) is fip.trace
