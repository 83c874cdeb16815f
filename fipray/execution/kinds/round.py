"""Jobs that trace one round of a cooperating member's path."""

from __future__ import annotations

import time

from fipray.execution import checkpoints
from fipray.execution.checkpoints import Checkpoint
from fipray.execution.jobs import Artifact, Job, Tables, WeightsFile
from fipray.execution.kinds.kind import JobKind, Report
from fipray.execution.kinds.path import summarize as summarize_path
from fipray.execution.path_tables import attempt_columns, path_tables, task_tables
from fipray.execution.resources import Resources
from fipray.execution.tracing import PathAttempt
from fipray.paths import Outcome, WeightPath
from fipray.study.rounds import RoundSpec, round_end

_PAUSED = "paused"


def run(job: Job, spec: RoundSpec, resources: Resources, report: Report | None) -> Tables:
    """Trace one round, continuing from what this round or the latest earlier one saved.

    Where no saved state is intact, the earlier rounds are traced again, against the snapshots that they saw.

    Args:
        job: the attempt.
        spec: the round.
        resources: network, data and results directory.
        report: ignored: searches trace whole paths only.

    Returns:
        A row of `rounds`; for the last round the rows of all tables about the path.
    """
    began, start = time.perf_counter(), resources.starts.of(job, spec.path)
    saved = _saved(job, spec, resources)
    attempt = PathAttempt(resources, job, spec.path, start, saved)
    path = WeightPath(tuple(saved.points), saved.outcome or Outcome(_PAUSED, ""))
    # With an outcome, the saved round is complete, and the next one is due; without, it was cut off.
    for number in range(saved.round + (saved.outcome is not None), spec.number + 1):
        if path.outcome.kind == _PAUSED:  # any other outcome ended the path early: its later rounds take no steps
            saved.round, saved.outcome = number, None
            until = None if number == spec.num_rounds else spec.until(number)
            path = attempt.trace(resources.others(job, spec.path.networks, spec.others(number)), until)
    if spec.is_last:
        attempt.adopt(path.points)
        return path_tables(attempt, path) | task_tables(attempt, path)
    # A row of `rounds` names the weights at the end alone; those of the other points stay where they were written.
    attempt.adopt(path.points[-1:])
    saved.points, saved.round, saved.outcome = list(path.points), spec.number, path.outcome
    # With the outcome, and before the row exists: the next round resumes from this state, on any worker.
    checkpoints.save(resources.store, job.id, job.attempt, saved)
    file, sha256 = saved.files[path.end.step]
    row = {
        "study": resources.payload.study,
        "round_id": job.id,
        "name": spec.name,
        "round": spec.number,
        "num_rounds": spec.num_rounds,
        "step": path.end.step,
        "outcome": path.outcome.sentence,
        "outcome_kind": path.outcome.kind,
        "weights_file": file,
        "weights_sha256": sha256,
        "seconds": time.perf_counter() - began,
        **attempt_columns(job, resources.location),
    }
    return {"rounds": [row]}


def _saved(job: Job, spec: RoundSpec, resources: Resources) -> Checkpoint:
    """Points and solver state of the latest attempt or round whose state is intact; empty where none is."""
    store, probes, device = resources.store, list(resources.probes), resources.location.device
    saved = checkpoints.load(store, job.id, job.attempt, probes, device)
    # This round's own attempts have come further than any earlier round, so they are tried first.
    for earlier in reversed(spec.earlier):
        saved = saved or checkpoints.load_end(store, job.weights(earlier).file, probes, device)
    return saved or Checkpoint()


def summarize(tables: Tables) -> str:
    """Summary of a round: its outcome, or in the last round that of the path.

    Args:
        tables: rows of the job.

    Returns:
        One line.
    """
    return summarize_path(tables) if "paths" in tables else str(tables["rounds"][0]["outcome"])


def artifacts(tables: Tables) -> dict[str, Artifact]:
    """Weights at the ends of rounds.

    Args:
        tables: rows of `rounds`.

    Returns:
        Weights by the names in `RoundSpec.produces`; the last round of a path is among the artifacts of paths.
    """
    return {
        round_end(row["name"], row["round"]): WeightsFile(row["weights_file"], row["weights_sha256"])
        for row in tables.get("rounds", ())
    }


KIND: JobKind[RoundSpec] = JobKind(RoundSpec, run, summarize, artifacts, ("rounds",))
