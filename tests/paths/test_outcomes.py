"""Outcomes report the change of the objective; settings without an effect are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fipray as fip
from fipray.errors import UsageError
from fipray.paths import (
    Adversary,
    Corrected,
    FirstOrder,
    FunctionalDistanceAbove,
    GradientDiversity,
    Kronecker,
    Natural,
    ObjectiveBelow,
    OneShot,
    OptimalBrainSurgeon,
    Outcome,
    OutputDiversity,
    PathPoint,
    Projected,
    Proposal,
    Published,
    RandomWalk,
    SaveAt,
    Scheduled,
    Sparsify,
    Switch,
    WeightDiversity,
    WeightedSum,
    ZerothOrder,
    improvement,
    judged,
    walk,
)
from tests.problems import batch, mlp, needs_studies, normal, problem


def point(objective: float, dtype: torch.dtype = torch.float64) -> PathPoint:
    return PathPoint(3, torch.zeros(2, dtype=dtype), 0.1, 0.0, 0.0, 0.0, objective, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.47, 0.50, "objective 0.470 -> 0.500: worse"),
        (0.5, 0.47, "objective 0.500 -> 0.470: better"),
        (-1.0, -0.25, "objective -1.00 -> -0.250: worse"),
        (12.5, 0.0, "objective 12.5 -> 0.00: better"),
        (0.0, 0.0, "objective 0.00 -> 0.00: no better"),
        (1.0, 1.0, "objective 1.00 -> 1.00: no better"),
        (1.0, 1.0 + 1e-15, "objective 1.00 -> 1.00: no better"),
        (1.0, 1.0 + 1e-5, "objective 1.00000 -> 1.00001: worse"),
        (1.0, 1.0 - 1e-5, "objective 1.0000 -> 0.99999: better"),
        (0.0, 1e-12, "objective 0.00 -> 1.00e-12: worse"),
        (3e7, 2e7, "objective 3.00e+07 -> 2.00e+07: better"),
    ],
)
def test_a_sentence_says_whether_the_objective_improved(before, after, said):
    found = improvement(GradientDiversity(), point(before), point(after))
    assert found == said
    assert str(judged(Outcome("stuck", "no way"), GradientDiversity(), [point(before), point(9.0), point(after)])) == (
        f"no way; {found}"
    )


def test_what_may_be_rounding_is_no_improvement_and_depends_on_the_dtype():
    for dtype, word in ((torch.float32, "no better"), (torch.float64, "better")):
        said = improvement(GradientDiversity(), point(1.0, dtype), point(1.0 - 5e-7, dtype))
        assert said.rsplit(": ")[1] == word


def test_of_a_random_walk_nothing_is_said_as_its_values_mean_nothing():
    mixed = WeightedSum(((1.0, GradientDiversity()), (0.5, RandomWalk())))
    for objective in (RandomWalk(), mixed):
        assert improvement(objective, point(0.0), point(1.0)) == ""
    only_restricts = WeightedSum(((1.0, GradientDiversity()), (0.0, Sparsify(0.5))))
    assert improvement(only_restricts, point(0.0), point(1.0)) == "objective 0.00 -> 1.00: worse"


ANCHORS, HELD_OUT = normal(30, 6, seed=1), normal(20, 6, seed=2)


def traced(objective: Any, stepper: Any, **changes: Any) -> fip.WeightPath:
    usual = {"radius": Scheduled(0.05), "num_steps": 4, "batch_size": 10}
    given = {"anchors": ANCHORS, "held_out": HELD_OUT, **usual, **changes}
    return fip.trace(mlp(6, 5, 4), objective=objective, stepper=stepper, **given)


@dataclass(frozen=True)
class Size:
    """`factor * |w|^2`."""

    factor: float = 1.0

    def value(self, problem, weights, batch):
        return self.factor * weights.square().sum()


@dataclass(frozen=True)
class Scaled:
    """Every step multiplies all weights by `factor`."""

    factor: float

    def begin(self, problem):
        return {}

    def propose(self, situation, state):
        return Proposal((self.factor - 1) * situation.weights, 0.0)


class TestPaths:
    """Weights that grow by 10 % at each of four steps: |w|^2 by 1.1^8."""

    @pytest.mark.parametrize(("factor", "word"), [(1.1, "worse"), (1.0, "no better"), (0.9, "better")])
    def test_the_outcome_compares_the_start_with_the_end(self, factor, word):
        before = float(mlp(6, 5, 4).weights.square().sum())
        path = traced(Size(), Scaled(factor))
        after = before * factor**8
        assert path.outcome.sentence == f"all 4 steps were walked; objective {before:#.3g} -> {after:#.3g}: {word}"
        assert path.outcome.kind == "completed"

    def test_a_path_that_is_paused_says_nothing_yet_and_its_end_compares_with_the_start(self):
        paused = traced(Size(), Scaled(1.1), until=2)
        assert str(paused.outcome) == "paused at step 2 of 4"
        resumed = traced(Size(), Scaled(1.1), resume=paused.points)
        assert resumed.outcome == traced(Size(), Scaled(1.1)).outcome

    def test_where_other_networks_are_new_the_start_is_compared_on_equal_terms(self):
        """At first there are none: the value counts them."""

        class Counts:
            def value(self, problem, weights, batch):
                return weights.sum() * 0 + 1.0 + len(problem.others)

        paused = traced(Counts(), Scaled(1.0), until=2)
        assert paused.points[0].objective_value == 1.0
        path = traced(Counts(), Scaled(1.0), resume=paused.points, others=[mlp(6, 5, 4).weights])
        assert (path.points[0].objective_value, path.end.objective_value) == (2.0, 2.0)
        assert str(path.outcome).endswith("objective 2.00 -> 2.00: no better")

    def test_a_pruned_path_ends_at_an_objective_of_zero(self):
        assert str(traced(Sparsify(0.5), OneShot()).outcome).endswith("-> 0.00: better")


IGNORING = {
    "FirstOrder: its beta is 0": FirstOrder(),
    "Published: its penalty is 0": Published(penalty=0.0),
    "OneShot: it takes no step": OneShot(),
    "Corrected: FirstOrder: its beta is 0": Corrected(FirstOrder(), Natural()),
    "Switch: Published: its penalty is 0": Switch(Published(penalty=0.0), Natural()),
    "Switch: Corrected: OneShot: it takes no step": Switch(Natural(), Corrected(OneShot(), Natural())),
}
PARTS = WeightedSum(((1.0, Sparsify(0.5)), (0.1, WeightedSum(((1.0, WeightDiversity()),)))))


class TestIgnored:
    @pytest.mark.parametrize("why", IGNORING)
    @pytest.mark.parametrize("objective", [WeightDiversity(), Size(), PARTS], ids=lambda one: type(one).__name__)
    def test_a_stepper_that_would_ignore_the_objective_is_refused_where_they_meet(self, why, objective):
        ignored = "Size" if isinstance(objective, Size) else "WeightDiversity"
        said = rf"would ignore the objective {ignored} \({why}\): give .* or an objective that acts without"
        points: list[PathPoint] = []
        with pytest.raises(UsageError, match=said):
            traced(objective, IGNORING[why], on_point=points.append)
        assert not points
        where = problem(mlp(6, 5, 4))
        with pytest.raises(UsageError, match=said):
            next(
                walk(
                    where,
                    batch(where, 10, 6),
                    objective,
                    fip.Settings(stepper=IGNORING[why], radius=Scheduled(), num_steps=2, batch_size=5),
                )
            )

    @needs_studies
    @pytest.mark.parametrize("why", IGNORING)
    @pytest.mark.parametrize("objective", [WeightDiversity(), PARTS], ids=lambda one: type(one).__name__)
    def test_a_spec_with_a_stepper_that_would_ignore_the_objective_is_refused(self, why, objective):
        said = rf"would ignore the objective WeightDiversity \({why}\): give .* or an objective that acts without"
        with pytest.raises(UsageError, match=f"path 'one': the stepper {said}"):
            fip.PathSpec("one", objective, stepper=IGNORING[why])

    @pytest.mark.parametrize("why", IGNORING)
    def test_with_a_restriction_it_does_what_it_is_for(self, why):
        restricting = WeightedSum(((1.0, Sparsify(0.5)), (0.0, Sparsify(0.25))))
        for objective in (Sparsify(0.5), restricting):
            assert traced(objective, IGNORING[why]).end.sparsity == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize(
        "stepper",
        [
            FirstOrder(beta=0.1),
            Published(),
            Natural(),
            Corrected(FirstOrder(beta=0.1), FirstOrder()),
            Switch(FirstOrder(beta=0.1), Natural()),
        ],
        ids=lambda one: type(one).__name__,
    )
    def test_one_that_goes_down_it_is_not_refused(self, stepper):
        assert traced(WeightDiversity(), stepper, num_steps=2).outcome.kind == "completed"

    def test_a_part_of_a_sum_that_counts_for_nothing_is_refused(self):
        with pytest.raises(UsageError, match="the part WeightDiversity has the coefficient 0"):
            WeightedSum(((1.0, Sparsify(0.5)), (0.0, WeightDiversity())))
        with pytest.raises(UsageError, match="the part WeightDiversity has the coefficient 0"):
            WeightedSum(((1.0, GradientDiversity()), (0.0, PARTS)))
        WeightedSum(((1.0, GradientDiversity()), (0.0, Sparsify(0.5))))


BAD = (math.nan, math.inf, -math.inf, -1.0)
SETTINGS = {
    "Adaptive": (lambda **given: fip.radii.Adaptive(**given), ("initial", "growth", "shrink")),
    "Scheduled": (lambda **given: Scheduled(**given), ("initial", "final", "warmup")),
    "cycles": (lambda factor: Scheduled(cycles=(1.0, factor)), ("factor",)),
    "FirstOrder": (
        lambda **given: FirstOrder(**{"beta": 0.1, **given}),
        ("beta", "final_beta", "decay", "decay_squares", "held"),
    ),
    "Published": (lambda **given: Published(**given), ("penalty",)),
    "Kronecker": (lambda **given: Kronecker(**given), ("damping", "memory")),
    "Natural": (lambda **given: Natural(**given), ("damping",)),
    "InputNullSpace": (lambda **given: fip.paths.InputNullSpace(**given), ("threshold",)),
    "Projected": (lambda **given: Projected(**given), ("tolerance",)),
    "Switch": (lambda **given: Switch(Natural(), Natural(), **given), ("at",)),
    "Adversary": (lambda **given: Adversary(fip.ThreatModel("linf", 0.1), **given), ("step_fraction",)),
    "ZerothOrder": (lambda **given: ZerothOrder("math:sqrt", **given), ("spread",)),
    "OutputDiversity": (lambda **given: OutputDiversity(**given), ("sigma",)),
    "GradientDiversity": (lambda **given: GradientDiversity(**given), ("noise",)),
    "LearnTask": (lambda **given: fip.objectives.LearnTask("one", **given), ("smoothing",)),
    "Sparsify": (lambda **given: Sparsify(**{"sparsity": 0.5, **given}), ("sparsity", "ramp", "shrink")),
    "OptimalBrainSurgeon": (lambda **given: OptimalBrainSurgeon(**given), ("damping",)),
    "FunctionalDistanceAbove": (lambda **given: FunctionalDistanceAbove(**given), ("distance",)),
    "SaveAt": (lambda fraction: SaveAt(also=(fraction,)), ("fraction",)),
    "KroneckerMemory": (lambda **given: fip.objectives.KroneckerMemory(("a",), **given), ("fraction",)),
    "PathSpec": (lambda **given: fip.PathSpec("one", GradientDiversity(), **given), ("uncertainty_fraction",)),
    "ThreatModel": (lambda **given: fip.ThreatModel("linf", **given), ("epsilon",)),
    "PGD": (lambda **given: fip.attacks.PGD(**given), ("step_fraction",)),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=[needs_studies] if kind == "PathSpec" else [])
        for kind, (_, names) in SETTINGS.items()
        for name in names
    ],
)
def test_settings_that_are_nan_infinite_or_negative_are_refused(kind, name):
    make = SETTINGS[kind][0]
    for value in BAD:
        with pytest.raises(UsageError):
            make(**{name: value})


@pytest.mark.parametrize(
    "make",
    [
        lambda: fip.radii.Adaptive(tolerance=math.nan),
        lambda: fip.radii.Adaptive(least_gain_ratio=math.nan),
        lambda: fip.radii.Adaptive(least_gain_ratio=1.0),
        lambda: Published(length=math.nan),
        lambda: ObjectiveBelow(math.nan),
        lambda: ObjectiveBelow(math.inf),
        lambda: WeightedSum(((math.nan, GradientDiversity()),)),
        lambda: WeightedSum(((math.inf, GradientDiversity()),)),
        lambda: Projected(dense=-1),
        lambda: FirstOrder(held=0.0),
        lambda: FirstOrder(beta=1.0, held=0.0, temperature=2.0),
        lambda: FirstOrder(beta=1.0, held=0.0, outputs=3),
        pytest.param(lambda: fip.search.Uniform(0.0, math.inf), marks=needs_studies),
        pytest.param(lambda: fip.search.LogUniform(1.0, math.nan), marks=needs_studies),
    ],
)
def test_further_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda count: SaveAt(count),
        lambda count: Sparsify(0.5, num_stages=count),
        lambda count: Kronecker(refresh=count),
        lambda count: Natural(iterations=count),
        lambda count: Natural(chunk=count),
        lambda count: fip.paths.InputNullSpace(num_batches=count),
        lambda count: Projected(iterations=count),
        lambda count: FirstOrder(outputs=count),
        lambda count: ZerothOrder("math:sqrt", num_samples=count),
        lambda count: fip.objectives.LearnTask("one", batch_size=count),
        lambda count: fip.objectives.KroneckerMemory(("a",), num_inputs=count),
        lambda count: fip.attacks.PGD(num_steps=count),
        pytest.param(lambda count: fip.PathSpec("one", GradientDiversity(), num_steps=count), marks=needs_studies),
        pytest.param(lambda count: fip.PathSpec("one", GradientDiversity(), batch_size=count), marks=needs_studies),
        pytest.param(lambda count: fip.EnsembleSpec("all", ("base",), rounds=count - 1), marks=needs_studies),
        pytest.param(
            lambda count: fip.Evaluation(fip.ThreatModel("linf", 0.1), num_examples=count), marks=needs_studies
        ),
    ],
)
def test_counts_below_one_and_nan_are_refused(make):
    for count in (0, -3, math.nan):
        with pytest.raises(UsageError):
            make(count)
