"""Learners that keep examples of earlier tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.baselines.series.task import (
    BATCH_SIZE,
    Batches,
    Course,
    InSequence,
    Task,
    View,
    descend,
    flat,
    gradients,
)
from benchmarks.baselines.training import check_positive
from fipray.errors import UsageError
from fipray.paths import Shifted


@dataclass(frozen=True, eq=False)
class Stored:
    """Examples of one task; outputs: [N, C] of the module when they were stored, where a learner wants them."""

    seen_by: View
    inputs: Tensor
    labels: Tensor
    outputs: Tensor | None = None

    def __getitem__(self, chosen: Tensor) -> Stored:
        outputs = None if self.outputs is None else self.outputs[chosen]
        return Stored(self.seen_by, self.inputs[chosen], self.labels[chosen], outputs)

    def tensors(self) -> Iterable[Tensor]:
        return (self.inputs, self.labels) if self.outputs is None else (self.inputs, self.labels, self.outputs)


def balanced(task: Task, num_per_class: int, generator: torch.Generator) -> Stored:
    """As many examples of each class of the task, or all where there are fewer."""
    chosen = []
    for label in task.labels.unique():
        (numbers,) = torch.where(task.labels == label)
        chosen.append(numbers[torch.randperm(len(numbers), generator=generator)[:num_per_class]])
    return Stored(task.seen_by, task.inputs, task.labels)[torch.cat(chosen)]


def drawn(parts: Sequence[Stored], generator: torch.Generator, num: int = BATCH_SIZE) -> list[Stored]:
    """Draw a batch of `num` examples from all parts with replacement, in at most as many parts."""
    ends = torch.tensor([len(part.labels) for part in parts]).cumsum(0)
    numbers = torch.randint(int(ends[-1]), (num,), generator=generator)
    owners = torch.bucketize(numbers, ends, right=True)
    begins = ends - torch.tensor([len(part.labels) for part in parts])
    return [parts[owner][(numbers - begins[owner])[owners == owner]] for owner in owners.unique().tolist()]


def joined(parts: Sequence[Stored]) -> Tensor:
    return torch.cat([part.inputs for part in parts])


def cross_entropy(outputs: Tensor, parts: Sequence[Stored]) -> Tensor:
    """Of the module's outputs [N, C] on all the parts' inputs, each part's as its task sees them; the mean."""
    losses = [
        nn.functional.cross_entropy(part.seen_by(ours), part.labels, reduction="sum")
        for part, ours in zip(parts, outputs.split([len(part.labels) for part in parts]), strict=True)
    ]
    return torch.stack(losses).sum() / len(outputs)


def distance(outputs: Tensor, parts: Sequence[Stored]) -> Tensor:
    """Return the mean squared distance of outputs [N, C] to the stored outputs."""
    return nn.functional.mse_loss(outputs, torch.cat([part.outputs for part in parts if part.outputs is not None]))


@dataclass(frozen=True)
class Joint(InSequence):
    """Joint training on all tasks so far, the reference for the other methods.

    At each task the given network is trained from the start, in as many iterations as all these tasks have. Everything
    is
    stored.
    """

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Joint(module, generator, copy.deepcopy(module.state_dict()))


@dataclass(frozen=True, eq=False)
class _Joint:
    module: nn.Module
    generator: torch.Generator
    beginning: dict[str, Tensor]
    parts: list[Stored] = field(default_factory=list)

    def train(self, task: Task, batches: Batches) -> None:
        parts = [*self.parts, _whole(task)]

        def slopes(inputs: Tensor, labels: Tensor) -> list[Tensor]:
            batch = drawn(parts, self.generator)
            return gradients(cross_entropy(self.module(joined(batch)), batch), self.module)

        self.module.load_state_dict(self.beginning)
        descend(self.module, (batch for batch in batches for _ in parts), slopes)

    def consolidate(self, task: Task) -> None:
        self.parts.append(_whole(task))

    def kept(self) -> Iterable[Tensor]:
        yield from self.beginning.values()
        for part in self.parts:
            yield from part.tensors()


def _whole(task: Task) -> Stored:
    return Stored(task.seen_by, task.inputs, task.labels)


@dataclass(frozen=True)
class ExperienceReplay(InSequence):
    """Experience replay (Chaudhry et al. 2019, "On tiny episodic memories"; Ratcliff 1990).

    The cross-entropies of each batch and of a batch of stored examples are added.

    num_stored: of each class of each task, drawn at the end of the task.
    shifted: how stored images are varied whenever they are seen again, if they are.
    """

    num_stored: int = 100
    shifted: Shifted | None = None

    def __post_init__(self) -> None:
        check_positive(num_stored=self.num_stored)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Replay(module, generator, self.num_stored, self.shifted)


@dataclass(frozen=True, eq=False)
class _Rehearsing:
    """Keeps as many examples of each class."""

    module: nn.Module
    generator: torch.Generator
    num_stored: int
    shifted: Shifted | None = None
    parts: list[Stored] = field(default_factory=list)

    def seen_again(self, batch: Sequence[Stored]) -> Tensor:
        inputs = joined(batch)
        return self.shifted.of(inputs, self.generator) if self.shifted else inputs

    def consolidate(self, task: Task) -> None:
        self.parts.append(balanced(task, self.num_stored, self.generator))

    def kept(self) -> Iterable[Tensor]:
        for part in self.parts:
            yield from part.tensors()


class _Replay(_Rehearsing):
    def train(self, task: Task, batches: Batches) -> None:
        def slopes(inputs: Tensor, labels: Tensor) -> list[Tensor]:
            if not self.parts:
                return gradients(task.loss(self.module, inputs, labels), self.module)
            new, old = Stored(task.seen_by, inputs, labels), drawn(self.parts, self.generator)
            ours, theirs = self.module(torch.cat([inputs, self.seen_again(old)])).tensor_split([len(labels)])
            return gradients(cross_entropy(ours, [new]) + cross_entropy(theirs, old), self.module)

        descend(self.module, batches, slopes)


@dataclass(frozen=True)
class DarkExperience(InSequence):
    """Dark experience replay, DER++ (Buzzega et al. 2020, equation 6); with `beta` 0 DER (equation 4).

    `CE(new) + alpha |h(x) - z|^2 + beta CE(x', y')`: stored examples x with the outputs z they had, and others x' with
    labels y'.

    The square is a mean over all outputs of the module, as in the authors' code. num_stored: of each class of each
    task, drawn at the end of the task and with the outputs of then; the source draws from the stream.
    shifted: how stored images are varied whenever they are seen again, if they are; their outputs stay, as there.
    """

    alpha: float = 1.0
    beta: float = 0.5
    num_stored: int = 100
    shifted: Shifted | None = None

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, num_stored=self.num_stored)
        if not 0 <= self.beta < float("inf"):
            raise UsageError(f"beta is {self.beta}: give a finite number of at least 0, 0 for DER")

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Dark(module, generator, self.num_stored, self.shifted, learner=self)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Dark(_Rehearsing):
    learner: DarkExperience

    def train(self, task: Task, batches: Batches) -> None:
        descend(self.module, batches, lambda inputs, labels: gradients(self.loss(task, inputs, labels), self.module))

    def loss(self, task: Task, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = task.loss(self.module, inputs, labels)
        if self.parts:
            batch = drawn(self.parts, self.generator)
            loss = loss + self.learner.alpha * distance(self.module(self.seen_again(batch)), batch)
        if self.parts and self.learner.beta:
            batch = drawn(self.parts, self.generator)
            loss = loss + self.learner.beta * cross_entropy(self.module(self.seen_again(batch)), batch)
        return loss

    @torch.no_grad()
    def consolidate(self, task: Task) -> None:
        part = balanced(task, self.num_stored, self.generator)
        self.parts.append(Stored(part.seen_by, part.inputs, part.labels, self.module(part.inputs)))


@dataclass(frozen=True)
class AGem(InSequence):
    """Averaged gradient episodic memory (A-GEM; Chaudhry et al. 2019, equation 11), with Adam.

    If the gradient g of a batch points against the gradient g' of a batch of stored examples, it is replaced by
    `g - (g . g' / |g'|^2) g'`.

    num_stored: of each class of each task, drawn at the end of the task.
    """

    num_stored: int = 100

    def __post_init__(self) -> None:
        check_positive(num_stored=self.num_stored)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _AGem(module, generator, self.num_stored)


class _AGem(_Rehearsing):
    def train(self, task: Task, batches: Batches) -> None:
        def slopes(inputs: Tensor, labels: Tensor) -> list[Tensor]:
            slopes = gradients(task.loss(self.module, inputs, labels), self.module)
            if not self.parts:
                return slopes
            batch = drawn(self.parts, self.generator)
            return turned(slopes, gradients(cross_entropy(self.module(joined(batch)), batch), self.module))

        descend(self.module, batches, slopes)


def turned(slopes: list[Tensor], reference: list[Tensor]) -> list[Tensor]:
    """`slopes` less their part along `reference`, where that is negative."""
    ours, theirs = flat(slopes), flat(reference)
    against = float(ours @ theirs)
    if against >= 0:
        return slopes
    return torch._foreach_sub(slopes, torch._foreach_mul(reference, against / float(theirs @ theirs)))  # type: ignore[return-value]
