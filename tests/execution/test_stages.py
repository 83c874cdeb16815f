"""Stages of jobs: what a heartbeat counts, what listeners are told, and what long calls log."""

from __future__ import annotations

import logging

import torch
from torch import nn

import fipray as fip
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job
from fipray.execution.listeners import Silent
from fipray.execution.runner import JobReports
from fipray.execution.stages import staged
from tests.studies import study


class Stages(Silent):
    """Listener that keeps stages and steps of jobs, and what is done before the first."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.done: list[str] = []
        self.steps: list[int] = []

    def doing(self, sentence: str) -> None:
        self.done.append(sentence)

    def stage(self, job: Job, stage: str) -> None:
        self.said.append((job.label, stage))

    def progressed(self, job: Job, step: int) -> None:
        self.steps.append(step)


def test_stage_counts_the_inputs_that_go_through_the_network():
    heart, where = Heartbeat(), list[str]()
    heart.on_change = lambda: where.append(heart.where)
    network = fip.Network.of(nn.Linear(3, 2).eval())
    with heart.counted(network, "outputs of the start on the anchors", 2500):
        network.outputs(network.weights, torch.zeros(2500, 3))
    assert where == [
        "outputs of the start on the anchors, 0 of 2,500",
        "outputs of the start on the anchors, 1,024 of 2,500",
        "outputs of the start on the anchors, 2,048 of 2,500",
        "outputs of the start on the anchors, 2,500 of 2,500",
    ]
    assert not heart.has_begun, "the first step is still to come"
    network.outputs(network.weights, torch.zeros(5, 3))
    assert len(where) == 4, "forward passes of a path are no signs of progress"


def test_listener_is_told_every_stage_of_a_path_at_once():
    listener, spec = Stages(), fip.PathSpec("one", fip.objectives.GradientDiversity())
    reports = JobReports(listener, Job("one", spec, 1, {}))
    reports.heartbeat.begin("one")
    for stage in ("measuring", "measuring more", ""):
        reports.heartbeat.enter(stage)
    assert [stage for _, stage in listener.said] == ["reading weights", "measuring", "measuring more", ""]
    reports.heartbeat.step_over(1)
    assert listener.steps == [], "steps are reported at most twice a second"


def test_run_says_what_it_does_before_its_steps_and_at_each_point(tmp_path):
    listener, made = Stages(), study(num_steps=2)
    fip.LocalRunner().run(made, tmp_path, listener)
    assert listener.done == [
        "opening the results directory",
        "verifying the files of earlier runs",
        "setting up the worker",
    ]
    stages = [stage for label, stage in listener.said if label == "path sparse"]
    num_anchors, num_held_out = len(made.data.anchors), len(made.data.held_out)
    for expected in (
        f"outputs of the start on the held-out inputs, 0 of {num_held_out:,}",
        f"measuring the point at step 0: functional distance on {num_anchors:,} anchors",
        f"measuring the point at step 0: functional distance on {num_held_out:,} held-out inputs",
        "measuring the point at step 0: objective",
        "measuring the point at step 0: clean_accuracy",
        f"measuring the point at step 2: functional distance on {num_held_out:,} held-out inputs",
    ):
        assert expected in stages
    first = next(label for label, _ in listener.said)
    assert (first, f"outputs of the start on the anchors, 0 of {num_anchors:,}") in listener.said
    evaluations = [stage for label, stage in listener.said if label == "attacks on base"]
    assert any(stage.startswith(f"measures on {len(made.data.test_inputs):,} test inputs") for stage in evaluations)
    assert any(stage.startswith(f"functional distance on {num_held_out:,} held-out") for stage in evaluations)


def test_messages_of_a_logger_are_heard_only_while_someone_listens():
    said, logger = list[str](), logging.getLogger("fipray.export.command")
    level = logging.getLogger("fipray.export").level
    with staged("fipray.export", said.append):
        logger.info("writing %s", "the weights")
        logger.debug("a detail")
    logger.info("no one listens")
    assert said == ["writing the weights"]
    assert logging.getLogger("fipray.export").level == level
