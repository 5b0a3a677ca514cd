"""The places that a cache can return to although its sliding layers have moved on (section 4).

A snapshot keeps the window before its place, in blocks that neighbouring snapshots share: so a token is kept once,
however many snapshots see it, and one that follows soon after another costs only the tokens between. Blocks never
change, so forks share them too. Knows blocks and positions; must not know tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from laguna_agent.backend.laguna.cache_storage import Block, Sliding

BLOCK = 64
"""Tokens in a block at most: what a snapshot that is given up may leave behind, because a neighbour needs a part."""


@dataclass(frozen=True)
class Snapshot:
    """The window before the token at position `length`, in consecutive blocks."""

    length: int
    blocks: tuple[Block, ...]


class Snapshots:
    """At most `most` snapshots in at most `most_bytes`, in order of their lengths; the two newest always."""

    def __init__(self, most: int, most_bytes: int, kept: tuple[Snapshot, ...] = ()) -> None:
        self.most, self.most_bytes, self.kept = most, most_bytes, list(kept)

    def add(self, length: int, sliding: Sliding) -> None:
        """Keep the window of a cache of `length` tokens, at least as many as the newest snapshot has."""
        if self.kept and self.kept[-1].length == length:
            return
        begin = sliding.first_seen(length)
        blocks = [block for block in self.kept[-1].blocks if block.end > begin] if self.kept else []
        for start in range(blocks[-1].end if blocks else begin, length, BLOCK):
            blocks.append(sliding.copy_of(start, min(start + BLOCK, length)))
        self.kept.append(Snapshot(length, tuple(blocks)))
        while (len(self.kept) > self.most or self.nbytes() > self.most_bytes) and self.drop_one():
            pass

    def drop_one(self) -> bool:
        """Give up the one between near neighbours, the more so the longer ago it was; false where only two are left."""
        places = [kept.length for kept in self.kept]
        if len(places) <= 2:
            return False

        def loss(index: int) -> float:
            return (places[index + 1] - places[index - 1]) / (places[-1] - places[index])

        del self.kept[min(range(1, len(places) - 1), key=loss)]
        return True

    def forget_after(self, length: int) -> None:
        """Forget places that the cache has gone back behind."""
        self.kept = [kept for kept in self.kept if kept.length <= length]

    def covering(self, begin: int, end: int) -> list[Block] | None:
        """Consecutive blocks that hold the positions `begin` to `end`; None where some are missing."""
        found: list[Block] = []
        near = [kept for kept in self.kept if kept.length > begin and kept.blocks and kept.blocks[0].start < end]
        for block in _in_order(near):
            if begin < end and block.start <= begin < block.end:
                found.append(block)
                begin = block.end
        return found if begin >= end else None

    def before(self, length: int) -> int:
        """The longest kept length below `length`, 0 where there is none."""
        return max((kept.length for kept in self.kept if kept.length < length), default=0)

    def blocks(self) -> list[Block]:
        """Every block once, in order."""
        return _in_order(self.kept)

    def lengths(self) -> list[int]:
        """Every place, in order."""
        return [kept.length for kept in self.kept]

    def copied(self) -> Snapshots:
        """The same snapshots for another cache."""
        return Snapshots(self.most, self.most_bytes, tuple(self.kept))

    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.nbytes() for block in self.blocks())


def _in_order(kept: Iterable[Snapshot]) -> list[Block]:
    blocks = {block.start: block for one in kept for block in one.blocks}
    return [blocks[start] for start in sorted(blocks)]
