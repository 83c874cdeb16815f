"""Batches of inputs with the values at which kept quantities must stay on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fipray.errors import DataError, UsageError
from fipray.geometry.keeps import Kept
from fipray.geometry.stacked import stacked
from fipray.networks import Deferred, taken
from fipray.paths.augmentations import Augmentation, varied
from fipray.paths.perturbations import Perturbations, Recalled
from fipray.paths.start_outputs import StartOutputs

OUTPUTS = "outputs"  # name of the kept quantity where a problem names none


@dataclass(frozen=True)
class Part:
    """One kept quantity on inputs of its own.

    Args:
        name: name of the quantity.
        kept: the quantity.
        inputs: [N, ...].
        target: value [N, C] at which it must stay on them.
    """

    name: str
    kept: Kept
    inputs: Tensor
    target: Tensor

    def at(self, chosen: Tensor) -> Part:
        """Select inputs.

        Args:
            chosen: indices [M], on any device.

        Returns:
            The quantity on the chosen inputs.
        """
        indices = chosen if isinstance(self.inputs, Deferred) else chosen.to(self.inputs.device, non_blocking=True)
        return replace(self, inputs=taken(self.inputs, indices), target=taken(self.target, indices))

    def first(self, size: int) -> Part:
        """Select the first inputs.

        Args:
            size: number of inputs; more than there are means all.

        Returns:
            The quantity on them.
        """
        return replace(self, inputs=taken(self.inputs, slice(size)), target=self.target[:size])


@dataclass(frozen=True)
class Batch:
    """Inputs with the embedded outputs of the start on them, and further kept quantities.

    Args:
        inputs: [N, ...]; deferred ones are read when they are drawn.
        reference: embedded outputs [N, C] of the start; deferred ones are computed on what is drawn.
        seed: seed of this draw, for all other random numbers of a step that is made on the batch.
        chances: cumulative sums [N] of the weights of uncertainty sampling, float64 on the CPU; None without it.
        uncertainty_fraction: fraction of each draw, 0..1, that is sampled in proportion to these weights.
        keeps_outputs: whether the outputs on `inputs` must stay.
        parts: further kept quantities, each on inputs of its own.
        variations: changes that each draw makes to the inputs; the outputs on the unchanged ones are to stay.
        perturbations: last perturbations of all inputs, of which each draw recalls some; None without any.
        recalled: those of a draw.
    """

    inputs: Tensor
    reference: Tensor
    seed: int = 0
    chances: Tensor | None = None
    uncertainty_fraction: float = 0.0
    keeps_outputs: bool = True
    parts: tuple[Part, ...] = ()
    variations: tuple[Augmentation, ...] = ()
    perturbations: Perturbations | None = None
    recalled: Recalled | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def is_plain(self) -> bool:
        """True where the outputs on `inputs` are the only kept quantity."""
        return self.keeps_outputs and not self.parts

    @property
    def target(self) -> Tensor:
        """Values at which kept quantities must stay, in the rows of the problem's metric.

        `reference` [N, C] of a plain batch, otherwise one column with all quantities (`StackedMetric`).
        """
        if self.is_plain:
            return self.reference
        own = [self.reference] if self.keeps_outputs else []
        return stacked([*own, *(part.target for part in self.parts)], len(self))

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Draw inputs of each quantity at random, with replacement.

        Args:
            size: number of inputs; all are taken, once each, where there are no more.
            generator: generator on the CPU; the draw advances it.

        Returns:
            A batch with a seed of its own, without variations, perturbations of all and uncertainty sampling.
        """
        seed, chosen = self._choice(size, generator)
        drawn, reference = self._taken(chosen, seed)
        inputs = varied(drawn, self.variations, seed)
        kept = self.perturbations
        recalled = None if kept is None else kept.of(drawn, chosen, self.variations, seed)
        # Sets differ in size, so each quantity has indices of its own.
        parts = tuple(_drawn(part, size, generator) for part in self.parts)
        if isinstance(self.inputs, Deferred):
            # The next draw is known already, so that it can be read while the network computes.
            following = torch.Generator().set_state(generator.get_state())
            seed_after, after = self._choice(size, following)
            indices = torch.arange(len(self)) if isinstance(after, slice) else after
            self.inputs.expect(indices, self._seed_of_inputs(seed_after))
        return replace(
            self,
            inputs=inputs,
            reference=reference,
            seed=seed,
            chances=None,
            uncertainty_fraction=0.0,
            parts=parts,
            variations=(),
            perturbations=None,
            recalled=recalled,
        )

    def _choice(self, size: int, generator: torch.Generator) -> tuple[int, Tensor | slice]:
        """Seed and indices of a draw, which advances the generator."""
        # Drawn for every batch, so that the generator advances even where all inputs are taken.
        seed = int(torch.randint(2**62, (), generator=generator))
        if size >= len(self):
            return seed, slice(None)
        chosen = torch.randint(len(self), (size,), generator=generator)
        if self.chances is not None:
            # By inversion of the cumulative sums: torch.multinomial takes at most 2^24 categories.
            num_uncertain = round(self.uncertainty_fraction * size)
            marks = torch.rand(num_uncertain, generator=generator, dtype=torch.float64) * self.chances[-1]
            chosen[:num_uncertain] = torch.searchsorted(self.chances, marks).clamp(max=len(self) - 1)
        return seed, chosen

    def _taken(self, chosen: Tensor | slice, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Chosen inputs with the outputs of the start on them, as ordinary tensors."""
        # Moved once and only now: a generator on the CPU cannot draw on another device, and draws are the same on all.
        # Indices are all that crosses, and the host need not wait for them.
        if isinstance(chosen, Tensor) and not isinstance(self.inputs, Deferred):
            chosen = chosen.to(self.inputs.device, non_blocking=True)
        inputs = taken(self.inputs, chosen, self._seed_of_inputs(seed))
        if isinstance(self.reference, Deferred) and isinstance(outputs := self.reference.source, StartOutputs):
            return inputs, outputs.of(inputs)
        return inputs, taken(self.reference, chosen)

    def _seed_of_inputs(self, seed: int) -> int:
        # Inputs that are transformed anew have other outputs, so only where these are not kept.
        return seed if isinstance(self.reference, Deferred) else 0

    def uncertainty_sampled(self, fraction: float) -> Batch:
        """Switch on uncertainty sampling for later draws.

        Part of each draw is then sampled in proportion to `sqrt(1 - max_k p_k)`, with p the class probabilities of the
        start. Outputs on inputs where a classifier is certain hardly move for a while; those on uncertain inputs move
        first, so that steps should hold them. For Fisher-Rao references.

        Args:
            fraction: fraction of each draw that is sampled this way, 0..1; the rest is drawn uniformly.

        Returns:
            The same inputs with weights for sampling.

        Raises:
            UsageError: for a fraction out of range, and for outputs with more than one classification per input.
        """
        if not 0 <= fraction <= 1:
            raise UsageError(f"uncertainty_fraction is a fraction of each batch, 0..1; {fraction} was given")
        if isinstance(self.reference, Deferred):
            raise UsageError(
                "uncertainty sampling needs the outputs of the start on all anchors, which are not kept for "
                f"{len(self):,} anchors that are read by reference: set uncertainty_fraction to 0, or take fewer "
                "anchors, Data.of(..., limit=...), without augments=True"
            )
        # Fisher-Rao coordinates are 2 sqrt(p).
        # In float64 for the cumulative sums: in float32 a single chance vanishes beside the sum over many inputs.
        chances = (self.reference.double() / 2).square()
        if len(chances) and float(chances.sum(1).amax()) > 1.5:
            raise UsageError(
                "uncertainty sampling needs one classification per input; outputs here are maps with one for each "
                "place: set uncertainty_fraction to 0"
            )
        # A floor, so that inputs of probability 1 within rounding keep a chance.
        uncertainty = (1 - chances.amax(1)).clamp(min=1e-6).sqrt()
        return replace(self, chances=uncertainty.cumsum(0).cpu(), uncertainty_fraction=fraction)

    def check(self, what: str) -> None:
        """Check that all kept quantities are finite at the start.

        Args:
            what: description of the inputs for the message, such as "anchors".

        Raises:
            DataError: where one is NaN or infinite.
        """
        # Those that are computed for each draw are judged with the step.
        is_kept = not isinstance(self.reference, Deferred)
        broken = torch.where(~torch.isfinite(self.reference).flatten(1).all(1))[0].tolist() if is_kept else []
        if broken:
            raise DataError(
                f"the network's outputs are not finite on {len(broken)} of {len(self)} {what}, the first at index "
                f"{broken[0]}: remove these inputs, or repair the network's weights"
            )
        for part in self.parts:
            broken = torch.where(~torch.isfinite(part.target).all(1))[0].tolist()
            if broken:
                raise DataError(
                    f"the kept quantity {part.name!r} is not finite on {len(broken)} of its {len(part.inputs)} {what}, "
                    f"the first at index {broken[0]}: remove these inputs"
                )

    def first(self, size: int) -> Batch:
        """Select the first inputs of each quantity.

        Args:
            size: number of inputs; more than there are means all.

        Returns:
            A batch of them, without uncertainty sampling.
        """
        # Built anew rather than replaced: `chances` are sums over all inputs and do not fit fewer.
        inputs, reference = self._taken(slice(size))
        return Batch(
            inputs,
            reference,
            self.seed,
            keeps_outputs=self.keeps_outputs,
            parts=tuple(part.first(size) for part in self.parts),
        )

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers with the seed of this batch.

        Args:
            shape: shape of the result.

        Returns:
            A tensor with the dtype and device of `reference`, the same at every call. A seed has other numbers on a GPU
            than on the CPU.
        """
        # Drawn where they are used: noise is as large as the inputs, and a vector [P] as the network.
        device = self.reference.device
        generator = torch.Generator(device).manual_seed(self.seed)
        return torch.randn(*shape, generator=generator, dtype=self.reference.dtype, device=device)

    @property
    def labels(self) -> Tensor:
        """Classes [N] predicted by the start."""
        # Embeddings of class probabilities are monotone: the largest coordinate is the most probable class.
        return self.reference.argmax(1)


def _drawn(part: Part, size: int, generator: torch.Generator) -> Part:
    if size >= len(part.inputs):
        return part.first(size)
    return part.at(torch.randint(len(part.inputs), (size,), generator=generator))
