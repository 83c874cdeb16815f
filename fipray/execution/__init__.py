"""Running studies: jobs and their kinds, the queue of a study, the worker, and the local runner."""

from fipray.execution.listeners import Listener, Silent
from fipray.execution.runner import LocalRunner, Runner

__all__ = ["Listener", "LocalRunner", "Runner", "Silent"]
