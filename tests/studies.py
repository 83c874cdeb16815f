"""Small studies, for the tests of runners and of the command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fipray as fip
from fipray.paths import Batch, Event, Objective, Problem, Proposal, Situation, Stepper
from fipray.paths.state import State

NUM_INPUTS, NUM_CLASSES = 6, 3


def data(seed: int = 0) -> fip.Data:
    """Points in the unit cube, labelled by a linear rule."""
    draws = np.random.default_rng(seed)
    inputs = draws.random((300, NUM_INPUTS), dtype=np.float32)
    labels = (inputs @ np.random.default_rng(1).normal(size=(NUM_INPUTS, NUM_CLASSES))).argmax(1)
    return fip.Data(inputs[:150], inputs[150:200], inputs[200:], labels[200:])


def module(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(NUM_INPUTS, 20), nn.Tanh(), nn.Linear(20, NUM_CLASSES)).eval()


def study(
    *,
    sparsity: float = 0.5,
    epsilon: float = 0.05,
    num_steps: int = 8,
    more: int = 0,
    chunk_size: int = 500,
    objective: Objective | None = None,
    other: Objective | None = None,
) -> fip.Study:
    """Four paths, two of which depend on another, an ensemble, attacks and their transfer; `more` further paths."""
    sparse = fip.PathSpec("sparse", objective or fip.objectives.Sparsify(sparsity), num_steps=num_steps, batch_size=50)
    first = fip.PathSpec("diverse-0", fip.objectives.GradientDiversity(), num_steps=num_steps, batch_size=50, seed=1)
    second = fip.PathSpec(
        "diverse-1",
        other or fip.objectives.GradientDiversity(),
        stepper=fip.steppers.FirstOrder(beta=0.1),
        num_steps=num_steps,
        others=("diverse-0",),
        seed=2,
    )
    third = fip.PathSpec("sparse-too", fip.objectives.Sparsify(0.3), num_steps=num_steps, others=("sparse",), seed=3)
    rest = tuple(
        fip.PathSpec(f"more-{number:02d}", fip.objectives.GradientDiversity(), num_steps=num_steps, seed=number)
        for number in range(more)
    )
    attacks, threat_model = (fip.attacks.FGSM(), fip.attacks.PGD(5)), fip.ThreatModel("linf", epsilon)
    return fip.Study(
        name="small",
        module=module(),
        data=data(),
        paths=(sparse, first, second, third, *rest),
        ensembles=(fip.EnsembleSpec("both", ("base", "diverse-0", "diverse-1")),),
        evaluation=fip.Evaluation(threat_model, attacks, num_examples=40, chunk_size=chunk_size),
        parameters={"sparsity": sparsity, "epsilon": epsilon, "num_steps": num_steps, "more": more},
    )


def cooperating(
    *,
    rounds: int = 3,
    num_steps: int = 6,
    objective: Objective | None = None,
    stepper: Stepper | None = None,
    events: tuple[Event, ...] = (),
) -> fip.Study:
    """Three cooperating members, traced in rounds; the first may have another objective, stepper and events."""
    names = ("a", "b", "c")
    paths = [
        fip.PathSpec(
            name,
            (objective if name == "a" else None) or fip.objectives.GradientDiversity(),
            stepper=(stepper if name == "a" else None) or fip.steppers.FirstOrder(beta=0.1),
            radius=fip.radii.Scheduled(0.05),
            events=events if name == "a" else (),
            num_steps=num_steps,
            batch_size=50,
            save_at=fip.SaveAt(4),
            seed=seed,
        )
        for seed, name in enumerate(names)
    ]
    return fip.Study("together", module(), data(), tuple(paths), (fip.EnsembleSpec("all", names, rounds=rounds),))


def chained(*, stepper: Stepper | None = None, objective: Objective | None = None, num_steps: int = 10) -> fip.Study:
    """Paths that learn one task after another, a pruned path, one that starts from its variant, and a diverse path."""
    whole, rest = data(), data(7)
    assert whole.test_labels is not None
    assert whole.test_inputs is not None
    assert rest.test_labels is not None
    assert rest.test_inputs is not None
    tasks = {
        "first": fip.Task(whole.test_inputs[:60], whole.test_labels[:60], whole.test_inputs, whole.test_labels),
        "second": fip.Task(rest.test_inputs, 2 - rest.test_labels, rest.test_inputs[:50], (2 - rest.test_labels)[:50]),
        "unjudged": fip.Task(rest.test_inputs, rest.test_labels),
    }
    given = replace(whole, sets={"few": whole.anchors[:20], "others": rest.anchors[:30]}, tasks=tasks)
    usual = fip.PathSpec(
        "learns-first",
        fip.objectives.LearnTask("first", batch_size=16),
        stepper=fip.steppers.FirstOrder(beta=0.5),
        radius=fip.radii.Scheduled(0.05),
        num_steps=num_steps,
        batch_size=50,
        save_at=fip.SaveAt(5),
    )
    second = replace(
        usual,
        name="learns-second",
        objective=fip.objectives.LearnTask("second", batch_size=16),
        stepper=stepper or usual.stepper,
        start="learns-first",
        anchors=("few", "others"),
        held_out=("others",),
        seed=1,
    )
    sparse = replace(
        usual,
        name="sparse",
        objective=fip.objectives.Sparsify(0.7, through=(0.5,)),
        stepper=fip.steppers.FirstOrder(),
        seed=2,
    )
    dense_again = replace(
        usual,
        name="half-sparse-learns",
        objective=fip.objectives.WeightedSum(
            ((1.0, fip.objectives.LearnTask("second", batch_size=16)), (0.0, fip.objectives.Sparsify(0.5, ramp=None)))
        ),
        start="sparse@0.5",
        seed=3,
    )
    third = replace(
        usual,
        name="turns",
        objective=objective or fip.objectives.GradientDiversity(),
        start="learns-second",
        others=("sparse",),
        seed=4,
    )
    return fip.Study("chained", module(), given, (usual, second, sparse, dense_again, third))


def with_nan() -> fip.Study:
    """Study whose anchors contain a NaN."""
    good = data()
    anchors = np.array(good.anchors)
    anchors[7, 2] = np.nan
    return fip.Study(
        "nan", module(), fip.Data(anchors, good.held_out), (fip.PathSpec("one", fip.objectives.GradientDiversity()),)
    )


def with_a_fourth_class() -> fip.Study:
    """Study whose labels contain a class that the network does not have."""
    good = data()
    assert good.test_labels is not None
    labels = good.test_labels.copy()
    labels[3] = NUM_CLASSES
    wrong = fip.Data(good.anchors, good.held_out, good.test_inputs, labels)
    return fip.Study("labels", module(), wrong, (fip.PathSpec("one", fip.objectives.GradientDiversity()),))


def failing() -> fip.Study:
    """Study with an objective that raises."""
    return study(objective=Fails("the mistake"))


def interrupted() -> fip.Study:
    """Study that is interrupted with Ctrl-C during its third path."""
    return study(other=IsInterrupted())


def signalling(*, process: int, number: int) -> fip.Study:
    """Study whose third path sends a signal to a process and then never ends."""
    return study(other=Signals(process, number))


@dataclass(frozen=True)
class Signals:
    """Objective that sends a signal to a process and then waits forever."""

    process: int
    number: int

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        os.kill(self.process, self.number)
        while True:
            time.sleep(0.01)


@dataclass(frozen=True)
class IsInterrupted:
    """Objective that sends SIGINT to its own process, as Ctrl-C does."""

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return weights.square().sum()


@dataclass(frozen=True)
class KillsItsProcess:
    """Objective that kills its own process `times` times and counts the deaths as files in `directory`."""

    directory: str
    times: int

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        deaths = len(os.listdir(self.directory))
        if deaths < self.times:
            (Path(self.directory) / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return weights.square().sum()


@dataclass(frozen=True)
class KillsItsProcessOnce:
    """`GradientDiversity`, but kills its own process at its first other networks; the file `death` records that."""

    death: str

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        if problem.others and not Path(self.death).exists():
            Path(self.death).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fip.objectives.GradientDiversity().value(problem, weights, batch)


@dataclass(frozen=True)
class Fails:
    """Objective that raises."""

    word: str

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        raise ZeroDivisionError(self.word)


@dataclass(frozen=True)
class CutOff:
    """First-order stepper that raises in the second half of the path until the file `mended` exists."""

    mended: str

    def begin(self, problem: Problem) -> State:
        return fip.steppers.FirstOrder(beta=0.1).begin(problem)

    def propose(self, situation: Situation, state: State) -> Proposal:
        if situation.progress > 0.6 and not Path(self.mended).exists():
            raise RuntimeError("cut off")
        return fip.steppers.FirstOrder(beta=0.1).propose(situation, state)


@dataclass(frozen=True)
class DiesOnce:
    """First-order stepper that kills its own process once, in the second half of the path; `death` records that."""

    death: str

    def begin(self, problem: Problem) -> State:
        return fip.steppers.FirstOrder(beta=0.1).begin(problem)

    def propose(self, situation: Situation, state: State) -> Proposal:
        if situation.progress > 0.6 and not Path(self.death).exists():
            Path(self.death).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fip.steppers.FirstOrder(beta=0.1).propose(situation, state)


@dataclass(frozen=True)
class StopsOnce:
    """First-order stepper that stops its own process once, in the second half of the path; `stopped` records that."""

    stopped: str

    def begin(self, problem: Problem) -> State:
        return fip.steppers.FirstOrder(beta=0.1).begin(problem)

    def propose(self, situation: Situation, state: State) -> Proposal:
        if situation.progress > 0.6 and not Path(self.stopped).exists():
            Path(self.stopped).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return fip.steppers.FirstOrder(beta=0.1).propose(situation, state)


@dataclass(frozen=True)
class Talks:
    """`GradientDiversity`, but prints, warns and logs."""

    word: str

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        print(f"printed {self.word}")  # noqa: T201
        print(f"complained {self.word}", file=sys.stderr)  # noqa: T201
        warnings.warn(f"warned {self.word}", RuntimeWarning, stacklevel=1)
        logging.getLogger("another").warning("another library: %s", self.word)
        return fip.objectives.GradientDiversity().value(problem, weights, batch)


def searching(*, num_steps: int = 8, domain: str = "few") -> fip.search.Search:
    """Search over settings of one path with an evaluation; "few" discrete values or "wide" ranges."""
    path = fip.PathSpec(
        "searched",
        fip.objectives.Sparsify(0.5),
        stepper=fip.steppers.FirstOrder(),
        radius=fip.radii.Scheduled(0.05),
        num_steps=num_steps,
        batch_size=50,
        save_at=fip.SaveAt(8),
    )
    evaluation = fip.Evaluation(fip.ThreatModel("linf", 0.05), (fip.attacks.FGSM(),), num_examples=40)
    parameters = {"num_steps": num_steps, "domain": domain}
    searched = fip.Study("searched", module(), data(), (path,), evaluation=evaluation, parameters=parameters)
    few = {"stepper.beta": fip.search.Choice((0.0, 1.0)), "seed": fip.search.Choice((0, 1))}
    wide = {"radius.initial": fip.search.LogUniform(0.001, 1.0), "seed": fip.search.Integers(0, 99)}
    objectives = {"functional_distance_held_out": "min", "robust_accuracy": "max"}
    space: dict[str, Any] = few if domain == "few" else wide
    return fip.search.Search(searched, space, objectives, num_trials=4)


def measured(*, stepper: Stepper | None = None, num_steps: int = 6, **changes: Any) -> fip.Study:
    """Two paths with two kept quantities, one of them on inputs of its own, and two measures."""
    whole, rest = data(), data(7)
    inputs = replace(whole, sets={"more": rest.anchors, "more held out": rest.held_out})
    settings: dict[str, Any] = {
        "radius": fip.radii.Scheduled(0.05),
        "num_steps": num_steps,
        "batch_size": 50,
        "save_at": fip.SaveAt(6),
    }
    step = stepper or fip.steppers.FirstOrder(beta=0.1)
    paths = [
        fip.PathSpec(f"path-{seed}", fip.objectives.RandomWalk(), stepper=step, seed=seed, **settings)
        for seed in (0, 1)
    ]
    total = fip.keeps.Residual("tests.quantities:total_output", scale=3.0, on="more", held_out="more held out")
    measures = {
        "size": "tests.quantities:size",
        "robust": fip.study.RobustAccuracy(fip.ThreatModel("linf", 0.05), fip.attacks.FGSM()),
    }
    given = {"keeps": {"classes": fip.keeps.Outputs(), "total": total}, "measures": measures, **changes}
    return fip.Study("measured", module(), inputs, tuple(paths), **given)


def searching_measures() -> fip.search.Search:
    """Search for the path with the largest weights at its end."""
    study = measured()
    space = {"radius.initial": fip.search.Choice((0.02, 0.2))}
    return fip.search.Search(replace(study, paths=study.paths[:1]), space, {"size": "max"}, searcher="grid")


def local_search() -> tuple[fip.search.Search, str, fip.LocalRunner]:
    """Arguments of a search in this process."""
    return searching(), "results", fip.LocalRunner()
