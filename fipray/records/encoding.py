"""Data as the bytes of a file, and back."""

import hashlib
import io
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.numpy
from safetensors import SafetensorError

from fipray.errors import UsageError
from fipray.records.schema import TEXT


def sha256_of(content: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def json_bytes(data: object) -> bytes:
    """Plain JSON data, readable by people too. Raises UsageError for anything else."""
    try:
        return json.dumps(data, indent=1).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise UsageError(f"this is no plain JSON data: {error}") from error


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name, as safetensors. Raises UsageError for arrays of anything but numbers."""
    # safetensors writes an array that is not contiguous in C order with its elements permuted, and says nothing.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        return safetensors.numpy.save(contiguous)
    except SafetensorError as error:
        raise UsageError(f"arrays {', '.join(arrays)} cannot be written as safetensors: {error}") from error


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
