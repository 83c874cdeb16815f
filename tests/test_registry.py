"""Registered names: what a results directory calls a class, whatever Python calls it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, is_dataclass, make_dataclass

import pytest

import fipray
from fipray import spec
from fipray.errors import UsageError
from fipray.registry import registered_class, registered_names
from fipray.study.canonical import decode, encode, kind_of

SPEC_FLOORS = (
    "fipray.networks",
    "fipray.geometry",
    "fipray.paths",
    "fipray.robustness",
    "fipray.study",
    "fipray.execution",
)
# Frozen dataclasses that no spec can hold: what is computed, measured, or holds tensors and modules.
NOT_IN_SPECS = {
    *("Computed", "Factors", "KroneckerMetric", "Place", "Layer", "LinearSolution", "Slot", "Signal", "Projection"),
    *(
        "Connection",
        "LossProfile",
        "Outcome",
        "Left",
        "Asked",
        "PathPoint",
        "WeightPath",
        "Examples",
        "Problem",
        "Batch",
        "Part",
        "Perturbations",
        "Recalled",
    ),
    *(
        "Candidate",
        "Acceptance",
        "Situation",
        "Proposal",
        "Ensemble",
        "StackedEnsemble",
        "Robustness",
        "Measures",
        "Mixture",
    ),
    *("Task", "Data", "Evaluator", "LocalRunner", "Study", "Tensors", "Payload", "WeightsFile", "PerExample", "Job"),
    *("JobKind", "Location", "PathAttempt", "Resources", "Start", "Starts", "Channels"),
    *("Normalisation", "ArraySource", "ItemSource", "Opened", "Reader", "Plan", "Columns", "Layout"),
    *("DataRef", "ReferencedArray", "Reading", "StartOutputs", "Masked"),
    *("TrialRecords", "FinishedTrial", "JobResult"),
}


@dataclass(frozen=True)
class Unregistered:
    size: int = 1


@spec("tests.registered")
@dataclass(frozen=True)
class Registered:
    size: int = 1


class Inherits(Registered):
    pass


def frozen_dataclasses():
    for module in pkgutil.walk_packages(fipray.__path__, "fipray."):
        if module.name.startswith(SPEC_FLOORS):
            for name, cls in vars(importlib.import_module(module.name)).items():
                own = inspect.isclass(cls) and cls.__module__ == module.name and not name.startswith("_")
                if own and is_dataclass(cls) and cls.__dataclass_params__.frozen:
                    yield name, cls


def test_every_class_that_a_spec_may_hold_has_a_registered_name():
    unregistered = {name for name, cls in frozen_dataclasses() if "__spec_name__" not in vars(cls)}
    assert unregistered == NOT_IN_SPECS


def test_every_registered_name_is_found_and_written():
    for name in registered_names():
        assert kind_of(object.__new__(registered_class(name))) == name


def test_the_name_stands_for_the_class_in_whatever_module_it_is():
    assert encode(Registered(3)) == {"kind": "tests.registered", "size": 3}
    assert decode({"kind": "tests.registered", "size": 3}) == Registered(3)


def test_a_subclass_does_not_take_over_the_name():
    assert encode(Inherits(3)) == {"kind": "tests.test_registry:Inherits", "size": 3}
    assert encode(Unregistered()) == {"kind": "tests.test_registry:Unregistered", "size": 1}


def test_a_name_belongs_to_one_class():
    with pytest.raises(UsageError, match=r"'sparsify' is registered for fipray.*:Sparsify: give tests"):
        spec("sparsify")(Unregistered)


def test_a_module_that_is_loaded_again_registers_its_classes_again():
    again = make_dataclass("Registered", [("size", int, 2)], frozen=True)
    again.__module__ = Registered.__module__
    spec("tests.registered")(again)
    try:
        assert registered_class("tests.registered") is again
    finally:
        spec("tests.registered")(Registered)


@pytest.mark.parametrize("name", ["", "Sparsify", "mylab:shrink", "a b", ".shrink"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(UsageError, match="cannot be registered"):
        spec(name)
