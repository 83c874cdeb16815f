"""Running it here: jobs, the queue of a study, the worker that carries out a job, the local runner."""

from fipray.execution.listeners import Listener, Silent
from fipray.execution.runner import LocalRunner, Runner

__all__ = ["Listener", "LocalRunner", "Runner", "Silent"]
