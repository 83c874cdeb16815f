"""The loop that traces a path. READ THIS FIRST.

A path begins at the weights of a trained network and moves through weights that compute the same function while a
secondary objective improves. Every step does four things:

1. Draw a batch of anchor inputs. The outputs of the start on it are what must stay.
2. Ask the stepper for a displacement that goes down the objective and keeps those outputs (`stepper.py`).
3. Judge the candidate on a fresh batch: its functional distance to the start, and its gain against the predicted one.
   The radius control accepts or refuses it, and sets how far the next step may reach (`radius.py`).
4. Take an accepted step, and apply the objective's restriction where it has one, such as a pruning mask. With
   `Settings.averaging` the point of the path is the moving average of the weights so far.

`walk` is this loop, a generator of accepted points. `trace` runs it to its end: it measures the points that are to be
kept, lets events end the path (`checkpoints.py`), and returns a `WeightPath`. Arguments are assembled and checked in
`arguments.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.networks import Network
from fipray.paths.arguments import (
    PERTURBATIONS,
    RANDOMNESS,
    WALKED,
    assembled,
    beginning,
    check_together,
    perturbations_of,
)
from fipray.paths.batch import Batch
from fipray.paths.calls import restrict
from fipray.paths.checkpoints import Checkpoints
from fipray.paths.objective import Objective, milestones
from fipray.paths.outcome import NOT_FINITE, Outcome, out_of_time
from fipray.paths.path import PathPoint, Probe, WeightPath
from fipray.paths.problem import Problem, anchors_and_held_out
from fipray.paths.radius import AcceptsAll, Candidate, judgement
from fipray.paths.settings import Settings
from fipray.paths.state import OwnedState
from fipray.paths.stepper import Situation, check_heeded, proposed

SMALLEST_RADIUS = 1e-8  # in units of |w0|: a shorter step changes nothing in float32


@checked
def walk(
    problem: Problem,
    anchors: Batch,
    objective: Objective,
    settings: Settings,
    *,
    resume: PathPoint | None = None,
    until: int | None = None,
    stops: Collection[int] = (),
    on_step: Callable[[int], None] | None = None,
    overwrites: bool = False,
) -> Generator[PathPoint, None, Outcome]:
    """Yield the accepted points of a path, one a step.

    Args:
        problem: quantities that must stay; the path begins at `problem.start`.
        anchors: inputs from which the batch of each step is drawn.
        objective: secondary objective, minimised.
        settings: stepper, radius control, numbers of steps and inputs, time limit and seed. Events and `save_at` are
            not used: see `trace`.
        resume: point of the same path at which to continue; None begins at the start. On a CPU with the same number of
            threads a resumed path is bit for bit the uninterrupted one.
        until: step at which to pause, below `num_steps`; None for no pause.
        stops: steps whose points are yielded whether the step was accepted or not.
        on_step: called with the number of each finished step, accepted or not.
        overwrites: let steps overwrite the solver states of points yielded before, which saves copying them where the
            radius control accepts every step. For callers that copy the states that they keep.

    Yields:
        Points with weights, radius, seconds and solver state; nothing else is measured.

    Returns:
        The outcome of the path, as the generator's return value.

    Raises:
        UsageError: for a stepper that ignores the objective, and for a point without the stepper's solver state.
    """
    check_heeded(settings.stepper, objective)
    began = time.perf_counter()
    point, weights, generator = beginning(problem, settings, resume)
    began -= point.seconds  # a time limit counts what the path took before it was interrupted
    average, radius, state = point.weights, point.radius, dict(point.solver_state)
    perturbations = perturbations_of(objective, anchors, settings.seed, point)
    state.pop(PERTURBATIONS, None)
    anchors = replace(anchors, variations=settings.variations, perturbations=perturbations)
    # A refused step is taken back, for which the state before it is needed.
    overwrites = overwrites and isinstance(settings.radius, AcceptsAll)
    if overwrites:
        state = {name: value.clone() for name, value in state.items()}
        point = replace(point, solver_state={})  # so that the first state does not stay in memory
    # The limit is relative, because rescaling all weights must not change when a path counts as stuck.
    num_steps, smallest = settings.num_steps, SMALLEST_RADIUS * problem.length
    before_draw = generator.get_state()
    batch = anchors.draw(settings.batch_size, generator)
    step, stop = point.step, num_steps if until is None else min(until, num_steps)
    refused = ""  # what was not finite in the last step, where the radius control refused it
    for step in range(point.step + 1, stop + 1):
        seconds = time.perf_counter() - began
        if settings.max_seconds is not None and seconds >= settings.max_seconds:
            return out_of_time(seconds, settings.max_seconds, step - 1)
        progress = step / num_steps
        situation = Situation(problem, objective, weights, batch, radius, progress, 1 / num_steps)
        proposal = proposed(settings.stepper, situation, OwnedState(state) if overwrites else state)
        if broken := proposal.not_finite:
            outcome = Outcome(NOT_FINITE, f"{broken} at step {step}")
            break

        # Staying on the batch that made the step is no evidence. The fresh batch that judges it makes the next step.
        before_draw = generator.get_state()
        batch = anchors.draw(settings.batch_size, generator)
        # Not `weights + displacement`: weights outside `Network.only` must stay bit for bit.
        moved = problem.network.moved(weights, proposal.displacement)
        candidate = Candidate(situation, moved, proposal.predicted_gain, batch)
        acceptance = judgement(settings.radius, candidate)
        if broken := acceptance.not_finite or (candidate.not_finite if acceptance.accepted else ""):
            outcome = Outcome(NOT_FINITE, f"{broken} at step {step}")
            break
        refused, radius = candidate.not_finite, acceptance.radius
        # A refused step drops its state too: moments of a step that was not taken would bias the next one.
        if acceptance.accepted:
            weights, state = moved, proposal.state
        # A restriction tightens with the progress of the path, whether this step was accepted or not.
        allowed = restrict(objective, problem, weights, progress, batch)
        if acceptance.accepted or allowed is not weights or step in stops:
            weights = reached = allowed
            # With the generator as it was before this draw, a resumed path draws the same batch again.
            kept = {**state, RANDOMNESS: before_draw}
            if perturbations:
                # Later draws write into them.
                kept[PERTURBATIONS] = perturbations.stored if overwrites else perturbations.stored.clone()
            if settings.averaging:
                average = _followed(average, weights, settings.averaging, step)
                # Also what the next averages begin with, as a resumed path has nothing else.
                average = reached = restrict(objective, problem, average, progress, batch)
                kept[WALKED] = weights
            yield PathPoint(step, reached, radius, time.perf_counter() - began, solver_state=kept)
            del reached, kept
        del situation, proposal, candidate, moved, allowed  # vectors [P], which the next step must not hold as well
        if on_step:
            on_step(step)
        # Only after a refusal: a schedule may end at radius 0 without being stuck.
        if not acceptance.accepted and radius < smallest and step < num_steps:
            stuck = f"no step longer than {radius:.1g} was acceptable at step {step}"
            outcome = Outcome(NOT_FINITE, f"{stuck}: {refused}") if refused else Outcome("stuck", stuck)
            break
    else:
        if stop < num_steps:
            return Outcome("paused", f"paused at step {stop} of {num_steps}")
        outcome = Outcome("completed", f"all {num_steps} steps were walked" if num_steps > 1 else "its step was walked")
        if refused:
            outcome = Outcome(NOT_FINITE, f"{refused} at step {step}, which was refused")
    # A path that is paused or out of time has returned above; any other ends where the restriction holds in full.
    end = average if settings.averaging else weights
    finished = restrict(objective, problem, end, 1.0, batch)
    if finished is not end:
        yield PathPoint(step, finished, radius, time.perf_counter() - began)
    return outcome


@checked
def trace(
    problem: Problem | Network | nn.Module,
    objective: Objective,
    settings: Settings | None = None,
    *,
    probes: Mapping[str, Probe] | None = None,
    on_point: Callable[[PathPoint], None] | None = None,
    resume: Sequence[PathPoint] = (),
    until: int | None = None,
    on_step: Callable[[int], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
    **given: Any,
) -> WeightPath:
    """Trace one functionally invariant path from `problem.start`.

    All weights may change, or those of some parameters only (`network.only(["head.*"])`).

    Args:
        problem: quantities that must stay, with anchors and held-out inputs. A network or module stands for the problem
            made of it and of the arguments of `Problem` in `given`. Paths from one start should share one problem: it
            holds the outputs of the start on all anchors.
        objective: secondary objective, minimised.
        settings: stepper, radius control, events, numbers of steps and inputs, and so on; None for the defaults.
        probes: functions of the weights [P] that return a number, by name, measured at every saved point.
        on_point: called with each saved point as soon as it is measured.
        resume: points so far of a path with the same arguments that ended early; it continues from the last of them.
            On a CPU with the same number of threads it becomes bit for bit the uninterrupted path.
        until: step at which the path is paused, at least 1; None for no pause. The last accepted point is kept then,
            and points have solver states whatever `save_at` says. A resumed path continues as if it had never been
            paused, except that `problem.others` may be new; steps refused since the last point are proposed again.
        on_step: called with the number of each finished step, accepted or not.
        on_stage: called with a few words when something besides steps begins that may take long, such as measuring a
            point, and with "" when steps begin or go on. What comes before a colon is one thing with several parts.
        given: arguments of `Problem` and fields of `Settings` by name, in place of either object:
            `trace(module, objective, anchors=x, held_out=y, num_steps=50)`.

    Returns:
        The saved points and the outcome. A path that ends early is no error: `outcome` names the reason. Everything
        measured is finite: a point where something is not ends the path at the point before.

    Raises:
        NetworkError: for a network that the objective does not support.
        UsageError: for a problem without anchors or held-out inputs, for a stepper that ignores the objective, and for
            an objective or a probe that is not finite at the start.
    """
    on_stage = on_stage or _ignored
    if not isinstance(problem, Problem):
        on_stage("outputs of the start on anchors and held-out inputs")
    problem, settings = assembled(problem, settings or Settings(), given)
    check_together(problem, objective, settings, resume, until)
    anchors, _ = anchors_and_held_out(problem)
    if settings.uncertainty_fraction:
        # On the path's own copy: the problem is shared by paths with other settings.
        anchors = anchors.uncertainty_sampled(settings.uncertainty_fraction)
    save_at = settings.save_at.and_also(fraction for fraction, _ in milestones(objective))
    keeps_state = save_at.solver_state or until is not None
    checkpoints = Checkpoints(problem, objective, settings, save_at, probes or {}, on_point, keeps_state, on_stage)
    steps = walk(
        problem,
        anchors,
        objective,
        settings,
        resume=resume[-1] if resume else None,
        until=until,
        stops=save_at.steps(settings.num_steps),
        on_step=on_step,
        overwrites=True,
    )
    last, outcome = checkpoints.begin(resume)
    on_stage("")
    # Driven by `next`, as a `for` loop would drop the outcome, which is the generator's return value.
    while outcome is None:
        try:
            last = next(steps)
        except StopIteration as end:
            outcome = end.value
            if outcome.kind == NOT_FINITE:
                last = replace(last, solver_state={})  # which the step that failed may have overwritten
        else:
            if checkpoints.is_due(last):
                last, outcome = checkpoints.add(last)
                on_stage("")
    path = checkpoints.finish(last, outcome)
    on_stage("")
    return path


def _followed(average: Tensor, weights: Tensor, decay: float, step: int) -> Tensor:
    """Let a moving average follow the weights; at first it forgets faster, or it would hold on to the start."""
    return torch.lerp(average, weights, 1 - min(decay, (1 + step) / (10 + step)))


def _ignored(stage: str) -> None:
    pass
