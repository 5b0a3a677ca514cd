"""Weights on their way from the file to where they are computed with, a few rows at a time.

Tiles are taken apart where they arrive; beside what was there and what will be, only a slice is ever held. Knows
layouts; must not know what a weight is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from laguna_agent.backend.kernels.cuda.matrices import kind_of
from laguna_agent.backend.kernels.cuda.page_locked import is_page_locked
from laguna_agent.backend.kernels.formats import Format, PackedTensor, Tiled, Weight
from laguna_agent.backend.kernels.tiles import untile

Empty = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes an uninitialised tensor of a shape and type in the place where it shall lie."""
SLICE = 8 << 20
"""Bytes that are under way at a time; of a stack at least one matrix."""


def on_device(device: torch.device) -> Empty:
    """The place that is a device's own memory."""
    return lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def moved(weight: Weight, empty: Empty, only: Tensor | None = None) -> Weight:
    """A copy of `weight` in the place of `empty`, Tiled as GroupInt. `only`: of a stack these experts, int64 [n], in
    this order. Beside it a few times a slice is held, to take tiles apart. From page-locked memory, which must stay as
    it is, the copy is not waited for."""
    stays = is_page_locked(weight)
    if isinstance(weight, Tensor):
        count = weight.shape[0] if only is None else len(only)
        plain = empty((count, *weight.shape[1:]), weight.dtype)
        for begin, end, rows in _slices(weight, only):
            plain[begin:end].copy_(weight[rows], non_blocking=stays)
        return plain
    target = weight.format.base if isinstance(weight.format, Tiled) else weight.format
    shape = weight.shape if only is None else (len(only), *weight.shape[1:])
    parts = {part.name: empty((*shape[:-1], part.columns), part.dtype) for part in target.parts(shape[-1])}
    place = next(iter(parts.values())).device
    for begin, end, rows in _slices(weight, only):
        piece = weight[rows]
        if isinstance(piece.format, Tiled):
            # Moved as tiles: the receiving processor takes them apart.
            piece = untile(piece.to(place))
        for name, part in parts.items():
            part[begin:end].copy_(piece.parts[name], non_blocking=stays)
    return PackedTensor(target, shape, parts)


def _slices(weight: Weight, only: Tensor | None) -> Iterator[tuple[int, int, slice]]:
    """(begin, end) in the copy, and which entries of the leading dimension these are."""
    if only is not None:
        for index, entry in enumerate(only.tolist()):
            yield index, index + 1, slice(entry, entry + 1)
        return
    count = weight.shape[0]
    if not count:
        return
    together = 1
    if isinstance(weight, PackedTensor) and len(weight.shape) == 2:
        together = weight.format.rows_together
    step = max(1, SLICE // max(1, weight.nbytes // count) // together) * together
    for begin in range(0, count, step):
        end = min(begin + step, count)
        yield begin, end, slice(begin, end)


def read_in_place(format: Format, shape: tuple[int, ...]) -> bool:
    """Whether kernels read a tensor of that format and shape as its parts are, without padding: what lies in
    page-locked memory has no other copy."""
    base = format.base if isinstance(format, Tiled) else format
    kind = kind_of(base, shape)
    return kind is not None and kind.row_bytes == base.parts(shape[-1])[0].row_bytes
