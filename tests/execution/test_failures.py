"""Failures: whatever a study's own code raises becomes one line, and other jobs run on."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import fipray as fip
from fipray.execution import LocalRunner
from fipray.execution.failures import LONGEST, in_a_line, interruptions, sentence_of
from fipray.paths import Batch, Problem
from fipray.records import Store
from tests.studies import Fails, IsInterrupted, study


class Unspeakable(Exception):
    """Exception that can be neither printed nor pickled."""

    def __init__(self, first: object, second: object) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise KeyboardInterrupt


def recursing(number: int) -> int:
    return recursing(number + 1)


WAYS = {
    "KeyboardInterrupt": lambda: exec("raise KeyboardInterrupt"),
    "SystemExit: 3": lambda: sys.exit(3),
    "MemoryError": lambda: bytearray(2**60),
    "RuntimeError: ": lambda: torch.empty(2**55),
    "Unspeakable: its message cannot be shown, because its __str__ raised KeyboardInterrupt": lambda: exec(
        "raise Unspeakable(1, 2)", {"Unspeakable": Unspeakable}
    ),
    "RecursionError: maximum recursion depth exceeded": lambda: recursing(0),
    "ValueError: one two ?[31mred": lambda: exec(r"raise ValueError('one\n  two\n\x1b[31mred')"),
    "a thread that the job had started ended with ZeroDivisionError: division by zero": lambda: in_a_thread(),
}


def in_a_thread() -> None:
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()


@dataclass(frozen=True)
class Raises:
    """Objective that fails in one of the `WAYS`."""

    way: str

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        WAYS[self.way]()
        return weights.square().sum()


def paths_alone(*paths: fip.PathSpec) -> fip.Study:
    return replace(study(), paths=paths, ensembles=(), evaluation=None)


def test_exception_becomes_one_line_with_its_place_and_log_and_other_paths_run_on(tmp_path):
    specs = [fip.PathSpec(f"path-{n}", Raises(way), num_steps=1, batch_size=20) for n, way in enumerate(WAYS)]
    many = paths_alone(*specs, fip.PathSpec("fine", fip.objectives.GradientDiversity(), num_steps=1, batch_size=20))
    with pytest.raises(fip.errors.RunError, match="8 of 9 jobs failed") as failed:
        LocalRunner().run(many, tmp_path)
    _, *lines = str(failed.value).splitlines()
    assert len(lines) == len(WAYS)
    for number, (line, way) in enumerate(zip(lines, WAYS, strict=True)):
        assert line.startswith(f"path path-{number}: {way}")
        assert ", raised at " in line
        assert line.endswith(f"(its log: {tmp_path}/logs/{many.path_ids[f'path-{number}']}/1.log)")
    assert Store.open(tmp_path).committed() == {many.path_ids["fine"]}


def test_ctrl_c_ends_the_run(tmp_path):
    both = paths_alone(
        fip.PathSpec("one", IsInterrupted(), num_steps=1, batch_size=20),
        fip.PathSpec("two", Fails("never"), num_steps=1, batch_size=20),
    )
    with pytest.raises(KeyboardInterrupt):
        LocalRunner().run(both, tmp_path)
    assert not (tmp_path / "logs" / both.path_ids["two"]).exists()


def test_keyboard_interrupt_without_a_signal_is_no_interruption():
    with interruptions() as is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            raise KeyboardInterrupt
        assert not is_interrupted()


def test_full_disk_behind_stdout_fails_no_path(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Prints:
        def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
            print("a word" * 10_000, flush=True)  # noqa: T201
            return fip.objectives.GradientDiversity().value(problem, weights, batch)

    printing = paths_alone(fip.PathSpec("one", Prints(), num_steps=1, batch_size=20))
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stdout", full)
    store = LocalRunner().run(printing, tmp_path)
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"):
        full.close()
    assert "a word" in store.read_log(printing.path_ids["one"], 1)


def test_long_message_keeps_its_beginning_and_end():
    line = in_a_line("begin " + "x" * 10_000 + " end")
    assert line.startswith("begin x")
    assert line.endswith("x end")
    assert len(line) <= LONGEST + len(" ... ")


def test_fipray_error_is_its_message():
    assert sentence_of(fip.errors.UsageError("what to do")) == "what to do"
