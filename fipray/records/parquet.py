"""Parquet encoding of tables, and decoding that trusts nothing in a file."""

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from fipray.records.tables import TEXT, Table

# A few bytes of a hostile file can claim to decode to terabytes. Any file may decode to _FREE_BYTES; a larger result
# may be at most _MOST_EXPANSION times the file.
_FREE_BYTES, _MOST_EXPANSION = 2**26, 1000
_EXPANSION = {"SNAPPY": 22, "UNCOMPRESSED": 1}  # upper bound of each compression alone, without encodings
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}  # others build texts from earlier ones


def parquet_bytes(arrow: pa.Table) -> bytes:
    """Encode a table as a Parquet file with its full schema.

    Args:
        arrow: rows with the schema of their table.

    Returns:
        Content of the file.
    """
    # The files are small: statistics would take more room than they could save, and a dictionary pays only for texts,
    # most of which are the same in all rows.
    texts = [field.name for field in arrow.schema if field.type == TEXT]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(arrow, buffer, write_statistics=False, use_dictionary=texts, compression="snappy")
    return buffer.getvalue()


def read_parquet(table: Table, content: bytes) -> pa.Table:
    """Decode a file that `parquet_bytes` wrote.

    Args:
        table: table that the file belongs to.
        content: content of the file.

    Returns:
        The rows, with the schema of the table.

    Raises:
        ValueError: for anything that `parquet_bytes` did not write, and for files that would decode to far more memory.
    """
    try:
        # Not through pyarrow.dataset, which imports pandas: workers start faster without it.
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(content))
        _check_size(table, file, content)
        rows = file.read(use_threads=False)  # starting threads takes longer than decoding a small file
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"it is not a Parquet file ({str(error) or type(error).__name__})") from error
    _check_schema(table, rows.schema)
    return rows


def _check_schema(table: Table, schema: pa.Schema) -> None:
    if schema.equals(table.schema, check_metadata=True):
        return
    found, wanted = ({field.name: field for field in one} for one in (schema, table.schema))
    problems = [
        f"{what} {', '.join(sorted(some))}"
        for what, some in (
            ("lacks", wanted.keys() - found.keys()),
            ("has the unknown", found.keys() - wanted.keys()),
            ("has another type in", {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}),
        )
        if some
    ]
    raise ValueError(" and ".join(problems) or "its columns or metadata are not those of the table")


def _check_size(table: Table, file: pyarrow.parquet.ParquetFile, content: bytes) -> None:
    """Raise ValueError for a file that would decode to far more memory than any of its size that fipray writes."""
    size = len(content)
    most, numbers, texts = max(_FREE_BYTES, _MOST_EXPANSION * size), 0, 0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.compression not in _EXPANSION:
                raise ValueError(f"it is compressed by {column.compression}")
            # Both counts come from the file and may contradict each other.
            numbers += 8 * max(column.num_values, group.num_rows)
            if column.physical_type == "BYTE_ARRAY":
                texts += column.num_values * size * _EXPANSION[column.compression]
    # The bound for texts assumes that each is as long as the whole file: only if it is exceeded are they measured.
    if numbers + texts > most:
        # Before texts are measured by column names, which a file of another schema may lack.
        _check_schema(table, file.schema_arrow)
        if numbers > most or numbers + _bytes_of_texts(table, content) > most:
            raise ValueError(
                f"its {size:,} bytes claim to hold far more rows than fipray writes into a file of that size"
            )


def _bytes_of_texts(table: Table, content: bytes) -> int:
    """Total length of all texts, found from the dictionaries so that a repeated text is decoded once."""
    texts = [field.name for field in table.schema if field.type == TEXT]
    file = pyarrow.parquet.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        if unknown := {each for column in range(group.num_columns) for each in group.column(column).encodings} - _PLAIN:
            raise ValueError(f"it is encoded by {', '.join(unknown)}")
    chunks = [chunk for column in file.read(texts, use_threads=False).columns for chunk in column.chunks]
    lengths = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunks)
    return sum(lengths)
