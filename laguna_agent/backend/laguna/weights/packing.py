"""Making a packed file from a checkpoint: tensor by tensor, a few rows at a time, in little memory.

Knows how chunks become rows of the target formats and how far the work is; the layout of the file is `pack_file`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from laguna_agent.backend.kernels.formats import Format, PackedTensor, Tiled
from laguna_agent.backend.kernels.tiles import tile
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.memory import check_disk
from laguna_agent.backend.laguna.weights.pack_file import (
    PackHeader,
    PackLayout,
    PartsWriter,
    plan_layout,
    write_header,
)
from laguna_agent.backend.laguna.weights.policy import Quant, converted, target_format
from laguna_agent.backend.laguna.weights.progress import Progress, silent
from laguna_agent.backend.laguna.weights.stored import CanonicalTensor, Checkpoint
from laguna_agent.backend.laguna.weights.whole_file import whole_file
from laguna_agent.errors import WeightsError

CHUNK = 1 << 22
"""Values converted at a time: 16 MiB in fp32, and a few times that while they are rounded."""


def pack_layout(checkpoint: Checkpoint, quant: Quant) -> tuple[PackLayout, dict[str, Format]]:
    """Where everything will lie, from headers alone, and the format of each tensor."""
    formats = {
        name: target_format(checkpoint.tensors[name].format, role, quant, shape)
        for name, shape, role in expected_tensors(checkpoint.config)
    }
    header = PackHeader(checkpoint.config, quant, checkpoint.where, checkpoint.identity, [])
    return plan_layout(header, formats), formats


def write_pack(
    checkpoint: Checkpoint, quant: Quant, path: Path, progress: Progress = silent, *, anonymous: bool = True
) -> None:
    """Write `checkpoint` packed to `path`, whole or not at all. `progress` counts bytes of the source.

    To be called by one process at a time (`whole_file.locked`). Raises WeightsError at a damaged tensor or where the
    disk fails, DoesNotFit before anything is written where the disk has no room.
    """
    layout, formats = pack_layout(checkpoint, quant)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_disk(path.parent, layout.size, f"the packed model ({quant})")
    total, done = checkpoint.stored_bytes, 0
    try:
        with whole_file(path, layout.size, anonymous=anonymous) as handle:
            for place in layout.header.tensors:
                tensor, target = checkpoint.tensors[place.name], formats[place.name]
                writer = PartsWriter(handle, place)
                for chunk, read in _converted_chunks(tensor, target):
                    if chunk is not None:
                        writer.write(chunk)
                    done += read
                    progress("packing", done, total)
                writer.finish()
            write_header(handle, layout)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from error


def _converted_chunks(tensor: CanonicalTensor, target: Format) -> Iterator[tuple[PackedTensor | None, int]]:
    """All rows in order, some at a time, and how many bytes were read for them.

    Where rows lie together, those that do not fill a block wait for the next chunk: a matrix may be put together from
    pieces that end anywhere.
    """
    rest: PackedTensor | None = None
    for where, chunk in tensor.chunks(CHUNK):
        if not isinstance(target, Tiled):
            yield converted(chunk, target, where), chunk.nbytes
            continue
        rows = converted(chunk, target.base, where)
        rows = rows if rest is None else _joined(rest, rows)
        whole = rows.shape[0] // target.rows_together * target.rows_together
        rest = rows[whole:] if whole < rows.shape[0] else None
        yield (tile(rows[:whole]) if whole else None), chunk.nbytes


def _joined(first: PackedTensor, second: PackedTensor) -> PackedTensor:
    parts = {name: torch.cat((part, second.parts[name])) for name, part in first.parts.items()}
    return PackedTensor(first.format, (first.shape[0] + second.shape[0], *first.shape[1:]), parts)
