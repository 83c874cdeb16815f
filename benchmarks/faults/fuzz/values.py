"""Values for arguments: right ones by an annotation or a name, edges of numbers, and what is wrong nearly everywhere.

Numbers are small where they are right: a call may ask for no more than seconds.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import tempfile
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fipray as fip
from benchmarks.faults.fuzz import subjects
from fipray import analysis
from fipray.border.checking import _hints, is_checked
from fipray.border.wording import classes_that_fit
from fipray.geometry import KroneckerMetric
from fipray.paths import Batch, Problem

INTEGERS = (1, 2, 3, 4)
EDGES_OF_INTEGERS = (0, -1, True, 1.0, 2**63, -(2**70), np.int64(2), "2", math.nan)
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 0, 0.01)
EDGES_OF_NUMBERS = (
    *(-0.1, -1, 1.5, 100.0, 1e-30, 1e30, 1e308, -math.inf, math.inf, math.nan, 0.0, -0.0, 10**400),
    *(True, "0.5", np.float32(0.5), np.float64("nan"), torch.tensor(0.5), None),
)


@cache
def wrong() -> tuple[Any, ...]:
    """Return values that few parameters accept."""
    inputs, labels = subjects.inputs(), subjects.labels()
    dataset = TensorDataset(inputs, labels)
    return (
        *(
            None,
            True,
            False,
            -1,
            0,
            1.5,
            math.nan,
            math.inf,
            2**63,
            1 + 2j,
            "",
            "a",
            "\0",
            b"a",
            "x" * 300,
            "ä [b] {c}",
        ),
        *((), [], {}, set(), (1,), ["a"], {"a": 1}, {1: 2}, (None,), [[]], object(), Ellipsis, int, Exception("a")),
        *(torch.tensor(0.5), torch.zeros(0), torch.zeros(0, 4), torch.zeros(3), torch.zeros(2, 2, 2), torch.ones(5, 9)),
        *(inputs.double(), inputs.half(), inputs.to(torch.complex64), inputs > 0.5, inputs.to_sparse(), inputs.long()),
        *(inputs.clone().requires_grad_(), inputs.to("meta"), inputs * math.nan, inputs * math.inf, inputs.T, labels),
        *(labels.int(), labels - 1, labels + 7, labels.float(), labels[:5], labels > 0),
        *(inputs.numpy(), labels.numpy(), np.array(["a", None], dtype=object), np.zeros((0, 4)), np.zeros((), "f4")),
        *(np.array(["a"]), np.zeros(3, dtype=[("a", "f4")]), np.array([1 + 1j]), np.array(["2020"], "datetime64[Y]")),
        *(inputs.numpy()[::-1], inputs.numpy().astype(">f4"), np.ma.masked_array([1.0], [True]), np.float32(1)),
        *(DataLoader(dataset, 4), dataset, iter(()), (one for one in range(0)), range(3), slice(None)),
        *(subjects.module(), subjects.network(), nn.Linear, nn.LSTM(4, 4), nn.Identity(), nn.Linear(2, 2)),
        *(
            fip.attacks.PGD,
            fip.attacks.PGD(1),
            fip.objectives.Sparsify,
            fip.objectives.Sparsify(0.5),
            fip.steppers.Natural,
            fip.steppers.Natural(),
            fip.radii.Adaptive(),
        ),
        *(fip.ThreatModel("linf", 0.1), fip.events.ObjectiveBelow(0), fip.SaveAt(), fip.FisherRao(), fip.FisherRao),
        *(
            subjects.data(),
            subjects.study(),
            fip.EnsembleSpec("a", ("base",)),
            fip.search.Choice((1, 2)),
            Path("a"),
            Path("/"),
        ),
        *(pd.DataFrame({"a": [1]}), pd.DataFrame(), pd.Series([1.0]), torch.Generator(), torch.device("cpu")),
        *(len, print, lambda: 0, lambda *_: None, lambda a: a, lambda a, b: a, lambda *_: "a", lambda *_: math.nan),
        *(lambda *_: torch.zeros(2), lambda *_: 1, torch.nn.functional.relu, math.sin),
        *(AnyValue(None), AnyValue(0.5), AnyValue(torch.zeros(())), AnyValue(torch.ones(3)), AnyValue("a"), Empty()),
    )


class Empty:
    """An object of a user's own that has nothing."""


class AnyValue:
    """An objective, stepper, radius control, event, geometry, attack and whatever else: all return the same."""

    name, goal, limit = "any", False, True

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __getattr__(self, name: str) -> Any:
        members = ("value", "begin", "propose", "judge", "reason", "embed", "perturb", "losses", "zeroed", "free", "of")
        if name not in members:
            raise AttributeError(name)
        return lambda *_, **__: self.answer


# By the name of the argument, where the annotation says too little.
NAMED: dict[str, Any] = {
    "inputs": lambda: [subjects.inputs()],
    "anchors": lambda: [subjects.inputs(), subjects.inputs(), subjects.batch()],
    "held_out": lambda: [subjects.inputs(1)],
    "ood_inputs": lambda: [subjects.inputs(2)],
    "labels": lambda: [subjects.labels()],
    "weights": lambda: [subjects.network().weights, subjects.network(1).weights],
    "start": lambda: [subjects.network().weights],
    "other": lambda: [subjects.network(1).weights],
    "outputs": lambda: [subjects.classifier(subjects.inputs())],
    "reference": lambda: [subjects.classifier(subjects.inputs(1))],
    "predictions": lambda: [torch.stack([subjects.labels(seed) for seed in range(3)])],
    "ratings": lambda: [torch.stack([subjects.labels(seed) for seed in range(3)])],
    "right": lambda: [torch.stack([subjects.labels(seed) > 0 for seed in range(3)])],
    "matrix": lambda: [torch.eye(3)],
    "inside_scores": lambda: [subjects.inputs()[:, 0]],
    "ood_scores": lambda: [subjects.inputs(1)[:, 0]],
    "points": lambda: [(subjects.network().weights, subjects.network(1).weights)],
    "loss": lambda: [lambda weights: float(weights.sum())],
    "probes": lambda: [{"norm": lambda weights: float(weights.norm())}],
    "on_point": lambda: [lambda point: None],
    "classifier": lambda: [subjects.classifier],
    "classifiers": lambda: [(subjects.classifier, subjects.classifier)],
    "members": lambda: [("sparse", "diverse"), ("base",)],
    "makers": lambda: [{"a": subjects.classifier}],
    "targets": lambda: [{"a": subjects.classifier, "b": subjects.classifier}],
    "surrogates": lambda: [{"a": subjects.classifier}],
    "score": lambda: [len, fip.robustness.MeanOfPairs(torch.eye(4))],
    "function": lambda: ["math:sin", lambda network, weights: float(weights.sum())],
    "module": lambda: [subjects.module()],
    "state": lambda: [subjects.module().state_dict()],
    "name": lambda: ["a", "b-1", "sparse"],
    "task": lambda: ["a"],
    "moving": lambda: [None, "0.*", ("2.weight",)],
    "base_id": lambda: ["", "a"],
    "parameters": lambda: [{}, {"a": 1}],
    "bounds": lambda: [(0.0, 1.0), (-1, 2)],
    "image": lambda: [(1, 2, 2), (2, 2), ()],
    "input_shape": lambda: [(4,), (2, 2)],
    "sizes": lambda: [(1, 2), (3,)],
    "sets": lambda: [("more",), ()],
    "tasks": lambda: [{}],
    "parts": lambda: [
        ((1.0, fip.objectives.GradientDiversity()),),
        ((0.5, fip.objectives.WeightDiversity()), (0, fip.objectives.Sparsify(0.5))),
    ],
    "through": lambda: [(), (0.1, 0.2)],
    "attacks": lambda: [(fip.attacks.FGSM(),), (fip.attacks.FGSM(), fip.attacks.PGD(2))],
    "paths": lambda: [subjects.study().paths],
    "ensembles": lambda: [(), subjects.study().ensembles],
    "space": lambda: [{"radius.tolerance": fip.search.Uniform(0.1, 0.2)}, {"seed": fip.search.Integers(0, 5)}],
    "objectives": lambda: [{"sparsity": "max"}, {"objective_value": "min"}],
    "searcher": lambda: ["random", "grid"],
    "scheduler": lambda: ["none", "asha"],
    "placement": lambda: ["pack", "spread"],
    "address": lambda: [None, "local"],
    "device": lambda: ["cpu"],
    "directory": lambda: [subjects.results()],
    "path": lambda: ["sparse", "diverse"],
    "end": lambda: ["sparse", "diverse"],
    "ends": lambda: [("sparse",)],
    "results": lambda: [analysis.load(subjects.results())],
    "known": lambda: [None, ("a",)],
    "frame": lambda: [analysis.summary(analysis.load(subjects.results())), analysis.load(subjects.results()).points],
    "better": lambda: [("sparsity",), ("clean_accuracy", "sparsity")],
    "method": lambda: ["kind", "name"],
    "clean": lambda: ["clean_accuracy"],
    "robust": lambda: ["sparsity"],
    "tables": lambda: [{"a": analysis.load(subjects.results()).transfer}],
    "names": lambda: [None, ("sparse", "base")],
}
# By target and argument, where neither name nor annotation says enough.
OWN: dict[str, Any] = {
    "Data.anchors": lambda: [subjects.inputs(0, 20).numpy()],
    "Data.held_out": lambda: [subjects.inputs(1, 20).numpy(), subjects.inputs(1, 5).double().numpy()],
    "Data.test_inputs": lambda: [subjects.inputs(2, 20).numpy()],
    "Data.test_labels": lambda: [subjects.labels(2, 20).numpy(), subjects.labels(2, 20).numpy().astype("u1")],
    "Data.ood_inputs": lambda: [subjects.inputs(3, 20).numpy()],
    "Data.sets": lambda: [{}, {"more": subjects.inputs(3, 20).numpy()}],
    "Data.tasks": lambda: [{}, subjects.data().tasks],
    "Task.inputs": lambda: [subjects.inputs(0, 20).numpy()],
    "Task.labels": lambda: [subjects.labels(0, 20).numpy()],
    "Task.test_inputs": lambda: [subjects.inputs(0, 20).numpy()],
    "Task.test_labels": lambda: [subjects.labels(0, 20).numpy()],
    "Ensemble.members": lambda: [(subjects.classifier,), (subjects.classifier, subjects.module())],
    "measure.members": lambda: [(), (subjects.classifier, subjects.module())],
    "StackedEnsemble.weights": lambda: [torch.stack([subjects.network().weights] * 2)],
    "EnsembleAccuracy.outputs": lambda: [torch.rand(3, 2, 12, 3, generator=torch.Generator().manual_seed(0))],
    "functional_distance.embedded": lambda: [subjects.inputs()],
    "functional_distance.reference": lambda: [subjects.inputs(1)],
    "for_task.task": lambda: INTEGERS,
    "state_dict.weights": lambda: [subjects.network().weights.numpy()],
    "find_variant.sparsity": lambda: [0.5, None],
    "front.frame": lambda: [analysis.summary(analysis.load(subjects.results()))],
    "front.robust": lambda: ["clean_accuracy"],
    "export.to": lambda: [
        Path(tempfile.mktemp(suffix, dir=subjects.results().parent)) for suffix in (".pt", ".safetensors")
    ],
    "export.name": lambda: ["sparse", "diverse"],
    "export.options": lambda: [None, fip.export.Options(packed=True)],
    "facts.name": lambda: ["sparse", "base"],
    "export.sparsity": lambda: [None, 0.5],
    "export.slim": lambda: [None, "benchmarks.faults.fuzz.subjects:module"],
    "KroneckerMemory.sets": lambda: [("more",)],
    "LearnTask.batch_size": lambda: [3, 100],
    "SemiStructured.size": lambda: [4, 5],
    "SemiStructured.zeros": lambda: [1, 2],
    "Integers.low": lambda: [0, 1],
    "Integers.high": lambda: [2, 7],
    "Uniform.high": lambda: [2.0, 3],
    "Uniform.low": lambda: [0.1, 0],
    "LogUniform.high": lambda: [2.0, 3],
    "LogUniform.low": lambda: [0.1, 1e-6],
    "Scheduled.final": lambda: [0.0, 0.001],
    "Scheduled.initial": lambda: [0.02, 0.1],
    "Scheduled.cycles": lambda: [(1.0,), (1.0, 0.5)],
    "Adaptive.growth": lambda: [1.5, 1],
    "Adaptive.shrink": lambda: [2.0, 1.1],
    "SaveAt.also": lambda: [(), (0.5,)],
    "grown.num_outputs": lambda: [3, 5],
    "Search.study": lambda: [subjects.searching().study],
    "Study.paths": lambda: [subjects.study().paths],
    "PathSpec.start": lambda: ["base"],
    "PathSpec.others": lambda: [(), ("sparse",)],
    "PathSpec.anchors": lambda: [(), ("more",)],
    "PathSpec.held_out": lambda: [(), ("more",)],
    "trace.resume": lambda: [(), subjects.path().points],
    "Problem.tasks": lambda: [{}, {"a": fip.Examples(subjects.inputs(), subjects.labels())}],
    "Problem.memory": lambda: [(), (subjects.metric(),)],
    "Problem.others": lambda: [(), (subjects.network(1).weights,)],
    "Problem.keeps": lambda: [
        {},
        {"outputs": fip.keeps.Outputs()},
        {"a": fip.keeps.Outputs(), "b": fip.keeps.Slopes(2.0)},
    ],
    "Problem.sets": lambda: [{}, {"more": subjects.inputs(1)}],
    "walk.anchors": lambda: [subjects.batch()],
    "walk.stops": lambda: [(), (1,)],
    "walk.resume": lambda: [None, subjects.path().points[-1]],
    "Study.keeps": lambda: [{}, {"classes": fip.keeps.Outputs(), "slopes": fip.keeps.Slopes(10.0)}],
    "Study.measures": lambda: [
        {},
        {"robust": fip.study.RobustAccuracy(fip.ThreatModel("linf", 0.1), fip.attacks.FGSM(), 10)},
    ],
    "Study.evaluation": lambda: [None, subjects.study().evaluation],
}
OF_CLASS: dict[Any, Any] = {
    str: lambda: ["a"],
    bool: lambda: [True, False],
    int: lambda: INTEGERS,
    float: lambda: FRACTIONS,
    Path: lambda: [Path("a")],
    nn.Module: lambda: [subjects.module()],
    torch.Generator: lambda: [torch.Generator()],
    fip.Network: lambda: [subjects.network(), subjects.network(), subjects.network(2)],
    fip.ThreatModel: lambda: [fip.ThreatModel("linf", 0.1), fip.ThreatModel("l2", 0.5)],
    fip.objectives.Adversary: lambda: [fip.objectives.Adversary(fip.ThreatModel("linf", 0.1), 1)],
    fip.SaveAt: lambda: [fip.SaveAt(2)],
    fip.Data: lambda: [subjects.data()],
    fip.Study: lambda: [subjects.study(), subjects.searching().study],
    fip.Evaluation: lambda: [subjects.study().evaluation],
    fip.objectives.KroneckerMemory: lambda: [fip.objectives.KroneckerMemory(("more",))],
    Problem: lambda: [subjects.problem(), subjects.kept()],
    fip.Settings: subjects.settings,
    Batch: lambda: [subjects.batch()],
    KroneckerMetric: lambda: [subjects.metric()],
}


@cache
def of_protocol(protocol: Any) -> tuple[Any, ...]:
    """Return an instance of each class that fits, where the values above can make one."""
    found = []
    for cls in classes_that_fit(protocol).values():
        for arguments in ((), (0.5,), (fip.objectives.Adversary(fip.ThreatModel("linf", 0.1), 1),), ("a",), (2,)):
            try:
                found.append(cls(*arguments))
                break
            except fip.errors.UsageError:
                continue
    return tuple(found)


def right(target: str, name: str, hint: Any) -> SearchStrategy[Any]:
    """Values that an argument of this name and annotation may have."""
    if own := OWN.get(f"{target}.{name}"):
        return st.deferred(lambda: st.sampled_from(tuple(own())))
    if name in NAMED:
        return st.deferred(lambda: st.sampled_from(tuple(NAMED[name]())))
    return by_hint(hint)


def by_hint(hint: Any) -> SearchStrategy[Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in OF_CLASS:
        there = OF_CLASS[hint]()
        return st.sampled_from(tuple(there)) if there else st.nothing()
    if origin in (Union, UnionType):
        return st.one_of([by_hint(one) for one in inner if one is not type(None)] + [st.none()] * (type(None) in inner))
    if origin is Annotated:
        return by_hint(inner[0])
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (tuple, collections.abc.Sequence, collections.abc.Collection):
        if origin is tuple and inner[-1] is not Ellipsis:
            return st.tuples(*map(by_hint, inner))
        return st.lists(by_hint(inner[0]), max_size=2).map(tuple)
    if origin is collections.abc.Mapping:
        return st.dictionaries(by_hint(inner[0]), by_hint(inner[1]), max_size=2)
    if getattr(hint, "_is_protocol", False):
        return st.deferred(lambda: st.one_of(*map(st.just, of_protocol(hint)), made(hint)))
    if origin is np.ndarray:
        return st.deferred(lambda: st.sampled_from((subjects.inputs(0, 20).numpy(), subjects.labels(0, 20).numpy())))
    if hasattr(hint, "dim_str"):
        return st.deferred(lambda: st.sampled_from((subjects.inputs(), subjects.network().weights)))
    return st.none()


def arguments_of(function: Any, name: str, always: tuple[str, ...] = ()) -> SearchStrategy[dict[str, Any]]:
    """Arguments of a call: mostly right ones, some of them doubtful, missing, or unknown."""
    guarded = vars(function)["__init__"] if isinstance(function, type) else function
    hints = _hints(inspect.unwrap(guarded), function if isinstance(function, type) else None)
    parameters = [one for one in inspect.signature(function).parameters.values() if one.name in hints]

    @st.composite
    def drawn(draw: st.DrawFn) -> dict[str, Any]:
        values = {
            one.name: draw(right(name, one.name, hints[one.name]))
            for one in parameters
            if one.default is one.empty or one.name in always or draw(st.integers(0, 3)) == 0
        }
        for _ in range(draw(st.sampled_from((0, 0, 0, 0, 1, 1, 1, 2)))):
            changed = draw(st.sampled_from([*hints, *hints, *hints, "no_such_argument"]))
            if draw(st.integers(0, 19)) == 0:
                values.pop(changed, None)
            else:
                values[changed] = draw(doubtful(hints.get(changed)))
        return values

    return drawn()


@st.composite
def made(draw: st.DrawFn, protocol: Any) -> Any:
    """Draw an instance of a class that fits, with edge cases among its settings."""
    cls = draw(st.sampled_from(list(classes_that_fit(protocol).values())))
    if not is_checked(cls):
        return draw(st.sampled_from(of_protocol(protocol)))
    try:
        return cls(**draw(arguments_of(cls, cls.__name__)))
    except fip.FiprayError:
        return draw(st.sampled_from(of_protocol(protocol)))


def doubtful(hint: Any) -> SearchStrategy[Any]:
    """Edges of what the annotation asks for, or what is wrong nearly everywhere."""
    texts = str(hint)
    edges = (EDGES_OF_INTEGERS if "int" in texts else ()) + (EDGES_OF_NUMBERS if "float" in texts else ())
    anything = st.sampled_from(wrong())
    return st.one_of(st.sampled_from(edges), anything) if edges else anything
