"""Several inputs of a module as one tensor: a layout, and a module that unpacks it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import checked, described
from fipray.errors import DataError

_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*_INTEGERS, *_FLOATS)}
_LARGEST = {torch.float32: 2**24, torch.float64: 2**53}  # of integers, up to which all are exact in a float


@dataclass(frozen=True)
class Part:
    """One of several inputs within a packed row.

    Args:
        name: keyword of the module's forward.
        shape: shape of one example.
        dtype: dtype that the module takes, such as "int64".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Numbers of one example."""
        return math.prod(self.shape)

    @property
    def is_floating_point(self) -> bool:
        """True for real numbers, false for integers such as token IDs, and for booleans."""
        return _DTYPES[self.dtype].is_floating_point


@checked
@dataclass(frozen=True)
class Layout:
    """Positions of several inputs, such as token IDs and their attention mask, in one row of numbers.

    Inputs that are all integers or booleans are packed as int64. If some are floats, all are packed as float32 (float64
    where one is), in which integers are exact up to 2^24 (2^53).

    Args:
        parts: the inputs in the order of their numbers in a row.
        by_keyword: whether the module takes them by keyword; otherwise by position.

    Raises:
        DataError: for no parts, a name that occurs twice, and a dtype that cannot be packed.
    """

    parts: tuple[Part, ...]
    by_keyword: bool = True

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise DataError(f"a layout needs one or more inputs of different names; given: {names}")
        for part in self.parts:
            if part.dtype not in _DTYPES:
                raise DataError(
                    f"input {part.name!r} has dtype {part.dtype}, which cannot be packed; possible are "
                    f"{', '.join(_DTYPES)}"
                )

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor] | Sequence[Tensor]) -> Layout:
        """Derive the layout of inputs.

        Args:
            inputs: tensors [N, ...] by keyword, or in the order in which the module takes them.

        Returns:
            Their layout.

        Raises:
            DataError: for inputs that are not tensors [N, ...] of a dtype that can be packed.
        """
        by_keyword = isinstance(inputs, Mapping)
        named = inputs if isinstance(inputs, Mapping) else {str(place): one for place, one in enumerate(inputs)}
        tensor: Any
        for name, tensor in named.items():
            if not isinstance(tensor, Tensor) or tensor.ndim == 0:
                raise DataError(f"input {name!r} must be a tensor [N, ...]; {described(tensor)} was given")
        parts = tuple(
            Part(str(name), tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in named.items()
        )
        return cls(parts, by_keyword)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of packed inputs: int64, float32 or float64."""
        if not any(part.is_floating_point for part in self.parts):
            return torch.int64
        return torch.float64 if any(part.dtype == "float64" for part in self.parts) else torch.float32

    @property
    def size(self) -> int:
        """Numbers of one packed example, D."""
        return sum(part.size for part in self.parts)

    @property
    def integers(self) -> tuple[str, ...]:
        """Names of the inputs that are integers or booleans, which no attack can perturb."""
        return tuple(part.name for part in self.parts if not part.is_floating_point)

    def pack(self, inputs: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Pack inputs.

        Args:
            inputs: tensors [N, ...] by keyword or in order, as in `Layout.of`.

        Returns:
            Packed inputs [N, D].

        Raises:
            DataError: for other inputs than those of the layout, different numbers of examples, and integers that
                packed floats cannot represent.
        """
        named = inputs if isinstance(inputs, Mapping) else {str(place): one for place, one in enumerate(inputs)}
        if (found := Layout.of(inputs)) != self:
            raise DataError(f"the inputs do not have this layout: {found.parts} were given, and {self.parts} expected")
        counts = {name: len(tensor) for name, tensor in named.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"all inputs must have one number of examples, but they have {counts}")
        return torch.cat([self._row(part, named[part.name]) for part in self.parts], 1)

    def _row(self, part: Part, tensor: Tensor) -> Tensor:
        largest = _LARGEST.get(self.dtype)
        if largest and not part.is_floating_point and tensor.numel() and int(tensor.long().abs().max()) > largest:
            raise DataError(
                f"input {part.name!r} holds integers beyond {largest:,}, which are not exact beside floats in "
                f"{self.dtype}: give the floats as float64, or leave them out"
            )
        return tensor.reshape(len(tensor), -1).to(self.dtype)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Unpack inputs; differentiable in those that are floats.

        Args:
            packed: packed inputs [N, D].

        Returns:
            Inputs [N, ...] by name, each in its own dtype. Floats keep a higher precision of `packed`.

        Raises:
            DataError: for packed inputs of another shape, and for integers in less than float32 or moved off integers.
        """
        if packed.ndim != 2 or packed.shape[1] != self.size:
            raise DataError(f"packed inputs must be [N, {self.size}]; shape {tuple(packed.shape)} was given")
        if self.integers and packed.dtype in (torch.float16, torch.bfloat16):
            raise DataError(
                f"the inputs {', '.join(self.integers)} are not exact in {packed.dtype}: pack the floats in the "
                f"module's own precision, or use module.float()"
            )
        rows = packed.split([part.size for part in self.parts], 1)
        return {part.name: self._unpacked(part, row) for part, row in zip(self.parts, rows, strict=True)}

    def _unpacked(self, part: Part, row: Tensor) -> Tensor:
        integers_as_floats = not part.is_floating_point and row.is_floating_point()
        if integers_as_floats and bool((row.detach() != row.detach().round()).any()):
            raise DataError(
                f"the input {part.name!r} holds {part.dtype} (token IDs, a mask), and was perturbed to numbers in "
                "between: attacks and derivatives with respect to inputs need inputs that are all floats"
            )
        value = row.reshape(len(row), *part.shape)
        # In checks the module is cast to float64 together with the packed inputs.
        raised = part.is_floating_point and row.dtype != self.dtype
        return value if raised else value.to(_DTYPES[part.dtype])


@checked
class Packed(nn.Module):
    """Module that takes several inputs, as a module of one packed tensor.

    Args:
        module: the module; its forward takes the inputs of the layout.
        layout: names, shapes and dtypes of the inputs.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.module, self.layout = module, layout
        self.train(module.training)

    def forward(self, packed: Tensor) -> Any:
        """Unpack the inputs and call the module.

        Args:
            packed: packed inputs [N, D].

        Returns:
            What the module returns.

        Raises:
            DataError: see `Layout.unpack`.
        """
        inputs = self.layout.unpack(packed)
        return self.module(**inputs) if self.layout.by_keyword else self.module(*inputs.values())
