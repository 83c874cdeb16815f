"""Progress of a run on a terminal and without one, by a clock of the test's own."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import fipray as fip
from fipray.cluster.doctor import Finding
from fipray.execution.jobs import Job
from fipray.execution.progress import Progress
from fipray.study.evaluation import AttackSpec
from fipray.terminal import TerminalListener, print_findings


class Clock:
    """Clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def job(name: str, num_steps: int = 100, attempt: int = 1) -> Job:
    return Job(name, fip.PathSpec(name, fip.objectives.GradientDiversity(), num_steps=num_steps), attempt, {})


def created(clock: Clock, *, terminal: bool, height: int = 25) -> tuple[TerminalListener, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, height=height, highlight=False, soft_wrap=True)
    return TerminalListener(console, clock), output


def screen(listener: TerminalListener) -> list[str]:
    """Live lines, below those that were printed."""
    shown = io.StringIO()
    Console(file=shown, width=120).print(listener._render())
    return [line.rstrip() for line in shown.getvalue().splitlines()]


def test_terminal_shows_steps_pace_and_time_left_of_each_path_and_of_the_run(clock):
    listener, _ = created(clock, terminal=True)
    listener.begin("mine", 4, 1)
    first, second = job("first"), job("second")
    listener.started(first, "worker 1")
    listener.started(second, "worker 2")
    clock.now = 10.0
    listener.progressed(first, 20)
    listener.progressed(second, 50)
    one, other, total = screen(listener)
    for line, parts in (
        (one, ["path first on worker 1", "step 20 of 100", "2 steps/s, 40 s left"]),
        (other, ["path second on worker 2", "step 50 of 100", "5 steps/s, 10 s left"]),
        (total, ["mine", "1 of 4 done", "7 steps/s, 33 s left"]),
    ):
        for part in parts:
            assert part in line
    listener.finished(first, "all is well", 10.0)
    assert [line.split()[1] for line in screen(listener)[:1]] == ["second"]


def test_terminal_shows_as_many_paths_as_fit(clock):
    listener, _ = created(clock, terminal=True, height=10)
    listener.begin("mine", 300, 0)
    for number in range(300):
        listener.started(job(f"path-{number}"), f"worker {number}")
    *lines, more, total = screen(listener)
    assert len(lines) == 7
    assert more.strip() == "and 293 more"
    assert "0 of 300 done" in total


def test_log_has_a_line_for_each_event_and_a_summary_from_the_first_seconds_on(clock):
    listener, output = created(clock, terminal=False)
    listener.begin("mine", 2, 0)
    first = job("first")
    listener.started(first, "worker 1")
    for second in range(1, 66):
        clock.now = float(second)
        listener.progressed(first, second)
    listener.finished(first, "all is well", 64.0)
    listener.failed(job("second"), "Traceback\n  in a file\nValueError: wrong (its log: logs/x/1.log)")
    summary, *later, last, result, failure = output.getvalue().splitlines()
    assert summary == (
        "mine: 0 of 2 done, 1 running; 1 steps/s, 3 min 15 s left; "
        "path first, step 5 of 100, 1 steps/s, 1 min 35 s left"
    )
    assert [re.search(r"step (\d+) of", line)[1] for line in [*later, last]] == ["15", "35", "65"]
    rest = [result, failure]
    assert rest == ["path first: all is well (64.0 s)", "path second failed: ValueError: wrong (its log: logs/x/1.log)"]


def test_log_says_what_a_run_waits_for_while_nothing_happens(clock):
    listener, output = created(clock, terminal=False)
    listener.doing("building the study")
    clock.now = 5.0
    listener._summarise()
    listener.begin("mine", 2, 0)
    listener.note("starting Ray on this machine")
    clock.now = 20.0
    listener._summarise()
    attack = Job("a", fip.PathSpec("attacked", fip.objectives.GradientDiversity()), 1, {})
    listener.started(attack, "worker 1")
    assert output.getvalue().splitlines() == [
        "building the study, since 5 s",
        "starting Ray on this machine",
        "mine: 0 of 2 done, 0 running; starting Ray on this machine, since 15 s",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_stage_of_a_job_without_steps_is_shown(clock, is_terminal):
    listener, output = created(clock, terminal=is_terminal)
    listener.begin("mine", 1, 0)
    spec = AttackSpec("both", ("a", "b"), fip.ThreatModel("linf", 0.1), fip.attacks.FGSM(), 0, 10, 0)
    attack = Job("a", spec, 1, {})
    listener.started(attack, "worker 1")
    clock.now = 7.0
    listener.stage(attack, "AutoAttack: running apgd-t, 1,234 passes")
    shown = " ".join(screen(listener)) if is_terminal else output.getvalue()
    assert "AutoAttack: running apgd-t, 1,234 passes" in shown


def test_progress_measures_the_pace_of_a_resumed_path_by_its_new_steps():
    progress, again = Progress(), job("again", attempt=2)
    progress.begin(1, 0, 0.0)
    progress.started(again, "worker 1", 0.0)
    assert progress.progressed(again, 60, 4.0) == 0, "an earlier attempt came to about there"
    assert Progress.pace(progress.lines["again"], 4.0) is None
    assert progress.progressed(again, 70, 9.0) == 10
    assert Progress.pace(progress.lines["again"], 9.0) == (2.0, 15.0)


def test_progress_counts_steps_once_and_never_backwards():
    progress, one = Progress(), job("one")
    progress.begin(1, 0, 0.0)
    progress.started(one, "worker 1", 0.0)
    assert [progress.progressed(one, step, 1.0) for step in (5, 5, 3, 8)] == [5, 0, 0, 3]
    assert progress.num_steps == 8
    progress.ended(one)
    assert progress.progressed(one, 100, 2.0) == 0


def test_listener_shows_markup_and_control_characters_literally(clock):
    listener, output = created(clock, terminal=False)
    listener.begin("[red]mine[/x]", 2, 0)
    listener.started(job("first"), "[/worker]")
    listener.note("[/red] :smile: \x1b[31m in s3://KEY:SECRET@bucket/x")
    assert output.getvalue() == "[/red] :smile: \\x1b[31m in s3://bucket/x\n"
    assert "path first on [/worker]" in screen(listener)[0]
    assert "[red]mine[/x]" in screen(listener)[-1]


def test_findings_show_markup_and_control_characters_literally(capsys):
    assert print_findings([Finding("ok", "[/x]", "s3://KEY:SECRET@bucket/x \x1b[31m", "[red]")])
    assert capsys.readouterr().out.split(maxsplit=1)[1] == "[/x]: s3://bucket/x \\x1b[31m. [red]\n"
