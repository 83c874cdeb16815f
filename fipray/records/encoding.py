"""Data as the bytes of a file, and back."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
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
    # are the same in all rows. The page checksum finds altered data while reading.
    texts = [field.name for field in arrow.schema if field.type == TEXT]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        arrow, buffer, write_statistics=False, write_page_checksum=True, use_dictionary=texts, compression="snappy"
    )
    return buffer.getvalue()


def read_parquet(files: Sequence[Path], schema: pa.Schema) -> pa.Table:
    """The rows of all the files, in their order, read in one go. Raises OSError for a file that is no whole Parquet."""
    if not files:
        return schema.empty_table()
    options = pyarrow.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = pyarrow.dataset.ParquetFileFormat(default_fragment_scan_options=options)
    local = pyarrow.fs.LocalFileSystem()
    names = [str(file) for file in files]
    return pyarrow.dataset.dataset(names, schema=schema, format=parquet, filesystem=local).to_table()
