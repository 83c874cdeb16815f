"""The parameters of a module as one flat vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from fipray.border import described
from fipray.errors import NetworkError

_LEAST = 16  # rows and columns of a matrix


@dataclass(frozen=True)
class Slot:
    """Position of one parameter in the flat weight vector.

    Args:
        name: the parameter's name in the module.
        shape: the parameter's shape.
        start: index of its first weight in the vector [P].
    """

    name: str
    shape: torch.Size
    start: int

    @property
    def stop(self) -> int:
        """Index after its last weight."""
        return self.start + self.shape.numel()


class FlatWeights:
    """Parameters of a module, or some of them, as one flat vector; a base of `Network`.

    Attributes:
        weights: the module's own weights [P]; float32, or float64 where a parameter is.
        num_weights: P.
        slots: position of each parameter in the vector, in order.
        moving: the slots whose weights may change.
        mask: 1 for weights that may change and 0 for others [P]; None where all may change.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Take over a module.

        Args:
            module: the module, not copied: its parameters stop requiring gradients.
            names: names of the parameters in the vector, in order.
        """
        parameters = dict(module.named_parameters())
        self._module = module
        for parameter in parameters.values():
            parameter.requires_grad_(False)  # gradients are only ever taken with respect to the flat vector
        slots, start = [], 0
        for name in names:
            slots.append(Slot(name, parameters[name].shape, start))
            start = slots[-1].stop
        self.slots = tuple(slots)
        self.moving = self.slots
        self.mask: Tensor | None = None
        self.num_weights = start
        self._sizes = [slot.shape.numel() for slot in slots]
        dtype = torch.float64 if any(parameters[name].dtype == torch.float64 for name in names) else torch.float32
        self.weights = torch.cat([parameters[name].detach().reshape(-1).to(dtype) for name in names])
        self._dtypes = {name: parameters[name].dtype for name in names if parameters[name].dtype != dtype}
        self._hold_once()

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __getstate__(self) -> dict[str, Any]:
        # With memory of their own again: pickle would write the whole vector for each parameter that is a view of it.
        parameters = dict(self._module.named_parameters())
        for parameter in (parameters[slot.name] for slot in self.slots):
            if parameter.untyped_storage().nbytes() > parameter.nbytes:
                parameter.data = parameter.data.clone()
        return dict(vars(self))

    def _hold_once(self) -> None:
        """Make the module's parameters views of the vector, so that the weights are in memory once."""
        parameters = dict(self._module.named_parameters())
        for name, view in self.named(self.weights).items():
            parameter = parameters[name]
            if type(parameter) is nn.Parameter and parameter.dtype == view.dtype and parameter.is_contiguous():
                parameter.data = view

    @property
    def is_mixed(self) -> bool:
        """True where some parameters have another dtype than the vector."""
        return bool(self._dtypes)

    @property
    def num_moving(self) -> int:
        """Number of weights that may change, at most P."""
        return sum(slot.shape.numel() for slot in self.moving)

    def dtype_of(self, name: str) -> torch.dtype:
        """Dtype of a parameter in the module.

        Args:
            name: the parameter's name.

        Returns:
            Its own dtype, which may be lower than the vector's.
        """
        return self._dtypes.get(name, self.weights.dtype)

    def moved(self, weights: Tensor, displacement: Tensor) -> Tensor:
        """Add a displacement to the weights that may change.

        Args:
            weights: [P].
            displacement: [P].

        Returns:
            `weights + displacement` [P]; bit for bit `weights` where they may not change.
        """
        return self.held(weights + displacement, weights)

    def held(self, weights: Tensor, before: Tensor) -> Tensor:
        """Restore the weights that may not change.

        Args:
            weights: new weights [P].
            before: weights [P] to restore from.

        Returns:
            `weights` [P] where they may change, `before` elsewhere.
        """
        # torch.where copies bits; multiplying by the mask would make NaN of an infinite displacement.
        return weights if self.mask is None else torch.where(self.mask != 0, weights, before)

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """Split a weight vector into parameters.

        Args:
            weights: [P].

        Returns:
            Views of `weights` in the shapes of the parameters, by name.

        Raises:
            NetworkError: if `weights` is no tensor of shape [P].
        """
        given: object = weights
        if not isinstance(given, Tensor) or weights.shape != (self.num_weights,):
            raise NetworkError(f"this network has {self.num_weights} weights; {described(weights)} was given")
        # Views and no copies: `Recording` (fipray.geometry) finds a layer's weights by their offset in the vector.
        parts = weights.split(self._sizes)
        return {slot.name: part.view(slot.shape) for slot, part in zip(self.slots, parts, strict=True)}

    def aliases(self) -> list[tuple[str, str]]:
        """All names of the parameters in the vector, each with the name of its slot.

        Returns:
            Pairs (name, slot's name); a parameter that layers share has one pair for each of its names.
        """
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        inside = {slot.name for slot in self.slots}
        pairs = [(name, names[id(p)]) for name, p in self._module.named_parameters(remove_duplicate=False)]
        return [(name, own) for name, own in pairs if own in inside]

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Submodules of the network by name, its module itself among them.

        Their parameters hold the weights at which the network was made, not those of a point on a path.
        """
        return self._module.named_modules()

    @cached_property
    def matrices(self) -> tuple[Slot, ...]:
        """Slots of weights that multiply as a matrix: the first dimension its rows, all others its columns.

        Those of linear layers, convolutions and attention, and no others: neither embeddings, whose rows are looked up,
        nor grouped convolutions, which multiply by several small matrices. Matrices with fewer than 16 rows or columns,
        such as the head of a classifier of ten classes, are left out, too.
        """
        others = {
            id(part.weight)
            for _, part in self.parts()
            if isinstance(part, nn.Embedding | nn.EmbeddingBag) or getattr(part, "groups", 1) != 1
        }
        parameters = dict(self._module.named_parameters())
        return tuple(
            slot
            for slot in self.slots
            if len(slot.shape) > 1
            and min(slot.shape[0], slot.shape[1:].numel()) >= _LEAST
            and id(parameters[slot.name]) not in others
        )

    def outside(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that are not in the vector.

        Returns:
            Pairs (name, parameter), each parameter once.
        """
        inside = {slot.name for slot in self.slots}
        return [(name, parameter) for name, parameter in self._module.named_parameters() if name not in inside]
