"""Work that was lost with its worker: when it is tried again, and when it is given up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from fipray.execution.jobs import Job

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
NODES_FOR_EACH_ATTEMPT = 4


@dataclass(frozen=True)
class Loss:
    """A worker that was lost: the node it was on, and what is known of it, for people."""

    node_id: str | None
    evidence: str


@dataclass(frozen=True)
class GivenUp:
    """Work that is not tried any more, and why, for people."""

    job: Job
    reason: str


@dataclass
class Retries:
    """Lost work that waits, for 1, 2, 4, ... 30 seconds, until it is tried again or given up.

    It is given up after `max_attempts` losses on nodes that live on: then it is the work that kills its workers.
    That a node is gone becomes known some seconds after its workers are, so losses are judged when the wait ends. Those
    that came with a node's end do not count, unless there are four times as many: work may kill whole nodes.
    """

    max_attempts: int
    _losses: dict[str, list[Loss]] = field(default_factory=dict)
    _waiting: dict[str, tuple[float, Job]] = field(default_factory=dict)  # when it is due

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job, loss: Loss, now: float) -> float:
        """Have the work wait; returns for how many seconds."""
        losses = self._losses.setdefault(job.id, [])
        losses.append(loss)
        seconds = min(FIRST_SECONDS * 2 ** (len(losses) - 1), LONGEST_SECONDS)
        self._waiting[job.id] = now + seconds, job
        return seconds

    def pop(self, now: float, alive: Collection[str]) -> Job | GivenUp | None:
        """The work that is due next, if any; `alive` are the ids of the nodes that are there."""
        due, job = min(self._waiting.values(), key=lambda entry: entry[0], default=(now, None))
        if job is None or due > now:
            return None
        del self._waiting[job.id]
        losses = self._losses[job.id]
        own = sum(loss.node_id is None or loss.node_id in alive for loss in losses)
        if own < self.max_attempts and len(losses) < self.max_attempts * NODES_FOR_EACH_ATTEMPT:
            return job
        with_nodes = f" ({len(losses) - own} of them with its node)" if own < len(losses) else ""
        times = "once" if len(losses) == 1 else f"{len(losses)} times{with_nodes}"
        return GivenUp(job, f"given up: its worker was lost {times}, the last time because {losses[-1].evidence}")
