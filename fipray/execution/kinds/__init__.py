"""Kinds of jobs. A new kind is a module with a `JobKind` and one entry in `KINDS`."""

from __future__ import annotations

from typing import Any

from fipray.execution.jobs import Artifact, JobSpec, Tables
from fipray.execution.kinds import evaluation, path, round
from fipray.execution.kinds.kind import JobKind

KINDS: dict[type, JobKind[Any]] = {
    kind.spec: kind for kind in (path.KIND, round.KIND, evaluation.ATTACK, evaluation.ROBUSTNESS, evaluation.TRANSFER)
}
ARTIFACT_TABLES = tuple(table for kind in KINDS.values() for table in kind.artifact_tables)


def kind_for(spec: JobSpec) -> JobKind[Any]:
    """Kind of the jobs of a spec.

    Args:
        spec: the spec.

    Returns:
        The kind that is registered for its class, or for the nearest base of that.

    Raises:
        TypeError: for a class without a kind.
    """
    # A spec's class itself comes first, then its bases, so that a subclass is run like the class that it extends.
    for cls in type(spec).__mro__:
        if kind := KINDS.get(cls):
            return kind
    raise TypeError(f"no kind of job is registered for {type(spec).__name__}: add one to fipray.execution.kinds")


def artifacts_of(tables: Tables) -> dict[str, Artifact]:
    """Artifacts that rows describe, of all kinds of jobs.

    Args:
        tables: rows of one job, or of all committed jobs.

    Returns:
        Artifacts by the names that specs give them.
    """
    return {name: artifact for kind in KINDS.values() for name, artifact in kind.artifacts(tables).items()}


__all__ = ["ARTIFACT_TABLES", "KINDS", "JobKind", "artifacts_of", "kind_for"]
