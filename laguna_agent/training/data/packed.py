"""The rows of a packed version as packs, any of them at once and none of them copied into memory before it is needed.

A shard is Parquet, which is read as a whole. So each is written once more, uncompressed, into the cache, and mapped:
every rank of a machine shares the same pages. Knows versions and tensors; must not know who takes which pack when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from laguna_agent.atomic import replacing
from laguna_agent.directories import cache_directory
from laguna_agent.errors import DatasetError
from laguna_agent.training.batch import Pack
from laguna_agent.training.data.pack_rows import PACKED, default_weights
from laguna_agent.training.data.store import Version

_FILE = "laguna-packs-1"


class _Stretch(NamedTuple):
    """Rows [first, first + packs) of a shard, all of one bucket."""

    shard: int
    first: int
    packs: int


class PackedRows:
    """The packs of a version, or of one of its quality buckets, by their number."""

    def __init__(self, version: PackedVersion, bucket: str | None, stretches: list[_Stretch]) -> None:
        self.version = version
        self.bucket = bucket
        self._stretches = stretches
        self._ends = list(accumulate(stretch.packs for stretch in stretches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Pack:
        if not 0 <= number < len(self):
            raise IndexError(f"pack {number} of {len(self)}")
        at = bisect_right(self._ends, number)
        stretch = self._stretches[at]
        return self.version.pack(stretch.shard, stretch.first + number - (self._ends[at] - stretch.packs))


class PackedVersion:
    """A version of kind `packed`, opened for reading. `rows` are all of its packs, `buckets` those of each bucket.

    Raises DatasetError where the version is of another kind, or its rows are not what such rows are.
    """

    def __init__(self, version: Version, cache: Path | None = None) -> None:
        if version.kind != "packed":
            raise DatasetError(
                f"version {version.short} holds {version.kind}, not packs; `laguna-agent data pack` makes them"
            )
        self.id = version.id
        self._name = version.short
        cache = cache or cache_directory() / "packs"
        self._shards = [_mapped(version, shard, cache) for shard in range(len(version.shards))]
        stretches = [stretch for shard in range(len(self._shards)) for stretch in self._stretches(shard)]
        self.rows = PackedRows(self, None, [stretch for _, stretch in stretches])
        self.buckets: Mapping[str, PackedRows] = {
            bucket: PackedRows(self, bucket, [stretch for name, stretch in stretches if name == bucket])
            for bucket in sorted({bucket for bucket, _ in stretches})
        }

    def pack(self, shard: int, row: int) -> Pack:
        """The pack of that row; ids and targets int64. Raises DatasetError where its columns contradict each other."""
        batch = self._shards[shard]
        ids = np.array(_list(batch, "ids", row), np.int64)
        lengths = _list(batch, "sequences", row)
        if lengths is None:
            lengths = _list(batch, "lengths", row)
        told = _list(batch, "weights", row)
        if lengths is None or not len(ids) or lengths.sum() != len(ids) or lengths.min() < 1:
            raise DatasetError(f"version {self._name}, shard {shard}, row {row}: its lengths do not sum to its tokens")
        weights = default_weights(lengths, len(ids)) if told is None else np.array(told, np.float32)
        if len(weights) != len(ids):
            raise DatasetError(
                f"version {self._name}, shard {shard}, row {row}: {len(weights)} weights, {len(ids)} ids"
            )
        ends = np.cumsum(lengths) - 1
        # What follows a sequence's last token is not its to predict, whatever the row says.
        weights[ends] = 0
        targets = np.roll(ids, -1)
        targets[ends] = 0
        return Pack(
            torch.from_numpy(ids),
            torch.from_numpy(targets),
            torch.from_numpy(weights),
            tuple(int(length) for length in lengths),
            (self.id, shard, row),
        )

    def _stretches(self, shard: int) -> list[tuple[str, _Stretch]]:
        runs = self._shards[shard].column("bucket")
        if not len(runs):
            return []
        runs = pc.run_end_encode(runs)
        first, found = 0, []
        for bucket, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            found.append((bucket or "", _Stretch(shard, first, end - first)))
            first = end
        return found


def _list(batch: pa.RecordBatch, name: str, row: int) -> NDArray[Any] | None:
    """A row's list in a column, as a view of the file; None where it is null."""
    column = batch.column(name)
    if not column[row].is_valid:
        return None
    first, last = (column.offsets[at].as_py() for at in (row, row + 1))
    found: NDArray[Any] = column.values.slice(first, last - first).to_numpy(zero_copy_only=False)
    return found


def _mapped(version: Version, shard: int, cache: Path) -> pa.RecordBatch:
    """A shard's rows, mapped; written into the cache first where they are not in it."""
    told = version.shards[shard]
    if version.manifest.columns != PACKED:
        raise DatasetError(f"version {version.short} has not the columns of packs; `laguna-agent data pack` makes them")
    path = cache / f"{told.file}.{_FILE}.arrow"
    found = _open(path)
    if found is None or found.num_rows != told.rows:
        table = version.table(shard).combine_chunks()
        columns = [
            pa.concat_arrays(table.column(name).chunks) if told.rows else _empty(table, name)
            for name in table.column_names
        ]
        batch = pa.record_batch(columns, names=table.column_names)
        try:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be written: {error.strerror or error}; packs are read from there"
            ) from error
        found = _open(path)
    if found is None:
        raise DatasetError(f"{path} cannot be read back; remove it")
    return found


def _empty(table: pa.Table, name: str) -> pa.Array:
    return pa.array([], table.schema.field(name).type)


def _open(path: Path) -> pa.RecordBatch | None:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        return reader.get_batch(0) if reader.num_record_batches == 1 else None
    except (OSError, pa.ArrowException):
        return None
