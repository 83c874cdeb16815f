"""One attempt at one spec, and what every worker needs to carry it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from torch import nn

from fipray.geometry import OutputGeometry
from fipray.records import Store
from fipray.study.data import Data
from fipray.study.evaluation import AttackSpec, RobustnessSpec, TransferSpec, verdicts_on
from fipray.study.rounds import RoundSpec, round_end
from fipray.study.spec import PathSpec, Spec

Tables = dict[str, list[dict[str, Any]]]
STEP_FILE = "step-{:08d}"


@dataclass(frozen=True, eq=False)
class Material:
    """What every worker of a study needs: sent to it once."""

    study: str
    module: nn.Module
    data: Data
    geometry: OutputGeometry


@dataclass(frozen=True)
class WeightsFile:
    """Weights in a results directory, by the name of the file and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Verdicts:
    """Whether each of some examples is classified correctly, `clean` and under an attack, and how long that took."""

    clean: list[bool]
    robust: list[bool]
    seconds: float


Made = WeightsFile | Verdicts


def made_of(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Made]:
    """What rows say is there for others to need, by the names that specs give it."""
    made: dict[str, Made] = {}
    for row in tables.get("paths", ()):
        made[row["name"]] = WeightsFile(row["weights_file"], row["weights_sha256"])
    for row in tables.get("rounds", ()):
        made[round_end(row["name"], row["round"])] = WeightsFile(row["weights_file"], row["weights_sha256"])
    for row in tables.get("verdicts", ()):
        name = verdicts_on(row["name"], row["attack"], row["first_example"])
        made[name] = Verdicts(row["clean"], row["robust"], row["seconds"])
    return made


@dataclass(frozen=True)
class Work:
    """One attempt at one spec; `made` is what it needs, by the names that the spec gives it."""

    id: str
    spec: Spec
    attempt: int
    made: Mapping[str, Made]

    def weights(self, name: str) -> WeightsFile:
        """Weights that it needs."""
        weights = self.made[name]
        assert isinstance(weights, WeightsFile), f"{name} is no network"
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
    def last_step(self) -> int | None:
        """The step at which the work ends, unless it ends earlier; None where nothing is walked."""
        match self.spec:
            case PathSpec():
                return self.spec.num_steps
            case RoundSpec():
                return self.spec.until(self.spec.number)
            case _:
                return None


def steps_walked(store: Store, work: Work) -> int:
    """The last step at which an attempt at a path has kept a point; 0 before the first, and for other work."""
    stems = [PurePosixPath(file).stem for file in store.attempt_files(work.id, work.attempt)]
    return max((int(stem.removeprefix("step-")) for stem in stems if stem.startswith("step-")), default=0)
