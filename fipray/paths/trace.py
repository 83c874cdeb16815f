"""The loop. A path is walked by asking a stepper for a displacement, judging it, and taking it.

walk()    yields the points of a path as it accepts them
trace()   walks, measures the points that are to be kept, ends on events, and returns the path
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry import FisherRao, Network, OutputGeometry, functional_distance
from fipray.paths.event import Event, Outcome
from fipray.paths.objective import Objective, restrict
from fipray.paths.path import PathPoint, Probe, SaveAt, WeightPath
from fipray.paths.problem import Batch, Problem
from fipray.paths.radius import AdaptiveRadius, Candidate, RadiusControl
from fipray.paths.stepper import NaturalStep, Stepper

SMALLEST_RADIUS = 1e-8  # of |w0|: below it a float32 step changes nothing


def walk(
    problem: Problem,
    anchors: Batch,
    objective: Objective,
    stepper: Stepper,
    radius: RadiusControl,
    *,
    num_steps: int,
    batch_size: int,
    generator: torch.Generator,
) -> Generator[PathPoint, None, Outcome]:
    """Yield each accepted point of a path from `problem.start`; return why it ended."""
    began = time.perf_counter()
    weights, state, reach = problem.start, stepper.begin(problem), radius.begin(problem)
    smallest = SMALLEST_RADIUS * float(torch.linalg.vector_norm(problem.start))
    batch = anchors.draw(batch_size, generator)
    for step in range(1, num_steps + 1):
        progress = step / num_steps
        proposal = stepper.propose(problem, objective, weights, batch, reach, state)
        if not bool(torch.isfinite(proposal.displacement).all()):
            outcome = Outcome("not finite", f"step {step} was not finite, so the path ended at the point before it")
            break

        batch = anchors.draw(batch_size, generator)  # judged on a fresh batch, from which the next step is made
        moved = weights + proposal.displacement
        verdict = radius.judge(
            Candidate(problem, objective, weights, moved, proposal.predicted_gain, batch), reach, progress
        )
        reach = verdict.radius
        if verdict.accepted:
            state = proposal.state
        allowed = restrict(objective, problem, moved if verdict.accepted else weights, progress)
        if verdict.accepted or allowed is not weights:
            weights = allowed
            yield PathPoint(step, weights, reach, time.perf_counter() - began)
        if reach < smallest and step < num_steps:
            outcome = Outcome("stuck", f"no step longer than {reach:.1g} was acceptable at step {step}")
            break
    else:
        outcome = Outcome("completed", f"all {num_steps} steps were walked" if num_steps > 1 else "its step was walked")
    finished = restrict(objective, problem, weights, 1.0)
    if finished is not weights:
        yield PathPoint(step, finished, reach, time.perf_counter() - began)
    return outcome


def trace(
    network: Network,
    *,
    anchors: Tensor,
    held_out: Tensor,
    objective: Objective,
    stepper: Stepper | None = None,
    radius: RadiusControl | None = None,
    events: Sequence[Event] = (),
    num_steps: int = 100,
    batch_size: int = 512,
    save_at: SaveAt | None = None,
    geometry: OutputGeometry | None = None,
    others: Sequence[Tensor] = (),
    probes: Mapping[str, Probe] | None = None,
    on_point: Callable[[PathPoint], None] | None = None,
    seed: int = 0,
) -> WeightPath:
    """Trace one functionally invariant path from the network's own weights.

    anchors: inputs [N, ...] on which the function must stay; batches are drawn from them.
    held_out: inputs [M, ...] on which staying is judged; no step sees them.
    others: weights [P] of further networks of the same architecture, for objectives that look at them.
    probes: functions of the weights [P] that give a number, measured at every kept point.
    on_point: is told every kept point as soon as it is measured.

    Raises DataError for inputs that cannot be used, NetworkError for a module that is no function of its weights,
    UsageError for settings out of range. A path that ends early is no error: `outcome` says why.
    """
    if num_steps < 1 or batch_size < 1:
        raise UsageError(f"num_steps and batch_size are at least 1; {num_steps} and {batch_size} were given")
    stepper, radius, save_at = stepper or NaturalStep(), radius or AdaptiveRadius(), save_at or SaveAt()
    for inputs in (anchors, held_out):
        network.check(inputs)
    problem = Problem(network, geometry or FisherRao(), network.weights, tuple(others))
    on_anchors, on_held_out = Batch.of(problem, anchors), Batch.of(problem, held_out)
    generator = torch.Generator().manual_seed(seed)

    def measured(point: PathPoint) -> PathPoint:
        some = on_anchors.first(1000)
        point = replace(
            point,
            functional_distance=_distance(problem, point.weights, some),
            functional_distance_held_out=_distance(problem, point.weights, on_held_out),
            objective_value=float(objective.value(problem, point.weights, some).detach()),
            sparsity=float((point.weights == 0).double().mean()),
            probes={name: probe(point.weights) for name, probe in (probes or {}).items()},
        )
        if on_point:
            on_point(point)
        return point

    steps = walk(
        problem, on_anchors, objective, stepper, radius, num_steps=num_steps, batch_size=batch_size, generator=generator
    )
    points = [measured(PathPoint(0, problem.start, radius.begin(problem), 0.0))]
    last = points[0]
    while True:
        try:
            last = next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            break
        if save_at.due(points[-1].step, last.step, num_steps):
            points.append(measured(last))
            reasons = {event: reason for event in events if (reason := event.reason(points[-1]))}
            if reasons:
                outcome = Outcome("stopped", "; ".join(reasons.values()))
                if all(event.goal for event in reasons):
                    last = replace(last, weights=restrict(objective, problem, last.weights, 1.0))
                break
    if last.step > points[-1].step:
        points.append(measured(last))
    elif last.weights is not points[-1].weights:
        points[-1] = measured(last)
    return WeightPath(tuple(points), outcome)


@torch.no_grad()
def _distance(problem: Problem, weights: Tensor, batch: Batch) -> float:
    embedded = problem.geometry.embed(problem.network.outputs(weights, batch.inputs))
    return float(functional_distance(embedded, batch.reference))
