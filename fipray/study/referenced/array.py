"""Inputs by reference, in place of a numpy array of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fipray.errors import DataError
from fipray.networks import Layout
from fipray.study.referenced.opening import PARTS, opened
from fipray.study.referenced.reference import DataRef

AT_ONCE = 2**30  # bytes that indexing reads
_NUM_SAMPLED = 64
_SLACK = 1e-4  # of bounds, by rounding


@dataclass(frozen=True, eq=False)
class ReferencedArray:
    """Inputs [N, ...] that are read when they are used; it is pickled without them.

    Indexing by a slice or indices reads inputs into a numpy array, `take` selects some without reading them. Every read
    checks that inputs have the shape and dtype of the first one, are finite, and lie within bounds.

    Args:
        ref: reference to the data.
        part: name of its source, such as "train".
        shape: shape [N, ...].
        dtype: dtype of the inputs as networks take them.
        indices: indices [N] of the examples in the source; None for all in their order.
        mirrored: booleans [N], true for images whose mirror image (along the last dimension) is meant; None for none.
        bounds: smallest and largest value; None for any.
        layout: positions of several inputs in each row; None for one input.
    """

    ref: DataRef
    part: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    indices: NDArray[np.int64] | None = None
    mirrored: NDArray[np.bool_] | None = None
    bounds: tuple[float, float] | None = None
    layout: Layout | None = None

    @classmethod
    def of(cls, ref: DataRef, part: str = "train", indices: NDArray[np.int64] | None = None) -> ReferencedArray:
        """Refer to inputs. One example is read.

        Args:
            ref: reference to the data.
            part: "train", "held_out", "test" or "ood".
            indices: indices [N] of the examples; None for all.

        Returns:
            The inputs.

        Raises:
            DataError: for a part that the data does not have, no examples, and those that cannot be read.
        """
        sources = opened(ref)
        if part not in sources:
            raise DataError(f"{ref.function} has no part {part!r} of {', '.join(PARTS)}; it has: {', '.join(sources)}")
        count = len(sources[part]) if indices is None else len(indices)
        if not count:
            raise DataError(f"{part!r} of {ref.function} has no examples")
        first, layout, _ = sources[part].read([0 if indices is None else int(indices[0])])
        return cls(ref, part, (count, *first.shape[1:]), first.dtype, indices, layout=layout)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions, that of the examples included."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values in all inputs."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that all inputs would take in memory."""
        return self.size * self.dtype.itemsize

    def read(self, places: NDArray[np.int64], seed: int = 0) -> NDArray[Any]:
        """Read inputs.

        Args:
            places: which of the N inputs, [M].
            seed: of random transforms, where `DataRef.augments` is set.

        Returns:
            Inputs [M, ...], a new array.

        Raises:
            DataError: for an example that cannot be read or is not as promised, with its index.
        """
        if not len(places):
            return np.empty((0, *self.shape[1:]), self.dtype)
        rows = places if self.indices is None else self.indices[places]
        source = opened(self.ref)[self.part]
        if int(rows.max()) >= len(source):
            raise DataError(
                f"{source.name} has {len(source):,} examples now, and had more when the study was made: give another "
                "version, DataRef(..., version=...)"
            )
        found, _, _ = source.read(rows.tolist(), seed)
        self._check(found, rows)
        # Reading makes a new array, but one whose axes may be in another order; torch computes faster in C order.
        found = np.ascontiguousarray(found)
        if self.mirrored is not None:
            turned = self.mirrored[places]
            found[turned] = found[turned][..., ::-1]
        return found

    def take(self, chosen: NDArray[Any] | slice, mirrored: NDArray[np.bool_] | None = None) -> ReferencedArray:
        """Select inputs without reading them.

        Args:
            chosen: indices [M], booleans [N] or a slice.
            mirrored: booleans [M], true for those whose mirror image is meant; None for none.

        Returns:
            The selected inputs, still by reference.
        """
        indices = (np.arange(len(self)) if self.indices is None else self.indices)[chosen]
        turned = None if self.mirrored is None else self.mirrored[chosen]
        if mirrored is not None:
            turned = mirrored if turned is None else turned ^ mirrored
        return replace(self, shape=(len(indices), *self.shape[1:]), indices=indices, mirrored=turned)

    def within(self, bounds: tuple[float, float]) -> ReferencedArray:
        """Promise that all inputs lie within bounds.

        Args:
            bounds: smallest and largest value.

        Returns:
            The inputs; one outside the bounds is a DataError when it is read.
        """
        return replace(self, bounds=bounds)

    @cached_property
    def sample(self) -> NDArray[Any]:
        """A few inputs [M, ...] from all over, which were read; M is at most 64."""
        return self.read(np.linspace(0, len(self) - 1, min(len(self), _NUM_SAMPLED)).astype(np.int64))

    @property
    def digest(self) -> str:
        """Text that changes with the reference and with the choice of examples, but not with their values."""
        hashing = hashlib.sha256(f"{self.ref.key} {self.part}".encode())
        for array in (self.indices, self.mirrored):
            hashing.update(b"all" if array is None else np.ascontiguousarray(array).data)
        return hashing.hexdigest()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        places = np.arange(len(self))[index]
        num_bytes = places.size * self.nbytes // max(1, len(self))
        if num_bytes > AT_ONCE:
            raise DataError(
                f"{places.size:,} inputs of {self.part!r} of {self.ref.function} would take {num_bytes / 1e9:.1f} GB "
                "in memory: read fewer, or select them with .take(indices), which reads nothing"
            )
        return self.read(places) if places.ndim else self.read(places[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def __repr__(self) -> str:
        return f"ReferencedArray: {self.part!r} of {self.ref.function}, {list(self.shape)} in {self.dtype}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "sample"}

    def _check(self, found: NDArray[Any], rows: NDArray[np.int64]) -> None:
        where = f"{self.part!r} of {self.ref.function}"
        if found.shape[1:] != self.shape[1:] or found.dtype != self.dtype:
            raise DataError(
                f"example {int(rows[0])} of {where} has shape {found.shape[1:]} in {found.dtype}, and the first one "
                f"had {self.shape[1:]} in {self.dtype}: give all examples one shape and dtype"
            )
        if found.dtype.kind != "f" and self.bounds is None:
            return
        flat = found.reshape(len(found), -1)
        # Of an example with NaN both are NaN.
        least, greatest = flat.min(1), flat.max(1)
        broken = ~(np.isfinite(least) & np.isfinite(greatest))
        if broken.any():
            raise DataError(
                f"example {int(rows[broken.argmax()])} of {where} contains NaN or infinity: remove or repair it, and "
                "give another version"
            )
        if self.bounds is None:
            return
        low, high = self.bounds
        outside = (least < low - _SLACK) | (greatest > high + _SLACK)
        if outside.any():
            at = int(outside.argmax())
            raise DataError(
                f"example {int(rows[at])} of {where} lies in {least[at]:.4g}..{greatest[at]:.4g}, outside the bounds "
                f"{low:g}..{high:g}: rescale it, or give the data with other bounds, "
                "dataclasses.replace(data, bounds=(low, high))"
            )


Array: TypeAlias = NDArray[np.generic] | ReferencedArray
"""Inputs of a study: in memory, or by reference."""


def extremes(inputs: Array) -> tuple[Any, Any]:
    """Smallest and largest value of inputs.

    Args:
        inputs: inputs [N, ...]; of referenced ones a few are read.

    Returns:
        Both values, numpy numbers.
    """
    values = inputs.sample if isinstance(inputs, ReferencedArray) else inputs
    return values.min(), values.max()


def few(inputs: Array, count: int) -> NDArray[Any]:
    """First inputs.

    Args:
        inputs: inputs [N, ...].
        count: how many; of referenced ones, which have to be read, at most 64.

    Returns:
        Inputs [M, ...].
    """
    return inputs[: min(count, _NUM_SAMPLED)] if isinstance(inputs, ReferencedArray) else inputs[:count]


def selected(inputs: Array, chosen: NDArray[Any]) -> Any:
    """Select inputs; referenced ones stay so.

    Args:
        inputs: inputs [N, ...].
        chosen: indices [M] or booleans [N].

    Returns:
        The selected inputs.
    """
    return inputs.take(chosen) if isinstance(inputs, ReferencedArray) else inputs[chosen]
