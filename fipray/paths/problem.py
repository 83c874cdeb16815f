"""What stays the same along a path: the network, its start, the others it is compared with, the anchor inputs, and the
tasks that it may learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fipray.border import checked, described
from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import KroneckerMetric, Network, OutputGeometry, num_classes
from fipray.geometry.arrays import Inputs


@checked
@dataclass(frozen=True)
class Examples:
    """What a task is learned from: `inputs` [N, ...] and their classes, `labels` [N]."""

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1] or not len(self.inputs):
            raise DataError(
                f"examples are one or more inputs [N, ...] with int64 labels [N]; {tuple(self.inputs.shape)} and "
                f"{self.labels.dtype} {tuple(self.labels.shape)} were given"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def check(self, network: Network) -> None:
        """Raise DataError for inputs that the network does not take, and for classes that it does not have."""
        network.check(self.inputs)
        least, greatest = int(self.labels.min()), int(self.labels.max())
        num_outputs = num_classes(network.outputs(network.weights, self.inputs[:1]))
        if least < 0 or greatest >= num_outputs:
            raise DataError(
                f"the network has {num_outputs} classes, 0..{num_outputs - 1}; labels hold {least}..{greatest}"
            )

    @cached_property
    def classes(self) -> Tensor:
        """Those that there are, in order."""
        return self.labels.unique()

    def draw(self, size: int, seed: int) -> Examples:
        """`size` of them, with replacement; all of them where there are no more."""
        if size >= len(self):
            return self
        chosen = torch.randint(len(self), (size,), generator=torch.Generator().manual_seed(seed))
        chosen = chosen.to(self.inputs.device)
        return Examples(self.inputs[chosen], self.labels[chosen])


@checked
@dataclass(frozen=True)
class Problem:
    """`start` [P]: the weights where the path begins; `others`: weights [P] of further networks of the same
    architecture; `tasks`: what they are learned from, by name; `memory`: metrics on inputs that are gone."""

    network: Network
    geometry: OutputGeometry
    start: Tensor
    others: tuple[Tensor, ...] = ()
    tasks: Mapping[str, Examples] = field(default_factory=dict)
    memory: tuple[KroneckerMetric, ...] = ()

    def __post_init__(self) -> None:
        for weights in (self.start, *self.others):
            self.network.named(weights)  # refuses weights of another network
        for metric in self.memory:
            if metric.num_weights != self.network.num_weights:
                raise UsageError(
                    f"memory holds a metric of {metric.num_weights} weights, and {self.network.num_weights} move here: "
                    "give what was remembered of this network"
                )

    @cached_property
    def length(self) -> float:
        """`|w0|`, of the start's weights that may change."""
        mask = self.network.mask
        return float(torch.linalg.vector_norm(self.start if mask is None else self.start * mask))

    def check(self) -> None:
        """Raise NetworkError where weights of the start are not finite, UsageError where those of another are not."""
        for number, weights in enumerate((self.start, *self.others)):
            if broken := int((~torch.isfinite(weights)).sum()):
                said = f"{broken} of {len(weights)} weights are NaN or infinite"
                if number == 0:
                    raise NetworkError(f"{said} in the network: train or load it again")
                raise UsageError(f"{said} in network {number} of the others: leave it out")

    def task(self, name: str) -> Examples:
        """Raises UsageError for a name that no task has."""
        if name not in self.tasks:
            there = ", ".join(map(repr, self.tasks)) or "none"
            raise UsageError(f"there is no task {name!r} to learn; there are: {there}")
        return self.tasks[name]


@dataclass(frozen=True)
class Batch:
    """`inputs` [N, ...], and `reference` [N, C]: the start's embedded outputs on them, which a path must keep.

    `seed` belongs to this draw: what else is random at the step that is made on this batch begins there. `chances` [N]
    summed up, and `focus`: a share of a draw is taken in proportion to the chances, the rest evenly (see `focused`).
    """

    inputs: Tensor
    reference: Tensor
    seed: int = 0
    chances: Tensor | None = None
    focus: float = 0.0

    @classmethod
    @checked
    def of(cls, problem: Problem, inputs: Inputs) -> Batch:
        reference: Any = problem.geometry.embed(problem.network.outputs(problem.start, inputs))
        if not isinstance(reference, Tensor) or reference.ndim != 2 or len(reference) != len(inputs):
            raise UsageError(
                f"{type(problem.geometry).__name__}.embed() returned {described(reference)} for {len(inputs)} outputs; "
                "expected a tensor [N, C'], a row for each"
            )
        return cls(inputs, reference)

    def __len__(self) -> int:
        return len(self.inputs)

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """`size` of the inputs, with replacement; all of them where there are no more."""
        seed = int(torch.randint(2**62, (), generator=generator))
        if size >= len(self):
            return Batch(self.inputs, self.reference, seed)
        chosen = torch.randint(len(self), (size,), generator=generator)
        if self.chances is not None:
            few = round(self.focus * size)
            marks = torch.rand(few, generator=generator, dtype=torch.float64) * self.chances[-1]
            chosen[:few] = torch.searchsorted(self.chances, marks).clamp(max=len(self) - 1)
        chosen = chosen.to(self.inputs.device)
        return Batch(self.inputs[chosen], self.reference[chosen], seed)

    def focused(self, share: float) -> Batch:
        """These inputs, of which a draw takes a `share`, 0..1, by the start's doubt, the root of `1 - max_k p_k`.

        On inputs where a classifier is sure nothing is lost for a while; the doubtful ones are those whose outputs move
        first, and on which staying has to be learned. For Fisher-Rao references.
        """
        if not 0 <= share <= 1:
            raise UsageError(f"focus is a share of each batch, 0..1; {share} was given")
        chances = (self.reference.double() / 2).square()
        if len(chances) and float(chances.sum(1).amax()) > 1.5:
            raise UsageError("focus is for one classification an input; outputs here are maps, with one for each place")
        doubt = (1 - chances.amax(1)).clamp(min=1e-6).sqrt()
        return Batch(self.inputs, self.reference, self.seed, doubt.cumsum(0).cpu(), share)

    def check(self, what: str) -> None:
        """Raise DataError where the start's outputs on an input are not finite; `what` the inputs are."""
        (broken,) = torch.where(~torch.isfinite(self.reference).flatten(1).all(1))
        if len(broken):
            raise DataError(
                f"the network's outputs are not finite on {len(broken)} of {len(self)} {what}, the first at index "
                f"{int(broken[0])}: remove these inputs, or mend the network's weights"
            )

    def first(self, size: int) -> Batch:
        return Batch(self.inputs[:size], self.reference[:size], self.seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of this draw, like `reference` in dtype and device; the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(*shape, generator=generator, dtype=self.reference.dtype).to(self.reference.device)

    @property
    def labels(self) -> Tensor:
        """The classes [N] that the start predicts."""
        return self.reference.argmax(1)
