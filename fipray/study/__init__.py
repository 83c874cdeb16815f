"""What to run, and running it here: specs, the study, the worker that carries out one spec, the local runner."""

from fipray.study.data import Data
from fipray.study.evaluation import Evaluation
from fipray.study.runner import LocalRunner, Runner
from fipray.study.spec import EnsembleSpec, PathSpec, Study
from fipray.study.watch import Quiet, Watch

__all__ = ["Data", "EnsembleSpec", "Evaluation", "LocalRunner", "PathSpec", "Quiet", "Runner", "Study", "Watch"]
