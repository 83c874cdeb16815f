"""Continual learning as others propose it: what paths that learn one task after the other are compared with.

Every learner is a frozen dataclass with one method:

    learn(module, tasks, *, num_iterations, seed, after, first=0) -> Learned

All learn the same tasks in the same batches, by Adam or where their source asks for it by gradient descent; what they
keep from task to task, and the processor seconds they take, are counted. `LEARNERS` has each of them with settings that
suit a scenario (van de Ven, Tuytelaars & Tolias 2022): "task", where it is known which task an input belongs to;
"domain", where all tasks have the same classes; and "class", where each task has new ones.
"""

from collections.abc import Callable
from typing import Literal

from benchmarks.baselines.series.projections import GPM, NCL, OGD
from benchmarks.baselines.series.regularised import EWC, SI, LwF
from benchmarks.baselines.series.rehearsal import AGem, DarkExperience, ExperienceReplay, Joint
from benchmarks.baselines.series.task import Learned, Learner, Naive, Task

Scenario = Literal["task", "domain", "class"]

# The best of some powers of ten at the end of Split-MNIST (LeNet-300-100, 300 iterations a task), in held-out accuracy.
_EWC: dict[Scenario, float] = {"task": 1e5, "domain": 1e5, "class": 1e6}
_SI: dict[Scenario, float] = {"task": 10.0, "domain": 100.0, "class": 10.0}

LEARNERS: dict[str, Callable[[Scenario], Learner]] = {
    "naive": lambda scenario: Naive(),
    "joint": lambda scenario: Joint(),
    "er": lambda scenario: ExperienceReplay(),
    "a-gem": lambda scenario: AGem(),
    "der": lambda scenario: DarkExperience(beta=0.0),
    "der++": lambda scenario: DarkExperience(),
    "ewc": lambda scenario: EWC(strength=_EWC[scenario]),
    "si": lambda scenario: SI(strength=_SI[scenario]),
    "lwf": lambda scenario: LwF(),
    "ogd": lambda scenario: OGD(),
    "gpm": lambda scenario: GPM(),
    "ncl": lambda scenario: NCL(),
}

__all__ = [
    "EWC",
    "GPM",
    "LEARNERS",
    "NCL",
    "OGD",
    "SI",
    "AGem",
    "DarkExperience",
    "ExperienceReplay",
    "Joint",
    "Learned",
    "Learner",
    "LwF",
    "Naive",
    "Scenario",
    "Task",
]
