"""bfloat16 without a numpy type: a structured dtype of its bits, and its marks in safetensors files.

safetensors reads and writes numpy arrays, and numpy has no bfloat16. Its bits are therefore passed as uint16, and the
entries are relabelled in the header of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# Structured, so that bits are never taken for numbers: numpy has no arithmetic for such dtypes.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_NAME, _BITS = "BF16", "U16"  # types in the header of a file


def rounded(values: NDArray[np.floating]) -> NDArray[np.void]:
    """Round numbers to bfloat16, ties to even, as torch does.

    Args:
        values: array of any shape.

    Returns:
        Array of the same shape and dtype `BFLOAT16`.
    """
    # This makes an array [1] of a scalar, so the shape is restored in the end.
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # Adding half of the last kept bit's unit, less one unless that bit is odd, rounds ties to even.
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # The addition can carry a NaN over into another number.
    found = np.where(np.isnan(values), 0x7FC0, nearest).astype("<u2")
    return found.view(BFLOAT16).reshape(np.shape(values))


def raised(array: NDArray[np.void]) -> NDArray[np.float32]:
    """Convert bfloat16 to float32, exactly.

    Args:
        array: array of dtype `BFLOAT16`.

    Returns:
        Array of the same shape.
    """
    # A bfloat16 is the upper half of the float32 of the same value.
    return (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)


def as_bits(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Replace bfloat16 arrays by their bits.

    Args:
        arrays: arrays by name, of any dtype.

    Returns:
        The arrays, those of dtype `BFLOAT16` as uint16, and the names of the latter.
    """
    names = {name for name, array in arrays.items() if array.dtype == BFLOAT16}
    return {name: array["bfloat16"] if name in names else array for name, array in arrays.items()}, names


def marked(content: bytes, names: set[str]) -> bytes:
    """Mark uint16 entries of a safetensors file as bfloat16.

    Args:
        content: content of the file.
        names: names of the entries.

    Returns:
        Content with another header.
    """
    return _relabelled(content, dict.fromkeys(names, _NAME)) if names else content


def unmarked(content: bytes) -> tuple[bytes, set[str]]:
    """Mark bfloat16 entries of a safetensors file as uint16; inverse of `marked`.

    Args:
        content: content of the file.

    Returns:
        Content with another header, and the names of the entries.
    """
    names = {name for name, entry in _header(content).items() if entry.get("dtype") == _NAME}
    return (_relabelled(content, dict.fromkeys(names, _BITS)) if names else content), names


def _header(content: bytes) -> dict[str, dict[str, object]]:
    """Header of a safetensors file; empty if it is damaged, which safetensors itself reports."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return {}
    return (
        {name: entry for name, entry in header.items() if isinstance(entry, dict)} if isinstance(header, dict) else {}
    )


def _relabelled(content: bytes, dtypes: Mapping[str, str]) -> bytes:
    size, header = int.from_bytes(content[:8], "little"), _header(content)
    text = json.dumps({n: {**e, "dtype": dtypes[n]} if n in dtypes else e for n, e in header.items()}).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors aligned to 8 bytes
    # Offsets count from the end of the header, so they stay valid for a header of another length.
    return len(text).to_bytes(8, "little") + text + content[8 + size :]
