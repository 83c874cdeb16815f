"""Recipe `connect`: a path between two networks along which the function stays."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fipray import analysis
from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import NetworkError, UsageError
from fipray.geometry import functional_distance
from fipray.networks import Compute, Network
from fipray.paths import (
    Adaptive,
    Arrival,
    Examples,
    LossProfile,
    Natural,
    OneShot,
    Problem,
    SaveAt,
    Settings,
    Toward,
    aligned,
    loss_profile,
)
from fipray.paths.problem import anchors_and_held_out
from fipray.recipes.budget import Budget, Given
from fipray.recipes.catalogue import overrides_of, recipe
from fipray.recipes.machine import Machine
from fipray.recipes.recipe import Chosen, Plan, Recipe, Setting
from fipray.recipes.record import GIVEN, Plain
from fipray.recipes.subject import Subject
from fipray.recipes.trial import Bench
from fipray.records import Store
from fipray.study import Data, LogUniform, PathSpec
from fipray.study.compatibility import weights_of
from fipray.study.measures import AGREEMENT
from fipray.study.tensors import Tensors, accuracy

OTHER, NEAR, FAR, RESULT = "other", "from-first", "from-other", "middle"
"""Names: the second network, the paths from the first and from the second network, and the result."""
_logger = logging.getLogger(__name__)
NUM_BETWEEN = 9  # places on a straight segment at which it is measured
MOST_STEPS = 300  # of each path
SHARE = 0.45  # of a budget in seconds, for each path
MARGIN = 0.75  # tolerance of the paths, of the allowed distance


@checked
@dataclass(frozen=True)
class ConnectChoices:
    """Settings that `connect` chooses; each can be given by name instead.

    Args:
        num_steps: number of steps of each of the two paths.
        batch_size: anchors in the batch of a step.
        radius: first step in units of |w0|; later ones follow from `allowed_distance`.
        num_points: saved points of each path.
    """

    num_steps: int = MOST_STEPS
    batch_size: int = 1024
    radius: float = 0.02
    num_points: int = 12


@dataclass(frozen=True, eq=False)
class Connecting:
    """Design of the recipe `connect`.

    Args:
        subject: first network and data.
        other: second network.
        allowed_distance: largest functional distance of a point to the network at which its path began.
        budget: budget of both paths.
        seed: seed of all batches.
        overrides: settings that are not to be chosen.
    """

    subject: Subject
    other: nn.Module
    allowed_distance: float
    budget: Budget
    seed: int
    overrides: Mapping[str, Any]

    @property
    def module(self) -> nn.Module:
        return self.subject.module

    @property
    def data(self) -> Data:
        return self.subject.data

    @property
    def num_parallel(self) -> int:
        return 1

    def computed(self, compute: Compute) -> Connecting:
        return replace(self, subject=self.subject.computed(compute))

    def choose(self, machine: Machine) -> Chosen:
        self.subject.check()
        size = min(ConnectChoices.batch_size, len(self.data.anchors))
        choices = ConnectChoices(**{"batch_size": size, **self.overrides})
        with machine.used():
            num_steps, reason = self._num_steps(choices, machine)
        choices = ConnectChoices(**{**asdict(choices), "num_steps": num_steps, **self.overrides})
        return Chosen(asdict(choices), (self._alignment[1], reason, *self.subject.remarks))

    def _num_steps(self, choices: ConnectChoices, machine: Machine) -> tuple[int, str]:
        if self.budget.seconds is None:
            return self.budget.steps or 1, f"Each path takes {self.budget.steps} steps."
        began = time.perf_counter()
        bench = Bench(self.subject, machine, choices.batch_size, min(len(self.data.held_out), 256), self.seed)
        toward = Toward(self._alignment[0])
        for _ in range(2):  # the first time warms up
            short = self._settings(ConnectChoices(**{**asdict(choices), "num_steps": 2}))
            pace = bench.tried(toward, short, "time of a step").seconds
        left = self.budget.seconds - (time.perf_counter() - began)
        num_steps = min(max(int(SHARE * left / pace), 10), MOST_STEPS)
        return num_steps, (
            f"Each of two paths takes up to {num_steps} steps: a step takes {1000 * pace:.3g} ms here, and the budget "
            f"is {self.budget.text}."
        )

    def _settings(self, choices: ConnectChoices) -> Settings:
        return Settings(
            stepper=Natural(),
            # A margin, for other inputs than the batch and for the straight segment between the two ends.
            radius=Adaptive(initial=choices.radius, tolerance=MARGIN * self.allowed_distance),
            num_steps=choices.num_steps,
            batch_size=choices.batch_size,
            seed=self.seed,
        )

    @cached_property
    def _alignment(self) -> tuple[Tensor, str]:
        """Weights [P] of the second network, with its neurons permuted where possible, and a sentence on that."""
        _logger.info("permuting the second network's neurons to fit the first")
        network = self.subject.network
        other = weights_of(network, OTHER, self.data.packed(self.other))
        anchors = Tensors(self.data, "cpu").anchors(())[:512]
        try:
            found = aligned(network, network.weights, other, anchors)
        except NetworkError as error:
            return other, f"The second network was not aligned: {error}."
        before, after = (float(torch.linalg.vector_norm(w - network.weights)) for w in (other, found))
        return found, (
            f"The second network's neurons were permuted to fit the first: the distance in weight space fell from "
            f"{before:.3g} to {after:.3g}."
        )

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        choices = ConnectChoices(**values)  # type: ignore[arg-type]
        walked = {**vars(self._settings(choices)), "save_at": SaveAt(choices.num_points, solver_state=False)}
        paths = (
            PathSpec(NEAR, Toward(), **walked, networks=(OTHER,)),
            PathSpec(OTHER, Arrival(), stepper=OneShot(), num_steps=1, networks=(OTHER,)),
            PathSpec(FAR, Toward(), **walked, start=OTHER, others=(NEAR,)),
        )
        module = self.subject.network.module_at(self._alignment[0])
        tolerance = MARGIN * self.allowed_distance
        return Plan(
            paths=paths,
            results={RESULT: NEAR},
            geometry=self.subject.geometry,
            measures={AGREEMENT: self.subject.agreement(min(len(self.data.held_out), 2000))},
            networks={OTHER: module},
            # How near to the second network the first path comes, and what it costs.
            space={"radius.tolerance": LogUniform(tolerance / 4, tolerance * 4)},
            objectives={"objective_value": "min", "functional_distance_held_out": "min"},
            settings={"radius.tolerance": Setting("allowed_distance", 1 / MARGIN)},
        )

    def outcome(self, results: analysis.Results) -> tuple[str, ...]:
        if set(results.paths["name"]) != {NEAR, OTHER, FAR}:
            return ("The paths have not ended yet.",)
        loss, name = self._loss()
        line, along = self.profiles(results, loss)
        gap = float(
            torch.linalg.vector_norm(torch.from_numpy(results.weights(NEAR)) - torch.from_numpy(results.weights(FAR)))
        )
        whole = float(torch.linalg.vector_norm(self.subject.network.weights - self._alignment[0]))
        return (
            f"The barrier in {name} on {len(self.data.held_out):,} held-out inputs is {along.barrier:.3g} along the "
            f"paths and {line.barrier:.3g} on the straight line; the largest values are {along.maximum:.3g} and "
            f"{line.maximum:.3g}.",
            f"The two paths end {gap:.3g} apart in weight space, of {whole:.3g} between the two networks; the straight "
            "segment between their ends is part of what was measured.",
        )

    def profiles(
        self, results: analysis.Results, loss: Callable[[Tensor], float] | None = None
    ) -> tuple[LossProfile, LossProfile]:
        """Losses on the straight line between the networks and along the paths.

        Args:
            results: results of a finished run.
            loss: function of weights [P]; by default the error rate on labelled held-out inputs, without labels the
                functional distance to the nearer network.

        Returns:
            Profile of the straight line, and of the polyline of all saved points.
        """
        loss = loss or self._loss()[0]
        near, far = (self._points(results, name) for name in (NEAR, FAR))
        joined = [torch.lerp(near[-1], far[-1], place / 4) for place in (1, 2, 3)]
        line = loss_profile((near[0], far[0]), loss, num_between=4 * NUM_BETWEEN)
        return line, loss_profile(_distinct([*near, *joined, *reversed(far)]), loss)

    def _points(self, results: analysis.Results, name: str) -> list[Tensor]:
        """Read the saved weights [P] of a path, in order."""
        rows = results.points[results.points["name"] == name].sort_values("step")
        store = Store.open(results.location)
        files = rows[["weights_file", "weights_sha256"]].itertuples(index=False)
        return [torch.from_numpy(store.read_weights(*file)["weights"]) for file in files]

    def _loss(self) -> tuple[Callable[[Tensor], float], str]:
        network, tensors = self.subject.network, Tensors(self.data, "cpu")
        labels = tensors.held_out_labels
        if labels is not None and self.subject.is_classifier:
            examples = Examples(tensors.held_out(()), labels)
            return lambda weights: 1 - accuracy(network, weights, examples), "error rate"
        return _distance_to_nearer(network, self._alignment[0], self._problem), "functional distance"

    @property
    def _problem(self) -> Problem:
        tensors = Tensors(self.data, "cpu")
        network = self.subject.network
        return Problem(network, tensors.anchors(())[:2], tensors.held_out(()), geometry=self.subject.geometry)


def _distance_to_nearer(network: Network, far: Tensor, problem: Problem) -> Callable[[Tensor], float]:
    _, held_out = anchors_and_held_out(problem)
    ends = (held_out.reference, problem.geometry.embed(network.outputs(far, held_out.inputs)))

    def distance(weights: Tensor) -> float:
        embedded = problem.geometry.embed(network.outputs(weights, held_out.inputs))
        return min(float(functional_distance(embedded, end)) for end in ends)

    return distance


def _distinct(points: list[Tensor]) -> list[Tensor]:
    """Points without those that equal the one before."""
    return [point for number, point in enumerate(points) if not number or not torch.equal(point, points[number - 1])]


@recipe("connect", ConnectChoices)
@checked
def connect(
    module: nn.Module,
    other: nn.Module,
    data: Any,
    *,
    allowed_distance: float = 0.2,
    budget: Given = None,
    seed: Seed = 0,
    **overrides: Any,
) -> Recipe:
    """Connect two networks of one architecture by paths along which the function stays, and measure the barrier.

    The hidden neurons of the second network are permuted to fit the first where its architecture allows that (a chain
    of layers). One path leads from the first network straight towards the second, as far as its function allows, and
    one from there towards the end of the first path. Fixed are the stepper (natural gradient) and the radius control,
    which keeps each path within three quarters of the allowed distance. The result "middle" is the end of the first
    path. The barrier is measured along the saved points and on the straight line.

    Args:
        module: first network, in evaluation mode.
        other: second network, which differs from the first in weights only.
        data: `Data`, or what `Data.of` takes: anchors, and held-out inputs on which the paths are judged; with
            `held_out_labels` the barrier is one of the error rate, without them one of the functional distance to the
            nearer network.
        allowed_distance: largest functional distance of a path to the network at which it began, above 0.
        budget: time for both paths, such as "10 min", "90 s" or a number of seconds, or {"steps": N} for each path;
            ten minutes by default, of which at most 300 steps are taken.
        seed: seed of all batches.
        overrides: settings of `ConnectChoices` by name.

    Returns:
        The recipe; nothing is measured before its study is needed.

    Raises:
        UsageError: for a number out of range or an unknown setting.
        NetworkError: for networks of different architectures, or that differ in statistics of BatchNorm.
    """
    data = Data.of(data)
    if not 0 < allowed_distance < math.inf:
        raise UsageError(f"allowed_distance is a functional distance above 0, and finite; {allowed_distance} was given")
    given = overrides_of(ConnectChoices, "connect", overrides)
    ConnectChoices(**given)
    chosen = Budget.of(budget)
    design = Connecting(Subject(module, data), other, allowed_distance, chosen, seed, given)
    plain: dict[str, Plain] = {
        "allowed_distance": allowed_distance,
        "budget": chosen.text,
        "seed": seed,
        **{f"{GIVEN}{name}": value for name, value in given.items()},
    }
    return Recipe("connect", design, plain)
