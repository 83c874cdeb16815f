"""Inputs with the values at which kept quantities must stay on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fipray.errors import DataError, UsageError
from fipray.geometry.keeps import Kept
from fipray.geometry.stacked import stacked

OUTPUTS = "outputs"  # the name of the quantity that is kept where nothing else is said


@dataclass(frozen=True)
class Part:
    """One kept quantity on a batch: its name, `inputs` [N, ...], and the value [N, C] at which it must stay there."""

    name: str
    kept: Kept
    inputs: Tensor
    target: Tensor

    def at(self, chosen: Tensor) -> Part:
        there = chosen.to(self.inputs.device)
        return replace(self, inputs=self.inputs[there], target=self.target[there])

    def first(self, size: int) -> Part:
        return replace(self, inputs=self.inputs[:size], target=self.target[:size])


@dataclass(frozen=True)
class Batch:
    """`inputs` [N, ...], and `reference` [N, C]: the start's embedded outputs on them.

    keeps_outputs: whether a path must keep these outputs; parts: what else it must keep, on inputs of their own.
    seed: belongs to this draw; what else is random at the step that is made on this batch begins there. chances: [N],
    summed up, and focus: the fraction of a draw that is taken in proportion to the chances (see `focused`).
    """

    inputs: Tensor
    reference: Tensor
    seed: int = 0
    chances: Tensor | None = None
    uncertainty_fraction: float = 0.0
    keeps_outputs: bool = True
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def is_plain(self) -> bool:
        """Whether the outputs on `inputs` are all that must stay."""
        return self.keeps_outputs and not self.parts

    @property
    def target(self) -> Tensor:
        """The value at which what is kept must stay, in the rows of the problem's metric: `reference` [N, C] of a plain
        batch, else one column of all kept quantities (`StackedMetric`).
        """
        if self.is_plain:
            return self.reference
        own = [self.reference] if self.keeps_outputs else []
        return stacked([*own, *(part.target for part in self.parts)], len(self))

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """`size` of the inputs of each quantity, with replacement; all of them where there are no more."""
        seed = int(torch.randint(2**62, (), generator=generator))
        if size >= len(self):
            drawn = replace(self, seed=seed, chances=None, uncertainty_fraction=0.0)
        else:
            chosen = torch.randint(len(self), (size,), generator=generator)
            if self.chances is not None:
                few = round(self.uncertainty_fraction * size)
                marks = torch.rand(few, generator=generator, dtype=torch.float64) * self.chances[-1]
                chosen[:few] = torch.searchsorted(self.chances, marks).clamp(max=len(self) - 1)
            chosen = chosen.to(self.inputs.device)
            drawn = replace(
                self,
                inputs=self.inputs[chosen],
                reference=self.reference[chosen],
                seed=seed,
                chances=None,
                uncertainty_fraction=0.0,
            )
        return replace(drawn, parts=tuple(_drawn(part, size, generator) for part in self.parts))

    def uncertainty_sampled(self, fraction: float) -> Batch:
        """These inputs, of which a draw takes a fraction `share`, 0..1, by the start's doubt, the root of `1 - max_k
        p_k`.

        On inputs where a classifier is sure nothing is lost for a while; the doubtful ones are those whose outputs move
        first, and on which staying has to be learned. For Fisher-Rao references.
        """
        if not 0 <= fraction <= 1:
            raise UsageError(f"focus is a share of each batch, 0..1; {fraction} was given")
        chances = (self.reference.double() / 2).square()
        if len(chances) and float(chances.sum(1).amax()) > 1.5:
            raise UsageError("focus is for one classification an input; outputs here are maps, with one for each place")
        doubt = (1 - chances.amax(1)).clamp(min=1e-6).sqrt()
        return replace(self, chances=doubt.cumsum(0).cpu(), uncertainty_fraction=fraction)

    def check(self, what: str) -> None:
        """Raise DataError where a quantity is not finite at the start; `what` the inputs are."""
        (broken,) = torch.where(~torch.isfinite(self.reference).flatten(1).all(1))
        if len(broken):
            raise DataError(
                f"the network's outputs are not finite on {len(broken)} of {len(self)} {what}, the first at index "
                f"{int(broken[0])}: remove these inputs, or mend the network's weights"
            )
        for part in self.parts:
            (broken,) = torch.where(~torch.isfinite(part.target).all(1))
            if len(broken):
                raise DataError(
                    f"the kept quantity {part.name!r} is not finite on {len(broken)} of its {len(part.inputs)} {what}, "
                    f"the first at index {int(broken[0])}: remove these inputs"
                )

    def first(self, size: int) -> Batch:
        """The first `size` of the inputs of each quantity."""
        return Batch(
            self.inputs[:size],
            self.reference[:size],
            self.seed,
            keeps_outputs=self.keeps_outputs,
            parts=tuple(part.first(size) for part in self.parts),
        )

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of this draw, like `reference` in dtype and device; the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(*shape, generator=generator, dtype=self.reference.dtype).to(self.reference.device)

    @property
    def labels(self) -> Tensor:
        """The classes [N] that the start predicts."""
        return self.reference.argmax(1)


def _drawn(part: Part, size: int, generator: torch.Generator) -> Part:
    if size >= len(part.inputs):
        return part
    return part.at(torch.randint(len(part.inputs), (size,), generator=generator))
