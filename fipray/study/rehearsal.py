"""A dry run of everything that a study does later, on two inputs: what cannot work is refused when the study is made.

Objectives, steppers, radii and attacks of the user's own are not run here: whatever their code does belongs into a
worker, whose end is not the end of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.errors import DataError, FiprayError, NetworkError, UsageError
from fipray.geometry import FisherRao, OutputGeometry, class_logits, num_classes
from fipray.networks import Network
from fipray.paths import Examples, Problem, Situation, augmented
from fipray.robustness import (
    Attack,
    Classifier,
    StackedEnsemble,
    ThreatModel,
    evaluate,
    masking_warnings,
    measure,
    transfer_matrix,
)
from fipray.study.canonical import encode
from fipray.study.evaluation import Evaluation
from fipray.study.tensors import Tensors, kept_of, tensor_of

if TYPE_CHECKING:
    from fipray.study.spec import PathSpec, Study

NUM_INPUTS, NUM_EXAMPLES = 2, 8
NUMPY_FLOATS = ("float16", "float32", "float64")
EFFORTS = ("num_steps", "num_restarts", "num_targets", "num_queries", "num_draws", "iterations")
WRITABLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def rehearse(study: Study, network: Network) -> None:
    """Raises UsageError, or a class of it, with the stage of `study` that cannot work and why."""
    _check_state(study)
    _check_outputs(study, network)
    _check_threat_models(study)
    tensors = Tensors(study.data, "cpu")
    if study.evaluation is not None and tensors.tests is not None:
        _evaluation(study, study.evaluation, network, tensors)
    done = set[str]()
    for path in study.paths:
        if (kind := _kind(path)) not in done and not _has_own_code(path):
            done.add(kind)
            _path(study, path, network, tensors)


def check_inputs(network: Network, name: str, inputs: NDArray[np.generic], geometry: OutputGeometry) -> None:
    """Raises DataError, or NetworkError, unless the network is a function on the inputs [N, ...] called `name`."""
    try:
        network.check(tensor_of(inputs), geometry)
    except DataError as error:
        wanted = str(network.weights.dtype).removeprefix("torch.")
        if inputs.dtype.kind != "f" or inputs.dtype.name == wanted or wanted not in NUMPY_FLOATS:
            raise
        raise DataError(
            f"{name} has dtype {inputs.dtype} and the network's weights {wanted}: give {name}.astype(np.{wanted}) "
            f"({error})"
        ) from error


def _check_state(study: Study) -> None:
    """Weights and buffers are written to files."""
    for name, value in study.module.state_dict().items():
        if not isinstance(value, Tensor):
            raise NetworkError(f"{name} in the module's state_dict is a {type(value).__name__}; only tensors are kept")
        if value.layout != torch.strided or not (value.dtype.is_floating_point or value.dtype in WRITABLE):
            raise NetworkError(
                f"{name} in the module's state_dict is {value.dtype} ({value.layout}), which is written to no file: "
                "make it a dense tensor of real numbers"
            )


def _check_outputs(study: Study, network: Network) -> None:
    """Where there are labels, outputs are of classes."""
    if not study.data.labels:
        return
    outputs = network.outputs(network.weights, tensor_of(study.data.anchors[:1]))
    if outputs.ndim != 2:
        raise DataError(
            f"the network's outputs on one input have shape {tuple(outputs.shape)}; accuracies and attacks are of "
            "classifiers, [N, C], with a label an input: leave out labels and evaluation, or let the network give one "
            "row of logits an input"
        )
    classes = num_classes(outputs)
    for name, labels in study.data.labels.items():
        if (greatest := int(labels.max())) >= classes:
            raise DataError(f"the network has {classes} classes, 0..{classes - 1}, but {name} holds {greatest}")


def _check_threat_models(study: Study) -> None:
    """An attack and an adversary move inputs within the bounds that they have."""
    data, evaluation = study.data, study.evaluation
    if evaluation is not None:
        if data.test_inputs is not None and data.test_inputs.dtype.kind != "f":
            raise DataError(
                f"test_inputs have dtype {data.test_inputs.dtype}, and attacks move inputs by fractions: give floats, "
                "such as images by .astype(np.float32) with bounds=(0, 255) and a threat model with upper=255, or "
                "leave the evaluation out"
            )
        _check_bounds("the evaluation's threat model", evaluation.threat_model, study)
    for path in study.paths:
        for threat_model in _threat_models(path.objective):
            _check_bounds(f"path {path.name!r}: the threat model of its objective", threat_model, study)


def _check_bounds(who: str, threat_model: ThreatModel, study: Study) -> None:
    there = (threat_model.lower, threat_model.upper)
    if there != tuple(map(float, study.data.bounds)):
        low, high = study.data.bounds
        raise UsageError(
            f"{who} allows inputs in {there[0]:g}..{there[1]:g}, and the data's bounds are {low:g}..{high:g}: give "
            f"ThreatModel(..., lower={low:g}, upper={high:g}), or Data(..., bounds={there})"
        )


def _threat_models(value: Any) -> Iterator[ThreatModel]:
    if isinstance(value, ThreatModel):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _threat_models(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _threat_models(getattr(value, each.name))


def _evaluation(study: Study, evaluation: Evaluation, network: Network, tensors: Tensors) -> None:
    """One step of every attack on the base and, where there are ensembles, on a stack of it."""
    assert tensors.tests is not None
    inputs, labels = tensors.tests.inputs[:NUM_INPUTS], tensors.tests.labels[:NUM_INPUTS]
    ood_inputs = None if tensors.ood_inputs is None else tensors.ood_inputs[:NUM_INPUTS]
    networks: dict[str, Classifier] = {"the base network": partial(_class_logits, network)}
    if any(len(ensemble.members) > 1 for ensemble in study.ensembles):
        networks["an ensemble"] = StackedEnsemble(network, torch.stack([network.weights] * 2))
    draws, threat_model = torch.Generator().manual_seed(0), evaluation.threat_model
    for name, classifier in networks.items():
        members = list(networks.values())[:1] * 2 if name == "an ensemble" else ()
        with _stage(f"measures of {name}"):
            measure(classifier, inputs, labels, ood_inputs, members)
        for attack in [_one_step(attack) for attack in evaluation.attacks if not _has_own_code(attack)]:
            with _stage(f"attack {attack.name} on {name}"):
                evaluate(classifier, inputs, labels, threat_model, [attack], draws)
                transfer_matrix({name: classifier}, networks, inputs, labels, threat_model, attack, draws)
        if evaluation.check_masking:
            with _stage(f"looking for masked gradients of {name}"):
                masking_warnings(classifier, inputs, labels, threat_model, draws, num_steps=1, num_queries=1)


def _class_logits(network: Network, inputs: Tensor) -> Tensor:
    return class_logits(network(network.weights, inputs))


def _one_step(attack: Any) -> Attack:
    """The attack with the least effort."""
    given = {each.name: getattr(attack, each.name) for each in fields(attack)}
    efforts = {name: 1 for name in EFFORTS if name in given}
    return replace(attack, **efforts, **({"attack": _one_step(given["attack"])} if "attack" in given else {}))


def _path(study: Study, path: PathSpec, network: Network, tensors: Tensors) -> None:
    """The objective, its gradient and one proposal, at the base network."""
    with _stage(f"path {path.name!r}: its variations of the anchors"):
        inputs = augmented(tensors.anchors(path.anchors)[:NUM_INPUTS], path.augmentations)[:NUM_EXAMPLES]
    with _stage("what must stay"):
        kept = kept_of(study.geometry, study.keeps, tensors)
        few = {name: inputs[:NUM_EXAMPLES] for name, inputs in kept.pop("sets").items()}
        problem = Problem(network, **kept, sets=few)
    with _stage(f"path {path.name!r}: its memory"):
        memory = (path.memory.of(problem, tensors.anchors(path.memory.sets)[:NUM_INPUTS]),) if path.memory else ()
    others = (network.weights,) * min(len(path.others), 1)
    problem = replace(problem, others=others, tasks=_few(tensors.tasks), memory=memory)
    with _stage(f"path {path.name!r}: its geometry"):
        batch = problem.batch(inputs)
    if path.uncertainty_fraction > 0 and not isinstance(study.geometry, FisherRao):
        raise UsageError(
            f"path {path.name!r}: uncertainty_fraction={path.uncertainty_fraction} needs geometry=FisherRao(), where there are classes"
        )
    objective, stepper = path.objective, path.stepper
    with _stage(f"path {path.name!r}: its objective, {type(objective).__name__},"):
        objective.value(problem, network.weights, batch)
        fraction = 1 / path.num_steps
        situation = Situation(
            problem, objective, network.weights, batch, path.radius.begin(problem), progress=fraction, fraction=fraction
        )
        _ = situation.slope  # the gradient, which is kept for the stepper
    with _stage(f"path {path.name!r}: its stepper, {type(stepper).__name__},"):
        stepper.propose(situation, stepper.begin(problem))


def _few(tasks: Mapping[str, Examples]) -> dict[str, Examples]:
    return {name: Examples(task.inputs[:NUM_EXAMPLES], task.labels[:NUM_EXAMPLES]) for name, task in tasks.items()}


def _kind(path: PathSpec) -> str:
    """What paths have in common that differ in numbers alone."""
    parts = (
        path.objective,
        path.stepper,
        path.radius,
        path.memory,
        path.augmentations,
        path.anchors,
        bool(path.others),
    )
    return json.dumps([_without_numbers(encode(part)) for part in (*parts, path.uncertainty_fraction > 0)])


def _without_numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without_numbers(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_without_numbers(item) for item in data]
    return 0 if isinstance(data, (int, float)) and not isinstance(data, bool) else data


def _has_own_code(value: Any) -> bool:
    """Whether anything in a spec is of a class that is not fipray's, or names a function as `module:function`."""
    if isinstance(value, tuple):
        return any(map(_has_own_code, value))
    if isinstance(value, str):
        return ":" in value
    if not is_dataclass(value) or isinstance(value, type):
        return callable(value)
    inner = (getattr(value, each.name) for each in fields(value))
    return type(value).__module__.partition(".")[0] != "fipray" or any(map(_has_own_code, inner))


@contextmanager
def _stage(what: str) -> Iterator[None]:
    """Whatever fails meanwhile is refused, with what it was."""
    try:
        yield
    except FiprayError as error:
        kind = type(error) if isinstance(error, UsageError) else UsageError
        raise kind(f"{what} cannot work: {error}") from error
    except Exception as error:  # whatever the module's own code, or torch, raises
        said = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"{what} fails on {NUM_INPUTS} inputs: {type(error).__name__}: {said}") from error
