"""Detection of workers that make no progress, from their heartbeats."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from fipray.cluster.heartbeats import BEATS_PER_STALL, PROGRESS_SECONDS, Beat, HeartbeatChannel
from fipray.errors import UsageError

FIRST_STEP_FACTOR = 3  # times the limit before the first step or forward pass, which may compile the network
MAX_UPDATE_SECONDS = 5.0  # counted between two updates: a driver that was itself suspended has seen no heartbeats


def check_stall_seconds(stall_seconds: float | None) -> None:
    """Check a stall limit.

    Args:
        stall_seconds: the limit; None for none.

    Raises:
        UsageError: unless it is None or a positive finite number.
    """
    if stall_seconds is not None and not 0 < stall_seconds < float("inf"):
        raise UsageError(f"stall_seconds must be a positive number of seconds or None, got {stall_seconds}")


@dataclass
class _Observed:
    job: object
    count: int
    quiet_seconds: float = 0.0


@dataclass(frozen=True)
class Stall:
    """Worker that makes no progress.

    Args:
        seconds: time since its last progress.
        beat: its last heartbeat.
    """

    seconds: float
    beat: Beat

    def __str__(self) -> str:
        if self.beat.step is not None:
            return f"it finished no step for {self.seconds:.0f} s after step {self.beat.step}"
        if self.beat.has_begun:
            return f"it finished no forward pass for {self.seconds:.0f} s"
        return f"it did not reach its first step within {self.seconds:.0f} s"


class StallDetector:
    """Measures for how long busy workers have made no progress.

    A worker without a heartbeat still waits for its place or its data, and is not counted. Time is measured by the
    calls of `update`, so that a suspended driver takes no worker for stalled.

    Args:
        stall_seconds: seconds without progress after which a worker counts as stalled.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._limit = stall_seconds
        self._observed: dict[str, _Observed] = {}
        self._last_update: float | None = None

    def channel(self) -> HeartbeatChannel:
        """Create a channel for a run, with an interval that is short enough for this limit."""
        return HeartbeatChannel(secrets.token_hex(8), min(self._limit / BEATS_PER_STALL, PROGRESS_SECONDS))

    def update(self, now: float, beats: Mapping[str, Beat], jobs: Mapping[str, object]) -> dict[str, Stall]:
        """Take heartbeats into account.

        Args:
            now: time at which they were read, in seconds of a monotonic clock.
            beats: heartbeats by the workers' keys.
            jobs: current job of each busy worker, by key; any object that changes with the job.

        Returns:
            Stalled workers, by key.
        """
        passed = min(now - self._last_update, MAX_UPDATE_SECONDS) if self._last_update is not None else 0.0
        self._last_update = now
        self._observed = {key: observed for key, observed in self._observed.items() if key in jobs}
        stalls = {}
        for key, job in jobs.items():
            if (beat := beats.get(key)) is None:
                continue
            observed = self._observed.get(key)
            if observed is None or observed.job != job or observed.count != beat.count:
                self._observed[key] = _Observed(job, beat.count)
                continue
            observed.quiet_seconds += passed
            if observed.quiet_seconds >= self._limit * (1 if beat.has_begun else FIRST_STEP_FACTOR):
                stalls[key] = Stall(observed.quiet_seconds, beat)
        return stalls
