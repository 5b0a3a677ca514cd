"""Where keys and values lie: growing runs for full layers, rings for sliding ones (section 4).

Both hold every layer of their kind, because all layers of a sequence advance together. Keys are stored after norm and
rope, [kv_heads, slots, head_dim] per layer. Knows positions; who shares what is `cache.py`'s business.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laguna_agent.backend.kernels.attention import HIDDEN, KeyRun

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.cache import KVCache

GROWTH = 1.5
STEP = 64
"""Capacities are multiples of this many tokens."""


class Shape:
    """What one token needs in one layer: heads, head size, dtype, device."""

    def __init__(self, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.kv_heads, self.head_dim, self.dtype, self.device = kv_heads, head_dim, dtype, device

    def empty(self, slots: int) -> Tensor:
        """[kv_heads, slots, head_dim], uninitialised."""
        return torch.empty(self.kv_heads, slots, self.head_dim, dtype=self.dtype, device=self.device)

    def token_bytes(self) -> int:
        """Bytes of one token's key and value in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.dtype.itemsize


class Run:
    """Consecutive tokens of the full layers, from position `start`; several caches may read one run.

    Only `owner` appends, and only where no other reader looks: so a reader's tokens never change under it.
    """

    def __init__(self, shape: Shape, layers: int, start: int, owner: KVCache) -> None:
        self.shape, self.start, self.capacity = shape, start, 0
        self.k = [shape.empty(0) for _ in range(layers)]
        self.v = [shape.empty(0) for _ in range(layers)]
        self.owner: weakref.ref[KVCache] = weakref.ref(owner)
        self.readers: weakref.WeakSet[KVCache] = weakref.WeakSet([owner])

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all; layer by layer, so that only one layer is ever held twice."""
        if tokens <= self.capacity:
            return
        wanted = max(tokens, int(self.capacity * GROWTH))
        capacity = -(-wanted // STEP) * STEP
        for side in (self.k, self.v):
            for layer, old in enumerate(side):
                grown = self.shape.empty(capacity)
                grown[:, : self.capacity] = old
                side[layer] = grown
        self.capacity = capacity

    def write(self, layer: int, k: Tensor, v: Tensor, first: int) -> None:
        """Store the tokens [kv_heads, n, head_dim] from position `first` on; room must have been reserved."""
        at = first - self.start
        self.k[layer][:, at : at + k.shape[1]] = k
        self.v[layer][:, at : at + v.shape[1]] = v

    def read(self, layer: int, end: int) -> KeyRun:
        """The tokens before position `end`."""
        count = end - self.start
        return KeyRun(self.k[layer][:, :count], self.v[layer][:, :count], self.start)

    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.capacity * len(self.k) * self.shape.token_bytes()


class Ring:
    """The newest tokens of the sliding layers: position p lies in slot p % slots.

    The ring of a cache with n tokens holds the positions `low` to n - 1. `shared`: somebody else keeps it (a snapshot
    or a fork), so it must be copied before it is written.
    """

    def __init__(self, shape: Shape, layers: int, slots: int) -> None:
        self.shape, self.slots, self.low, self.shared = shape, slots, 0, False
        self.k = [shape.empty(slots).zero_() for _ in range(layers)]
        self.v = [shape.empty(slots).zero_() for _ in range(layers)]

    def copied(self) -> Ring:
        """One of one's own with the same content."""
        other = Ring.__new__(Ring)
        other.shape, other.slots, other.low, other.shared = self.shape, self.slots, self.low, False
        other.k = [tensor.clone() for tensor in self.k]
        other.v = [tensor.clone() for tensor in self.v]
        return other

    def holds(self, length: int, window: int) -> bool:
        """Whether every key is here that the token at position `length` may see."""
        return max(0, length - window + 1) >= self.low

    def claim(self, length: int, tokens: int) -> None:
        """Give up the positions that the next `tokens` after `length` overwrite; before they are overwritten."""
        self.low = max(self.low, length + tokens - self.slots)

    def positions(self, length: int) -> Tensor:
        """int64 [slots]: the position in every slot when the cache has `length` tokens, HIDDEN where none is valid."""
        slot = torch.arange(self.slots, device=self.shape.device)
        newest = length - 1 - (length - 1 - slot) % self.slots
        return torch.where(newest >= self.low, newest, HIDDEN)

    def write(self, layer: int, k: Tensor, v: Tensor, first: int) -> None:
        """Store the tokens [kv_heads, n, head_dim] from position `first` on: the last `slots` of them."""
        skipped = max(0, k.shape[1] - self.slots)
        for side, new in ((self.k[layer], k[:, skipped:]), (self.v[layer], v[:, skipped:])):
            slot = (first + skipped) % self.slots
            before_wrap = min(new.shape[1], self.slots - slot)
            side[:, slot : slot + before_wrap] = new[:, :before_wrap]
            side[:, : new.shape[1] - before_wrap] = new[:, before_wrap:]

    def last(self, layer: int, length: int, count: int) -> KeyRun:
        """A copy of the `count` tokens before position `length`, in order."""
        slots = torch.arange(length - count, length, device=self.shape.device) % self.slots
        return KeyRun(self.k[layer][:, slots], self.v[layer][:, slots], length - count)

    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.slots * len(self.k) * self.shape.token_bytes()
