"""Arguments of `trace` and `walk`: short form of a call, checks, and the point at which a path begins or resumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import an_instance
from fipray.errors import UsageError
from fipray.geometry import FisherRao
from fipray.networks import Network
from fipray.paths.batch import Batch
from fipray.paths.objective import Objective, check_network, remembered_epsilon, tasks_of
from fipray.paths.path import PathPoint
from fipray.paths.perturbations import Perturbations
from fipray.paths.problem import Problem, anchors_and_held_out
from fipray.paths.radius import first_radius
from fipray.paths.settings import Settings
from fipray.paths.stepper import check_heeded

# Arguments of `Problem` except the network, which `trace` takes in its short form.
PROBLEM_ARGUMENTS = ("anchors", "held_out", "geometry", "keeps", "sets", "others", "tasks", "memory", "compute")
RANDOMNESS = "randomness"  # in a solver state: state of the generator before the next step's batch is drawn
WALKED = "walked weights"  # in a solver state: weights from which steps go on, where points hold an average of them

PERTURBATIONS = "perturbations"  # in a solver state: last perturbations of all anchors


def assembled(
    problem: Problem | Network | nn.Module, settings: Settings, given: dict[str, Any]
) -> tuple[Problem, Settings]:
    """Put together a problem and settings from the short form of a call.

    Args:
        problem: a problem, or the network of one.
        settings: settings whose fields `given` overrides.
        given: arguments of `Problem` and fields of `Settings` by name. None leaves a field as it is, except for
            `max_seconds`, where None means no limit.

    Returns:
        Problem and settings.

    Raises:
        UsageError: for an unknown name, and for arguments of `Problem` beside a problem.
    """
    names_of_settings = [each.name for each in fields(Settings)]
    of_settings = {name: given.pop(name) for name in names_of_settings if name in given}
    of_problem = {name: given.pop(name) for name in PROBLEM_ARGUMENTS if name in given}
    if given:
        takes = "problem, objective, settings, probes, on_point, resume, until, on_step"
        raise UsageError(
            f"trace(): got an unexpected keyword argument {next(iter(given))!r}; it takes: {takes}, the arguments of "
            f"Problem ({', '.join(PROBLEM_ARGUMENTS)}) and those of Settings ({', '.join(names_of_settings)})"
        )
    if not isinstance(problem, Problem):
        problem = Problem(problem, **of_problem)
    elif of_problem:
        raise UsageError(f"a problem was given, and {', '.join(of_problem)} beside it: give them to Problem")
    # None for anything but a time limit means: the default.
    wanted = {name: one for name, one in of_settings.items() if one is not None or name == "max_seconds"}
    return problem, replace(settings, **wanted)


def check_together(
    problem: Problem, objective: Objective, settings: Settings, resume: Sequence[PathPoint], until: int | None
) -> None:
    """Check that the arguments of `trace` fit each other.

    Args:
        problem: quantities that must stay.
        objective: secondary objective.
        settings: settings of the path.
        resume: points from which the path continues, or none.
        until: step at which the path is paused, or None.

    Raises:
        DataError: for examples of a task that do not fit the network.
        NetworkError: for a network that the objective does not support.
        UsageError: for everything else that does not fit.
    """
    if until is not None and until < 1:
        raise UsageError(f"a path is paused after its first step or a later one; until={until} was given")
    anchors_and_held_out(problem)
    check_heeded(settings.stepper, objective)
    check_network(objective, problem.network)
    for name in tasks_of(objective):
        problem.task(name).check(problem.network)
    if resume and resume[0].step == 0 and not torch.equal(resume[0].weights, problem.start):
        raise UsageError("resume holds points of a path from other weights than the network's: give its own points")
    if settings.uncertainty_fraction > 0 and not isinstance(problem.geometry, FisherRao):
        raise UsageError(
            f"uncertainty_fraction={settings.uncertainty_fraction} samples inputs by the uncertainty of a classifier "
            "and needs geometry=FisherRao(): set it to 0, or give that geometry"
        )


def beginning(
    problem: Problem, settings: Settings, resume: PathPoint | None
) -> tuple[PathPoint, Tensor, torch.Generator]:
    """Find the point at which a walk begins or resumes.

    Args:
        problem: quantities that must stay.
        settings: settings of the path.
        resume: point at which to continue; None, or a point at step 0, for the start.

    Returns:
        The point, with the stepper's state as its solver state, the weights [P] from which steps go on, and the
        generator of all batches from there on.

    Raises:
        UsageError: for a point without a solver state, or with that of another stepper.
    """
    stepper, generator = settings.stepper, torch.Generator().manual_seed(settings.seed)
    if resume is None or resume.step == 0:
        radius = first_radius(settings.radius, problem)
        state = an_instance(stepper.begin(problem), dict, f"{type(stepper).__name__}.begin()")
        return PathPoint(0, problem.start, radius, 0.0, solver_state=state), problem.start, generator
    state = dict(resume.solver_state)
    if RANDOMNESS not in state:
        raise UsageError(
            f"point {resume.step} has no solver state, so no path can be resumed from it: keep points with "
            "SaveAt(solver_state=True)"
        )
    # Taken out: what remains is the stepper's own state, as its `begin` would return it.
    generator.set_state(state.pop(RANDOMNESS))
    if (WALKED in state) != (settings.averaging > 0):
        raise UsageError(
            f"point {resume.step} was reached {'with' if WALKED in state else 'without'} averaging, and "
            f"averaging={settings.averaging} was given: resume a path with the settings that it was walked with"
        )
    walked = state.pop(WALKED, resume.weights)
    # A stepper may add tensors to its state on the way, so only missing ones are wrong.
    if missing := stepper.begin(problem).keys() - state.keys():
        raise UsageError(
            f"the solver state of point {resume.step} has no {', '.join(sorted(missing))}, which "
            f"{type(stepper).__name__} keeps: resume a path with the stepper that it was walked with"
        )
    return replace(resume, solver_state=state), walked, generator


def perturbations_of(objective: Objective, anchors: Batch, seed: int, point: PathPoint) -> Perturbations | None:
    """Find the perturbations of anchors with which a walk begins or resumes.

    Args:
        objective: secondary objective.
        anchors: inputs of the path.
        seed: seed of the path.
        point: point at which it begins or resumes; what it holds is copied.

    Returns:
        The perturbations; None for an objective that remembers none.

    Raises:
        UsageError: for anchors that are read by reference, and for a point of a path that remembered none, or those of
            other anchors.
    """
    epsilon = remembered_epsilon(objective)
    if not epsilon:
        return None
    stored = point.solver_state.get(PERTURBATIONS)
    if stored is None and point.step == 0:
        return Perturbations.random(anchors.inputs, epsilon, seed)
    if stored is None or stored.shape != anchors.inputs.shape:
        held = f"those of {len(stored):,} anchors" if stored is not None else "none"
        raise UsageError(
            f"the objective remembers the perturbations of {len(anchors):,} anchors, and point {point.step} holds "
            f"{held}: resume a path with the objective and the anchors that it was walked with"
        )
    return Perturbations(stored.to(anchors.inputs.device, copy=True), epsilon)
