"""Dry run of a study's evaluation and paths on two inputs, so that what cannot work is refused when the study is made.

Objectives, steppers, radii and attacks of the user's own are not run here: their code may crash or hang, which must
happen in a worker and not in the driver.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fipray.errors import FiprayError, UsageError
from fipray.geometry import FisherRao, Kept, OutputGeometry, class_logits
from fipray.networks import Network
from fipray.paths import Examples, Problem, Situation, augmented
from fipray.robustness import (
    Attack,
    Classifier,
    StackedEnsemble,
    evaluate,
    masking_warnings,
    measure,
    transfer_matrix,
)
from fipray.study.canonical import encode
from fipray.study.evaluation import Evaluation
from fipray.study.specs import PathSpec
from fipray.study.tensors import Tensors, kept_of

NUM_INPUTS, NUM_EXAMPLES = 2, 8  # of a dry run: inputs, and examples of each set and task
EFFORTS = ("num_steps", "num_restarts", "num_targets", "num_queries", "num_draws", "iterations")
"""Fields of attacks that a dry run sets to 1."""


def rehearse_evaluation(evaluation: Evaluation, network: Network, tensors: Tensors, has_ensembles: bool) -> None:
    """Run the measures and one step of every attack on the base network and, with ensembles, on a stack of two of it.

    Args:
        evaluation: evaluation of the study; attacks with code of the user's own are skipped.
        network: base network.
        tensors: data of the study, with labelled test inputs.
        has_ensembles: whether the study has an ensemble of two or more members.

    Raises:
        UsageError: for a stage that fails, with its name and the reason.
    """
    assert tensors.tests is not None
    inputs, labels = tensors.tests.inputs[:NUM_INPUTS], tensors.tests.labels[:NUM_INPUTS]
    ood_inputs = None if tensors.ood_inputs is None else tensors.ood_inputs[:NUM_INPUTS]
    networks: dict[str, Classifier] = {"the base network": partial(_class_logits, network)}
    if has_ensembles:
        # A stack runs under vmap, where some modules fail that work alone; two members are enough to find out.
        networks["an ensemble"] = StackedEnsemble(network, torch.stack([network.weights] * 2))
    draws, threat_model = torch.Generator(inputs.device).manual_seed(0), evaluation.threat_model
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
    """Copy of an attack that takes one step, with one restart and one query."""
    # Attacks can wrap another one in a field `attack`, whose effort has to be reduced, too.
    given = {each.name: getattr(attack, each.name) for each in fields(attack)}
    efforts = {name: 1 for name in EFFORTS if name in given}
    return replace(attack, **efforts, **({"attack": _one_step(given["attack"])} if "attack" in given else {}))


def rehearse_paths(
    paths: Sequence[PathSpec],
    network: Network,
    tensors: Tensors,
    geometry: OutputGeometry,
    keeps: Mapping[str, Kept],
    networks: Mapping[str, Tensor],
) -> None:
    """Compute the objective, its gradient and one proposed step at the base network.

    Paths that differ only in numbers are run once; paths with code of the user's own are skipped.

    Args:
        paths: specs of the paths.
        network: base network.
        tensors: data of the study.
        geometry: output geometry.
        keeps: kept quantities by name.
        networks: weights [P] of other networks by name.

    Raises:
        UsageError: for a stage that fails, with the path, the stage and the reason.
    """
    done = set[str]()
    for path in paths:
        if (kind := _kind(path)) not in done and not _has_own_code(path):
            done.add(kind)
            _rehearse_path(path, network, tensors, geometry, keeps, networks)


def _rehearse_path(
    path: PathSpec,
    network: Network,
    tensors: Tensors,
    geometry: OutputGeometry,
    keeps: Mapping[str, Kept],
    networks: Mapping[str, Tensor],
) -> None:
    with _stage(f"path {path.name!r}: its augmentations of the anchors"):
        inputs = augmented(tensors.anchors(path.anchors)[:NUM_INPUTS], path.augmentations)[:NUM_EXAMPLES]
    with _stage("the kept quantities"):
        kept = kept_of(geometry, keeps, tensors)
        sets = {name: some[:NUM_EXAMPLES] for name, some in kept.pop("sets").items()}
        problem = Problem(network, **kept, sets=sets)
    with _stage(f"path {path.name!r}: its memory"):
        memory = (path.memory.of(problem, tensors.anchors(path.memory.sets)[:NUM_INPUTS]),) if path.memory else ()
    # A path that does not exist yet ends elsewhere than at the base network, where some objectives are undefined.
    others = (*(networks[name] for name in path.networks), *(1.01 * network.weights for _ in path.others[:1]))
    problem = replace(problem, others=others, tasks=_first_examples(tensors.tasks), memory=memory)
    with _stage(f"path {path.name!r}: its geometry"):
        batch = problem.batch(inputs)
    with _stage(f"path {path.name!r}: its variations of the anchors"):
        batch = replace(batch, variations=path.variations).draw(len(batch), torch.Generator().manual_seed(0))
    if path.uncertainty_fraction > 0 and not isinstance(geometry, FisherRao):
        raise UsageError(
            f"path {path.name!r}: uncertainty_fraction={path.uncertainty_fraction} needs "
            "geometry=FisherRao(), that is, a classifier"
        )
    objective, stepper = path.objective, path.stepper
    with _stage(f"path {path.name!r}: its objective, {type(objective).__name__},"):
        objective.value(problem, network.weights, batch)
        fraction = 1 / path.num_steps  # as at the first step
        situation = Situation(
            problem, objective, network.weights, batch, path.radius.begin(problem), progress=fraction, fraction=fraction
        )
        _ = situation.slope  # computes the gradient, which the situation caches for the stepper
    with _stage(f"path {path.name!r}: its stepper, {type(stepper).__name__},"):
        stepper.propose(situation, stepper.begin(problem))


def _first_examples(tasks: Mapping[str, Examples]) -> dict[str, Examples]:
    return {name: Examples(task.inputs[:NUM_EXAMPLES], task.labels[:NUM_EXAMPLES]) for name, task in tasks.items()}


def _kind(path: PathSpec) -> str:
    """Text that is equal for paths that differ only in numbers."""
    parts = (
        path.objective,
        path.stepper,
        path.radius,
        path.memory,
        path.augmentations,
        path.variations,
        path.anchors,
        bool(path.others),
        path.networks,
    )
    return json.dumps([_without_numbers(encode(part)) for part in (*parts, path.uncertainty_fraction > 0)])


def _without_numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without_numbers(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_without_numbers(item) for item in data]
    return 0 if isinstance(data, (int, float)) and not isinstance(data, bool) else data


def _has_own_code(value: Any) -> bool:
    """Check whether a spec contains a class that is not fipray's, or names a function as `module:function`."""
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
    """Turn any exception into a UsageError that names the stage."""
    try:
        yield
    except FiprayError as error:
        # Data and network errors keep their class; any other kind has its cause in what the study asks for.
        kind = type(error) if isinstance(error, UsageError) else UsageError
        raise kind(f"{what} cannot work: {error}") from error
    except Exception as error:  # the module's own code, or torch, may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"{what} fails on {NUM_INPUTS} inputs: {type(error).__name__}: {reason}") from error
