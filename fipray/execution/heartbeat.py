"""What a worker has got done so far, for another thread that watches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fipray.networks import Network


@dataclass
class Heartbeat:
    """Counts signs of progress: steps and kept points of a path, forward passes of an attack.

    Written by the thread that works, read by another one. Forward passes of a path count for nothing: an objective that
    loops for ever may make them, too.

    count: signs since the worker was set up.
    step: the last step of the current path that is over; None before the first, and for other work.
    has_begun: whether the current work is past its first step or pass, which may compile the network.
    """

    count: int = 0
    step: int | None = None
    has_begun: bool = False

    def begin(self) -> None:
        """New work."""
        self.step, self.has_begun = None, False
        self.count += 1

    def beat(self) -> None:
        self.count += 1

    def step_over(self, step: int) -> None:
        self.step, self.has_begun = step, True
        self.count += 1

    @contextmanager
    def at_every_pass(self, network: Network) -> Iterator[None]:
        """Count the forward passes of a network meanwhile."""

        def passed(*_: object) -> None:
            self.has_begun = True
            self.count += 1

        _, module = next(iter(network.parts()))
        hook = module.register_forward_hook(passed)
        try:
            yield
        finally:
            hook.remove()
