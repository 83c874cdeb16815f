"""Seconds of calls, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Clock:
    """Seconds that a call takes; on a GPU until it has finished."""

    device: torch.device
    of_processor: bool

    @classmethod
    def of(cls, device: torch.device, threads: int) -> Clock:
        """Clock of a device: the processor's own time on one thread, with which others interfere little."""
        return cls(device, of_processor=device.type == "cpu" and threads == 1)

    def seconds(self, call: Callable[[], object]) -> float:
        read = time.process_time if self.of_processor else time.perf_counter
        self._wait()
        began = read()
        call()
        self._wait()
        return read() - began

    def in_turn(self, calls: Mapping[K, Callable[[], object]], rounds: int) -> dict[K, list[float]]:
        """Measure calls in turn, in every other round in reverse order, after a round that warms up.

        Args:
            calls: calls by name.
            rounds: number of measurements of each.

        Returns:
            Seconds in each round, by name.
        """
        names = list(calls)
        found: dict[K, list[float]] = {name: [] for name in names}
        for number in range(rounds + 1):
            for name in names if number % 2 else reversed(names):
                seconds = self.seconds(calls[name])
                if number:
                    found[name].append(seconds)
        return found

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def median_ratio(ours: Sequence[float], plain: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(ours, plain, strict=True))
