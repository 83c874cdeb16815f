"""What to run, and running it here: specs, the study, the worker that carries out one spec, the local runner."""

from fipray.study.data import Data, Task
from fipray.study.evaluation import Evaluation
from fipray.study.measures import Measure, RobustAccuracy
from fipray.study.runner import LocalRunner, Runner
from fipray.study.search import Search
from fipray.study.space import Choice, Integers, LogUniform, Uniform
from fipray.study.spec import EnsembleSpec, PathSpec, Study
from fipray.study.watch import Quiet, Watch

__all__ = [
    "Choice",
    "Data",
    "EnsembleSpec",
    "Evaluation",
    "Integers",
    "LocalRunner",
    "LogUniform",
    "Measure",
    "PathSpec",
    "Quiet",
    "RobustAccuracy",
    "Runner",
    "Search",
    "Study",
    "Task",
    "Uniform",
    "Watch",
]
