"""Progress of `fipray.trace`, by a clock of the test's own."""

from __future__ import annotations

import io

import torch
from rich.console import Console
from torch import nn

import fipray as fip
from fipray.paths import PathPoint
from fipray.progress import TraceProgress


class Clock:
    """Clock that advances by a second with each reading."""

    now = -1.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def walked(**given):
    module = nn.Linear(4, 3).double().eval()
    inputs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    settings = {"anchors": inputs[:30], "held_out": inputs[30:], "num_steps": 6}
    return fip.trace(module, fip.objectives.RandomWalk(), **settings, **given)


def test_trace_with_progress_is_the_same_path_and_calls_the_users_functions(capsys):
    steps, points = [], []
    torch.manual_seed(0)
    shown = walked(progress=True, on_step=steps.append, on_point=points.append)
    torch.manual_seed(0)
    silent = walked()
    assert torch.equal(shown.end.weights, silent.end.weights)
    assert steps == list(range(1, 7))
    assert [point.step for point in points] == [point.step for point in shown.points]
    err = capsys.readouterr().err
    assert f"RandomWalk: {shown.outcome}; distance {shown.end.functional_distance_held_out:.3g}" in err


def test_trace_without_progress_prints_nothing(capsys):
    walked()
    assert capsys.readouterr() == ("", "")


def point(step: int) -> PathPoint:
    return PathPoint(step, torch.zeros(1), 1.0, 0.0, functional_distance_held_out=0.25, objective_value=1.5)


def test_log_has_a_line_every_ten_seconds_with_the_measures_of_the_last_saved_point():
    output = io.StringIO()
    shown = TraceProgress(100, "Sparsify", Console(file=output, width=200), Clock())
    with shown:
        shown.saved(point(0))
        for step in range(1, 31):
            shown.step_over(step)
    first, *_ = output.getvalue().splitlines()
    assert first == "Sparsify: step 10 of 100, 1 steps/s, 90 s left, distance 0.25, objective 1.5"


def test_terminal_has_a_bar_with_rate_and_measures():
    output = io.StringIO()
    shown = TraceProgress(4, "Sparsify", Console(file=output, force_terminal=True, width=150), Clock())
    with shown:
        shown.saved(point(0))
        shown.step_over(1)
        shown.step_over(3)
    for part in ("Sparsify", "3/4", "2 steps/s", "distance 0.25, objective 1.5"):
        assert part in output.getvalue()
