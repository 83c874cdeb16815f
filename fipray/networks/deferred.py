"""Inputs that are read when they are used, in place of a tensor that holds all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, Protocol, overload, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fipray.errors import DataError

AT_ONCE = 2**30  # bytes of inputs that are read at once where not all of them, a chunk or drawn ones are asked for


@runtime_checkable
class Readable(Protocol):
    """Inputs by index. Reading the same indices with the same seed gives the same numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [N, ...] of all inputs."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def is_fresh(self) -> bool:
        """Whether inputs depend on the seed, as randomly transformed ones do."""
        ...

    def read(self, indices: Tensor, seed: int) -> Tensor:
        """Read some inputs. It may be called in another thread.

        Args:
            indices: int64 [M] on the CPU.
            seed: of random transforms.

        Returns:
            Inputs [M, ...] on the CPU.

        Raises:
            DataError: for an input that cannot be read, or is not what was promised.
        """
        ...


class _Ahead(NamedTuple):
    """Inputs that another thread is reading."""

    rows: Tensor
    seed: int
    found: Future[Tensor]


class Deferred(Tensor):
    """Inputs [N, ...] with a shape, dtype and device like those of a tensor, but without the memory of one.

    Indices and short slices give ordinary tensors, and `split` gives them one after the other while the next one is
    read by another thread. Longer slices are deferred themselves. Every other operation reads all inputs first, or
    raises DataError where they take more than `AT_ONCE` bytes.
    """

    source: Readable
    _rows: Tensor | None
    _ahead: _Ahead | None

    @staticmethod
    def __new__(
        cls: type[Deferred], source: Readable, device: torch.device | str = "cpu", rows: Tensor | None = None
    ) -> Deferred:
        """Make deferred inputs.

        Args:
            cls: the class.
            source: where they are read.
            device: where read inputs are moved.
            rows: indices [N] into the source; None for all.

        Returns:
            The inputs, of which none is read yet.
        """
        count = source.shape[0] if rows is None else len(rows)
        # torch.empty resolves "cuda" to the present device, as the device of every other tensor is.
        device = torch.empty(0, device=device).device
        shape = (count, *source.shape[1:])
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=source.dtype, device=device)
        made.source, made._rows, made._ahead = source, rows, None
        return made

    def __init__(self, *_: object, **__: object) -> None: ...

    def read(self, indices: Tensor | None = None, seed: int = 0) -> Tensor:
        """Read inputs, however many they are.

        Args:
            indices: int64 [M], on any device; None for all.
            seed: of random transforms, where the source draws them anew.

        Returns:
            Inputs [M, ...] on the device.
        """
        rows, seed = self._place(indices, seed)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.seed == seed and torch.equal(ahead.rows, rows):
            found = ahead.found.result()
        else:
            found = self.source.read(rows, seed)
        return found.to(self.device, non_blocking=True)

    def expect(self, indices: Tensor, seed: int = 0) -> None:
        """Let another thread read what the next call of `read` will ask for; only its time depends on it.

        Args:
            indices: int64 [M], on any device.
            seed: of random transforms.
        """
        rows, seed = self._place(indices, seed)
        self._ahead = _Ahead(rows, seed, _reader().submit(self._loaded, rows, seed))

    def split(self, split_size: int, dim: int = 0) -> Sequence[Tensor]:  # type: ignore[override]
        """Chunks of inputs, each read when it is reached.

        Args:
            split_size: inputs in a chunk, at least 1.
            dim: 0.

        Returns:
            The chunks [M, ...], ordinary tensors.
        """
        return _Chunks(self, split_size)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Move the inputs to a device, still unread; with other arguments, as `torch.Tensor.to`."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (str, torch.device)):
            return Deferred(self.source, args[0], self._rows)
        return super().to(*args, **kwargs)

    def detach(self) -> Tensor:
        """Return the inputs themselves: they have no graph."""
        return self

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, slice):
            chosen = torch.tensor(range(len(self))[index], dtype=torch.int64)
            part = Deferred(self.source, self.device, self._place(chosen, 0)[0])
            return part.read() if part.nbytes <= AT_ONCE else part
        if isinstance(index, (list, tuple)) and all(isinstance(each, int) for each in index) and index:
            index = torch.tensor(index) if isinstance(index, list) else index
        if isinstance(index, Tensor) and index.ndim == 1:
            return self.read(torch.arange(len(self))[index.cpu()])
        if isinstance(index, int):
            return self.read(torch.tensor([range(len(self))[index]]))[0]
        return self._whole()[index]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Deferred inputs {list(self.shape)} in {self.dtype} on {self.device}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = tree_map_only(Deferred, Deferred._whole, (args, dict(kwargs or {})))
        return func(*given[0], **given[1])

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def _whole(self) -> Tensor:
        if self.nbytes > AT_ONCE:
            raise DataError(
                f"{len(self):,} inputs that are read by reference would take {self.nbytes / 1e9:.1f} GB at once: take "
                "some of them, inputs[:n] or inputs[indices], or go through inputs.split(n)"
            )
        return self.read()

    def _place(self, indices: Tensor | None, seed: int) -> tuple[Tensor, int]:
        """Convert indices to those of the source, and the seed to that which it is given."""
        rows = torch.arange(len(self)) if indices is None else indices.detach().cpu()
        return rows if self._rows is None else self._rows[rows], seed if self.source.is_fresh else 0

    def _loaded(self, rows: Tensor, seed: int) -> Tensor:
        found = self.source.read(rows, seed)
        return found.pin_memory() if self.device.type == "cuda" else found


class _Chunks(Sequence[Tensor]):
    """Chunks of deferred inputs."""

    def __init__(self, inputs: Deferred, size: int) -> None:
        # An own copy, so that what is read ahead here does not take the place of a draw that is read ahead.
        self._inputs, self._size = Deferred(inputs.source, inputs.device, inputs._rows), size

    def __len__(self) -> int:
        return math.ceil(len(self._inputs) / self._size)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return self._inputs.read(self._indices(range(len(self))[index]))

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(len(self)):
            found = self[number]
            if number + 1 < len(self):
                self._inputs.expect(self._indices(number + 1))
            yield found

    def _indices(self, number: int) -> Tensor:
        return torch.arange(number * self._size, min((number + 1) * self._size, len(self._inputs)))


class Joined:
    """Inputs of several sources, one after the other.

    Args:
        parts: inputs [N, ...] of one shape and dtype, deferred or not.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = parts
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype
        self.is_fresh = any(isinstance(part, Deferred) and part.source.is_fresh for part in parts)

    def read(self, indices: Tensor, seed: int) -> Tensor:
        """See `Readable`."""
        found = torch.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        which = torch.searchsorted(self._ends, indices, right=True)
        for number, part in enumerate(self._parts):
            (places,) = torch.where(which == number)
            if len(places):
                begin = int(self._ends[number]) - len(part)
                found[places] = taken(part, indices[places] - begin, seed).cpu()
        return found


def taken(inputs: Tensor, chosen: Tensor | slice, seed: int = 0) -> Tensor:
    """Select inputs as an ordinary tensor.

    Args:
        inputs: [N, ...], deferred or not.
        chosen: indices [M] from 0, or a slice.
        seed: of random transforms of deferred inputs.

    Returns:
        The inputs [M, ...].
    """
    if not isinstance(inputs, Deferred):
        if isinstance(chosen, slice):
            return inputs[chosen]
        # Indices are all that crosses to a GPU, and the host need not wait for them. On a CPU `inputs[chosen]` would
        # take three times as long.
        return inputs.index_select(0, chosen.to(inputs.device, non_blocking=True))
    return inputs.read(torch.arange(len(inputs))[chosen] if isinstance(chosen, slice) else chosen, seed)


@cache
def _reader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "fipray-reader")
