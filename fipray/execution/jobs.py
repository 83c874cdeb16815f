"""Jobs, the artifacts that they depend on, and the payload that every worker of a study receives."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fipray.errors import RunError
from fipray.geometry import Kept, OutputGeometry
from fipray.networks import Compute, copied
from fipray.records import Store
from fipray.records.layout import step_of
from fipray.study.arrays import to_array, to_tensor
from fipray.study.data import Data
from fipray.study.evaluation import BASE, path_of
from fipray.study.measures import AnyMeasure
from fipray.study.study import Study

_ARRAYS = "arrays"
Tables = dict[str, list[dict[str, Any]]]  # rows by table, one dictionary a row


class JobSpec(Protocol):
    """Description of a job, as data: what it computes, and everything that decides the result.

    Implementations are frozen dataclasses with a registered name (`fipray.spec`). How each class of them is run is
    registered in `fipray.execution.kinds`.
    """

    @property
    def name(self) -> str:
        """Name of the path, network or ensemble that the job is about."""
        ...

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        ...

    @property
    def produces(self) -> str | None:
        """Name under which other specs depend on the result; None where none can."""
        ...

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the artifacts that have to be there first."""
        ...

    @property
    def first_step(self) -> int:
        """Step of the path at which the first attempt begins; 0 for a job that takes no steps."""
        ...

    @property
    def last_step(self) -> int | None:
        """Step of the path at which the job ends at the latest; None for a job that takes no steps."""
        ...

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of results whose saved solver states are no longer needed once this job is committed."""
        ...


@dataclass(frozen=True, eq=False)
class Payload:
    """Everything about a study that is the same for all its jobs, sent to each worker once.

    Args:
        study: name of the study.
        module: the base network.
        data: anchors, held-out inputs, test inputs and tasks.
        geometry: output geometry of functional distances.
        moving: names or patterns of the parameters that may change; empty for all.
        folders: directories from which workers import the study's own modules.
        keeps: kept quantities by name; empty for the outputs alone.
        measures: measures of saved points by name, as objects or `module:function`.
        networks: weights [P] of other networks by name.
        compute: precision and size of passes through the network.
    """

    study: str
    module: nn.Module
    data: Data
    geometry: OutputGeometry
    moving: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    keeps: Mapping[str, Kept] = field(default_factory=dict)
    measures: Mapping[str, AnyMeasure] = field(default_factory=dict)
    networks: Mapping[str, Tensor] = field(default_factory=dict)
    compute: Compute = field(default_factory=Compute)

    @classmethod
    def of(cls, study: Study, module: nn.Module | None = None, folders: tuple[str, ...] = ()) -> Payload:
        """Payload of a study.

        Args:
            study: the study.
            module: base network to send in place of the study's own, such as one with the weights of a results
                directory.
            folders: directories from which workers import the study's own modules.

        Returns:
            The payload.
        """
        module = study.module if module is None else module
        return cls(
            study.name,
            module,
            study.data,
            study.geometry,
            study.moving,
            folders,
            study.keeps,
            study.measures,
            study.other_weights,
            study.compute,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Parameters as arrays, which pickle hands over by their memory: Ray then holds them once for all workers of a
        # node. Tensors would be copied into each.
        module = copied(self.module, self.module.parameters())
        arrays = {}
        for name, parameter in module.named_parameters():
            if parameter.device.type == "cpu" and parameter.layout is torch.strided:
                arrays[name] = to_array(parameter.data)
                parameter.data = parameter.data.new_empty(0)
        return {**vars(self), "module": module, _ARRAYS: arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop(_ARRAYS)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for name, parameter in state["module"].named_parameters():
                if name in arrays:
                    parameter.data = to_tensor(arrays[name])
        vars(self).update(state)


@dataclass(frozen=True)
class WeightsFile:
    """Weights in a results directory.

    Args:
        file: name of the file, relative to the directory.
        sha256: its digest.
        path_id: ID of the path that the weights end or lie on; empty for the end of a round.
        variants: sparse networks that the path passed through, by name; empty for a variant itself.
    """

    file: str
    sha256: str
    path_id: str = ""
    variants: Mapping[str, WeightsFile] = field(default_factory=dict)


@dataclass(frozen=True)
class PerExample:
    """Per-example results of one attack job.

    Args:
        clean: for each example, True if it is classified correctly.
        robust: for each example, True if it is also classified correctly under the attack.
        seconds: time that the attack took.
    """

    clean: list[bool]
    robust: list[bool]
    seconds: float


Artifact = WeightsFile | PerExample


@dataclass(frozen=True)
class Job:
    """One attempt at one spec.

    Args:
        id: deterministic ID of the spec, the same for all attempts.
        spec: what to compute.
        attempt: number of this attempt, from 1; 0 for a job that is not begun.
        dependencies: the artifacts that the job needs, by the names in `spec.dependencies`.
    """

    id: str
    spec: JobSpec
    attempt: int
    dependencies: Mapping[str, Artifact]

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        return self.spec.label

    @property
    def first_step(self) -> int:
        """Step of the path at which the first attempt begins; 0 for a job that takes no steps."""
        return self.spec.first_step

    @property
    def last_step(self) -> int | None:
        """Step of the path at which the job ends at the latest; None for a job that takes no steps."""
        return self.spec.last_step

    def weights(self, name: str) -> WeightsFile:
        """Weights of a network that the job depends on.

        Args:
            name: name of a path, of the end of a round, or of a variant.

        Returns:
            Its weights; for a variant that its path did not reach, the end of the path.
        """
        weights = self.dependencies[path_of(name)]
        assert isinstance(weights, WeightsFile), f"{name} names per-example results, not weights"
        return weights.variants.get(name, weights)

    def start(self, name: str) -> WeightsFile | None:
        """Weights at which a path starts.

        Args:
            name: the `start` of the path's spec.

        Returns:
            The weights; None for the base network.

        Raises:
            RunError: for a variant that its path did not reach.
        """
        if name == BASE:
            return None
        weights = self.weights(name)
        # `weights` falls back to the end of the path, which is a fair member of an ensemble but another place to start.
        if name != path_of(name) and weights is self.dependencies[path_of(name)]:
            raise RunError(
                f"this path starts at {name!r}, but path {path_of(name)!r} ended before it reached that sparsity: give "
                f"{path_of(name)!r} more steps, or start somewhere else"
            )
        return weights


def last_step_in(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Last step of a path according to the rows of its job.

    Args:
        tables: rows of one job.

    Returns:
        The step; 0 for jobs that take no steps.
    """
    steps = [row["num_steps"] for row in tables.get("paths", ())] + [row["step"] for row in tables.get("rounds", ())]
    return max(steps, default=0)


def last_saved_step(store: Store, job: Job) -> int:
    """Step of the last point that an attempt at a path has saved, read from the names of its files.

    Args:
        store: the results directory.
        job: the attempt.

    Returns:
        The step; 0 before the first point, and for jobs that take no steps.
    """
    return max((step_of(file) or 0 for file in store.attempt_files(job.id, job.attempt)), default=0)
