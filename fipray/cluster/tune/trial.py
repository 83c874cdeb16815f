"""One trial of a search, in an actor of Tune. It traces a path and reports every saved point; it writes no table.

A report to Tune holds the metrics, and as `rows` the results of the trial's jobs as JSON. The driver commits those of
the last report, whether the trial reached its end or was stopped by Tune.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune

from fipray.cluster.heartbeats import HeartbeatChannel, HeartbeatSender
from fipray.cluster.worker_actor import prepared_device
from fipray.errors import RunError
from fipray.execution.failures import sentence_of
from fipray.execution.jobs import Payload
from fipray.execution.searching.trials import JobResult, TrialReporter, run_jobs
from fipray.execution.worker import Worker
from fipray.records import Store
from fipray.study.search import Search

ROWS, ERROR = "rows", "error"
# An actor runs many trials of one search, and sets its worker up once.
_WORKERS: dict[str, Worker] = {}  # by results directory
_SENDERS: dict[str, HeartbeatSender] = {}  # by run


class _Reports:
    """Reports of one trial to Tune."""

    is_over = False

    def send(self, metrics: Mapping[str, Any], results: Sequence[JobResult]) -> None:
        """Report metrics and results."""
        try:
            tune.report({**metrics, ROWS: JobResult.to_json(results)})
        except SystemExit:  # raised by Tune to end a trial that its scheduler has stopped
            self.is_over = True
            raise


def run_trial(
    config: dict[str, Any], *, search: Search, directory: str, threads: int, device: str, channel: HeartbeatChannel
) -> None:
    """Run one trial; Tune calls this function in an actor.

    Args:
        config: values drawn by the searcher, by field of the spec.
        search: the search.
        directory: results directory.
        threads: number of CPU threads of torch.
        device: torch device, or "auto".
        channel: channel for heartbeats.

    Raises:
        RunError: if a job fails, after the reason was reported to the driver.
    """
    reports = _Reports()
    reporter = TrialReporter(search, reports.send)
    try:
        if directory not in _WORKERS:
            _WORKERS[directory] = _set_up_worker(search, directory, threads, device)
        worker = _WORKERS[directory]
        _send_heartbeats(channel, worker)
        run_jobs(config, search, worker, Store.open(directory), reporter)
    except BaseException as error:  # a study's own code may also raise KeyboardInterrupt or SystemExit
        if reports.is_over:
            raise
        reason = sentence_of(error)
        tune.report({**reporter.metrics, ROWS: "[]", ERROR: reason})
        raise RunError(reason) from None


def _send_heartbeats(channel: HeartbeatChannel, worker: Worker) -> None:
    """Send the worker's heartbeats under the key of this trial from now on."""
    key = channel.key(tune.get_context().get_trial_id())
    if channel.run not in _SENDERS:
        _SENDERS[channel.run] = HeartbeatSender(channel, key, worker.heartbeat)
    _SENDERS[channel.run].key = key


def _set_up_worker(search: Search, directory: str, threads: int, device: str) -> Worker:
    context = ray.get_runtime_context()
    return Worker(
        Payload.of(search.study),
        directory,
        threads=threads,
        device=prepared_device(device),
        node_id=context.get_node_id(),
        worker_id=context.get_actor_id(),
    )
