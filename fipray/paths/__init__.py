"""How one moves: objectives, steppers, radius control, events, and the loop that traces a path."""

from fipray.paths.event import Event, FunctionalDistanceAbove, ObjectiveBelow, Outcome
from fipray.paths.objective import Objective, Restriction
from fipray.paths.objectives import Diversify, Sparsify
from fipray.paths.path import PathPoint, SaveAt, WeightPath
from fipray.paths.problem import Batch, Problem
from fipray.paths.radius import AdaptiveRadius, Candidate, RadiusControl, ScheduledRadius, Verdict
from fipray.paths.stepper import FirstOrderStep, NaturalStep, OneShot, Proposal, PublishedStep, Stepper
from fipray.paths.trace import trace, walk

__all__ = [
    "AdaptiveRadius",
    "Batch",
    "Candidate",
    "Diversify",
    "Event",
    "FirstOrderStep",
    "FunctionalDistanceAbove",
    "NaturalStep",
    "Objective",
    "ObjectiveBelow",
    "OneShot",
    "Outcome",
    "PathPoint",
    "Problem",
    "Proposal",
    "PublishedStep",
    "RadiusControl",
    "Restriction",
    "SaveAt",
    "ScheduledRadius",
    "Sparsify",
    "Stepper",
    "Verdict",
    "WeightPath",
    "trace",
    "walk",
]
