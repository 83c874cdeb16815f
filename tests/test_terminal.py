"""Progress of a run on a terminal and without one, by a clock of the test's own."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import fipray as fip
from fipray.cluster.doctor import Finding
from fipray.execution.jobs import Job, JobSpec
from fipray.execution.line import WINDOW_SECONDS
from fipray.execution.progress import Left, Progress
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


def specs(*jobs: Job) -> list[JobSpec]:
    return [each.spec for each in jobs]


def test_terminal_shows_steps_pace_and_time_left_of_each_path_and_of_the_run(clock):
    listener, _ = created(clock, terminal=True)
    first, second = job("first"), job("second")
    listener.begin("mine", specs(first, second, job("third")), 1)
    for each, where in ((first, "worker 1"), (second, "worker 2")):
        listener.started(each, where)
        listener.stage(each, "")
    clock.now = 10.0
    listener.progressed(first, 20)
    listener.progressed(second, 50)
    one, other, total = screen(listener)
    # The third path is expected to take 100 steps of 0.35 s, the mean of 1/2 s and 1/5 s: it and the others' 40 s and
    # 10 s are shared by two workers.
    for line, parts in (
        (one, ["path first on worker 1", "step 20 of 100", "2 steps/s, 40 s left"]),
        (other, ["path second on worker 2", "step 50 of 100", "5 steps/s, 10 s left"]),
        (total, ["mine", "1 of 4 done", "7 steps/s, 42 s left"]),
    ):
        for part in parts:
            assert part in line
    listener.finished(first, "all is well", 10.0)
    assert [line.split()[1] for line in screen(listener)[:1]] == ["second"]


def test_terminal_shows_as_many_paths_as_fit(clock):
    listener, _ = created(clock, terminal=True, height=10)
    listener.begin("mine", specs(*(job(f"path-{number}") for number in range(300))), 0)
    for number in range(300):
        listener.started(job(f"path-{number}"), f"worker {number}")
    *lines, more, total = screen(listener)
    assert len(lines) == 7
    assert more.strip() == "and 293 more"
    assert "0 of 300 done" in total


def test_log_has_a_line_for_each_event_and_a_summary_from_the_first_seconds_on(clock):
    listener, output = created(clock, terminal=False)
    first = job("first")
    listener.begin("mine", specs(first, job("second")), 0)
    listener.started(first, "worker 1")
    listener.stage(first, "")
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
    assert [re.search(r"step (\d+) of", line)[1] for line in [*later, last]] == ["15", "30", "45", "60"]
    rest = [result, failure]
    assert rest == ["path first: all is well (64.0 s)", "path second failed: ValueError: wrong (its log: logs/x/1.log)"]


def test_log_says_what_a_run_waits_for_while_nothing_happens(clock):
    listener, output = created(clock, terminal=False)
    listener.doing("building the study")
    clock.now = 5.0
    listener._summarise()
    attack = Job("a", fip.PathSpec("attacked", fip.objectives.GradientDiversity()), 1, {})
    listener.begin("mine", specs(attack, attack), 0)
    listener.note("starting Ray on this machine")
    clock.now = 20.0
    listener._summarise()
    listener.started(attack, "worker 1")
    assert output.getvalue().splitlines() == [
        "building the study, since 5 s",
        "starting Ray on this machine",
        "mine: 0 of 2 done, 0 running; starting Ray on this machine, since 15 s",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_stage_of_a_job_without_steps_is_shown(clock, is_terminal):
    listener, output = created(clock, terminal=is_terminal)
    spec = AttackSpec("both", ("a", "b"), fip.ThreatModel("linf", 0.1), fip.attacks.FGSM(), 0, 10, 0)
    attack = Job("a", spec, 1, {})
    listener.begin("mine", [spec], 0)
    listener.started(attack, "worker 1")
    clock.now = 7.0
    listener.stage(attack, "AutoAttack: running apgd-t, 1,234 passes")
    shown = " ".join(screen(listener)) if is_terminal else output.getvalue()
    assert "AutoAttack: running apgd-t, 1,234 passes" in shown


def test_progress_measures_the_pace_of_a_resumed_path_by_its_new_steps():
    progress, again = Progress(), job("again", attempt=2)
    progress.begin(specs(again), 0)
    progress.started(again, "worker 1", 0.0)
    assert progress.progressed(again, 60, 4.0) == 0, "an earlier attempt came to about there"
    assert progress.pace(progress.lines["again"], 4.0) is None
    assert progress.progressed(again, 70, 9.0) == 10
    assert progress.pace(progress.lines["again"], 9.0) == (2.0, 15.0)


def test_progress_counts_steps_once_and_never_backwards():
    progress, one = Progress(), job("one")
    progress.begin(specs(one), 0)
    progress.started(one, "worker 1", 0.0)
    assert [progress.progressed(one, step, 1.0) for step in (5, 5, 3, 8)] == [5, 0, 0, 3]
    assert progress.num_steps == 8
    progress.ended(one, 1.0)
    assert progress.progressed(one, 100, 2.0) == 0


def test_time_left_weighs_paths_by_their_steps():
    progress, long = Progress(), job("long", 5000)
    progress.begin(specs(long, job("short", 1300)), 0)
    progress.started(long, "this process", 0.0)
    assert progress.seconds_left(10.0) is None, "nothing is known of the pace yet"
    progress.staged(long, "outputs of the start on the anchors", 10.0)
    progress.staged(long, "measuring the point at step 0: objective", 60.0)
    progress.staged(long, "", 60.0)  # what comes before the first step is no part of the pace
    progress.progressed(long, 50, 65.0)
    assert progress.steps_per_second(65.0) == 10.0
    assert progress.seconds_left(65.0) == Left((4950 + 1300) / 10)
    progress.progressed(long, 1000, 160.0)
    assert progress.seconds_left(160.0) == Left((4000 + 1300) / 10)
    progress.progressed(long, 5000, 560.0)
    progress.ended(long, 560.0)
    assert progress.seconds_left(560.0) == Left(130.0), "at the pace of the path that ended last"


def test_time_left_has_the_measurement_of_the_ends_of_paths():
    progress, long = Progress(), job("long", 100)
    progress.begin(specs(long, job("short", 20)), 0)
    progress.started(long, "this process", 0.0)
    progress.staged(long, "outputs of the start on the anchors", 0.0)
    progress.staged(long, "measuring the point at step 0: objective", 30.0)
    progress.staged(long, "measuring the point at step 0: clean_accuracy", 31.0)
    progress.staged(long, "", 36.0)
    progress.progressed(long, 20, 46.0)  # 2 steps a second, after a point that took 6 s
    assert progress.pace(progress.lines["long"], 46.0) == (2.0, 80 / 2 + 6)
    assert progress.seconds_left(46.0) == Left(80 / 2 + 6 + 20 / 2 + 2 * 6)
    progress.progressed(long, 99, 85.5)
    progress.staged(long, "measuring the point at step 100: objective", 86.0)
    rate, left = progress.pace(progress.lines["long"], 90.0)
    assert rate == 79 / (86.0 - 46.0), "measuring is no part of the pace"
    assert left == pytest.approx(1 / rate + 6 - 4), "4 s of the measurement are over"


def test_first_step_counts_where_its_point_is_measured_before_it_is_reported():
    progress, one = Progress(), job("one")
    progress.begin(specs(one), 0)
    progress.started(one, "this process", 0.0)
    progress.staged(one, "measuring the point at step 0: objective", 0.0)
    progress.staged(one, "", 3.0)
    progress.staged(one, "measuring the point at step 1: objective", 43.0)
    progress.staged(one, "measuring the point at step 1: clean_accuracy", 45.0)
    progress.staged(one, "", 46.0)
    progress.progressed(one, 1, 46.0)
    # A step takes 40 s, and so far each of them has had a point of 3 s.
    assert progress.pace(progress.lines["one"], 46.0) == (1 / 40, pytest.approx(99 * (40 + 3) + 3))


def test_time_left_has_the_points_on_the_way():
    progress, one = Progress(), job("one")
    progress.begin(specs(one), 0)
    progress.started(one, "this process", 0.0)
    progress.staged(one, "", 0.0)
    progress.progressed(one, 20, 10.0)
    progress.staged(one, "measuring the point at step 21: objective", 10.0)
    assert progress.pace(progress.lines["one"], 13.0) == (2.0, 40.0)
    progress.staged(one, "", 14.0)
    progress.progressed(one, 40, 24.0)
    # 4 s for the end, and as many for every 40 steps on the way to it.
    assert progress.pace(progress.lines["one"], 24.0) == (2.0, pytest.approx(60 / 2 + 60 * 4 / 40 + 4))


def test_first_step_is_no_part_of_the_pace_once_others_are_over():
    progress, one = Progress(), job("one")
    progress.begin(specs(one), 0)
    progress.started(one, "this process", 0.0)
    progress.staged(one, "", 0.0)
    progress.progressed(one, 1, 40.0)  # compiled the network
    assert progress.seconds_left(40.0) == Left(99 * 40.0)
    progress.progressed(one, 11, 50.0)
    assert progress.seconds_left(50.0) == Left(89.0)


def test_time_left_follows_a_machine_that_becomes_slower():
    progress, one = Progress(), job("one", 10_000)
    progress.begin(specs(one), 0)
    progress.started(one, "this process", 0.0)
    progress.staged(one, "", 0.0)
    for second in range(1, 301):
        progress.progressed(one, 10 * second, float(second))
    assert progress.seconds_left(300.0) == Left(700.0)
    for second in range(1, 201):
        progress.progressed(one, 3000 + 2 * second, 300.0 + second)
    assert WINDOW_SECONDS < 200
    assert progress.seconds_left(500.0) == Left(6600 / 2)


@pytest.mark.parametrize(
    ("num_steps", "seconds"),
    [
        ((200, 200, 200, 200, 200), (15 + 15 + 20 + 20 + 20) / 2),
        ((1000, 100, 100, 100), 95.0),  # not (95 + 5 + 10 + 10) / 2: the first path is traced by one worker
    ],
)
def test_time_left_is_shared_by_workers_and_is_at_least_that_of_the_longest_job(num_steps, seconds):
    progress, jobs = Progress(), [job(f"path-{number}", each) for number, each in enumerate(num_steps)]
    progress.begin(specs(*jobs), 0)
    for each in jobs[:2]:
        progress.started(each, "a worker", 0.0)
        progress.staged(each, "", 0.0)
        progress.progressed(each, 50, 5.0)
    assert progress.seconds_left(5.0) == Left(seconds)


def attack(name: str, kind: object) -> Job:
    threat_model = fip.ThreatModel("linf", 0.1)
    return Job(name, AttackSpec(name, (name,), threat_model, kind, 0, 10, 0), 1, {})


def test_time_left_is_a_bound_until_a_job_of_each_kind_without_steps_has_ended():
    progress, path = Progress(), job("path")
    fast, faster, slow = (
        attack("a", fip.attacks.FGSM()),
        attack("b", fip.attacks.FGSM()),
        attack("c", fip.attacks.PGD()),
    )
    progress.begin(specs(path, fast, faster, slow), 0)
    progress.started(path, "this process", 0.0)
    progress.staged(path, "", 0.0)
    progress.progressed(path, 10, 5.0)
    assert progress.seconds_left(5.0) == Left(45.0, is_least=True)
    progress.progressed(path, 100, 50.0)
    progress.ended(path, 50.0)
    progress.started(fast, "this process", 50.0)
    progress.ended(fast, 56.0)
    assert progress.seconds_left(56.0) == Left(6.0, is_least=True), "another of its kind waits; of the slow none ended"
    progress.started(slow, "this process", 56.0)
    progress.ended(slow, 156.0)
    assert progress.seconds_left(156.0) == Left(6.0)
    progress.started(faster, "this process", 156.0)
    assert progress.seconds_left(160.0) == Left(2.0)
    assert progress.seconds_left(170.0) == Left(0.0), "it takes longer than its kind did"


def test_run_says_at_least_while_a_kind_of_job_is_unknown_and_nothing_where_one_takes_longer(clock):
    listener, _ = created(clock, terminal=True)
    fast, faster, slow = (
        attack("a", fip.attacks.FGSM()),
        attack("b", fip.attacks.FGSM()),
        attack("c", fip.attacks.PGD()),
    )
    listener.begin("mine", specs(fast, faster, slow), 0)
    listener.started(fast, "worker 1")
    assert "left" not in screen(listener)[-1]
    clock.now = 6.0
    listener.finished(fast, "all is well", 6.0)
    assert "1 of 3 done  at least 6 s left" in screen(listener)[-1]
    listener.started(faster, "worker 1")
    clock.now = 20.0
    assert "left" not in screen(listener)[-1]


def test_failed_jobs_that_never_began_are_no_part_of_the_time_left():
    progress, one, lost = Progress(), job("one"), job("lost", 1000)
    progress.begin(specs(one, lost), 0)
    progress.started(one, "this process", 0.0)
    progress.staged(one, "", 0.0)
    progress.progressed(one, 50, 5.0)
    assert progress.seconds_left(5.0) == Left(105.0)
    progress.ended(lost, 5.0, failed=True)
    assert progress.seconds_left(5.0) == Left(5.0)


def test_trials_take_the_place_of_paths_with_other_numbers_of_steps():
    progress, trial = Progress(), job("drawn", 60)
    progress.begin(specs(job("tuned", 100), job("tuned", 100)), 0)
    progress.started(trial, "trial 0", 0.0)
    progress.staged(trial, "", 0.0)
    progress.progressed(trial, 30, 3.0)
    assert progress.seconds_left(3.0) == Left(3.0 + 10.0)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_stage_of_a_path_is_shown_until_it_walks(clock, is_terminal):
    listener, output = created(clock, terminal=is_terminal)
    one = job("one")
    listener.begin("mine", specs(one), 0)
    listener.started(one, "worker 1")
    clock.now = 7.0
    listener.stage(one, "outputs of the start on the anchors, 12,288 of 45,000")
    shown = " ".join(screen(listener)) if is_terminal else output.getvalue()
    assert "step 0 of 100, outputs of the start on the anchors, 12,288 of 45,000" in shown
    listener.stage(one, "")
    assert "outputs" not in " ".join(screen(listener))


def test_listener_shows_markup_and_control_characters_literally(clock):
    listener, output = created(clock, terminal=False)
    listener.begin("[red]mine[/x]", specs(job("first"), job("second")), 0)
    listener.started(job("first"), "[/worker]")
    listener.note("[/red] :smile: \x1b[31m in s3://KEY:SECRET@bucket/x")
    assert output.getvalue() == "[/red] :smile: \\x1b[31m in s3://bucket/x\n"
    assert "path first on [/worker]" in screen(listener)[0]
    assert "[red]mine[/x]" in screen(listener)[-1]


def test_findings_show_markup_and_control_characters_literally(capsys):
    assert print_findings([Finding("ok", "[/x]", "s3://KEY:SECRET@bucket/x \x1b[31m", "[red]")])
    assert capsys.readouterr().out.split(maxsplit=1)[1] == "[/x]: s3://bucket/x \\x1b[31m. [red]\n"
