"""Making a packed file from a checkpoint: tensor by tensor, a few rows at a time, in little memory.

Knows how chunks become rows of the target formats and how far the work is; the layout of the file is `pack_file`'s.
"""

from __future__ import annotations

from pathlib import Path

from laguna_agent.backend.kernels.formats import Format
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
from laguna_agent.backend.laguna.weights.stored import Checkpoint
from laguna_agent.backend.laguna.weights.whole_file import whole_file
from laguna_agent.errors import WeightsError

CHUNK = 1 << 22
"""Values converted at a time: 16 MiB in fp32, and a few times that while they are rounded."""


def pack_layout(checkpoint: Checkpoint, quant: Quant) -> tuple[PackLayout, dict[str, Format]]:
    """Where everything will lie, from headers alone, and the format of each tensor."""
    formats = {
        name: target_format(checkpoint.tensors[name].format, role, quant)
        for name, _, role in expected_tensors(checkpoint.config)
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
                for where, chunk in tensor.chunks(CHUNK):
                    writer.write(converted(chunk, target, where))
                    done += chunk.nbytes
                    progress("packing", done, total)
                writer.finish()
            write_header(handle, layout)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from error
