"""Heartbeat of a worker: signs of progress, for another thread that watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fipray.networks import Network


@dataclass
class Heartbeat:
    """Counter of signs of progress: steps and saved points of a path, forward passes of an evaluation.

    Written by the thread that runs jobs, read by another one. Forward passes on a path are not counted, because an
    objective in an endless loop may make them, too.

    Args:
        count: signs of progress since the worker was set up.
        step: last completed step of the present path; None before the first, and for jobs that take no steps.
        has_begun: True once the present job is past its first step or forward pass, which may compile the network and
            so may take much longer than the others.
        job: ID of the present job; empty before the first.
        stage: what a job that takes no steps is doing, such as the attack that it runs; empty if unknown.
        passes: forward passes of such a job.
        on_change: called after each sign of progress, in the thread that runs the job; None for nothing.
    """

    # No lock: attributes are replaced whole, and reading one a beat too late does no harm.
    count: int = 0
    step: int | None = None
    has_begun: bool = False
    job: str = ""
    stage: str = ""
    passes: int = 0
    on_change: Callable[[], None] | None = None

    @property
    def where(self) -> str:
        """Stage and number of forward passes of the present job, for people; empty for a job that takes steps."""
        passes = f"{self.passes:,} passes" if self.passes else ""
        return ", ".join(part for part in (self.stage, passes) if part)

    def begin(self, job: str = "") -> None:
        """Count the beginning of a job.

        Args:
            job: its ID.
        """
        self.step, self.has_begun, self.stage, self.passes, self.job = None, False, "", 0, job
        self.beat()

    def beat(self) -> None:
        """Count a saved point, or another sign of progress."""
        self.count += 1
        if self.on_change:
            self.on_change()

    def enter(self, stage: str) -> None:
        """Count the beginning of a stage.

        Args:
            stage: what the job does from now on.
        """
        self.stage = stage
        self.beat()

    def step_over(self, step: int) -> None:
        """Count a completed step.

        Args:
            step: its number, from 1.
        """
        self.step, self.has_begun = step, True
        self.beat()

    @contextmanager
    def at_every_pass(self, network: Network) -> Iterator[None]:
        """Count the forward passes of a network while the context is open.

        Args:
            network: the network, on whose module a hook is set.

        Yields:
            None.
        """

        def passed(*_: object) -> None:
            self.has_begun = True
            self.passes += 1
            self.beat()

        _, module = next(iter(network.parts()))  # the module itself comes before its submodules
        hook = module.register_forward_hook(passed)
        try:
            yield
        finally:
            hook.remove()
