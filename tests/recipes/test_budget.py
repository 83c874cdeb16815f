"""Budgets of recipes."""

from __future__ import annotations

import pytest

from fipray.errors import UsageError
from fipray.recipes import Budget


@pytest.mark.parametrize(
    ("given", "seconds", "steps"),
    [
        (None, 600.0, None),
        ("10 min", 600.0, None),
        ("90 s", 90.0, None),
        ("90", 90.0, None),
        ("1.5 hours", 5400.0, None),
        (2.5, 2.5, None),
        ("300 steps", None, 300),
        ({"steps": 300}, None, 300),
    ],
)
def test_budget_is_a_time_or_a_number_of_steps(given, seconds, steps):
    budget = Budget.of(given)
    assert (budget.seconds, budget.steps) == (seconds, steps)
    assert Budget.of(budget.text) == budget


@pytest.mark.parametrize(
    "given",
    ["", "ten minutes", "10 parsecs", "0 s", "-3", 0, -1.0, True, float("nan"), {"steps": 0}, {"step": 3}, "1.5 steps"],
)
def test_budget_that_is_neither_is_refused_with_what_is_valid(given):
    with pytest.raises(UsageError, match="a budget is a time such as '10 min'"):
        Budget.of(given)
