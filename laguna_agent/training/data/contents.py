"""A table's content as one hash, and as one Parquet file.

The hash is over the values alone, in a spelling of our own: two tables that hold the same rows in the same columns
have the same one, however they are cut into chunks and whatever version of a library wrote them. The bytes of a
Parquet file do not: they name their writer. Knows Arrow; must not know where files lie nor what the columns mean.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laguna_agent.errors import DatasetError

ROWS_PER_GROUP = 1024
"""Rows that are compressed together: what is read to get at one of them."""

_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint32": pa.uint32(),
    "float": pa.float32(),
    "double": pa.float64(),
    "binary": pa.binary(),
}
_TYPES |= {f"list<{name}>": pa.list_(pa.field("element", each)) for name, each in list(_TYPES.items())}
_NAMES = {each: name for name, each in _TYPES.items()}

Columns = tuple[tuple[str, str], ...]
"""The columns of a table: (name, type), the type one of `string`, `int32`, ..., `list<int32>`, ..."""


def schema_of(columns: Columns) -> pa.Schema:
    """Those columns as Arrow has them. Raises DatasetError for a type that shards do not hold."""
    unknown = [kind for _, kind in columns if kind not in _TYPES]
    if unknown:
        raise DatasetError(f"a column of type {unknown[0]!r} is none that shards hold: {', '.join(_TYPES)}")
    return pa.schema([pa.field(name, _TYPES[kind]) for name, kind in columns])


def columns_of(schema: pa.Schema) -> Columns:
    """The columns of a table. Raises DatasetError for a type that shards do not hold."""
    for field in schema:
        if _plain(field.type) not in _NAMES:
            raise DatasetError(f"column {field.name!r} is {field.type}, which shards do not hold: {', '.join(_TYPES)}")
    return tuple((field.name, _NAMES[_plain(field.type)]) for field in schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without the name that a writer gave to the elements of its lists."""
    return pa.list_(pa.field("element", kind.value_type)) if pa.types.is_list(kind) else kind


def normalised(table: pa.Table) -> pa.Table:
    """The table in one chunk and without anybody's remarks."""
    return table.cast(schema_of(columns_of(table.schema))).combine_chunks()


def content_hash(table: pa.Table) -> str:
    """SHA-256, in hex, of the columns' names and types and of every value."""
    digest = hashlib.sha256()
    table = normalised(table)
    _text(digest.update, f"{table.num_rows}")
    for (name, kind), column in zip(columns_of(table.schema), table.columns, strict=True):
        _text(digest.update, name)
        _text(digest.update, kind)
        chunks = column.chunks
        _feed(digest.update, pa.concat_arrays(chunks) if chunks else pa.array([], column.type))
    return digest.hexdigest()


def _text(take: Callable[[Any], None], text: str) -> None:
    data = text.encode()
    take(struct.pack("<Q", len(data)))
    take(data)


def _feed(take: Callable[[Any], None], values: pa.Array) -> None:
    """Values as bytes: which are there, the lengths of what has one, and then the values themselves."""
    take(struct.pack("<QQ", len(values), values.null_count))
    if values.null_count:
        take(_little(values.is_valid().cast(pa.uint8())))
        values = values.drop_null()
    kind = values.type
    if pa.types.is_list(kind):
        take(_little(values.value_lengths()))
        _feed(take, values.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        data = values.cast(pa.binary())
        take(_little(pa.compute.binary_length(data)))
        _, offsets, joined = data.buffers()
        if len(data) and joined is not None:
            first, last = (_offset(offsets, data.offset + at) for at in (0, len(data)))
            take(memoryview(joined)[first:last])
    else:
        take(_little(values.cast(pa.uint8()) if pa.types.is_boolean(kind) else values))


def _offset(offsets: pa.Buffer, at: int) -> int:
    return int(struct.unpack_from("=i", offsets, 4 * at)[0])


def _little(numbers: pa.Array) -> bytes:
    plain = numbers.to_numpy(zero_copy_only=False)
    return bytes(plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes())


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file, by fixed settings. Which version of the library wrote it is in the bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        normalised(table),
        sink,
        row_group_size=ROWS_PER_GROUP,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
    )
    return bytes(sink.getvalue())


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A shard's table, memory-mapped. Raises DatasetError where it cannot be read as one."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            table = file.read(columns, use_threads=False)
        return table if columns is None else table.select(columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"shard {path} cannot be read: {reason}; `laguna-agent data verify` checks the store"
        ) from error
