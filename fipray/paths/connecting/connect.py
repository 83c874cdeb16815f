"""Paths between two networks of one architecture.

connect()        path from one network to the other along which the function stays
loss_profile()   loss along a polyline through weight space, and its barrier
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from fipray.border import checked, number
from fipray.errors import UsageError
from fipray.geometry import functional_distance
from fipray.networks.arrays import AnyWeights, Weights
from fipray.paths.batch import Batch
from fipray.paths.objectives import Toward
from fipray.paths.outcome import NOT_FINITE, Outcome
from fipray.paths.problem import Problem, anchors_and_held_out
from fipray.paths.radii import Adaptive
from fipray.paths.settings import Settings
from fipray.paths.stepper import needs_outputs_alone
from fipray.paths.trace import walk

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # fractions of a segment at which its functional distance is measured


@dataclass(frozen=True)
class Connection:
    """Polyline from one network to another.

    Args:
        points: weights [P]; the first and the last are those of the two networks.
        gap: L2 length of the straight segment in the middle, which joins the two sides and is cut into four.
        distance: largest functional distance on that segment, on held-out inputs, to the nearer of the two networks;
            infinite where outputs are not finite.
        outcome: "connected" where `distance` is within the allowed one, "not connected" otherwise, and "not finite"
            where outputs ceased to be finite on the way; the points are those before.
    """

    points: tuple[Tensor, ...]
    gap: float
    distance: float
    outcome: Outcome

    @property
    def length(self) -> float:
        """L2 length of the polyline in weight space."""
        return _lengths(self.points).sum().item()


@checked
def connect(
    problem: Problem,
    other: AnyWeights,
    settings: Settings | None = None,
    *,
    allowed_distance: float = 0.2,
    num_rounds: int = 12,
) -> Connection:
    """Connect two networks of one architecture by a path along which the function stays.

    Both ends walk in turn, each straight towards the last point of the other as far as its own function allows
    (`Toward`). This ends when the functional distance on the straight segment between them, to the nearer of the two
    networks, is at most `allowed_distance` on held-out inputs, or when each has walked `num_rounds` times.

    Args:
        problem: problem of the first network, with anchors and held-out inputs. It keeps outputs only.
        other: weights [P] of the second network.
        settings: settings of each round. By default 25 steps on batches of 1,024 that stay within three quarters of
            `allowed_distance` on the anchors, which leaves a margin for other inputs and for the last segment.
        allowed_distance: largest functional distance on the last segment, above 0.
        num_rounds: number of rounds of each end, at least 1.

    Returns:
        The polyline. All accepted points are in memory: up to 2 num_rounds num_steps networks.

    Raises:
        UsageError: for numbers out of range, for another architecture, and for a problem without anchors or held-out
            inputs, or with other kept quantities than outputs.
    """
    if num_rounds < 1:
        raise UsageError(f"num_rounds is at least 1; {num_rounds} was given")
    if not 0 < allowed_distance < math.inf:
        raise UsageError(f"allowed_distance is a functional distance above 0, and finite; {allowed_distance} was given")
    settings = settings or Settings(
        radius=Adaptive(initial=0.02, tolerance=0.75 * allowed_distance), num_steps=25, batch_size=1024
    )
    needs_outputs_alone(problem, "connect()")
    anchors, held_out = anchors_and_held_out(problem)
    far = problem.network.at(Toward(other).goal(problem))
    problems = (problem, Problem(far, anchors.inputs, held_out.inputs, geometry=problem.geometry))
    batches, judges = zip(*map(anchors_and_held_out, problems), strict=True)
    sides = [[problem.start] for problem in problems]
    generator = torch.Generator().manual_seed(settings.seed)
    # Measured before the first round: two networks may be close enough already.
    distance, broken = _farthest(problem, judges, problem.start, far.weights), ""
    for turn in range(2 * num_rounds):
        own, theirs = sides[turn % 2], sides[1 - turn % 2]
        # Where both ends have met there is no direction left to walk in.
        if broken or distance <= allowed_distance or torch.equal(own[-1], theirs[-1]):
            break
        # The walk continues from the last point, but its batches still hold the outputs of its own first network.
        later = replace(problems[turn % 2], network=problem.network.at(own[-1]))
        # With one seed every round would draw the same batches, and fit them alone.
        drawn = replace(settings, seed=int(torch.randint(2**62, (), generator=generator)))
        steps = walk(later, batches[turn % 2], Toward(theirs[-1]), drawn)
        walked = [point.weights for point in steps]
        if walked and not math.isfinite(_farthest(problem, judges, walked[-1], walked[-1])):
            broken = f"the outputs were no longer finite after round {turn // 2 + 1}, which was taken back; "
            continue
        own.extend(walked)
        distance = _farthest(problem, judges, own[-1], theirs[-1])
    gap = float(torch.linalg.vector_norm(sides[0][-1] - sides[1][-1]))
    said = f"distance {distance:.2g} on the last segment, {gap:.3g} long, where {allowed_distance:g} is allowed"
    if distance <= allowed_distance:
        outcome = Outcome("connected", said)
    elif broken:
        outcome = Outcome(NOT_FINITE, f"{broken}{said}")
    else:
        outcome = Outcome("not connected", f"{said}: walk more rounds")
    between = [torch.lerp(sides[0][-1], sides[1][-1], place) for place in PLACES[1:-1]]
    return Connection((*sides[0], *between, *reversed(sides[1])), gap, distance, outcome)


def _farthest(problem: Problem, judges: Sequence[Batch], first: Tensor, last: Tensor) -> float:
    """Largest functional distance on the segment between two weights [P] to the nearer of two networks.

    `judges` hold the held-out outputs of these networks; the distance is infinite where outputs are not finite.
    """

    def nearest(weights: Tensor) -> float:
        embedded = problem.geometry.embed(problem.network.outputs(weights, judges[0].inputs))
        distances = [float(functional_distance(embedded, judge.reference)) for judge in judges]
        # `min` may drop NaN, depending on the order.
        return min(distances) if all(map(math.isfinite, distances)) else math.inf

    return max(nearest(torch.lerp(first, last, place)) for place in PLACES)


@dataclass(frozen=True)
class LossProfile:
    """Losses along a polyline. Where a loss is NaN, so are `maximum` and `barrier`.

    Args:
        places: positions on the polyline by length, from 0 at its first point to 1 at its last.
        losses: losses at these places.
    """

    places: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def maximum(self) -> float:
        """Largest loss."""
        return _greatest(self.losses)

    @property
    def barrier(self) -> float:
        """Barrier `max_t loss(t) - ((1 - t) loss(0) + t loss(1))`, at least 0.

        Sources: Frankle et al. 2020; Entezari et al. 2022.
        """
        first, last = self.losses[0], self.losses[-1]
        return _greatest(
            [loss - ((1 - t) * first + t * last) for t, loss in zip(self.places, self.losses, strict=True)]
        )


@checked
def loss_profile(points: Sequence[Weights], loss: Callable[[Tensor], float], *, num_between: int = 1) -> LossProfile:
    """Evaluate a loss along a polyline through weight space.

    A straight line has two points and many places between: `loss_profile((start, other), loss, num_between=24)`.

    Args:
        points: weights [P] of the polyline's points, at least two.
        loss: function of weights [P] that returns a number.
        num_between: number of evenly spaced places on each segment between two points, at least 0.

    Returns:
        The losses at all points and places.

    Raises:
        UsageError: for fewer than two points, for points that are all equal or not finite, and for a negative number.
    """
    if len(points) < 2 or num_between < 0:
        raise UsageError(
            "a polyline has at least two points, and num_between is at least 0; "
            f"{len(points)} and {num_between} were given"
        )
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), _lengths(points).cumsum(0)])
    whole = float(ends[-1])
    if not math.isfinite(whole):
        raise UsageError("points of the polyline hold NaN or infinity: leave them out")
    if not whole > 0:
        raise UsageError("all points of the polyline are equal, so nothing lies between them")
    places, losses = [0.0], [number(loss(points[0]), "loss()")]
    for (first, last), (begin, end) in zip(pairwise(points), pairwise(ends.tolist()), strict=True):
        for place in range(1, num_between + 2):
            fraction = place / (num_between + 1)
            places.append((begin + fraction * (end - begin)) / whole)
            losses.append(number(loss(torch.lerp(first, last, fraction) if place <= num_between else last), "loss()"))
    return LossProfile(tuple(places), tuple(losses))


def _greatest(values: Sequence[float]) -> float:
    """Maximum, NaN where any value is: the result of `max` would depend on their order."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def _lengths(points: Sequence[Tensor]) -> Tensor:
    """L2 length [K - 1] of each segment, in float64."""
    # In float64: places are ratios of sums of these lengths.
    return torch.stack([torch.linalg.vector_norm((b - a).double()).cpu() for a, b in pairwise(points)])
