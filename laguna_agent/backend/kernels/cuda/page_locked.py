"""Host memory that stays where it is, so that a GPU may copy from it unasked, and kernels may read it over the bus.

torch's own pinned memory rounds sizes up to powers of two, which many layers of experts cannot afford; here a tensor
has the pages that it needs. Knows bytes and addresses; who gives and takes them is the driver's business.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import PackedTensor, Weight

_held: dict[int, int] = {}
"""Where page-locked memory of this process begins, and how many bytes it has."""


class PageLocked:
    """Tensors in page-locked memory that `allocate` gives (bytes -> address) and `free` takes back when the last tensor
    over it is gone. `bytes` are held now, `most` were at one time."""

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate, self._free = allocate, free
        self.bytes = self.most = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor. Raises what `allocate` raises where there is no room."""
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        at = self._allocate(size)
        buffer = (ctypes.c_ubyte * size).from_address(at)
        _held[at] = size
        self.bytes += size
        self.most = max(self.most, self.bytes)
        # Not at the end of the process: the driver may be gone by then.
        weakref.finalize(buffer, self._give_back, at, size).atexit = False
        # As bytes first: ctypes' buffers have no 8-bit floats.
        return torch.frombuffer(buffer, dtype=torch.uint8).view(dtype).view(shape)

    def _give_back(self, at: int, size: int) -> None:
        self.bytes -= size
        del _held[at]
        self._free(at)


def is_page_locked(weight: Weight) -> bool:
    """Whether all of it lies in such memory."""
    parts = list(weight.parts.values()) if isinstance(weight, PackedTensor) else [weight]
    return all(part.untyped_storage().data_ptr() in _held for part in parts)
