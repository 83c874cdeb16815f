"""Pareto fronts of frames."""

import numpy as np
import pandas as pd
import pytest

from fipray import analysis
from fipray.errors import UsageError


def frame(*pairs):
    return pd.DataFrame(pairs, columns=["clean_accuracy", "robust_accuracy"], dtype=float)


def test_front_keeps_exactly_the_rows_that_no_other_dominates():
    rows = frame((0.9, 0.2), (0.8, 0.5), (0.8, 0.4), (0.7, 0.5), (0.6, 0.6), (0.5, 0.1))
    kept = analysis.pareto(rows)
    assert list(kept.index) == [0, 1, 4]
    pd.testing.assert_frame_equal(kept, rows.loc[[0, 1, 4]])


def test_front_of_one_column_is_its_maximum():
    values = np.random.default_rng(0).integers(0, 20, 60)
    kept = analysis.pareto(pd.DataFrame({"accuracy": values}), ["accuracy"])
    assert list(kept.index) == list(np.flatnonzero(values == values.max()))


def test_front_of_many_columns_equals_a_comparison_of_all_pairs():
    values = np.random.default_rng(0).integers(0, 5, (60, 3))
    kept = analysis.pareto(pd.DataFrame(values, columns=list("abc")), list("abc"))
    wanted = [
        n for n, row in enumerate(values) if not any((row <= other).all() and (row < other).any() for other in values)
    ]
    assert list(kept.index) == wanted


def test_front_keeps_equal_rows_and_drops_nan():
    assert list(analysis.pareto(frame((0.9, 0.5), (0.9, 0.5), (np.nan, 0.9), (0.95, np.nan))).index) == [0, 1]
    assert analysis.pareto(frame((np.nan, 0.9))).empty
    assert analysis.pareto(frame()).empty


def test_front_of_missing_columns_is_refused_with_the_valid_ones():
    with pytest.raises(
        UsageError, match=r"cannot compare columns \['seconds'\]; the columns are: clean_accuracy, robust_acc"
    ):
        analysis.pareto(frame((0.9, 0.5)), ("clean_accuracy", "seconds"))
    with pytest.raises(UsageError, match="cannot compare columns"):
        analysis.pareto(frame((0.9, 0.5)), ())
