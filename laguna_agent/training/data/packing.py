"""Documents of many lengths put into packs of one capacity, with as little room left over as can be.

Best-fit decreasing (Johnson, 1973): the longest first, each into the fullest pack that still has room for it; never
more than 11/9 of the fewest packs and 6/9 of one, and with the lengths of real files hardly more than the fewest.
Knows numbers alone; must not know tokens nor where they are stored.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from laguna_agent.errors import ConfigError


class Part(NamedTuple):
    """`length` tokens of a document, from `offset` on."""

    document: int
    offset: int
    length: int


def pack_documents(lengths: Sequence[int], capacity: int) -> list[list[Part]]:
    """Packs of at most `capacity` tokens each, that hold every token of every document once.

    lengths: the tokens of each document; empty ones are in no pack. A longer document is cut into parts of `capacity`,
    and what is left of it is packed. O(n log n) in the parts. The order of packs, and of parts in one, depends on
    nothing but the arguments. Raises ConfigError for a capacity below 1.
    """
    sequences = cut_documents(lengths, capacity)
    packs = best_fit([sequence[0].length for sequence in sequences], capacity)
    return [[sequences[index][0] for index in pack] for pack in packs]


def pack_projects(lengths: Sequence[int], projects: Sequence[Hashable], capacity: int) -> list[list[list[Part]]]:
    """Packs of sequences of parts: the files of a project follow one another in one sequence, so that a file is read
    after those that it imports (order `lengths` so). The sequence of a whole project is cut as a long document is.

    projects: what each document belongs to. Else as `pack_documents`.
    """
    sequences = cut_projects(lengths, projects, capacity)
    packs = best_fit([sum(part.length for part in sequence) for sequence in sequences], capacity)
    return [[sequences[index] for index in pack] for pack in packs]


def cut_documents(lengths: Sequence[int], capacity: int) -> list[list[Part]]:
    """Sequences of at most `capacity` tokens, each of one part."""
    return [cut for each, length in enumerate(lengths) for cut in _cut([(each, length)], capacity)]


def cut_projects(lengths: Sequence[int], projects: Sequence[Hashable], capacity: int) -> list[list[Part]]:
    """Sequences of at most `capacity` tokens, of as many documents of one project as fit, in their order."""
    members: dict[Hashable, list[tuple[int, int]]] = {}
    for document, (project, length) in enumerate(zip(projects, lengths, strict=True)):
        members.setdefault(project, []).append((document, length))
    return [cut for documents in members.values() for cut in _cut(documents, capacity)]


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `sizes` in packs that sum to at most `capacity`; each pack's in rising order.

    Raises ConfigError for a capacity below 1, or a size that is below 0 or above it; sizes of 0 are left out.
    """
    room = _Room(_checked(capacity))
    order = sorted((index for index, size in enumerate(sizes) if size), key=lambda index: (-sizes[index], index))
    packs: list[list[int]] = []
    for index in order:
        size = sizes[index]
        if not 0 < size <= capacity:
            raise ConfigError(f"a piece of {size:,} tokens does not fit into a pack of {capacity:,}")
        pack, left = room.take(size)
        if pack is None:
            pack, left = len(packs), capacity
            packs.append([])
        packs[pack].append(index)
        room.give(pack, left - size)
    for pack_ in packs:
        pack_.sort()
    return packs


def next_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """As `best_fit`, the naive way: in the given order, and a new pack as soon as one does not fit."""
    packs: list[list[int]] = []
    left = 0
    for index, size in enumerate(sizes):
        if not size:
            continue
        if size > left:
            packs.append([])
            left = capacity
        packs[-1].append(index)
        left -= size
    return packs


def fill(packs: Iterable[Iterable[int]], capacity: int) -> float:
    """The share of the packs' room that is used; packs as the sizes in them. 1.0 where there are none."""
    sums = [sum(pack) for pack in packs]
    return sum(sums) / (capacity * len(sums)) if sums else 1.0


class _Room:
    """Packs by the room that is left in them; the least room that is enough is found in two looks.

    Rooms are bits of words of about sqrt(capacity) bits, and one word says which of them have any: what a tree of
    more levels does with more steps of the interpreter. Of packs with equal room, the one that got it last is taken.
    """

    def __init__(self, capacity: int) -> None:
        self._width = max(64, int(capacity**0.5) + 1)
        self._words = [0] * (capacity // self._width + 1)
        self._summary = 0
        self._packs: dict[int, list[int]] = {}

    def give(self, pack: int, room: int) -> None:
        if not room:
            return
        word, bit = divmod(room, self._width)
        self._words[word] |= 1 << bit
        self._summary |= 1 << word
        self._packs.setdefault(room, []).append(pack)

    def take(self, size: int) -> tuple[int | None, int]:
        """(a pack with the least room of `size` or more, its room), which is in here no more; (None, 0) without one."""
        word, bit = divmod(size, self._width)
        if above := self._words[word] >> bit:
            room = size + _lowest(above)
        elif further := self._summary >> (word + 1):
            word += 1 + _lowest(further)
            room = word * self._width + _lowest(self._words[word])
        else:
            return None, 0
        packs = self._packs[room]
        pack = packs.pop()
        if not packs:
            self._words[word] &= ~(1 << (room % self._width))
            if not self._words[word]:
                self._summary &= ~(1 << word)
        return pack, room


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _checked(capacity: int) -> int:
    if capacity < 1:
        raise ConfigError(f"a pack of {capacity:,} tokens holds nothing")
    return capacity


def _cut(documents: Sequence[tuple[int, int]], capacity: int) -> list[list[Part]]:
    """(document, length)s behind one another, cut into sequences of `capacity`; the last one may be shorter."""
    sequences: list[list[Part]] = []
    room, capacity = 0, _checked(capacity)
    for document, length in documents:
        offset = 0
        while offset < length:
            if not room:
                sequences.append([])
                room = capacity
            taken = min(room, length - offset)
            sequences[-1].append(Part(document, offset, taken))
            offset, room = offset + taken, room - taken
    return sequences
