"""The caches of all sessions, so that a prompt continues from whichever holds most of it (section 4).

A turn takes the cache with the longest prefix of its prompt and puts it back when it ends. A prompt that continues a
cache gets that very cache; one that turns off from it gets a fork, and the way not taken stays until memory is needed.
A cache that another turn is using can be forked too, between two steps: subagents that start together share that way.
Knows caches and token ids; must not know sessions, models or text.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Sequence

from laguna_agent.backend.laguna.cache import KVCache, total_bytes


class CacheStore:
    """Caches at rest, least recently used first.

    `new` makes an empty cache; `budget` is in bytes and counts the caches in use too, shared storage once.
    """

    def __init__(self, new: Callable[[], KVCache], budget: int) -> None:
        self.new, self.budget = new, budget
        self._resting: list[KVCache] = []
        self._in_use: weakref.WeakSet[KVCache] = weakref.WeakSet()

    def take(self, ids: Sequence[int]) -> KVCache:
        """A cache for the caller alone, rewound to what it can offer of `ids` (less than all of them).

        Its `length` says how much need not be computed. Give it back with `put`, also after an error.
        """
        best, offer, ids = None, 0, array("q", ids)
        for cache in (*self._in_use, *self._resting):
            reach = cache.reachable(min(cache.shared_prefix(ids), max(0, len(ids) - 1)))
            # Of two that offer as much the one at rest wins, which may be taken as it is, and of those the later used,
            # which is the less likely to be evicted.
            if reach and reach >= offer:
                best, offer = cache, reach
        if best is None:
            taken = self.new()
        elif best in self._in_use:
            taken = best.fork()
        else:
            self._resting.remove(best)
            taken = best
            if offer < best.length:
                self._resting.append(best)
                taken = best.fork()
        taken.rewind(offer)
        self._in_use.add(taken)
        return taken

    def put(self, cache: KVCache) -> None:
        """Keep a cache for later turns; the least recently used go until the budget holds.

        The last one stays even where it is larger than the budget by itself; then its snapshots go, but for the newest
        two. A forward pass that failed does no harm: what it left is rewound when the cache is taken.
        """
        self._in_use.discard(cache)
        self._resting = [kept for kept in self._resting if kept is not cache and not _within(kept, cache)]
        self._resting.append(cache)
        while self.bytes() > self.budget and self._gave_up_something():
            pass

    def clear(self) -> None:
        """Forget every cache at rest."""
        self._resting.clear()

    def bytes(self) -> int:
        """Bytes that all caches hold, at rest and in use."""
        return total_bytes([*self._resting, *self._in_use])

    def _gave_up_something(self) -> bool:
        oldest = self._resting[0]
        if len(self._resting) == 1:
            return oldest.snapshots.drop_one()
        runs = oldest.runs()
        del oldest, self._resting[0]
        for run in runs:
            # A fork of a few tokens must not keep all that the one it came from had.
            run.trim()
        return True

    def __len__(self) -> int:
        return len(self._resting)


def _within(kept: KVCache, cache: KVCache) -> bool:
    """Whether `cache` can offer all that `kept` can: it begins with its tokens and can go back to their end."""
    return cache.begins_with(kept) and cache.reachable(kept.length) == kept.length
