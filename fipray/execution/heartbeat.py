"""Heartbeat of a worker: signs of progress, for another thread that watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

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
        stage: what the job is doing besides steps, such as the attack that it runs or the point that it measures; empty
            for a path that walks, and if unknown.
        passes: forward passes of a job that takes no steps.
        num_seen: inputs that the present stage has put through the network.
        num_inputs: inputs that it will put through in all; 0 if unknown.
        on_change: called after each sign of progress, in the thread that runs the job; None for nothing.
    """

    # No lock: attributes are replaced whole, and reading one a beat too late does no harm.
    count: int = 0
    step: int | None = None
    has_begun: bool = False
    job: str = ""
    stage: str = ""
    passes: int = 0
    num_seen: int = 0
    num_inputs: int = 0
    on_change: Callable[[], None] | None = None

    @property
    def where(self) -> str:
        """Stage of the present job with what it has done of it, for people; empty for a path that walks."""
        # A batch may go through the network more than once, such as for several quantities.
        seen = f"{min(self.num_seen, self.num_inputs):,} of {self.num_inputs:,}" if self.num_inputs else ""
        passes = f"{self.passes:,} passes" if self.passes else ""
        return ", ".join(part for part in (self.stage, seen or passes) if part)

    def begin(self, job: str = "") -> None:
        """Count the beginning of a job.

        Args:
            job: its ID.
        """
        self.step, self.has_begun, self.stage, self.passes, self.job = None, False, "reading weights", 0, job
        self.num_seen = self.num_inputs = 0
        self.beat()

    def beat(self) -> None:
        """Count a saved point, or another sign of progress."""
        self.count += 1
        if self.on_change:
            self.on_change()

    def enter(self, stage: str, num_inputs: int = 0) -> None:
        """Count the beginning of a stage.

        Args:
            stage: what the job does from now on; empty for steps.
            num_inputs: inputs that it will put through the network; 0 if unknown.
        """
        self.stage, self.num_seen, self.num_inputs = stage, 0, num_inputs
        self.beat()

    @contextmanager
    def counted(self, network: Network, stage: str, num_inputs: int) -> Iterator[None]:
        """Count the inputs that go through a network as signs of progress while the context is open.

        Args:
            network: the network, on whose module a hook is set.
            stage: what the job does with it.
            num_inputs: inputs that will go through it.

        Yields:
            None.
        """

        def passed(_: object, given: tuple[object, ...], __: object) -> None:
            # The first step is still to come, and may compile the network, so `has_begun` stays as it is.
            self.num_seen += len(given[0]) if given and isinstance(given[0], Tensor) else 0
            self.beat()

        self.enter(stage, num_inputs)
        _, module = next(iter(network.parts()))
        hook = module.register_forward_hook(passed)
        try:
            yield
        finally:
            hook.remove()

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
