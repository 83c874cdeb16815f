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
    """Clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
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


def shown(num_steps: int, *, terminal: bool = False) -> tuple[TraceProgress, Clock, io.StringIO]:
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, force_terminal=terminal, width=200)
    return TraceProgress(num_steps, "Sparsify", console, clock), clock, output


def test_log_has_a_line_every_ten_seconds_with_the_measures_of_the_last_saved_point():
    progress, clock, output = shown(100)
    progress.saved(point(0))
    progress.staged("")
    for step in range(1, 31):
        clock.now = float(step)
        progress.step_over(step)
    assert output.getvalue().splitlines() == [
        f"Sparsify: step {step} of 100, 1 steps/s, {100 - step} s left, distance 0.25, objective 1.5"
        for step in (10, 20, 30)
    ]


def test_log_says_what_is_measured_while_no_step_ends():
    progress, clock, output = shown(100)
    progress.staged("measuring the point at step 0: objective")
    for now in (10.0, 20.0):
        clock.now = now
        progress.show()
    progress.staged("")
    clock.now = 35.0
    progress.show()
    assert output.getvalue().splitlines() == [
        "Sparsify: step 0 of 100, measuring the point at step 0: objective since 10 s",
        "Sparsify: step 0 of 100, measuring the point at step 0: objective since 20 s",
        "Sparsify: step 0 of 100, in the next step since 15 s",
    ]


def test_rate_is_shown_after_the_first_step_and_leaves_it_out_after_the_second():
    progress, clock, output = shown(100)
    progress.staged("")
    for now, stage in ((5.0, "measuring the point at step 41: objective"), (9.0, "")):
        clock.now = now
        progress.staged(stage)
    clock.now = 20.0
    progress.step_over(41)  # of a path that was resumed at step 40
    clock.now = 30.0
    progress.step_over(43)
    first, second = output.getvalue().splitlines()
    assert first == "Sparsify: step 41 of 100, 0.05 steps/s, 1180 s left"
    assert second == "Sparsify: step 43 of 100, 0.2 steps/s, 285 s left"


def test_terminal_has_a_bar_with_rate_and_measures():
    progress, clock, output = shown(5, terminal=True)
    with progress:
        progress.saved(point(0))
        progress.staged("")
        clock.now = 1.0
        progress.step_over(1)
        clock.now = 2.0
        progress.step_over(3)
    for part in ("Sparsify", "3/5", "2 steps/s", "1 s left", "distance 0.25, objective 1.5"):
        assert part in output.getvalue()


def test_trace_says_what_it_does_besides_steps():
    said, steps = list[str](), list[int]()
    walked(on_stage=said.append, on_step=lambda step: steps.append(len(said)), save_at=fip.SaveAt(1))
    point = "measuring the point at step"
    assert said == [
        "outputs of the start on anchors and held-out inputs",
        *(f"{point} 0: {what}" for what in MEASURED),
        "",
        *(f"{point} 6: {what}" for what in MEASURED),
        "",
        "",
    ]
    assert steps[:5] == [5] * 5, "all is said of the start before the first step is over"


MEASURED = (
    "functional distance on 30 anchors",
    "functional distance on 20 held-out inputs",
    "objective",
)
