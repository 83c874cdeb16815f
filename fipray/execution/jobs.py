"""One attempt at one spec, and what every worker needs to carry it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fipray.errors import RunError
from fipray.geometry import Kept, OutputGeometry
from fipray.records import Store
from fipray.records.layout import step_of
from fipray.study.data import Data
from fipray.study.evaluation import BASE, AttackSpec, RobustnessSpec, TransferSpec, path_of, per_example_of
from fipray.study.measures import Measure
from fipray.study.rounds import RoundSpec, round_end
from fipray.study.specs import PathSpec
from fipray.study.study import Spec, Study

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Payload:
    """What every worker of a study needs: sent to it once. `folders`: where its modules may be imported from."""

    study: str
    module: nn.Module
    data: Data
    geometry: OutputGeometry
    moving: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    keeps: Mapping[str, Kept] = field(default_factory=dict)
    measures: Mapping[str, str | Measure] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, module: nn.Module | None = None, folders: tuple[str, ...] = ()) -> Payload:
        module = study.module if module is None else module
        return cls(study.name, module, study.data, study.geometry, study.moving, folders, study.keeps, study.measures)


@dataclass(frozen=True)
class WeightsFile:
    """Weights in a results directory, by the name of the file and its sha256; of a path's end also the path's id, and
    the variants that it passed through, by their names.
    """

    file: str
    sha256: str
    path_id: str = ""
    variants: Mapping[str, WeightsFile] = field(default_factory=dict)


@dataclass(frozen=True)
class PerExample:
    """Whether each of some examples is classified correctly, `clean` and under an attack, and how long that took."""

    clean: list[bool]
    robust: list[bool]
    seconds: float


Artifact = WeightsFile | PerExample


def artifacts_of(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Artifact]:
    """What rows say is there for others to need, by the names that specs give it."""
    made: dict[str, Artifact] = {}
    variants: dict[str, dict[str, WeightsFile]] = {}
    for row in tables.get("variants", ()):
        own = variants.setdefault(row["name"], {})
        own[row["network"]] = WeightsFile(row["weights_file"], row["weights_sha256"], row["path_id"])
    for row in tables.get("paths", ()):
        own = variants.get(row["name"], {})
        made[row["name"]] = WeightsFile(row["weights_file"], row["weights_sha256"], row["path_id"], own)
    for row in tables.get("rounds", ()):
        made[round_end(row["name"], row["round"])] = WeightsFile(row["weights_file"], row["weights_sha256"])
    for row in tables.get("per_example", ()):
        name = per_example_of(row["name"], row["attack"], row["first_example"])
        made[name] = PerExample(row["clean"], row["robust"], row["seconds"])
    return made


@dataclass(frozen=True)
class Job:
    """One attempt at one spec; `made` is what it needs, by the names that the spec gives it."""

    id: str
    spec: Spec
    attempt: int
    made: Mapping[str, Artifact]

    def weights(self, name: str) -> WeightsFile:
        """Weights that it needs; of a variant that a path did not reach, the path's end."""
        weights = self.made[path_of(name)]
        assert isinstance(weights, WeightsFile), f"{name} is no network"
        return weights.variants.get(name, weights)

    def start(self, name: str) -> WeightsFile | None:
        """Weights that a path begins at; None is the base. Raises RunError for a variant that was not reached."""
        if name == BASE:
            return None
        weights = self.weights(name)
        if name != path_of(name) and weights is self.made[path_of(name)]:
            raise RunError(
                f"{name!r} is where the path begins, and path {path_of(name)!r} ended before it came there: give that "
                "more steps, or another start"
            )
        return weights

    @property
    def label(self) -> str:
        """What the work is, for people."""
        match self.spec:
            case PathSpec():
                return f"path {self.spec.name}"
            case RoundSpec():
                return f"path {self.spec.name}, round {self.spec.number} of {self.spec.num_rounds}"
            case AttackSpec():
                last = self.spec.first_example + self.spec.num_examples - 1
                return f"{self.spec.attack.name} on {self.spec.name}, examples {self.spec.first_example} to {last}"
            case RobustnessSpec():
                return f"attacks on {self.spec.name}"
            case TransferSpec():
                return "transfer of attacks"

    @property
    def first_step(self) -> int:
        """The step at which the work begins when it is done for the first time."""
        return self.spec.until(self.spec.number - 1) if isinstance(self.spec, RoundSpec) else 0

    @property
    def last_step(self) -> int | None:
        """The step at which the work ends, unless it ends earlier; None where nothing is walked."""
        match self.spec:
            case PathSpec():
                return self.spec.num_steps
            case RoundSpec():
                return self.spec.until(self.spec.number)
            case _:
                return None


def last_step_in(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """The step that a path has come to, by its rows; 0 where they are of other work."""
    steps = [row["num_steps"] for row in tables.get("paths", ())] + [row["step"] for row in tables.get("rounds", ())]
    return max(steps, default=0)


def steps_walked(store: Store, job: Job) -> int:
    """The last step at which an attempt at a path has kept a point; 0 before the first, and for other work."""
    return max((step_of(file) or 0 for file in store.attempt_files(job.id, job.attempt)), default=0)
