"""One attempt at one spec, and what every worker needs to carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fipray.geometry import OutputGeometry
from fipray.records import Store
from fipray.records.layout import attempt_directory
from fipray.study.data import Data
from fipray.study.rounds import RoundSpec
from fipray.study.spec import PathSpec, RobustnessSpec, Spec, TransferSpec

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
class Work:
    """One attempt at one spec; `ends` are the weights that it needs, by the names that the spec gives them."""

    id: str
    spec: Spec
    attempt: int
    ends: Mapping[str, WeightsFile]

    @property
    def label(self) -> str:
        """What the work is, for people."""
        match self.spec:
            case PathSpec():
                return f"path {self.spec.name}"
            case RoundSpec():
                return f"path {self.spec.name}, round {self.spec.number} of {self.spec.num_rounds}"
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
    kept = (store.directory / attempt_directory(work.id, work.attempt)).glob("step-*.safetensors")
    return max((int(file.stem.removeprefix("step-")) for file in kept), default=0)
