"""Data as the bytes of a file, and back."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.numpy
from safetensors import SafetensorError

from fipray.errors import UsageError
from fipray.records.bfloat16 import BFLOAT16, as_bits, marked, unmarked
from fipray.records.schema import TEXT

_SEAL = "seal_sha256"


def sha256_of(content: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def json_bytes(data: Mapping[str, object]) -> bytes:
    """Plain JSON data, readable by people too, sealed with its own SHA-256. Raises UsageError for anything else."""
    try:
        plain = json.loads(json.dumps(data))
    except (TypeError, ValueError) as error:
        raise UsageError(f"this is no plain JSON data: {error}") from error
    return json.dumps({**plain, _SEAL: _digest(plain)}, indent=1).encode() + b"\n"


def read_json(content: bytes) -> dict[str, Any]:
    """The data that `json_bytes` wrote. Raises ValueError for anything that it did not write."""
    data = json.loads(content)
    if not isinstance(data, dict) or data.pop(_SEAL, None) != _digest(data):
        raise ValueError("the seal does not fit")
    return data


def _digest(plain: Mapping[str, object]) -> str:
    return sha256_of(json.dumps(plain, sort_keys=True).encode())


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name, as safetensors. Raises UsageError for arrays of anything but numbers."""
    # safetensors writes an array that is not contiguous in C order with its elements permuted, and says nothing.
    plain, halves = as_bits({name: np.asarray(array, order="C") for name, array in arrays.items()})
    try:
        return marked(safetensors.numpy.save(plain), halves)
    except SafetensorError as error:
        raise UsageError(f"arrays {', '.join(arrays)} cannot be written as safetensors: {error}") from error


def read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """The arrays that `safetensors_bytes` wrote; bfloat16, which numpy does not have, as `BFLOAT16`."""
    plain, halves = unmarked(content)
    arrays = safetensors.numpy.load(plain)
    return {name: array.view(BFLOAT16) if name in halves else array for name, array in arrays.items()}


def parquet_bytes(arrow: pa.Table) -> bytes:
    """A table as Parquet with its full schema."""
    # Small files: statistics would cost more than they could save, and a dictionary pays only for texts, most of which
    # are the same in all rows.
    texts = [field.name for field in arrow.schema if field.type == TEXT]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(arrow, buffer, write_statistics=False, use_dictionary=texts, compression="snappy")
    return buffer.getvalue()


def read_parquet(content: bytes) -> pa.Table:
    """The table that `parquet_bytes` wrote."""
    # Not by pyarrow.dataset, which loads pandas: workers do without.
    return pyarrow.parquet.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
