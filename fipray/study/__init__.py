"""What to run, and running it here: specs, the study, the worker that carries out one spec, the local runner."""

from fipray.study.data import Data
from fipray.study.runner import LocalRunner, Quiet, Runner, Watch
from fipray.study.spec import EnsembleSpec, Evaluation, PathSpec, Study

__all__ = ["Data", "EnsembleSpec", "Evaluation", "LocalRunner", "PathSpec", "Quiet", "Runner", "Study", "Watch"]
