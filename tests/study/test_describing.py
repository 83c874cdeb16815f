"""What the tables say of a path that lost its clean accuracy."""

import math

import pytest
import torch

from fipray.paths import PathPoint
from fipray.study.describing import collapse


def points(*accuracies: float) -> list[PathPoint]:
    return [
        PathPoint(10 * number, torch.zeros(1), 1.0, 0.0, probes={"clean_accuracy": accuracy})
        for number, accuracy in enumerate(accuracies)
    ]


def test_a_collapse_is_named_with_the_first_step_that_shows_it():
    found = collapse(points(0.921, 0.9, 0.43, 0.7), 1000)
    assert found == (20, "clean accuracy fell from 92.1% to 43.0% by step 20")


@pytest.mark.parametrize(
    ("accuracies", "num_examples"),
    [
        ((0.9, 0.801), 10_000),  # ten points are needed
        ((0.9, 0.79), 100),  # and four standard errors: 4 sqrt(.9 .1 / 100) = .12
        ((0.5, 0.9), 10_000),
        ((0.9,), 10_000),
    ],
)
def test_a_loss_within_ten_points_or_four_standard_errors_is_no_collapse(accuracies, num_examples):
    assert collapse(points(*accuracies), num_examples) is None


def test_ten_points_count_where_the_standard_error_is_smaller():
    assert 4 * math.sqrt(0.9 * 0.1 / 10_000) < 0.1
    assert collapse(points(0.9, 0.799), 10_000) == (10, "clean accuracy fell from 90.0% to 79.9% by step 10")


def test_without_labels_nothing_is_said():
    assert collapse([PathPoint(0, torch.zeros(1), 1.0, 0.0)], 0) is None
