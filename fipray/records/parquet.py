"""Tables as the bytes of a Parquet file, and back, however the file came to be."""

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from fipray.records.tables import TEXT, Table

_FREE_BYTES, _MOST_EXPANSION = 2**26, 1000  # what any file may decode to, and how much larger than itself a larger one
_EXPANSION = {"SNAPPY": 22, "UNCOMPRESSED": 1}  # by how much at most, without what an encoding saves
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}  # none of which builds texts from others


def parquet_bytes(arrow: pa.Table) -> bytes:
    """A table as Parquet with its full schema."""
    # Small files: statistics would cost more than they could save, and a dictionary pays only for texts, most of which
    # are the same in all rows.
    texts = [field.name for field in arrow.schema if field.type == TEXT]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(arrow, buffer, write_statistics=False, use_dictionary=texts, compression="snappy")
    return buffer.getvalue()


def read_parquet(table: Table, content: bytes) -> pa.Table:
    """The rows of a table that `parquet_bytes` wrote. Raises ValueError for anything that it did not write."""
    try:
        # Not by pyarrow.dataset, which loads pandas: workers do without.
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(content))
        _check_size(table, file, content)
        rows = file.read(use_threads=False)
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"it is no Parquet ({str(error) or type(error).__name__})") from error
    _check_schema(table, rows.schema)
    return rows


def _check_schema(table: Table, schema: pa.Schema) -> None:
    if schema.equals(table.schema, check_metadata=True):
        return
    there, wanted = ({field.name: field for field in one} for one in (schema, table.schema))
    problems = [
        f"{what} {', '.join(sorted(some))}"
        for what, some in (
            ("lacks", wanted.keys() - there.keys()),
            ("has the unknown", there.keys() - wanted.keys()),
            ("has another type in", {name for name in wanted.keys() & there.keys() if wanted[name] != there[name]}),
        )
        if some
    ]
    raise ValueError(" and ".join(problems) or "its columns or metadata are not those of the table")


def _check_size(table: Table, file: pyarrow.parquet.ParquetFile, content: bytes) -> None:
    """Raises ValueError for what would take far more memory than any file of its size that `parquet_bytes` wrote."""
    size = len(content)
    most, numbers, texts = max(_FREE_BYTES, _MOST_EXPANSION * size), 0, 0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.compression not in _EXPANSION:
                raise ValueError(f"it is compressed by {column.compression}")
            numbers += 8 * max(column.num_values, group.num_rows)
            if column.physical_type == "BYTE_ARRAY":
                texts += column.num_values * size * _EXPANSION[column.compression]
    if numbers + texts > most:  # or not: a text may have been counted as long as the file
        _check_schema(table, file.schema_arrow)
        if numbers > most or numbers + _bytes_of_texts(table, content) > most:
            raise ValueError(f"its {size:,} bytes say that they hold far more than fipray writes into so few")


def _bytes_of_texts(table: Table, content: bytes) -> int:
    """How long all texts are together. Reads each that is there many times once."""
    texts = [field.name for field in table.schema if field.type == TEXT]
    file = pyarrow.parquet.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        if unknown := {each for column in range(group.num_columns) for each in group.column(column).encodings} - _PLAIN:
            raise ValueError(f"it is encoded by {', '.join(unknown)}")
    chunks = [chunk for column in file.read(texts, use_threads=False).columns for chunk in column.chunks]
    lengths = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunks)
    return sum(lengths)
