"""Which workers make no progress, by what they say."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from fipray.cluster.heart import BEATS_IN_STALL, Beat, Pulse
from fipray.errors import UsageError

FIRST = 3  # times as long may pass before the first step or forward pass: it may compile the network
LONGEST_LOOK = 5.0  # seconds between two looks that count: a driver that was stopped itself has seen nothing


def check_stall_seconds(stall_seconds: float | None) -> None:
    if stall_seconds is not None and not 0 < stall_seconds < float("inf"):
        raise UsageError(f"stall_seconds is a number of seconds above 0, or None; {stall_seconds} was given")


@dataclass
class _Seen:
    job: object
    count: int
    quiet: float = 0.0


@dataclass(frozen=True)
class Stall:
    """A worker that finished nothing for `seconds`, and the last that it said."""

    seconds: float
    beat: Beat

    def __str__(self) -> str:
        if self.beat.step is not None:
            return f"it finished no step for {self.seconds:.0f} s after step {self.beat.step}"
        if self.beat.has_begun:
            return f"it made no forward pass for {self.seconds:.0f} s"
        return f"it did not come to its first step for {self.seconds:.0f} s"


class Stalls:
    """Counts for how long workers that have something to do made no progress.

    A worker that has not spoken yet waits for its place or for its data: that is not counted. Time counts as it is
    looked, so that a driver that stood still itself blames nobody.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._limit = stall_seconds
        self._seen: dict[str, _Seen] = {}
        self._at: float | None = None

    def pulse(self) -> Pulse:
        """How the workers of a run speak, often enough for this limit."""
        return Pulse(secrets.token_hex(8), min(self._limit / BEATS_IN_STALL, LONGEST_LOOK))

    def look(self, at: float, beats: Mapping[str, Beat], jobs: Mapping[str, object]) -> dict[str, Stall]:
        """Those of the workers, by key, that stall; `jobs` says what each of them has to do at the moment.

        at: when they were asked, in seconds of a clock that only goes forward.
        """
        passed = min(at - self._at, LONGEST_LOOK) if self._at is not None else 0.0
        self._at = at
        self._seen = {key: seen for key, seen in self._seen.items() if key in jobs}
        stalls = {}
        for key, job in jobs.items():
            if (beat := beats.get(key)) is None:
                continue
            seen = self._seen.get(key)
            if seen is None or seen.job != job or seen.count != beat.count:
                self._seen[key] = _Seen(job, beat.count)
                continue
            seen.quiet += passed
            if seen.quiet >= self._limit * (1 if beat.has_begun else FIRST):
                stalls[key] = Stall(seen.quiet, beat)
        return stalls
