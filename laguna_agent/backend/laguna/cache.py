"""The KV cache of one sequence: append, snapshot, rewind, copy-on-write fork (section 4).

A model's forward pass takes a `Step` of every cache it appends to: `begin` makes room, each layer hands over its keys
and gets back all that it may see, `commit` makes the tokens count. A step that is never committed leaves the cache as
long as it was. Not thread-safe: one thread owns a model and its caches.

Full layers keep every token, so they rewind anywhere and a fork shares them. Sliding layers keep the window and some
more: they rewind by at most `slack` tokens, or to wherever snapshots hold the window.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laguna_agent.backend.kernels.attention import KeyRun
from laguna_agent.backend.laguna.cache_format import FORMATS, KVFormatName
from laguna_agent.backend.laguna.cache_snapshots import Snapshot, Snapshots
from laguna_agent.backend.laguna.cache_storage import AT_ONCE, Block, Parts, Run, Shape, Sliding, key_run
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.errors import ContextTooLong

SLACK = 64
SNAPSHOTS = 64
"""Enough for both ends of the answers of a long session."""
SNAPSHOT_BYTES = 512 << 20
"""What snapshots of one cache may take: for Laguna XS in f16 the windows of 4,369 tokens, whatever the length."""

ROOM = 1024
"""Tokens that a restored cache can take before its storage grows, which would copy all that was just read."""


@dataclass
class View:
    """What a cache sees of a run: its tokens before position `end`."""

    run: Run
    end: int


class KVCache:
    """Keys and values of one sequence, and the token ids they were made from.

    `length`: how many tokens. `tokens`: their ids, not to be changed by others. `format`: the numbers they are kept in.
    `slack`: how many tokens the sliding layers can give back without a snapshot; `at_once`: how many they always take
    in place. At most `max_snapshots` are kept, in
    at most `snapshot_bytes`: the first, the newest two, and between them the denser the nearer they are.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        format: KVFormatName,
        device: torch.device | str = "cpu",
        slack: int = SLACK,
        at_once: int = AT_ONCE,
        max_snapshots: int = SNAPSHOTS,
        snapshot_bytes: int = SNAPSHOT_BYTES,
    ) -> None:
        self.config, self.slack, self.at_once = config, slack, at_once
        self.shape = Shape(config.kv_heads, config.head_dim, FORMATS[format], torch.device(device))
        kinds = [layer.attention for layer in config.layers]
        self.full = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
        self.sliding = [index for index, kind in enumerate(kinds) if kind == "sliding_attention"]
        # Where a layer's keys lie within the storage of its kind.
        self.place = {index: place for kind in (self.full, self.sliding) for place, index in enumerate(kind)}
        self.tokens: list[int] = []
        # The same once more, because arrays are compared at the speed of memory.
        self._ids = array("q")
        self.snapshots = Snapshots(max_snapshots, snapshot_bytes)
        self._views: list[View] = []
        self._window: Sliding | None = self._blank_window()

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
        window = self._window
        if window is not None and not window.holds(self.length):
            # Only a forward pass that broke off in the middle leaves a window so.
            raise RuntimeError(f"the cache lost keys before token {self.length}: rewind it before appending")
        if self.full and ids:
            view = self._writable_view()
            view.run.reserve(length - view.run.start)
        if window is not None and ids and window.shared:
            self._window = window.copied()
        return Step(self, list(ids), self._window)

    @property
    def takes(self) -> int:
        """The most tokens that a step may have whose keys are written to its `places`."""
        return self.config.context_length if self._window is None else self._window.takes

    def snapshot(self) -> None:
        """Remember this place, so that `rewind` can return exactly here however much is appended."""
        if self._window is not None and self._window.holds(self.length):
            self.snapshots.add(self.length, self._window)

    def rewind(self, length: int) -> int:
        """Drop tokens until at most `length` are left; returns how many are.

        Exactly `length` where the sliding layers can go there; else fewer, back to the nearest snapshot before it, and
        the caller appends the tokens between again. Raises ValueError for a length beyond the cache's.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length} tokens: the cache has {self.length}")
        reached = self.reachable(length)
        if self._window is not None and not self._window.holds(reached):
            begin = self._window.first_seen(reached)
            blocks = self.snapshots.covering(begin, reached)
            assert blocks is not None
            self._window = self._blank_window()
            assert self._window is not None
            self._window.fill(blocks, begin, reached)
        self.snapshots.forget_after(reached)
        del self.tokens[reached:], self._ids[reached:]
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
        """How many tokens the cache and `ids` begin with alike; fastest where these are an array of type "q"."""
        theirs = ids if isinstance(ids, array) and ids.typecode == "q" else array("q", ids)
        low, high = 0, min(self.length, len(theirs))
        if self._ids[:high] == theirs[:high]:
            return high
        while high - low > 1:
            # They are alike before `low` and differ somewhere before `high`.
            middle = (low + high) // 2
            if self._ids[low:middle] == theirs[low:middle]:
                low = middle
            else:
                high = middle
        return low

    def begins_with(self, other: KVCache) -> bool:
        """Whether this cache has all tokens of the other, and at least as many."""
        return self.length >= other.length and self._ids[: other.length] == other._ids

    def reachable(self, length: int) -> int:
        """How many tokens `rewind(length)` would leave; nothing changes."""
        window = self._window
        if window is None or window.holds(length):
            return length
        if self.snapshots.covering(window.first_seen(length), length) is not None:
            return length
        return self.snapshots.before(length)

    def fork(self) -> KVCache:
        """A cache with the same tokens that goes its own way from here; nothing is copied until one of them writes."""
        other = KVCache.__new__(KVCache)
        other.config, other.slack, other.at_once = self.config, self.slack, self.at_once
        other.shape, other.full, other.sliding, other.place = self.shape, self.full, self.sliding, self.place
        other.tokens, other._ids, other.snapshots = list(self.tokens), self._ids[:], self.snapshots.copied()
        other._views = [View(view.run, view.end) for view in self._views if view.end > view.run.start]
        for view in other._views:
            view.run.readers.add(other)
        other._window = self._window
        if self._window is not None:
            self._window.shared = True
        return other

    def extended(self, place: int, parts: Parts) -> list[KeyRun]:
        """Store keys behind the last token of the full layer at `place`; returns all its keys."""
        newest = self._views[-1].run
        newest.write(place, parts, self.length)
        older = [view.run.read(place, view.end) for view in self._views[:-1]]
        return [*older, newest.read(place, self.length + parts[0].shape[1])]

    def places(self, end: int) -> list[Tensor]:
        """Where the keys before position `end` lie in the full layers, run after run (`Run.places`); room for them must
        have been made."""
        *older, newest = self._views
        return [*(view.run.places(view.end) for view in older), newest.run.places(end)]

    def committed(self, ids: list[int]) -> None:
        """Count tokens that every layer has stored."""
        self.tokens += ids
        self._ids.extend(ids)
        if self.full and ids:
            self._views[-1].end = self.length

    def layer_parts(self, place: int) -> Parts:
        """All tokens of the full layer at `place`; copied where forks left them in several runs."""
        pieces = [
            tuple(part[:, : view.end - view.run.start] for part in view.run.layers[place]) for view in self._views
        ]
        return pieces[0] if len(pieces) == 1 else tuple(torch.cat(same, dim=1) for same in zip(*pieces, strict=True))

    def restore(self, ids: list[int]) -> list[Parts]:
        """Make an empty cache one of `ids`; returns the full layers' parts, which the caller fills at once."""
        assert not self.length
        if self.full and ids:
            run = Run(self.shape, len(self.full), 0, self)
            run.reserve(len(ids) + ROOM)
            self._views = [View(run, len(ids))]
        self.tokens, self._ids = list(ids), array("q", ids)
        return [self.layer_parts(place) for place in range(len(self.full)) if ids]

    def restore_window(self, kept: list[Snapshot]) -> None:
        """The sliding layers of a restored cache: snapshots in order, the last of them at its own length."""
        self.snapshots.kept = kept
        if self._window is not None:
            self._window.fill(list(kept[-1].blocks), self._window.first_seen(self.length), self.length)

    def runs(self) -> list[Run]:
        """Where the full layers' tokens lie."""
        return [view.run for view in self._views]

    def storage(self) -> Iterable[Run | Sliding | Block]:
        """Every piece of storage that this cache keeps alive, its snapshots' included."""
        yield from self.runs()
        if self._window is not None:
            yield self._window
        yield from self.snapshots.blocks()

    def _blank_window(self) -> Sliding | None:
        if not self.sliding:
            return None
        return Sliding(self.shape, len(self.sliding), self.config.sliding_window, self.slack, self.at_once)

    def _writable_view(self) -> View:
        """A view that ends at the cache's last token and whose run this cache may extend."""
        if self._views:
            view = self._views[-1]
            run, owner = view.run, view.run.owner()
            if owner is None or owner is self:
                others = [reader.end_in(run) for reader in run.readers if reader is not self]
                if all(end <= view.end for end in others):
                    run.owner = weakref.ref(self)
                    return view
        run = Run(self.shape, len(self.full), self.length, self)
        self._views.append(View(run, self.length))
        return self._views[-1]

    def end_in(self, run: Run) -> int:
        """The position before which this cache reads a run; 0 where it does not."""
        return max((view.end for view in self._views if view.run is run), default=0)


class Step:
    """Tokens on their way into a cache: rows `begin` to `end` of a batch, the first of them at position `first`."""

    def __init__(self, cache: KVCache, ids: list[int], window: Sliding | None) -> None:
        self.cache, self.ids, self.window, self.first = cache, ids, window, cache.length
        self.begin, self.end = 0, len(ids)
        if window is not None and ids:
            self._low = window.first_seen(self.first)
            self._past = slice(self._low - window.base, self.first - window.base)
            self._in_place = window.claim(self.first, len(ids))

    def keys(self, layer: int, k: Tensor, v: Tensor) -> list[KeyRun]:
        """Store this step's keys and values of `layer`, [kv_heads, n, head_dim] each; returns all that it may see."""
        place, window = self.cache.place[layer], self.window
        parts = self.cache.shape.encoded(k, v)
        if self.cache.config.layers[layer].attention == "full_attention":
            return self.cache.extended(place, parts)
        assert window is not None
        if self._in_place:
            window.write(place, parts, self.first)
            return [window.read(place, self._low, self.first + len(self.ids))]
        past = tuple(part[:, self._past].clone() for part in window.layers[place])
        window.replace(place, past, parts)
        count = self.first - self._low
        own = key_run(parts, 0, len(self.ids), self.first)
        return [key_run(past, 0, count, self._low), own] if count else [own]

    def places(self) -> tuple[list[Tensor], list[Tensor]]:
        """Where every key lies that the step's tokens may see, for somebody who writes the step's own there himself:
        the runs of the full layers, and those of the sliding ones (`Run.places`). The step's own keys are the last of
        the last run. Raises RuntimeError for more than `KVCache.takes` tokens."""
        end = self.first + len(self.ids)
        full = self.cache.places(end) if self.cache.full else []
        if self.window is None:
            return full, []
        if not self._in_place:
            raise RuntimeError(f"{len(self.ids)} tokens were given to a sliding window of {self.window.capacity} slots")
        return full, [self.window.places(self._low, end)]

    def commit(self) -> None:
        """Make the tokens count; after every layer has seen them."""
        self.cache.committed(self.ids)


def total_bytes(caches: Iterable[KVCache]) -> int:
    """Bytes that some caches keep allocated; what they share counts once."""
    pieces = {id(piece): piece for cache in caches for piece in cache.storage()}
    return sum(piece.nbytes() for piece in pieces.values())
