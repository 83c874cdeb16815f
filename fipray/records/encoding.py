"""Data as the bytes of a file, and back."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from fipray.errors import UsageError
from fipray.records.bfloat16 import BFLOAT16, as_bits, marked, unmarked

_SEAL = "seal_sha256"
_DEEPEST = 100  # objects and lists in each other


def sha256_of(content: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def json_bytes(data: Mapping[str, object]) -> bytes:
    """Plain JSON data, readable by people too, sealed with its own SHA-256. Raises UsageError for anything else."""
    try:
        return _sealed(plain_json(json.dumps(data)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"this is no plain JSON data: {error}") from error


def read_json(content: bytes) -> dict[str, Any]:
    """The data that `json_bytes` wrote. Raises ValueError for anything that it did not write."""
    data = plain_json(content)
    data.pop(_SEAL, None)
    if content != _sealed(data):
        raise ValueError("the seal does not fit")
    return data


def plain_json(text: str | bytes) -> dict[str, Any]:
    """An object of JSON, from a file or a row. Raises ValueError for anything else, also for an object with a key twice
    and for one that is nested too deep to be walked through.
    """
    try:
        data = json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(data, dict):
        raise ValueError(f"it is a {type(data).__name__}, not an object")
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        level = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return data
    raise ValueError("it is nested too deep")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key is there twice")
    return data


def _sealed(plain: Mapping[str, object]) -> bytes:
    seal = sha256_of(json.dumps(plain, sort_keys=True).encode())
    return json.dumps({**plain, _SEAL: seal}, indent=1).encode() + b"\n"


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name, as safetensors. Raises UsageError for arrays of anything but numbers."""
    # safetensors writes an array that is not contiguous in C order with its elements permuted, and says nothing.
    plain, halves = as_bits({name: np.asarray(array, order="C") for name, array in arrays.items()})
    try:
        return marked(safetensors.numpy.save(plain), halves)
    except SafetensorError as error:
        raise UsageError(f"arrays {', '.join(arrays)} cannot be written as safetensors: {error}") from error


def read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """The arrays that `safetensors_bytes` wrote; bfloat16, which numpy does not have, as `BFLOAT16`.

    Raises ValueError for anything that it did not write.
    """
    try:
        plain, halves = unmarked(content)
        arrays = safetensors.numpy.load(plain)
        return {name: array.view(BFLOAT16) if name in halves else array for name, array in arrays.items()}
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"it holds no arrays ({type(error).__name__}: {error})") from error
