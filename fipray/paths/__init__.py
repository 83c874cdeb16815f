"""Functionally invariant paths: problems, objectives, steppers, radius controls, events, and the loop (trace.py)."""

from fipray.paths.augmentations import Augmentation, Flipped, Shifted, augmented
from fipray.paths.batch import OUTPUTS, Batch, Part
from fipray.paths.calls import restrict
from fipray.paths.connecting.align import aligned
from fipray.paths.connecting.connect import Connection, LossProfile, connect, loss_profile
from fipray.paths.events import Event, FunctionalDistanceAbove, MeasureAbove, MeasureBelow, ObjectiveBelow
from fipray.paths.examples import Examples
from fipray.paths.improvement import improvement, judged
from fipray.paths.memory import KroneckerMemory, packed, unpacked
from fipray.paths.objective import Objective, Restriction, check_network, milestones, tasks_of
from fipray.paths.objectives import (
    AdversarialDistillation,
    Adversary,
    Arrival,
    EnsembleAdversarialDistillation,
    GradientDiversity,
    InputGradientPenalty,
    KroneckerPenalty,
    LearnTask,
    OutputDiversity,
    RandomWalk,
    Sparsify,
    Toward,
    WeightDiversity,
    WeightedSum,
    ZerothOrder,
)
from fipray.paths.outcome import NOT_FINITE, Outcome
from fipray.paths.path import PathPoint, Probe, SaveAt, WeightPath
from fipray.paths.problem import Problem
from fipray.paths.quantities import outputs_on_anchors
from fipray.paths.radii import Adaptive, Guarded, Scheduled, Switched
from fipray.paths.radius import Acceptance, Candidate, RadiusControl
from fipray.paths.settings import Settings, check_max_seconds
from fipray.paths.sparsity.patterns import Pattern, SemiStructured, Structured, Unstructured
from fipray.paths.sparsity.saliency import Magnitude, MetricDiagonal, OptimalBrainSurgeon, Saliency
from fipray.paths.stepper import Proposal, Situation, Stepper, check_heeded
from fipray.paths.steppers import (
    Corrected,
    FirstOrder,
    InputNullSpace,
    Kronecker,
    Natural,
    OneShot,
    Projected,
    Published,
    Switch,
    WithinAllowance,
)
from fipray.paths.trace import trace, walk

__all__ = [
    "NOT_FINITE",
    "OUTPUTS",
    "Acceptance",
    "Adaptive",
    "AdversarialDistillation",
    "Adversary",
    "Arrival",
    "Augmentation",
    "Batch",
    "Candidate",
    "Connection",
    "Corrected",
    "EnsembleAdversarialDistillation",
    "Event",
    "Examples",
    "FirstOrder",
    "Flipped",
    "FunctionalDistanceAbove",
    "GradientDiversity",
    "Guarded",
    "InputGradientPenalty",
    "InputNullSpace",
    "Kronecker",
    "KroneckerMemory",
    "KroneckerPenalty",
    "LearnTask",
    "LossProfile",
    "Magnitude",
    "MeasureAbove",
    "MeasureBelow",
    "MetricDiagonal",
    "Natural",
    "Objective",
    "ObjectiveBelow",
    "OneShot",
    "OptimalBrainSurgeon",
    "Outcome",
    "OutputDiversity",
    "Part",
    "PathPoint",
    "Pattern",
    "Probe",
    "Problem",
    "Projected",
    "Proposal",
    "Published",
    "RadiusControl",
    "RandomWalk",
    "Restriction",
    "Saliency",
    "SaveAt",
    "Scheduled",
    "SemiStructured",
    "Settings",
    "Shifted",
    "Situation",
    "Sparsify",
    "Stepper",
    "Structured",
    "Switch",
    "Switched",
    "Toward",
    "Unstructured",
    "WeightDiversity",
    "WeightPath",
    "WeightedSum",
    "WithinAllowance",
    "ZerothOrder",
    "aligned",
    "augmented",
    "check_heeded",
    "check_max_seconds",
    "check_network",
    "connect",
    "improvement",
    "judged",
    "loss_profile",
    "milestones",
    "outputs_on_anchors",
    "packed",
    "restrict",
    "tasks_of",
    "trace",
    "unpacked",
    "walk",
]
