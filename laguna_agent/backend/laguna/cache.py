"""The KV cache of one sequence: append, snapshot, rewind, copy-on-write fork (section 4).

A model's forward pass takes a `Step` of every cache it appends to: `begin` makes room, each layer hands over its keys
and gets back all that it may see, `commit` makes the tokens count. A step that is never committed leaves the cache as
long as it was. Not thread-safe: one thread owns a model and its caches.

Full layers keep every token, so they rewind anywhere and a fork shares them. Sliding layers keep a ring of the window
and `slack` more tokens: they rewind by at most `slack` tokens, or to wherever a snapshot was taken.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laguna_agent.backend.kernels.attention import KeyRun
from laguna_agent.backend.laguna.cache_storage import Ring, Run, Shape
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.errors import ContextTooLong

SLACK = 64
SNAPSHOTS = 24
"""A snapshot is a copy of the sliding layers: for Laguna XS in bf16 71 MB, whatever the length."""


@dataclass
class View:
    """What a cache sees of a run: its tokens before position `end`."""

    run: Run
    end: int


@dataclass(frozen=True)
class Snapshot:
    """The sliding layers as they were when the cache had `length` tokens."""

    length: int
    ring: Ring


class KVCache:
    """Keys and values of one sequence, and the token ids they were made from.

    `length`: how many tokens. `tokens`: their ids. `slack`: how many tokens the sliding layers can give back without a
    snapshot. At most `max_snapshots` are kept: the first, the newest, and between them the denser the nearer they are.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        slack: int = SLACK,
        max_snapshots: int = SNAPSHOTS,
    ) -> None:
        self.config, self.slack, self.max_snapshots = config, slack, max_snapshots
        self.shape = Shape(config.kv_heads, config.head_dim, dtype, torch.device(device))
        kinds = [layer.attention for layer in config.layers]
        self.full = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
        self.sliding = [index for index, kind in enumerate(kinds) if kind == "sliding_attention"]
        # Where a layer's keys lie within the storage of its kind.
        self.place = {index: place for kind in (self.full, self.sliding) for place, index in enumerate(kind)}
        self.tokens: list[int] = []
        self.snapshots: list[Snapshot] = []
        self._views: list[View] = []
        self._ring: Ring | None = self._blank_ring()

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return len(self.tokens)

    def begin(self, ids: Sequence[int]) -> Step:
        """Start to append `ids`. Raises ContextTooLong where the model has no such positions."""
        length = self.length + len(ids)
        if length > self.config.context_length:
            raise ContextTooLong(
                f"the model reads at most {self.config.context_length} tokens; {self.length} are in its cache and "
                f"{len(ids)} more were given"
            )
        if self._ring is not None and not self._ring.holds(self.length, self.config.sliding_window):
            # Only a forward pass that broke off in the middle leaves a ring so.
            raise RuntimeError(f"the cache lost keys before token {self.length}: rewind it before appending")
        if self.full and ids:
            view = self._writable_view()
            view.run.reserve(length - view.run.start)
        if self._ring is not None and ids:
            if self._ring.shared:
                self._ring = self._ring.copied()
            self._ring.claim(self.length, len(ids))
        return Step(self, list(ids), self._ring)

    def snapshot(self) -> None:
        """Remember this place, so that `rewind` can return exactly here however much is appended."""
        if self._ring is None or any(kept.length == self.length for kept in self.snapshots):
            return
        self._ring.shared = True
        self.snapshots.append(Snapshot(self.length, self._ring))
        if len(self.snapshots) > max(2, self.max_snapshots):
            del self.snapshots[self._most_dispensable()]

    def rewind(self, length: int) -> int:
        """Drop tokens until at most `length` are left; returns how many are.

        Exactly `length` where the sliding layers can go there; else fewer, back to the nearest snapshot before it, and
        the caller appends the tokens between again. Raises ValueError for a length beyond the cache's.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length} tokens: the cache has {self.length}")
        reached, self._ring = self._ring_at(length)
        self.snapshots = [kept for kept in self.snapshots if kept.length <= reached]
        del self.tokens[reached:]
        for view in self._views:
            view.end = min(view.end, reached)
            if view.end <= view.run.start:
                view.run.readers.discard(self)
        self._views = [view for view in self._views if view.end > view.run.start]
        return reached

    def reuse(self, ids: Sequence[int]) -> int:
        """Rewind to the longest prefix shared with `ids`, less than all of them; returns its length.

        At least one id is left to be appended, because only appending gives logits.
        """
        return self.rewind(min(self.shared_prefix(ids), max(0, len(ids) - 1)))

    def shared_prefix(self, ids: Sequence[int]) -> int:
        """How many tokens the cache and `ids` begin with alike."""
        if self.tokens == ids[: self.length]:
            return self.length
        return next(
            at for at, (mine, theirs) in enumerate(zip(self.tokens, [*ids, None], strict=False)) if mine != theirs
        )

    def reachable(self, length: int) -> int:
        """How many tokens `rewind(length)` would leave; nothing changes."""
        return self._ring_at(length)[0]

    def fork(self) -> KVCache:
        """A cache with the same tokens that goes its own way from here; nothing is copied until one of them writes."""
        other = KVCache.__new__(KVCache)
        other.config, other.slack, other.max_snapshots = self.config, self.slack, self.max_snapshots
        other.shape, other.full, other.sliding, other.place = self.shape, self.full, self.sliding, self.place
        other.tokens, other.snapshots = list(self.tokens), list(self.snapshots)
        other._views = [View(view.run, view.end) for view in self._views if view.end > view.run.start]
        for view in other._views:
            view.run.readers.add(other)
        other._ring = self._ring
        if self._ring is not None:
            self._ring.shared = True
        return other

    def extended(self, place: int, k: Tensor, v: Tensor) -> list[KeyRun]:
        """Store [kv_heads, n, head_dim] behind the last token of the full layer at `place`; returns all its keys."""
        newest = self._views[-1].run
        newest.write(place, k, v, self.length)
        older = [view.run.read(place, view.end) for view in self._views[:-1]]
        return [*older, newest.read(place, self.length + k.shape[1])]

    def committed(self, ids: list[int]) -> None:
        """Count tokens that every layer has stored."""
        self.tokens += ids
        if self.full and ids:
            self._views[-1].end = self.length

    def storage(self) -> Iterable[Run | Ring]:
        """Every piece of storage that this cache keeps alive, its snapshots' included."""
        yield from (view.run for view in self._views)
        rings = {id(ring): ring for ring in (self._ring, *(kept.ring for kept in self.snapshots)) if ring is not None}
        yield from rings.values()

    def _blank_ring(self) -> Ring | None:
        if not self.sliding:
            return None
        # One more slot than the window's past needs, so that a single new token overwrites none that it must see.
        return Ring(self.shape, len(self.sliding), self.config.sliding_window + self.slack)

    def _ring_at(self, length: int) -> tuple[int, Ring | None]:
        if self._ring is None:
            return length, None
        window = self.config.sliding_window
        later = [kept.ring for kept in self.snapshots if kept.length >= length]
        for ring in (self._ring, *later):
            if length and ring.holds(length, window):
                return length, ring
        before = [kept for kept in self.snapshots if 0 < kept.length < length]
        if before:
            nearest = max(before, key=lambda kept: kept.length)
            return nearest.length, nearest.ring
        return 0, self._blank_ring()

    def _most_dispensable(self) -> int:
        """Which snapshot to give up: the one between near neighbours, the more so the longer ago it was."""
        places = [kept.length for kept in self.snapshots]

        def loss(index: int) -> float:
            return (places[index + 1] - places[index - 1]) / (self.length - places[index])

        return min(range(1, len(places) - 1), key=loss)

    def _writable_view(self) -> View:
        """A view that ends at the cache's last token and whose run this cache may extend."""
        if self._views:
            view = self._views[-1]
            run, owner = view.run, view.run.owner()
            if owner is None or owner is self:
                others = [reader._end_in(run) for reader in run.readers if reader is not self]
                if all(end <= view.end for end in others):
                    run.owner = weakref.ref(self)
                    return view
        run = Run(self.shape, len(self.full), self.length, self)
        self._views.append(View(run, self.length))
        return self._views[-1]

    def _end_in(self, run: Run) -> int:
        return max((view.end for view in self._views if view.run is run), default=0)


class Step:
    """Tokens on their way into a cache: rows `begin` to `end` of a batch, the first of them at position `first`."""

    def __init__(self, cache: KVCache, ids: list[int], ring: Ring | None) -> None:
        self.cache, self.ids, self.ring, self.first = cache, ids, ring, cache.length
        self.begin, self.end = 0, len(ids)
        # A few tokens overwrite nothing that they must see, so they go into the ring first and are read there.
        self._in_ring = ring.positions(self.first + len(ids)) if ring and len(ids) <= cache.slack + 1 else None

    def keys(self, layer: int, k: Tensor, v: Tensor) -> list[KeyRun]:
        """Store this step's keys and values of `layer`, [kv_heads, n, head_dim] each; returns all that it may see."""
        place, ring = self.cache.place[layer], self.ring
        if self.cache.config.layers[layer].attention == "full_attention":
            return self.cache.extended(place, k, v)
        assert ring is not None
        if self._in_ring is not None:
            ring.write(place, k, v, self.first)
            return [KeyRun(ring.k[place], ring.v[place], positions=self._in_ring)]
        past = ring.last(place, self.first, min(self.first, self.cache.config.sliding_window - 1))
        ring.write(place, k, v, self.first)
        return [past, KeyRun(k, v, self.first)]

    def commit(self) -> None:
        """Make the tokens count; after every layer has seen them."""
        self.cache.committed(self.ids)


def total_bytes(caches: Iterable[KVCache]) -> int:
    """Bytes that some caches keep allocated; what they share counts once."""
    pieces = {id(piece): piece for cache in caches for piece in cache.storage()}
    return sum(piece.nbytes() for piece in pieces.values())
