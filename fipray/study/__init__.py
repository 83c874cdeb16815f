"""Description of what to run, as data: specs, studies and their data, rounds, evaluations, searches."""

from fipray.study.data import Data, Task
from fipray.study.evaluation import Evaluation
from fipray.study.measures import (
    AccuracyLoss,
    Agreement,
    HeldOutAccuracy,
    HeldOutMeasure,
    Measure,
    RobustAccuracy,
    RobustAgreement,
    TaskAccuracy,
    TaskMeasure,
)
from fipray.study.referenced import DataRef, ReferencedArray, TarImages
from fipray.study.search import Search
from fipray.study.sources import Columns
from fipray.study.space import Choice, Integers, LogIntegers, LogUniform, Uniform
from fipray.study.specs import EnsembleSpec, PathSpec
from fipray.study.study import Study

__all__ = [
    "AccuracyLoss",
    "Agreement",
    "Choice",
    "Columns",
    "Data",
    "DataRef",
    "EnsembleSpec",
    "Evaluation",
    "HeldOutAccuracy",
    "HeldOutMeasure",
    "Integers",
    "LogIntegers",
    "LogUniform",
    "Measure",
    "PathSpec",
    "ReferencedArray",
    "RobustAccuracy",
    "RobustAgreement",
    "Search",
    "Study",
    "TarImages",
    "Task",
    "TaskAccuracy",
    "TaskMeasure",
    "Uniform",
]
