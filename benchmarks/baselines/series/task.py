"""Tasks that come one after another, and what all learners of them share: the order of things, their cost, and Adam."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor, nn

from benchmarks.baselines.optimizers import Adam
from benchmarks.baselines.training import check_positive
from fipray.errors import UsageError

BATCH_SIZE = 128
RATE = 1e-3
MOMENTUM = 0.9
"""Adam's, its beta 1."""

Batches = Iterator[tuple[Tensor, Tensor]]
"""One batch of a task's inputs and labels for each iteration."""

View = Callable[[Tensor], Tensor]
"""outputs [N, C] of a module -> those that the loss of a task uses [N, C']; what is masked is -inf"""


def identity(outputs: Tensor) -> Tensor:
    return outputs


@dataclass(frozen=True, eq=False)
class Task:
    """inputs: [N, ...]. labels: int64 [N], columns of what `seen_by` gives.

    heads: the outputs that `seen_by` lets through are the task's own, no other task's loss reaches them.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    seen_by: View = identity
    heads: bool = False

    def __post_init__(self) -> None:
        if not len(self.inputs) or self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise UsageError(
                f"task {self.name} has inputs of shape {tuple(self.inputs.shape)} and labels {self.labels.dtype} of "
                f"shape {tuple(self.labels.shape)}: give inputs [N, ...], N at least 1, and labels int64 [N]"
            )

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return nn.functional.cross_entropy(self.seen_by(module(inputs)), labels)

    def some(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`num` inputs and their labels, or all where there are fewer, drawn without replacement."""
        chosen = torch.randperm(len(self.inputs), generator=generator)[:num]
        return self.inputs[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class Learned:
    """A network in evaluation mode, and what learning cost.

    memory_bytes: of all that is kept from task to task beyond the network: examples, old weights, importances, bases.
    processor_seconds: of learning, without what `after` took.
    """

    module: nn.Module
    memory_bytes: int
    processor_seconds: float


class Learner(Protocol):
    """Learns tasks in sequence, and should not forget the earlier ones."""

    def learn(
        self,
        module: nn.Module,
        tasks: Sequence[Task],
        *,
        num_iterations: int,
        seed: int,
        after: Callable[[int, nn.Module], None],
        first: int = 0,
    ) -> Learned:
        """Learn tasks in sequence, from number `first` on, with a copy of the module; return what was learned.

        `num_iterations` batches per task; the module knows the tasks before `first` already, so they are only
        consolidated. `after` is
        called with every task's number and the network in evaluation mode.
        """


class Course(Protocol):
    """A learner at work on one network, from task to task."""

    def train(self, task: Task, batches: Batches) -> None: ...

    def consolidate(self, task: Task) -> None:
        """Take from the task what is kept of it, the network in evaluation mode."""

    def kept(self) -> Iterable[Tensor]:
        """All that is kept beyond the network."""


class InSequence(ABC):
    """A learner whose course is all there is to say of it."""

    @abstractmethod
    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        """Return the training state that changes `module` and draws from `generator`."""

    @final
    def learn(
        self,
        module: nn.Module,
        tasks: Sequence[Task],
        *,
        num_iterations: int,
        seed: int,
        after: Callable[[int, nn.Module], None],
        first: int = 0,
    ) -> Learned:
        """On one thread: the same sums in the same order on any number of cores, a processor second a core's second."""
        check_positive(num_iterations=num_iterations)
        if not 0 <= first <= len(tasks) or not tasks:
            raise UsageError(f"first is {first} and there are {len(tasks)} tasks: give tasks, and 0 to their number")
        threads, student, seconds = torch.get_num_threads(), copy.deepcopy(module), 0.0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            torch.set_num_threads(1)
            try:
                began = time.process_time()
                generator = torch.Generator().manual_seed(seed)
                course = self.begin(student, generator)
                for number, task in enumerate(tasks):
                    if number >= first:
                        course.train(task, _batches(task, num_iterations, generator))
                    student.eval()
                    course.consolidate(task)
                    seconds += time.process_time() - began
                    after(number, student)
                    began = time.process_time()
            finally:
                torch.set_num_threads(threads)
        memory_bytes = sum(kept.numel() * kept.element_size() for kept in course.kept())
        return Learned(student.eval(), memory_bytes, seconds)


@dataclass(frozen=True)
class Naive(InSequence):
    """One task after the other by Adam, and nothing against forgetting."""

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Naive(module)


@dataclass(frozen=True, eq=False)
class _Naive:
    module: nn.Module

    def train(self, task: Task, batches: Batches) -> None:
        def slopes(inputs: Tensor, labels: Tensor) -> list[Tensor]:
            return gradients(task.loss(self.module, inputs, labels), self.module)

        descend(self.module, batches, slopes)

    def consolidate(self, task: Task) -> None:
        pass

    def kept(self) -> Iterable[Tensor]:
        return ()


def descend(module: nn.Module, batches: Batches, slopes: Callable[[Tensor, Tensor], list[Tensor]]) -> None:
    """Take one step of a fresh Adam per batch along the gradients that `slopes` returns, in training mode."""
    module.train()
    optimizer = Adam((module,))
    for inputs, labels in batches:
        optimizer.step(slopes(inputs, labels), {"rate": RATE, "momentum": MOMENTUM})


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    """Of all parameters; zeros for those that the loss does not reach."""
    return list(torch.autograd.grad(loss, tuple(module.parameters()), materialize_grads=True))


def flat(parts: Iterable[Tensor]) -> Tensor:
    """[P], the parts one after the other."""
    return torch.cat([part.detach().reshape(-1) for part in parts])


def log_probabilities(seen: Tensor) -> Tensor:
    """[N, C'] of outputs [N, C] without those that are masked in all rows."""
    return seen[:, ~seen.isneginf().all(0)].log_softmax(1)


def _batches(task: Task, num: int, generator: torch.Generator) -> Batches:
    """`num` batches; an epoch goes through the data in a new order, and drops what is left over."""
    size = min(BATCH_SIZE, len(task.inputs))
    while True:
        order = torch.randperm(len(task.inputs), generator=generator)
        for chosen in order[: len(order) // size * size].split(size):
            if not num:
                return
            num -= 1
            yield task.inputs[chosen], task.labels[chosen]
