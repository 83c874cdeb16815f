"""Retries of jobs whose worker was lost: delays, and the limit on attempts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from fipray.execution.jobs import Job

FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 1.0, 30.0
NODE_LOSSES_PER_ATTEMPT = 4


@dataclass(frozen=True)
class Loss:
    """Loss of a worker during a job.

    Args:
        node_id: node of the worker; None if unknown.
        evidence: cause, for messages.
    """

    node_id: str | None
    evidence: str


@dataclass(frozen=True)
class Exhausted:
    """Job whose attempts are used up.

    Args:
        job: the job.
        reason: reason, for messages.
    """

    job: Job
    reason: str


@dataclass
class Retries:
    """Jobs that wait to be tried again, for 1, 2, 4, ... at most 30 seconds after each loss.

    A job fails after `max_attempts` losses on nodes that are still alive: then the job itself kills its workers. Losses
    together with a node do not count, unless there are four times as many, since a job may also bring down whole nodes.
    Ray reports the loss of a node some seconds after that of its workers, so losses are judged when the delay is over.

    Args:
        max_attempts: number of attempts at a job.
    """

    max_attempts: int
    _losses: dict[str, list[Loss]] = field(default_factory=dict)
    _waiting: dict[str, tuple[float, Job]] = field(default_factory=dict)  # time at which each is due

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job, loss: Loss, now: float) -> float:
        """Schedule another attempt at a job.

        Args:
            job: the job.
            loss: the loss of its worker.
            now: current time, in seconds of a monotonic clock.

        Returns:
            Delay in seconds.
        """
        losses = self._losses.setdefault(job.id, [])
        losses.append(loss)
        seconds = min(FIRST_DELAY_SECONDS * 2 ** (len(losses) - 1), MAX_DELAY_SECONDS)
        self._waiting[job.id] = now + seconds, job
        return seconds

    def pop(self, now: float, alive: Collection[str]) -> Job | Exhausted | None:
        """Remove the job that is due next.

        Args:
            now: current time, in seconds of the same clock.
            alive: IDs of the nodes that are alive.

        Returns:
            The job to try again, or the job whose attempts are used up; None if none is due.
        """
        due, job = min(self._waiting.values(), key=lambda entry: entry[0], default=(now, None))
        if job is None or due > now:
            return None
        del self._waiting[job.id]
        losses = self._losses[job.id]
        # A worker that was lost before its node was known counts as killed by the job.
        num_own = sum(loss.node_id is None or loss.node_id in alive for loss in losses)
        if num_own < self.max_attempts and len(losses) < self.max_attempts * NODE_LOSSES_PER_ATTEMPT:
            return job
        with_node = f" ({len(losses) - num_own} of them with its node)" if num_own < len(losses) else ""
        times = "once" if len(losses) == 1 else f"{len(losses)} times{with_node}"
        return Exhausted(job, f"its worker was lost {times}; last cause: {losses[-1].evidence}")
