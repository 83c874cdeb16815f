"""Radius between those that short paths tried."""

from __future__ import annotations

import math

import pytest

from fipray.recipes.trial import Attempt, best_radius, between


def search(optimum: float, factor: float = 3.0) -> float:
    """Refined radius where the distance is a parabola over the logarithm."""

    def attempt(radius: float) -> Attempt:
        return Attempt(1 + math.log(radius / optimum) ** 2, 1.0, 0.0)

    best, found = best_radius(attempt, 0.03, factor=factor)
    return between(best, found, factor)


@pytest.mark.parametrize("optimum", [0.02, 0.03, 0.04, 0.07, 0.2])
def test_the_minimum_of_a_parabola_is_found_between_the_radii_that_were_tried(optimum):
    assert search(optimum) == pytest.approx(optimum, rel=0.02)


def test_without_both_neighbours_the_best_is_taken_as_it_is():
    one, other, broken = Attempt(1.0, 1.0, 0.0), Attempt(2.0, 1.0, 0.0), Attempt(math.inf, 0.0, 0.0)
    assert between(0.1, {0.1: one, 0.3: other}, 3.0) == 0.1
    assert between(0.1, {0.0333: other, 0.1: one, 0.3: broken}, 3.0) == 0.1
    assert between(0.1, {0.0333: one, 0.1: one, 0.3: one}, 3.0) == 0.1
