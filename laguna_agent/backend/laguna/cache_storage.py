"""Where keys and values lie: growing runs for full layers, sliding windows and blocks of their past (section 4).

All hold every layer of their kind, because all layers of a sequence advance together. Keys are stored after norm and
rope. The parts of a layer are the codes of keys and of values, [kv_heads, slots, head_dim], and where the format has
them their scales, [kv_heads, slots]. Knows positions; who shares what is `cache.py`'s business.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laguna_agent.backend.kernels.attention import KeyRun
from laguna_agent.backend.laguna.cache_format import KVFormat

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.cache import KVCache

AT_ONCE = 512
"""Tokens that a sliding window always takes in place, whatever came before: a pass gives it no more."""
GROWTH = 1.5
STEP = 64
"""Capacities are multiples of this many tokens."""

Parts = tuple[Tensor, ...]
"""Keys, values, and where the format has them the scales of keys and of values; slots are axis -2 of codes and -1 of
scales, so axis 1 of one layer's parts and axis 2 of several layers'."""


class Shape:
    """What one token needs in one layer: heads, head size, format, device."""

    def __init__(self, kv_heads: int, head_dim: int, format: KVFormat, device: torch.device) -> None:
        self.kv_heads, self.head_dim, self.format, self.device = kv_heads, head_dim, format, device

    def empty(self, slots: int, *layers: int) -> Parts:
        """Parts of `slots` slots, uninitialised; with `layers` in front, all of them in one piece."""
        size = (*layers, self.kv_heads, slots)
        codes = [torch.empty(*size, self.head_dim, dtype=self.format.dtype, device=self.device) for _ in range(2)]
        scales = [torch.empty(size, device=self.device) for _ in range(2 if self.format.scaled else 0)]
        return (*codes, *scales)

    def encoded(self, k: Tensor, v: Tensor) -> Parts:
        """The parts that keep keys and values [kv_heads, n, head_dim]."""
        if not self.format.scaled:
            return (*self.format.encode(k), *self.format.encode(v))
        # Both at once, because for a single token the calls cost more than the numbers.
        return tuple(part for both in self.format.encode(torch.stack((k, v))) for part in both.unbind())

    def token_bytes(self) -> int:
        """Bytes of one token's key and value in one layer."""
        return 2 * self.kv_heads * self.format.token_bytes(self.head_dim)


def addresses(layers: Sequence[Parts]) -> Tensor:
    """Where the parts of layers lie in memory, and must stay as long as this is used: int64 [layers, 7], each the
    addresses of k, v and of their scales (0 where there are none), slots from one head to the next, and two zeros."""
    rows = []
    for k, v, *scales in layers:
        k_scale, v_scale = (scale.data_ptr() for scale in scales) if scales else (0, 0)
        rows.append((k.data_ptr(), v.data_ptr(), k_scale, v_scale, k.shape[1], 0, 0))
    return torch.tensor(rows, dtype=torch.int64).view(-1, 7)


def key_run(parts: Parts, begin: int, end: int, start: int) -> KeyRun:
    """Slots `begin` to `end` of one layer, the first of them at position `start`."""
    k, v, *scales = (part[:, begin:end] for part in parts)
    return KeyRun(k, v, start, *scales)


class Run:
    """Consecutive tokens of the full layers, from position `start`; several caches may read one run.

    Only `owner` appends, and only where no other reader looks: so a reader's tokens never change under it.
    """

    def __init__(self, shape: Shape, layers: int, start: int, owner: KVCache) -> None:
        self.shape, self.start, self.capacity = shape, start, 0
        self.layers = [shape.empty(0) for _ in range(layers)]
        self._addresses = addresses(self.layers)
        self.owner: weakref.ref[KVCache] = weakref.ref(owner)
        self.readers: weakref.WeakSet[KVCache] = weakref.WeakSet([owner])

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all; layer by layer, so that only one layer is ever held twice."""
        if tokens <= self.capacity:
            return
        self._resize(max(tokens, int(self.capacity * GROWTH)))

    def trim(self) -> None:
        """Give back room that no reader has tokens in; called when memory is short, for growing copies everything."""
        used = max((reader.end_in(self) for reader in self.readers), default=self.start) - self.start
        if used * GROWTH + STEP < self.capacity:
            self._resize(used)

    def _resize(self, tokens: int) -> None:
        capacity = -(-tokens // STEP) * STEP
        kept = min(self.capacity, capacity)
        for layer, old in enumerate(self.layers):
            moved = self.shape.empty(capacity)
            for new_part, old_part in zip(moved, old, strict=True):
                new_part[:, :kept] = old_part[:, :kept]
            self.layers[layer] = moved
        self.capacity, self._addresses = capacity, addresses(self.layers)

    def write(self, layer: int, parts: Parts, first: int) -> None:
        """Store one layer's tokens from position `first` on; room must have been reserved."""
        at = first - self.start
        for kept, new in zip(self.layers[layer], parts, strict=True):
            kept[:, at : at + new.shape[1]] = new

    def read(self, layer: int, end: int) -> KeyRun:
        """The tokens before position `end`."""
        return key_run(self.layers[layer], 0, end - self.start, self.start)

    def places(self, end: int) -> Tensor:
        """Where the tokens before position `end` lie, in every layer: int64 [layers, 7], each the addresses of k, v and
        of their scales, the slots from one head to the next, the first position, and how many tokens."""
        return self._addresses + torch.tensor((0, 0, 0, 0, 0, self.start, end - self.start))

    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.capacity * len(self.layers) * self.shape.token_bytes()


class Block:
    """The tokens `start` to `end` of the sliding layers, [layers, ...] in one piece; never changed once made."""

    def __init__(self, start: int, end: int, parts: Parts) -> None:
        self.start, self.end, self.parts = start, end, parts
        self._bytes = sum(part.nbytes for part in parts)

    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._bytes


def sliding_slots(window: int, slack: int, at_once: int) -> int:
    """Slots of a sliding window that can give `slack` tokens back and always takes `at_once` in place."""
    return window + max(2 * slack, at_once)


class Sliding:
    """The newest tokens of the sliding layers, in order: position p lies in slot p - `base`.

    `capacity` is more than the window needs: tokens are appended until it is full, and only then the newest move to the
    front. So what a token sees always lies in one piece. `shared`: a fork reads it too, so it must be copied before it
    is written.
    """

    def __init__(self, shape: Shape, layers: int, window: int, slack: int, at_once: int) -> None:
        self.shape, self.window, self.slack = shape, window, slack
        self.capacity = sliding_slots(window, slack, at_once)
        self.base, self.shared = 0, False
        self._hold(shape.empty(self.capacity, layers))

    def _hold(self, parts: Parts) -> None:
        self.parts = parts
        self.layers: list[Parts] = list(zip(*(part.unbind(0) for part in parts), strict=True))
        self._addresses = addresses(self.layers)

    def copied(self) -> Sliding:
        """One of one's own with the same content."""
        other = Sliding.__new__(Sliding)
        other.shape, other.window, other.slack, other.capacity = self.shape, self.window, self.slack, self.capacity
        other.base, other.shared = self.base, False
        other._hold(tuple(part.clone() for part in self.parts))
        return other

    @property
    def takes(self) -> int:
        """Tokens that can be appended in place at any time."""
        return self.capacity - self.window + 1

    def holds(self, length: int) -> bool:
        """Whether every key is here that the token at position `length` may see."""
        return self.first_seen(length) >= self.base

    def first_seen(self, position: int) -> int:
        """The first position that the token at `position` may see."""
        return max(0, position - self.window + 1)

    def claim(self, length: int, tokens: int) -> bool:
        """Make room for `tokens` more after `length`; whether all that they see stays here meanwhile.

        Where it does not, each layer must be stored with `replace`, and until all are the window is incomplete.
        """
        held = length - self.base
        if held + tokens <= self.capacity:
            return True
        if length - self.first_seen(length) + tokens > self.capacity:
            self.base = length + tokens - self.capacity
            return False
        kept = min(held, self.window - 1 + self.slack, self.capacity - tokens)
        for part in self.parts:
            part[:, :, :kept] = part[:, :, held - kept : held].clone()
        self.base = length - kept
        return True

    def write(self, layer: int, parts: Parts, first: int) -> None:
        """Store one layer's tokens from position `first` on; room must have been claimed."""
        at = first - self.base
        for kept, new in zip(self.layers[layer], parts, strict=True):
            kept[:, at : at + new.shape[1]] = new

    def replace(self, layer: int, past: Parts, parts: Parts) -> None:
        """Store the newest of one layer's tokens, `past` and then `parts`: as many as there is room for."""
        for kept, old, new in zip(self.layers[layer], past, parts, strict=True):
            kept[:] = torch.cat([old, new], dim=1)[:, -self.capacity :]

    def read(self, layer: int, begin: int, end: int) -> KeyRun:
        """The tokens at positions `begin` to `end`."""
        return key_run(self.layers[layer], begin - self.base, end - self.base, begin)

    def places(self, begin: int, end: int) -> Tensor:
        """Where the tokens at positions `begin` to `end` lie, in every layer; as `Run.places`."""
        slot, codes = begin - self.base, self.shape.head_dim * self.shape.format.dtype.itemsize
        scales = 4 * slot if self.shape.format.scaled else 0
        return self._addresses + torch.tensor((codes * slot, codes * slot, scales, scales, 0, begin, end - begin))

    def copy_of(self, begin: int, end: int) -> Block:
        """The tokens at positions `begin` to `end` of all layers, for keeps."""
        return Block(begin, end, tuple(part[:, :, begin - self.base : end - self.base].clone() for part in self.parts))

    def fill(self, blocks: list[Block], begin: int, end: int) -> None:
        """Hold the positions `begin` to `end`, which consecutive blocks have, and no others."""
        self.base = begin
        for block in blocks:
            low, high = max(begin, block.start), min(end, block.end)
            for kept, part in zip(self.parts, block.parts, strict=True):
                kept[:, :, low - begin : high - begin] = part[:, :, low - block.start : high - block.start]

    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.capacity * len(self.layers) * self.shape.token_bytes()
