"""Description of a kind of job: how it runs, what it produces, and how its result reads in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fipray.execution.jobs import Artifact, Job, JobSpec, Tables
from fipray.execution.resources import Resources

Spec = TypeVar("Spec", bound=JobSpec)
Report = Callable[[Tables], None]  # called with the rows that a path would have if it ended now


def no_artifacts(tables: Tables) -> dict[str, Artifact]:
    """Artifacts of a kind of job on which no other job depends.

    Args:
        tables: ignored.

    Returns:
        Nothing.
    """
    return {}


@dataclass(frozen=True)
class JobKind(Generic[Spec]):
    """One kind of job, registered in `fipray.execution.kinds` under the class of its specs.

    Args:
        spec: class of the specs.
        run: function (job, spec, resources, report) that computes the rows of the job's tables. `report` is None or
            is called with the rows so far whenever a point is saved; an exception that it raises ends the job. Kinds
            without intermediate results ignore it.
        summarize: function of the job's rows that returns one line for people.
        artifacts: function of rows that returns what other jobs may depend on, by name.
        artifact_tables: the tables that `artifacts` reads.
    """

    spec: type[Spec]
    run: Callable[[Job, Spec, Resources, Report | None], Tables]
    summarize: Callable[[Tables], str]
    artifacts: Callable[[Tables], dict[str, Artifact]] = no_artifacts
    artifact_tables: tuple[str, ...] = ()
