"""The loop. A path is walked by asking a stepper for a displacement, judging it, and taking it.

walk()    yields the points of a path as it accepts them
trace()   walks, measures the points that are to be kept, ends on events, and returns the path
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import an_instance, checked, number
from fipray.errors import UsageError
from fipray.geometry import FisherRao
from fipray.networks import Network, sparsity_of
from fipray.paths.batch import Batch
from fipray.paths.events import (
    NOT_FINITE,
    Event,
    Outcome,
    broken_answer,
    judged,
    out_of_time,
    reason_of,
)
from fipray.paths.objective import Objective, check_network, milestones, restrict, tasks_of, unchanged, value
from fipray.paths.path import PathPoint, Probe, WeightPath, not_finite
from fipray.paths.problem import PROBLEM_ARGUMENTS, Problem, anchors_and_held_out, total
from fipray.paths.radii import Candidate, Verdict, first_radius
from fipray.paths.settings import Settings
from fipray.paths.stepper import Situation, check_heeded, proposed

RANDOMNESS = "randomness"  # in a solver state: the generator's, before the next step's batch is drawn
SMALLEST_RADIUS = 1e-8  # of |w0|: below it a float32 step changes nothing


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
) -> Generator[PathPoint, None, Outcome]:
    """Yield each accepted point of a path.

    Args:
        problem: what must stay; the path begins at `problem.start`.
        anchors: inputs from which batches are drawn.
        objective: what improves.
        settings: how the path is walked; its events and `save_at` are not looked at.
        resume: a point of the same path from which it goes on. On a CPU with the same threads a resumed path is bit for
            bit the uninterrupted one.
        until: step after which the path is paused.
        stops: steps whose points are yielded whether the step was accepted or not.
        on_step: called with the number of every step that is over, accepted or not.

    Returns:
        Why the path ended, as the generator's value.

    Raises:
        UsageError: for a stepper that ignores the objective, and for a point without a solver state.
    """
    stepper, radius, num_steps, batch_size = settings.stepper, settings.radius, settings.num_steps, settings.batch_size
    max_seconds, generator = settings.max_seconds, torch.Generator().manual_seed(settings.seed)
    check_heeded(stepper, objective)
    began = time.perf_counter()
    weights, reach, done = problem.start, first_radius(radius, problem), 0
    if resume is None or resume.step == 0:
        state = an_instance(stepper.begin(problem), dict, f"{type(stepper).__name__}.begin()")
    else:
        state, reach, done = dict(resume.solver_state), resume.radius, resume.step
        weights, began = resume.weights, began - resume.seconds
        if RANDOMNESS not in state:
            raise UsageError(
                f"point {done} has no solver state, so no path can be resumed from it: keep points with "
                "SaveAt(solver_state=True)"
            )
        generator.set_state(state.pop(RANDOMNESS))
        if lacking := stepper.begin(problem).keys() - state.keys():
            raise UsageError(
                f"the solver state of point {done} has no {', '.join(sorted(lacking))}, which {type(stepper).__name__} "
                "keeps: resume a path with the stepper that it was walked with"
            )
    smallest = SMALLEST_RADIUS * problem.length
    before_draw = generator.get_state()
    batch = anchors.draw(batch_size, generator)
    step, stop = done, num_steps if until is None else min(until, num_steps)
    refused = ""  # what was not finite of the last step, where the radius control refused it
    for step in range(done + 1, stop + 1):
        seconds = time.perf_counter() - began
        if max_seconds is not None and seconds >= max_seconds:
            return out_of_time(seconds, max_seconds, step - 1)
        progress = step / num_steps
        situation = Situation(problem, objective, weights, batch, reach, progress, 1 / num_steps)
        proposal = proposed(stepper, situation, state)
        if broken := proposal.not_finite:
            outcome = Outcome(NOT_FINITE, f"{broken} at step {step}")
            break

        before_draw = generator.get_state()
        batch = anchors.draw(batch_size, generator)  # judged on a fresh batch, from which the next step is made
        moved = problem.network.moved(weights, proposal.displacement)
        candidate = Candidate(situation, moved, proposal.predicted_gain, batch)
        verdict = radius.judge(candidate)
        an_instance(verdict, Verdict, f"{type(radius).__name__}.judge()")
        judged_radius = number(verdict.radius, f"{type(radius).__name__}.judge(), as radius,")
        broken = "" if math.isfinite(judged_radius) else f"the next radius was {judged_radius}"
        if broken or (verdict.accepted and (broken := candidate.not_finite)):
            outcome = Outcome(NOT_FINITE, f"{broken} at step {step}")
            break
        refused, reach = candidate.not_finite, judged_radius
        if verdict.accepted:
            state = proposal.state
        allowed = restrict(objective, problem, moved if verdict.accepted else weights, progress, batch)
        if verdict.accepted or allowed is not weights or step in stops:
            weights = allowed
            kept = {**state, RANDOMNESS: before_draw}
            yield PathPoint(step, weights, reach, time.perf_counter() - began, solver_state=kept)
        if on_step:
            on_step(step)
        if not verdict.accepted and reach < smallest and step < num_steps:
            stuck = f"no step longer than {reach:.1g} was acceptable at step {step}"
            outcome = Outcome(NOT_FINITE, f"{stuck}: {refused}") if refused else Outcome("stuck", stuck)
            break
    else:
        if stop < num_steps:
            return Outcome("paused", f"paused at step {stop} of {num_steps}")
        outcome = Outcome("completed", f"all {num_steps} steps were walked" if num_steps > 1 else "its step was walked")
        if refused:
            outcome = Outcome(NOT_FINITE, f"{refused} at step {step}, which was refused")
    finished = restrict(objective, problem, weights, 1.0, batch)
    if finished is not weights:
        yield PathPoint(step, finished, reach, time.perf_counter() - began)
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
    **given: Any,
) -> WeightPath:
    """Trace one functionally invariant path from `problem.start`.

    All weights may change, or those of some parameters alone (`network.only(["head.*"])`).

    Args:
        problem: what must stay, with anchors and held-out inputs. Of many paths from one start each needs the start's
            outputs on all anchors: give them the same problem. A network or module stands for the problem that is made
            of it and of the arguments of `Problem` in `given`.
        objective: what improves, minimised.
        settings: how the path is walked.
        probes: functions of the weights [P] that give a number, measured at every kept point.
        on_point: called with every kept point as soon as it is measured.
        resume: the points so far of a path that was traced with the same arguments and ended too early; it goes on from
            the last of them, and on a CPU with the same threads it is bit for bit the uninterrupted path.
        until: step after which the path is paused: its last accepted point is kept too, and points have solver states,
            whatever `save_at` says. Resumed, the path goes on from there as if it had never been paused, but that
            `problem.others` may be new; steps that were refused since that point are proposed again.
        on_step: called with the number of every step that is over, accepted or not.
        given: arguments of `Problem` and fields of `Settings`, in the short form of a call that needs neither by name:
            `trace(module, objective, anchors=x, held_out=y, num_steps=50)`.

    Returns:
        The kept points and why the path ended. A path that ends early is no error: `outcome` says why. What is measured
        at its points is finite: one that is not ends the path at the point before.

    Raises:
        NetworkError: for a network that the objective is not for.
        UsageError: for a problem without anchors or held-out inputs, for a stepper that ignores the objective, and for
            an objective or a probe that is not finite at the start.
    """
    problem, settings = _assembled(problem, settings or Settings(), given)
    if until is not None and until < 1:
        raise UsageError(f"a path is paused after its first step or a later one; until={until} was given")
    on_anchors, on_held_out = anchors_and_held_out(problem)
    check_heeded(settings.stepper, objective)
    num_steps, events = settings.num_steps, settings.events
    save_at = settings.save_at.and_also(fraction for fraction, _ in milestones(objective))
    network = problem.network
    check_network(objective, network)
    for name in tasks_of(objective):
        problem.task(name).check(network)
    if resume and resume[0].step == 0 and not torch.equal(resume[0].weights, problem.start):
        raise UsageError("resume holds points of a path from other weights than the network's: give its own points")
    if settings.uncertainty_fraction > 0 and not isinstance(problem.geometry, FisherRao):
        raise UsageError(
            f"uncertainty_fraction={settings.uncertainty_fraction} asks for inputs on which classes are in doubt: it needs geometry=FisherRao()"
        )
    drawn = (
        on_anchors.uncertainty_sampled(settings.uncertainty_fraction) if settings.uncertainty_fraction else on_anchors
    )

    some = on_anchors.first(1000)

    def value_at(weights: Tensor) -> float:
        return float(value(objective, problem, weights, some).detach())

    def probed(name: str, probe: Probe, weights: Tensor) -> float:
        with unchanged(f"probe {name!r}", {"the weights": weights, "the start's weights": problem.start}):
            found = probe(weights)
        return number(found, f"probe {name!r}")

    def measured(point: PathPoint) -> PathPoint:
        here, there = (problem.distances(point.weights, batch) for batch in (some, on_held_out))
        return replace(
            point,
            functional_distance=total(here),
            functional_distance_held_out=total(there),
            distances=here,
            distances_held_out=there,
            objective_value=value_at(point.weights),
            sparsity=sparsity_of(network, point.weights),
            probes={name: probed(name, probe, point.weights) for name, probe in (probes or {}).items()},
            solver_state=point.solver_state if save_at.solver_state or until is not None else {},
        )

    def keep(point: PathPoint) -> None:
        points.append(point)
        if on_point:
            with unchanged("on_point()", {"the weights": point.weights, "the start's weights": problem.start}):
                on_point(point)

    def stopped(point: PathPoint) -> tuple[Outcome | None, PathPoint]:
        """Why the path ends at a kept point, if it does; at a goal the point gets the whole of a restriction."""
        reasons = [(event, reason) for event in events if (reason := reason_of(event, point))]
        if not reasons:
            return None, point
        if all(event.goal for event, _ in reasons):
            point = replace(point, weights=restrict(objective, problem, point.weights, 1.0, some))
        return Outcome("stopped", "; ".join(reason for _, reason in reasons)), point

    steps = walk(
        problem,
        drawn,
        objective,
        settings,
        resume=resume[-1] if resume else None,
        until=until,
        stops=save_at.steps(num_steps),
        on_step=on_step,
    )
    points, outcome = save_at.without_pause(resume, num_steps), None
    if not points:
        start = measured(PathPoint(0, problem.start, first_radius(settings.radius, problem), 0.0))
        if broken := not_finite(start):
            raise UsageError(f"{broken} at the path's start, so nothing can be walked or compared from there: mend it")
        keep(start)
    elif problem.others:  # which may be new: the start and the end are compared on equal terms
        points[0] = replace(points[0], objective_value=value_at(points[0].weights))
    last = resume[-1] if resume else points[-1]
    if last is points[-1] and last.step > 0:
        outcome, last = stopped(last)  # it may have been cut off at its very end
    while outcome is None:
        try:
            last = next(steps)
        except StopIteration as end:
            outcome = end.value
            break
        if not save_at.due(points[-1].step, last.step, num_steps):
            continue
        candidate = measured(last)
        if broken := _broken(events, candidate):
            last, outcome = points[-1], Outcome(NOT_FINITE, f"{broken} at step {candidate.step}")
            break
        if passed := _passed(events, candidate):
            last, outcome = _last_within(points[-1], candidate, events, measured), Outcome("stopped", passed)
            break
        keep(candidate)
        outcome, last = stopped(candidate)
    if last.step > points[-1].step or last.weights is not points[-1].weights:
        end_point = measured(last)
        if broken := _broken(events, end_point):
            end_point, outcome = points[-1], Outcome(NOT_FINITE, f"{broken} at step {end_point.step}")
        elif outcome.kind != "paused" and (passed := _passed(events, end_point)):
            end_point, outcome = _last_within(points[-1], end_point, events, measured), Outcome("stopped", passed)
        if end_point is not points[-1]:
            if end_point.step == points[-1].step:
                points.pop()
            keep(end_point)
    if outcome.kind == NOT_FINITE:
        where = f"the path ended at step {points[-1].step}, its last finite point"
        outcome = Outcome(NOT_FINITE, f"{outcome.sentence}, so {where}")
    return WeightPath(tuple(points), outcome if outcome.kind == "paused" else judged(outcome, objective, points))


def _assembled(
    problem: Problem | Network | nn.Module, settings: Settings, given: dict[str, Any]
) -> tuple[Problem, Settings]:
    """The problem and the settings, with what was given of them one by one."""
    of_settings = {each.name: given.pop(each.name) for each in fields(Settings) if each.name in given}
    of_problem = {name: given.pop(name) for name in PROBLEM_ARGUMENTS if name in given}
    if given:
        takes = "problem, objective, settings, probes, on_point, resume, until, on_step"
        raise UsageError(
            f"trace(): got an unexpected keyword argument {next(iter(given))!r}; it takes: {takes}, the arguments of "
            f"Problem ({', '.join(PROBLEM_ARGUMENTS)}) and those of Settings "
            f"({', '.join(each.name for each in fields(Settings))})"
        )
    if not isinstance(problem, Problem):
        problem = Problem(problem, **of_problem)
    elif of_problem:
        raise UsageError(f"a problem was given, and {', '.join(of_problem)} beside it: give them to Problem")
    wanted = {name: one for name, one in of_settings.items() if one is not None or name == "max_seconds"}
    return problem, replace(settings, **wanted)


def _broken(events: Sequence[Event], point: PathPoint) -> str:
    """What of a measured point, or of what events say of it, is not finite, in words."""
    return not_finite(point) or broken_answer(events, point)


def _passed(events: Sequence[Event], point: PathPoint) -> str:
    """Which limits forbid the point, as a sentence; empty where none does."""
    return "; ".join(reason for event in events if event.limit and (reason := reason_of(event, point)))


def _last_within(
    inside: PathPoint, outside: PathPoint, events: Sequence[Event], measured: Callable[[PathPoint], PathPoint]
) -> PathPoint:
    """The point furthest on the way from `inside` to `outside` that no limit forbids, to a 64th of the way."""
    found, low, high = inside, 0.0, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        weights = torch.lerp(inside.weights, outside.weights, middle)
        between = measured(replace(outside, weights=weights, solver_state={}))
        if _broken(events, between) or _passed(events, between):
            high = middle
        else:
            low, found = middle, between
    return found
