"""Statistics and bookkeeping of the comparison of robust networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import fipray as fip
from benchmarks.baselines import AdversarialTraining
from benchmarks.comparisons.contenders import ALLOWANCE, MIXED, POINTS, contenders, mixed, paths, point_of
from benchmarks.comparisons.ensembles import given
from benchmarks.comparisons.judged import TUNING_SEED, Judge, packed, tuned, unpacked
from benchmarks.comparisons.paired import Difference, at_clean, over_examples, over_seeds
from benchmarks.comparisons.points import Point
from benchmarks.comparisons.rivals import VARIANTS, Rival, rivals
from benchmarks.comparisons.sets import SETS, Setting, digits_mlp, num_validation
from benchmarks.comparisons.tables import at_equal_clean, difference, methods, shared
from fipray.recipes.ensembles.robust import BELIEF


def small_setting(seconds: float = 0.05) -> Setting:
    """Bars of two directions in noise, 8 x 8, whose base network is a linear one."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=draws)
    images = 0.3 * torch.rand(400, 1, 8, 8, generator=draws)
    images[labels == 0, :, 3, :] += 0.6
    images[labels == 1, :, :, 3] += 0.6

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = make()
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(base(images[:300]), labels[:300]).backward()
        optimizer.step()
    parts = (slice(0, 200), slice(200, 300), slice(300, 400))
    pairs = [part for some in parts for part in (images[some], labels[some])]
    return Setting(make, base.eval(), *pairs, epsilon=0.05, seconds=seconds, num_members=2, seed=0)


def record(
    seed: int, points: dict[str, tuple[list[int], list[int]]], result: str, method: str = "one"
) -> dict[str, Any]:
    """Record of a contender whose points have these answers, clean and robust."""
    made = []
    for name, (clean, robust) in points.items():
        made.append(
            {
                "name": name,
                "clean_accuracy": float(np.mean(clean)),
                "robust_accuracy": float(np.mean(robust)),
                "clean_examples": packed(torch.tensor(clean, dtype=torch.bool)),
                "robust_examples": packed(torch.tensor(robust, dtype=torch.bool)),
            }
        )
    protocol = {"num_tests": len(clean), "num_examples": len(robust)}
    return {"method": method, "kind": "rival", "seed": seed, "points": made, "result": result, "protocol": protocol}


def test_an_interval_over_seeds_is_that_of_the_paired_t_test():
    ours, theirs = [0.9, 0.91, 0.88, 0.93], [0.85, 0.9, 0.86, 0.88]
    found = over_seeds(ours, theirs)
    exact = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.mean == pytest.approx(0.0325)


def test_an_interval_over_examples_is_that_of_mcnemar():
    only_ours, only_theirs, both, neither = 30, 12, 50, 8
    ours = [1] * only_ours + [0] * only_theirs + [1] * both + [0] * neither
    theirs = [0] * only_ours + [1] * only_theirs + [1] * both + [0] * neither
    found = over_examples(ours, theirs)
    n = len(ours)
    error = math.sqrt(only_ours + only_theirs - (only_ours - only_theirs) ** 2 / n) / n
    assert found.mean == pytest.approx((only_ours - only_theirs) / n)
    assert found.high - found.mean == pytest.approx(stats.norm.ppf(0.975) * error)
    assert found.mean - found.low == pytest.approx(stats.norm.ppf(0.975) * error)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [((0.01, 0.02), "ahead"), ((-0.02, -0.01), "behind"), ((-0.01, 0.02), "level"), ((0.0, 0.0), "level")],
)
def test_a_verdict_is_level_where_the_interval_holds_zero(bounds: tuple[float, float], verdict: str):
    assert Difference(sum(bounds) / 2, *bounds).verdict == verdict


def test_a_clean_accuracy_lies_between_its_neighbours_alone():
    cleans = [0.90, 0.98, 0.94]
    found = at_clean(cleans, 0.95)
    assert found is not None
    assert (found.lower, found.upper) == (2, 1)
    assert found.of([0.5, 0.1, 0.3]) == pytest.approx(0.25)
    assert float(found.of(cleans)) == pytest.approx(0.95)
    assert at_clean(cleans, 0.985) is None
    assert at_clean(cleans, 0.89) is None
    exact = at_clean([0.9, 0.9], 0.9)
    assert exact is not None
    assert exact.weight == 0


def test_answers_survive_packing():
    for count in (1, 8, 13):
        answers = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
        assert unpacked(packed(answers), count).tolist() == answers.tolist()


def test_results_are_compared_over_the_seeds_that_both_have():
    ours = [record(seed, {"members": ([1, 1, 1, seed % 2], [1, 0])}, "members") for seed in (0, 1, 2)]
    theirs = [record(seed, {"members": ([1, 1, 0, 0], [0, 0])}, "members") for seed in (2, 1, 7)]
    own, other = shared(ours, theirs)
    assert [one["seed"] for one in own] == [one["seed"] for one in other] == [1, 2]
    assert difference(own, other, "clean").mean == pytest.approx(0.375)
    assert difference(own, other, "robust") == Difference(0.5, 0.5, 0.5)


def test_one_seed_is_compared_over_its_examples():
    ours = [record(0, {"members": ([1, 1, 1, 0], [1, 1, 0])}, "members")]
    theirs = [record(0, {"members": ([1, 0, 1, 0], [1, 1, 0])}, "members")]
    assert difference(ours, theirs, "clean") == over_examples([1, 1, 1, 0], [1, 0, 1, 0])
    assert difference(ours, theirs, "robust").verdict == "level"


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_at_equal_clean_accuracy_the_mixtures_stand_for_the_result(seeds: tuple[int, ...]):
    points = {"members": ([1, 1, 0, 0], [1, 1, 1, 1]), "base": ([1, 1, 1, 1], [0, 0, 0, 0])}
    ours = [record(seed, points, "members") for seed in seeds]
    theirs = [record(seed, {"members": ([1, 1, 1, 0], [1, 0, 0, 0])}, "members") for seed in seeds]
    found = at_equal_clean(ours, theirs)
    assert found is not None
    assert found.mean == pytest.approx(0.25)
    lower = [record(seed, {"members": ([1, 0, 0, 0], [1, 0, 0, 0])}, "members") for seed in seeds]
    assert at_equal_clean(ours, lower) is None


def test_the_most_robust_contender_comes_first():
    records = [
        record(0, {"members": ([1], [robust])}, "members", method) for method, robust in (("weak", 0), ("strong", 1))
    ]
    assert list(methods([*records, {"tuning": "weak"}], "rival")) == ["strong", "weak"]


def test_every_choice_of_a_grid_is_a_recipe_and_the_untuned_one_is_among_them():
    for rival in rivals(VARIANTS).values():
        choices = rival.choices
        assert rival.untuned in choices
        assert len(choices) == math.prod(len(values) for values in rival.grid.values())
        for choice in choices:
            replace(rival.recipe, **{name: value for name, value in choice.items() if name != "begin"})


def test_every_rival_is_a_contender_alone_and_as_an_ensemble():
    found = contenders(5, everything=True)
    for name in rivals(VARIANTS):
        assert found[name].rival == found[f"{name}, x5"].rival == name
    assert set(contenders(5)) < set(found)
    assert {one.role for one in SETS.values()} == {"development", "report"}
    assert SETS["mnist"].role == "development"


def test_a_small_set_gives_a_fifth_for_validation():
    assert (num_validation(60_000), num_validation(1297)) == (5000, 259)
    assert digits_mlp()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_tuning_takes_the_most_robust_choice_and_tries_all():
    setting = small_setting()
    rival = Rival(
        AdversarialTraining(1.0, inner_steps=1), {"rate": (1e-3, 1e-9), "begin": ("scratch",)}, {"begin": "scratch"}
    )
    said: list[str] = []
    found = tuned(setting, "PGD-AT", rival, said.append)
    assert [one["rate"] for one in found["tried"]] == [1e-3, 1e-9]
    best = max(found["tried"], key=lambda one: one["robust_accuracy"])
    assert found["chosen"] == {"rate": best["rate"], "begin": "scratch"}
    assert "2 choices" in said[0]
    assert setting.seed != TUNING_SEED


def test_paths_are_given_no_label_and_their_result_keeps_the_allowance():
    setting = small_setting(seconds=2.0)
    made = paths(setting, members=2)
    assert list(made.points) == [*POINTS, MIXED, "base"]
    assert [point.num_members for name, point in made.points.items() if name != MIXED] == [2, 3, 3, 1]
    assert made.settings["members"] == 2
    own, base = (made.points[name].classifier(setting.validation_inputs) for name in (made.result, "base"))
    assert fip.study.AccuracyLoss().between(own.detach(), base.detach()) <= ALLOWANCE / BELIEF


def test_results_of_the_recipe_are_points_of_the_comparison():
    names = ["robust-0", "robust", "robust-with-base", "robust-mostly-base", "base"]
    assert [point_of(name) for name in names] == ["members", "members", "with base", "mostly base", "base"]


def test_a_mixture_with_the_base_network_is_chosen_without_labels_and_is_a_mixture_of_both():
    setting = small_setting()
    robust = Point((setting.base,))
    found = mixed(replace(setting, validation_labels=torch.zeros_like(setting.validation_labels)), robust)
    assert found.accurate is setting.base
    (_, weight), (_, temperature) = found.mixture.weights, found.mixture.temperatures
    outputs = setting.base(setting.validation_inputs).detach()
    expected = (1 - weight) * outputs.softmax(1) + weight * (outputs / temperature).softmax(1)
    torch.testing.assert_close(found.classifier(setting.validation_inputs).exp(), expected, rtol=1e-4, atol=1e-6)
    assert found.num_members == 2


def test_a_judge_attacks_what_is_left_and_counts_no_fallen_example_as_robust():
    setting = small_setting()
    found = Judge(setting, 50, "pgd").point(Point((setting.base,) * 2))
    clean = unpacked(found["clean_examples"], len(setting.test_labels))
    robust = unpacked(found["robust_examples"], 50)
    assert found["num_members"] == 2
    assert clean.mean() == pytest.approx(found["clean_accuracy"])
    assert robust.mean() == pytest.approx(found["robust_accuracy"])
    assert not (robust & ~clean[:50]).any()


def test_rivals_get_the_seconds_of_paths_that_took_more_than_theirs():
    setting = small_setting(seconds=2.0)
    records: list[dict[str, Any]] = [
        {"kind": "paths", "seed": 0, "seconds": 2.5},
        {"kind": "paths", "seed": 1, "seconds": 9.0},
        {"kind": "rival", "seed": 0, "seconds": 8.0},
        {"tuning": "PGD-AT"},
    ]
    assert given(setting, records).seconds == 2.5
    assert given(setting, records[1:]).seconds == 2.0
