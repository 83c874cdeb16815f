"""How one moves: objectives, steppers, radius control, events, and the loop that traces a path."""

from fipray.paths.align import aligned
from fipray.paths.batch import Batch, Part
from fipray.paths.connect import Connection, LossProfile, connect, loss_profile
from fipray.paths.event import (
    NOT_FINITE,
    Event,
    FunctionalDistanceAbove,
    ObjectiveBelow,
    Outcome,
    check_max_seconds,
    improvement,
    judged,
)
from fipray.paths.examples import Examples
from fipray.paths.memory import KroneckerMemory, packed, unpacked
from fipray.paths.objective import Objective, Restriction, check_network, milestones, restrict, tasks_of
from fipray.paths.objectives import (
    Adversary,
    BlackBox,
    Disagree,
    Diversify,
    LearnTask,
    MoveAway,
    RandomWalk,
    Remember,
    Resist,
    Smooth,
    Sparsify,
    Toward,
    Vaccinate,
    WeightedSum,
)
from fipray.paths.path import PathPoint, Probe, SaveAt, WeightPath
from fipray.paths.patterns import NofM, Pattern, Unstructured, WholeChannels
from fipray.paths.problem import Problem
from fipray.paths.radius import AdaptiveRadius, Candidate, RadiusControl, ScheduledRadius, SwitchedRadius, Verdict
from fipray.paths.saliency import Magnitude, MetricDiagonal, OptimalBrainSurgeon, Saliency
from fipray.paths.settings import Settings
from fipray.paths.stepper import Proposal, Situation, Stepper, check_heeded
from fipray.paths.steppers import (
    Corrected,
    FirstOrderStep,
    InputNullSpaceStep,
    KroneckerStep,
    NaturalStep,
    OneShot,
    ProjectedStep,
    PublishedStep,
    Switch,
)
from fipray.paths.trace import trace, walk
from fipray.paths.variations import Shifted, Variation, varied

__all__ = [
    "NOT_FINITE",
    "AdaptiveRadius",
    "Adversary",
    "Batch",
    "BlackBox",
    "Candidate",
    "Connection",
    "Corrected",
    "Disagree",
    "Diversify",
    "Event",
    "Examples",
    "FirstOrderStep",
    "FunctionalDistanceAbove",
    "InputNullSpaceStep",
    "KroneckerMemory",
    "KroneckerStep",
    "LearnTask",
    "LossProfile",
    "Magnitude",
    "MetricDiagonal",
    "MoveAway",
    "NaturalStep",
    "NofM",
    "Objective",
    "ObjectiveBelow",
    "OneShot",
    "OptimalBrainSurgeon",
    "Outcome",
    "Part",
    "PathPoint",
    "Pattern",
    "Probe",
    "Problem",
    "ProjectedStep",
    "Proposal",
    "PublishedStep",
    "RadiusControl",
    "RandomWalk",
    "Remember",
    "Resist",
    "Restriction",
    "Saliency",
    "SaveAt",
    "ScheduledRadius",
    "Settings",
    "Shifted",
    "Situation",
    "Smooth",
    "Sparsify",
    "Stepper",
    "Switch",
    "SwitchedRadius",
    "Toward",
    "Unstructured",
    "Vaccinate",
    "Variation",
    "Verdict",
    "WeightPath",
    "WeightedSum",
    "WholeChannels",
    "aligned",
    "check_heeded",
    "check_max_seconds",
    "check_network",
    "connect",
    "improvement",
    "judged",
    "loss_profile",
    "milestones",
    "packed",
    "restrict",
    "tasks_of",
    "trace",
    "unpacked",
    "varied",
    "walk",
]
