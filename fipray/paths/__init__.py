"""How one moves: objectives, steppers, radius control, events, and the loop that traces a path."""

from fipray.paths.event import Event, FunctionalDistanceAbove, ObjectiveBelow, Outcome
from fipray.paths.objective import Objective, Restriction
from fipray.paths.objectives import Diversify, Sparsify
from fipray.paths.path import PathPoint, SaveAt, WeightPath
from fipray.paths.problem import Batch, Problem
from fipray.paths.radius import AdaptiveRadius, Candidate, RadiusControl, ScheduledRadius, SwitchedRadius, Verdict
from fipray.paths.stepper import Proposal, Situation, Stepper
from fipray.paths.steppers import (
    Corrected,
    FirstOrderStep,
    InputNullSpaceStep,
    KroneckerStep,
    NaturalStep,
    OneShot,
    PublishedStep,
    Switch,
)
from fipray.paths.trace import trace, walk

__all__ = [
    "AdaptiveRadius",
    "Batch",
    "Candidate",
    "Corrected",
    "Diversify",
    "Event",
    "FirstOrderStep",
    "FunctionalDistanceAbove",
    "InputNullSpaceStep",
    "KroneckerStep",
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
    "Situation",
    "Sparsify",
    "Stepper",
    "Switch",
    "SwitchedRadius",
    "Verdict",
    "WeightPath",
    "trace",
    "walk",
]
