"""Supervised learning of a further task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import class_logits
from fipray.paths.batch import Batch
from fipray.paths.objective import Asked
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("learn_task")
@checked
@dataclass(frozen=True)
class LearnTask:
    """Loss on a task's labelled examples, while the function stays on the anchors, such as those of earlier tasks.

    `value = mean_n -log p_w(y_n | x_n)`, the cross-entropy on `batch_size` examples that every step draws anew.

    Cost: one gradient on `batch_size` examples. `FirstOrder` computes it together with the functional distance's.

    Needs: labelled examples (`Problem(tasks=...)`); classes.

    Source: Raghavan & Thomson 2022, section 5: the loss of the new task as the secondary objective.

    Args:
        task: name of the task among those of the problem; in a study, among those of its data.
        batch_size: number of examples per step, at least 1; a task with fewer gives all of them.
        smoothing: fraction of each label that is spread evenly over all classes, at least 0 and below 1.
        loss: "cross-entropy", or "squared" for `mean_n |f_w(x_n) - e_(y_n)|^2 / 2` between outputs and labels as unit
            vectors.
        own_classes: whether the loss is taken over the outputs of the task's own classes alone, as with a head of its
            own, so that outputs for other classes are not pushed down on its inputs (Caccia et al. 2022, arXiv
            2104.05025).

    Raises:
        UsageError: for a setting out of range.
    """

    task: str
    batch_size: int = 128
    smoothing: float = 0.0
    loss: Literal["cross-entropy", "squared"] = "cross-entropy"
    own_classes: bool = False

    def __post_init__(self) -> None:
        if not self.batch_size >= 1:
            raise UsageError(f"batch_size must be at least 1; {self.batch_size} was given")
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"smoothing must be a fraction, at least 0 and below 1; {self.smoothing} was given")

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.task,)

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        asked = self.asks(problem, weights, batch)
        return asked.value(problem.network(weights, asked.inputs))

    def asks(self, problem: Problem, weights: Tensor, batch: Batch) -> Asked:
        task = problem.task(self.task)
        # seeded by the batch: the value and the gradient of one step see the same examples
        drawn = task.draw(self.batch_size, batch.seed)
        return Asked(drawn.inputs, lambda outputs: self._loss(outputs, drawn.labels, task.classes))

    def _loss(self, outputs: Tensor, labels: Tensor, own: Tensor) -> Tensor:
        outputs = class_logits(outputs)
        if self.own_classes:
            # the classes are sorted, so a class's index among them is where it would be inserted
            outputs, labels = outputs[:, own], torch.searchsorted(own, labels)
        if self.loss == "cross-entropy":
            return functional.cross_entropy(outputs, labels, label_smoothing=self.smoothing)
        targets = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        targets = torch.lerp(targets, torch.full_like(targets, 1 / outputs.shape[1]), self.smoothing)
        return (outputs - targets).square().sum(1).mean() / 2
