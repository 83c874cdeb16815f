"""bfloat16, which safetensors files hold and numpy does not have: its bits, as a dtype of one field of that name."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_NAME, _BITS = "BF16", "U16"  # in the header of a file, and what numpy knows of that size


def rounded(values: NDArray[np.floating]) -> NDArray[np.void]:
    """The nearest numbers of dtype BFLOAT16, ties to even, as torch rounds."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    found = np.where(np.isnan(values), 0x7FC0, nearest).astype("<u2")
    return found.view(BFLOAT16).reshape(np.shape(values))


def raised(array: NDArray[np.void]) -> NDArray[np.float32]:
    """The same numbers in float32."""
    return (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)


def as_bits(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str]]:
    """The arrays, those of BFLOAT16 as plain bits, and the names of these."""
    names = {name for name, array in arrays.items() if array.dtype == BFLOAT16}
    return {name: array["bfloat16"] if name in names else array for name, array in arrays.items()}, names


def marked(content: bytes, names: set[str]) -> bytes:
    """A safetensors file whose entries of these names, bits, are said to be bfloat16."""
    return _renamed(content, dict.fromkeys(names, _NAME)) if names else content


def unmarked(content: bytes) -> tuple[bytes, set[str]]:
    """A safetensors file whose bfloat16 entries are said to be bits, and their names."""
    names = {name for name, entry in _header(content).items() if entry.get("dtype") == _NAME}
    return (_renamed(content, dict.fromkeys(names, _BITS)) if names else content), names


def _header(content: bytes) -> dict[str, dict[str, object]]:
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return {}
    return (
        {name: entry for name, entry in header.items() if isinstance(entry, dict)} if isinstance(header, dict) else {}
    )


def _renamed(content: bytes, dtypes: Mapping[str, str]) -> bytes:
    size, header = int.from_bytes(content[:8], "little"), _header(content)
    text = json.dumps({n: {**e, "dtype": dtypes.get(n, e.get("dtype"))} for n, e in header.items()}).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]
