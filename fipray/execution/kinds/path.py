"""Jobs that trace a whole path."""

from __future__ import annotations

from fipray.execution import checkpoints
from fipray.execution.checkpoints import Checkpoint
from fipray.execution.jobs import Artifact, Job, Tables, WeightsFile
from fipray.execution.kinds.kind import JobKind, Report
from fipray.execution.path_tables import path_tables, task_tables
from fipray.execution.resources import Resources
from fipray.execution.tracing import GIVEN_UP, PathAttempt
from fipray.paths import Outcome, WeightPath, judged
from fipray.study.specs import PathSpec


def run(job: Job, spec: PathSpec, resources: Resources, report: Report | None) -> Tables:
    """Trace a path, continuing from what earlier attempts saved.

    Args:
        job: the attempt.
        spec: the path.
        resources: network, data and results directory.
        report: called with the rows of each point, those of earlier attempts first.

    Returns:
        Rows of `paths`, `points` and the other tables about a path.
    """
    start = resources.starts.of(job, spec)
    probes, device = list(resources.probes), resources.location.device
    saved = checkpoints.load(resources.store, job.id, job.attempt, probes, device) or Checkpoint()
    attempt = PathAttempt(resources, job, spec, start, saved)

    def report_saved(num_points: int) -> None:
        if report:
            points = tuple(saved.points[:num_points])
            sentence = f"given up by the search after {points[-1].step} of {spec.num_steps} steps"
            # A scheduler may stop the trial at any report, and then commits these rows as its result.
            outcome = judged(Outcome(GIVEN_UP, sentence), spec.objective, points)
            report(path_tables(attempt, WeightPath(points, outcome)))

    # A search's scheduler compares trials step by step, so it needs the points of earlier attempts, too.
    for number in range(1, len(saved.points) + 1):
        report_saved(number)
    others = resources.others(job, spec.networks, spec.others)
    path = attempt.trace(others, on_saved=lambda: report_saved(len(saved.points)))
    # Tasks are tested at the end only: they are not among what a scheduler compares.
    return path_tables(attempt, path) | task_tables(attempt, path)


def summarize(tables: Tables) -> str:
    """Summary of a path: its outcome and the measures at its end.

    Args:
        tables: rows of the job.

    Returns:
        One line.
    """
    row = tables["paths"][0]
    accuracy = "" if row["clean_accuracy"] is None else f", clean accuracy {row['clean_accuracy']:.2%}"
    distance = row["functional_distance_held_out"]
    return f"{row['outcome']}; functional distance {distance:.3f}, sparsity {row['sparsity']:.3f}{accuracy}"


def artifacts(tables: Tables) -> dict[str, Artifact]:
    """Weights at the ends of paths, with the variants that the paths passed through.

    Args:
        tables: rows of `paths` and `variants`.

    Returns:
        Weights by the name of the path.
    """
    variants: dict[str, dict[str, WeightsFile]] = {}
    for row in tables.get("variants", ()):
        own = variants.setdefault(row["name"], {})
        own[row["network"]] = WeightsFile(row["weights_file"], row["weights_sha256"], row["path_id"])
    return {
        row["name"]: WeightsFile(
            row["weights_file"], row["weights_sha256"], row["path_id"], variants.get(row["name"], {})
        )
        for row in tables.get("paths", ())
    }


KIND: JobKind[PathSpec] = JobKind(PathSpec, run, summarize, artifacts, ("paths", "variants"))
