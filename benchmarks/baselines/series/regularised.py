"""Learners that hold weights, or outputs, where earlier tasks had them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.baselines.optimizers import Adam
from benchmarks.baselines.series.task import (
    MOMENTUM,
    RATE,
    Batches,
    Course,
    InSequence,
    Task,
    View,
    descend,
    gradients,
    log_probabilities,
)
from benchmarks.baselines.training import check_positive


@dataclass(eq=False)
class Anchor:
    """The penalty `1/2 sum_i F_i (w_i - a_i)^2` of a module's weights: what is important, and where it was.

    importance, weights: F and a, as parameters; they are none until a task is consolidated.
    """

    importance: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def move(self, module: nn.Module, importance: list[Tensor]) -> None:
        """To the module's weights; the importance is added to what there was."""
        self.importance = torch._foreach_add(self.importance, importance) if self.importance else importance  # type: ignore[assignment]
        self.weights = [weights.detach().clone() for weights in module.parameters()]

    @torch.no_grad()
    def pull(self, module: nn.Module, slopes: list[Tensor], strength: float) -> list[Tensor]:
        """`slopes + strength F (w - a)`, added in place."""
        if self.weights:
            away = torch._foreach_sub(list(module.parameters()), self.weights)
            torch._foreach_mul_(away, self.importance)
            torch._foreach_add_(slopes, away, alpha=strength)
        return slopes

    def tensors(self) -> Iterable[Tensor]:
        return (*self.importance, *self.weights)


@dataclass(frozen=True)
class EWC(InSequence):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, equation 3; online as in Huszar 2018, without decay).

    `CE + strength / 2 sum_i F_i (w_i - a_i)^2`, where F is the sum of the diagonals of the earlier tasks' Fisher
    matrices and a the
    weights after the last of them.

    num_examples: of each task, for its Fisher matrix; labels are the model's own, all of them.
    """

    strength: float = 1e5
    num_examples: int = 256

    def __post_init__(self) -> None:
        check_positive(strength=self.strength, num_examples=self.num_examples)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Elastic(module, generator, self)


@dataclass(frozen=True, eq=False)
class _Elastic:
    module: nn.Module
    generator: torch.Generator
    learner: EWC
    anchor: Anchor = field(default_factory=Anchor)

    def train(self, task: Task, batches: Batches) -> None:
        def slopes(inputs: Tensor, labels: Tensor) -> list[Tensor]:
            of_task = gradients(task.loss(self.module, inputs, labels), self.module)
            return self.anchor.pull(self.module, of_task, self.learner.strength)

        descend(self.module, batches, slopes)

    def consolidate(self, task: Task) -> None:
        inputs, _ = task.some(self.learner.num_examples, self.generator)
        self.anchor.move(self.module, fisher_diagonal(self.module, task.seen_by, inputs))

    def kept(self) -> Iterable[Tensor]:
        return self.anchor.tensors()


def fisher_diagonal(module: nn.Module, seen_by: View, inputs: Tensor) -> list[Tensor]:
    """`mean_n sum_y p(y | x_n) (d log p(y | x_n) / dw)^2`, as parameters; a backward pass per example and class."""
    parameters = tuple(module.parameters())
    total = [torch.zeros_like(weights) for weights in parameters]
    for one in inputs.split(1):
        logs = log_probabilities(seen_by(module(one))).squeeze(0)
        for log in logs:
            slopes = torch.autograd.grad(log, parameters, retain_graph=True, materialize_grads=True)
            torch._foreach_addcmul_(total, slopes, slopes, value=float(log.detach().exp()) / len(inputs))
    return total


@dataclass(frozen=True)
class SI(InSequence):
    """Synaptic intelligence (Zenke, Poole & Ganguli 2017, equations 3 to 5).

    `CE + strength sum_i W_i (w_i - a_i)^2`, `W_i = sum over tasks of omega_i / (D_i^2 + damping)`, `omega_i = - sum
    over steps g_i dw_i`,
    where D_i is the weight's displacement in the task and g the gradient of the task's loss; negative omega count as 0.

    Of tasks that the network knew before, the way is not known: it is taken to be the straight line from zero.
    """

    strength: float = 10.0
    damping: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(strength=self.strength, damping=self.damping)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Intelligent(module, generator, self)


@dataclass(eq=False)
class _Intelligent:
    module: nn.Module
    generator: torch.Generator
    learner: SI
    anchor: Anchor = field(default_factory=Anchor)
    importance: list[Tensor] | None = None
    """Of the task that was just trained."""

    def train(self, task: Task, batches: Batches) -> None:
        self.module.train()
        weights: list[Tensor] = list(self.module.parameters())
        optimizer, start = Adam((self.module,)), [one.detach().clone() for one in weights]
        credit = [torch.zeros_like(one) for one in weights]
        for inputs, labels in batches:
            slopes = gradients(task.loss(self.module, inputs, labels), self.module)
            alone, before = [one.clone() for one in slopes], [one.detach().clone() for one in weights]
            slopes = self.anchor.pull(self.module, slopes, 2 * self.learner.strength)
            optimizer.step(slopes, {"rate": RATE, "momentum": MOMENTUM})
            with torch.no_grad():
                torch._foreach_addcmul_(credit, alone, torch._foreach_sub(before, weights))
        with torch.no_grad():
            self.importance = _per_way(credit, list(torch._foreach_sub(weights, start)), self.learner.damping)

    def consolidate(self, task: Task) -> None:
        if self.importance is None:
            credit = line_integral(self.module, task, self.generator)
            ways = [one.detach() for one in self.module.parameters()]
            self.importance = _per_way(credit, ways, self.learner.damping)
        self.anchor.move(self.module, self.importance)
        self.importance = None

    def kept(self) -> Iterable[Tensor]:
        return self.anchor.tensors()


def _per_way(credit: list[Tensor], ways: list[Tensor], damping: float) -> list[Tensor]:
    return [one.clamp(min=0) / (way.square() + damping) for one, way in zip(credit, ways, strict=True)]


def line_integral(
    module: nn.Module, task: Task, generator: torch.Generator, num_points: int = 16, num_examples: int = 256
) -> list[Tensor]:
    """How much each weight lowers the loss on the straight line from zero to where it is, by the midpoint rule."""
    inputs, labels = task.some(num_examples, generator)
    scaled = copy.deepcopy(module)
    total = [torch.zeros_like(one) for one in module.parameters()]
    for number in range(num_points):
        with torch.no_grad():
            for one, weights in zip(scaled.parameters(), module.parameters(), strict=True):
                one.copy_(weights * ((number + 0.5) / num_points))
        slopes = gradients(task.loss(scaled, inputs, labels), scaled)
        with torch.no_grad():
            torch._foreach_addcmul_(total, slopes, list(module.parameters()), value=-1 / num_points)
    return total


@dataclass(frozen=True)
class LwF(InSequence):
    """Learning without forgetting (Li & Hoiem 2016, equation 2, with the factor T^2 of Hinton et al. 2015).

    `CE + strength T^2 KL(p_old || p)` on the new task's inputs, `p = softmax(outputs / T)`; p_old is over the classes
    of each earlier
    task where tasks have heads, else over all of them.
    """

    strength: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_positive(strength=self.strength, temperature=self.temperature)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Distilling(module, self)


@dataclass(eq=False)
class _Distilling:
    module: nn.Module
    learner: LwF
    old: nn.Module | None = None
    heads: list[tuple[View, Tensor]] = field(default_factory=list)
    """Views of earlier tasks, and the classes they know."""
    shared: tuple[View, Tensor] | None = None
    """What tasks without heads see together."""

    def train(self, task: Task, batches: Batches) -> None:
        def slopes(inputs: Tensor, labels: Tensor) -> list[Tensor]:
            outputs = self.module(inputs)
            loss = nn.functional.cross_entropy(task.seen_by(outputs), labels)
            if self.old is not None:
                loss = loss + self.learner.strength * self.divergence(outputs, self.old(inputs))
            return gradients(loss, self.module)

        descend(self.module, batches, slopes)

    def divergence(self, outputs: Tensor, old: Tensor) -> Tensor:
        terms = [
            divergence(seen_by(outputs)[:, classes], seen_by(old)[:, classes], self.learner.temperature)
            for seen_by, classes in self._views()
        ]
        return torch.stack(terms).sum()

    def consolidate(self, task: Task) -> None:
        self.old = copy.deepcopy(self.module).requires_grad_(False)
        classes = task.labels.unique()
        if task.heads:
            self.heads.append((task.seen_by, classes))
        else:
            before = [] if self.shared is None else [self.shared[1]]
            self.shared = task.seen_by, torch.cat([*before, classes]).unique()

    def kept(self) -> Iterable[Tensor]:
        yield from (classes for _, classes in self._views())
        if self.old is not None:
            yield from self.old.state_dict().values()

    def _views(self) -> list[tuple[View, Tensor]]:
        return self.heads if self.shared is None else [*self.heads, self.shared]


def divergence(outputs: Tensor, old: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(old / T) || softmax(outputs / T))`, the mean over examples [N, C]."""
    ours, theirs = ((one / temperature).log_softmax(1) for one in (outputs, old))
    return nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
