"""95 % intervals against their closed forms."""

import numpy as np
import pytest

from fipray.analysis.intervals import spread, student, wilson
from fipray.analysis.numbers import percent
from fipray.analysis.runs import on_one_grid
from fipray.printable import epsilon_text


def test_wilson_bounds_solve_the_equation_of_the_score_test():
    n = np.array([1, 7, 50, 10_000])
    for successes in (0, 1):
        p = successes / n
        for bound in wilson(p, n):
            # Bounds are the fractions that a score test at 5 % just does not reject.
            np.testing.assert_allclose((p - bound) ** 2, 1.959963984540054**2 * bound * (1 - bound) / n, atol=1e-15)


def test_wilson_interval_of_known_counts_and_at_the_ends():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
    low, high = wilson([81 / 263, 15 / 148, 0, 1 / 29], [263, 148, 20, 29])
    np.testing.assert_allclose(low, [0.2553, 0.0624, 0.0000, 0.0061], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1605, 0.1611, 0.1718], atol=5e-5)
    low, high = wilson([0, 1], [5, 5])
    assert (low[0], high[1]) == (0, 1)
    assert low[1] == pytest.approx(1 - high[0])
    assert np.isnan(wilson([np.nan, 0.5], [10, np.nan])).all()


def test_interval_of_a_mean_is_students():
    low, high = student([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    half = 4.302652729749464 / np.sqrt(3)  # t of two degrees of freedom; the standard deviation is 1
    np.testing.assert_allclose([low, high], [[2 - half, 0], [2 + half, 0]])
    assert np.isnan(student([[1.0]])).all()
    np.testing.assert_array_equal(spread([[1.0, 5.0], [4.0, 2.0]], "range"), [[1, 2], [4, 5]])


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(8 / 255, "8/255"), (1 / 255, "1/255"), (0.0313725, "8/255"), (0.1, "0.1"), (0.2, "0.2"), (0.031, "0.031"),
     (1.5, "1.5"), (128 / 255, "128/255"), (1.0, "1"), (0.0, "0"), (0.0123456, "0.0123456")],
)  # fmt: skip
def test_bounds_are_written_as_people_write_them(epsilon, text):
    assert epsilon_text(epsilon) == text


def test_accuracies_are_written_with_their_interval_if_it_is_known():
    assert [percent(0.5), percent(0.5, 0.25, 0.75), percent(np.nan)] == ["50.0", "50.0 [25.0, 75.0]", ""]


def test_runs_with_other_steps_are_interpolated_where_all_have_points():
    import pandas as pd

    runs = [pd.DataFrame({"x": [0, 2, 4], "y": [0.0, 4, 8]}), pd.DataFrame({"x": [0, 3], "y": [0.0, 3]})]
    x, y = on_one_grid(runs, "x", "y")
    np.testing.assert_array_equal(x, [0, 2, 3])
    np.testing.assert_allclose(y, [[0, 4, 6], [0, 2, 3]])
    x, y = on_one_grid([runs[0], runs[0]], "x", "y")
    np.testing.assert_array_equal(y, [[0, 4, 8]] * 2)
