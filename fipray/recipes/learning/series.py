"""Series of tasks of the recipe `learn`: the network with its heads, and the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.networks import MultiHead, for_task, grown
from fipray.recipes.subject import Subject
from fipray.study import Data, Task
from fipray.study.referenced import Array

Scenario = Literal["shared", "task"]
KNOWN = "known"
"""Name of what the base network knows already, among the tasks."""
HELD_OUT, MOST_HELD_OUT = 0.1, 500  # of a task's examples, by which it is judged


def held_out_name(task: str) -> str:
    """Name of the held-out inputs of a task.

    Args:
        task: name of the task, or "known".

    Returns:
        Name among the sets and tasks of the study's data.
    """
    return f"held out {task}"


@checked
@dataclass(frozen=True, eq=False)
class Series:
    """Base network, its data, and the tasks that it learns.

    Args:
        subject: base network and data.
        tasks: tasks by name, in order.
        scenario: "shared" (one head that grows where a task has new classes) or "task" (a head for each task, whose
            labels begin at 0).
        num_stored: stored inputs in all, of which each earlier task has an equal part.
        seed: seed of the draws.
    """

    subject: Subject
    tasks: Mapping[str, Task]
    scenario: Scenario
    num_stored: int
    seed: int

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("there is no task to learn: give tasks={'name': fip.Task(inputs, labels)}")
        if KNOWN in self.tasks:
            raise UsageError(f"{KNOWN!r} is the name of what the base network knows: give the task another name")
        if self.num_stored < len(self.tasks):
            raise UsageError(
                f"num_stored is the number of stored inputs of all earlier tasks together; {self.num_stored} for "
                f"{len(self.tasks)} tasks leaves none for some: give some hundreds"
            )
        layout = self.subject.data.layout
        object.__setattr__(self, "tasks", {name: task.arranged(layout, name) for name, task in self.tasks.items()})
        for name, task in self.tasks.items():
            self._check(name, task)

    def _check(self, name: str, task: Task) -> None:
        anchors = self.subject.data.anchors
        for what, inputs in (("inputs", task.inputs), ("test_inputs", task.test_inputs)):
            if inputs is None:
                continue
            if inputs.shape[1:] != anchors.shape[1:]:
                more = "" if self.subject.data.layout is None else ": give several inputs as a dictionary, as the data"
                raise DataError(
                    f"{what} of task {name!r} have shape {inputs.shape[1:]}, and the anchors {anchors.shape[1:]}{more}"
                )
            if inputs.dtype != anchors.dtype:
                raise DataError(
                    f"{what} of task {name!r} are {inputs.dtype}, and the anchors {anchors.dtype}: prepare both alike, "
                    "data by Data.of(source) and the task by fip.Task.of(source)"
                )
        if len(task.inputs) < 20:
            raise DataError(f"task {name!r} has {len(task.inputs)} examples: give 20 or more")

    @property
    def names(self) -> tuple[str, ...]:
        """What is known and the tasks, in the order in which they are learned."""
        return (KNOWN, *self.tasks)

    @cached_property
    def num_outputs(self) -> int:
        """Outputs of the base network."""
        return int(self.subject.base_outputs.shape[1])

    @cached_property
    def largest(self) -> int:
        """Outputs that one head needs."""
        return max(self.num_outputs, *(int(task.labels.max()) + 1 for task in self.tasks.values()))

    @cached_property
    def module(self) -> nn.Module:
        """Base network with a head for all classes, or for each task."""
        module, shape = self.subject.module, self.subject.data.anchors.shape[1:]
        if self.scenario == "task":
            return MultiHead(grown(module, self.largest * len(self.names)), len(self.names), shape).eval()
        return module if self.largest == self.num_outputs else self._lifted(grown(module, self.largest))

    @cached_property
    def data(self) -> Data:
        """Data of the study: stored and held-out inputs of every task as sets, and the tasks."""
        given = self.subject.data
        sets = {
            f"stored {KNOWN}": self._told(self._drawn(given.anchors, np.zeros(len(given.anchors), np.int64)), 0),
            held_out_name(KNOWN): self._told(given.held_out[:MOST_HELD_OUT], 0),
        }
        tasks = {}
        if given.test_inputs is not None and given.test_labels is not None:
            known = self._told(given.test_inputs, 0)
            # No path learns it: a task must have an example, and is given to measure the accuracy on its tests.
            tasks[KNOWN] = Task(known[:1], given.test_labels[:1], known, given.test_labels)
        for number, (name, task) in enumerate(self.tasks.items(), 1):
            learned, held_out = self.parts(task)
            sets[f"stored {name}"] = self._told(self._drawn(task.inputs[learned], task.labels[learned]), number)
            sets[held_out_name(name)] = self._told(task.inputs[held_out], number)
            tests = None if task.test_inputs is None else self._told(task.test_inputs, number)
            tasks[name] = Task(self._told(task.inputs[learned], number), task.labels[learned], tests, task.test_labels)
        first = self.names[1]
        # With its labels, by which a search judges; a task, because labels belong to tasks, that no path learns.
        tasks[held_out_name(first)] = Task(sets[held_out_name(first)], self.held_out_labels(first))
        # Bounds are those of attacks, of which there are none here: no task is refused for lying outside.
        tested = [task.test_inputs for task in tasks.values() if task.test_inputs is not None]
        low = min(given.bounds[0], *(float(inputs.min()) for inputs in tested), math.inf)
        high = max(given.bounds[1], *(float(inputs.max()) for inputs in tested), -math.inf)
        return Data(
            anchors=sets[f"stored {KNOWN}"],
            held_out=sets[held_out_name(KNOWN)],
            held_out_labels=None if given.held_out_labels is None else given.held_out_labels[:MOST_HELD_OUT],
            bounds=(low, high),
            sets=sets,
            tasks=tasks,
            # Rows of a MultiHead have the number of the task before the inputs, which it leaves to the packed module.
            layout=given.layout if self.scenario == "shared" else None,
            notes=given.notes,
        )

    def parts(self, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split a task's examples into those that are learned and those that are held out.

        Args:
            task: the task.

        Returns:
            Indices of both, drawn at random.
        """
        order = np.random.default_rng(self.seed).permutation(len(task.inputs))
        count = min(max(int(HELD_OUT * len(order)), 1), MOST_HELD_OUT)
        return order[count:], order[:count]

    def held_out_labels(self, name: str) -> NDArray[np.integer]:
        """Classes of a task's held-out inputs.

        Args:
            name: name of the task.

        Returns:
            Labels [M].
        """
        task = self.tasks[name]
        return task.labels[self.parts(task)[1]]

    def _lifted(self, module: nn.Module) -> nn.Module:
        """Raise the new outputs to the level of the least likely classes."""
        # `grown` sets them far below, where matching logits would hold them however much the new task asks for.
        level = self.subject.base_outputs.amin(1).mean()
        last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
        with torch.no_grad():
            last.bias[self.num_outputs :] = level
        return module

    def _drawn(self, inputs: Array, classes: NDArray[np.integer]) -> NDArray[np.generic]:
        """Draw stored inputs, as evenly from all classes as there are inputs."""
        random = np.random.default_rng(self.seed)
        order = random.permutation(len(inputs))
        # The k-th input of each class comes before the (k + 1)-th of any.
        ranks = np.zeros(len(order), np.int64)
        for one in np.unique(classes):
            own = np.flatnonzero(classes[order] == one)
            ranks[own] = np.arange(len(own))
        chosen = order[np.argsort(ranks, kind="stable")][: self.num_stored // len(self.tasks)]
        return inputs[chosen]

    def _told(self, inputs: Array, number: int) -> NDArray[np.generic]:
        if self.scenario != "task":
            return np.asarray(inputs)
        return for_task(torch.from_numpy(np.ascontiguousarray(inputs)), number).numpy()
