"""Fuzzy search in very many paths, fast enough for every keystroke, in plain Python.

What a pattern finds falls into tiers, and one tier stands before the next: the beginning of a path or of a name, a
piece of a name, a piece of a path, letters of a name in order, letters of a path in order. The first three are found
by C's string search in one large text, so that the letters of each path are looked at only where those give too
little, and then among what the pattern's beginning had found. Within a tier a score decides, then depth and length.

Knows strings; must not know where they come from. Case counts for nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice

SHOWN = 50
SCORED = 200
"""Paths of one tier that are scored; they are the shallowest and shortest ones."""
LOOKED_AT = 3_000
"""Paths that hold a pattern's letters in order, the nearest ones: there are more for a pattern that says little yet."""
_SAMPLE = 50_000
_WORD_ENDS = frozenset("/_-. ")


class Paths:
    """A set of paths made for searching; they hold no line ends. Directories end with a slash."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = _nearest_first(paths)
        lowered = [_folded(path) for path in self.paths]
        self._lowered = lowered
        self._names = [path[path.rfind("/", 0, -1) + 1 :] for path in lowered]
        self._path_text, self._path_starts = _joined(lowered)
        self._name_text, self._name_starts = _joined(self._names)
        self._sample = self._path_text[-_SAMPLE:]
        self._narrowed: tuple[str, Sequence[int]] = ("", range(len(lowered)))

    def __len__(self) -> int:
        return len(self.paths)

    def search(self, pattern: str, limit: int = SHOWN) -> list[str]:
        """The best `limit` paths for a pattern, the best one first; for an empty pattern, the nearest ones."""
        wanted = _folded("".join(pattern.split()))
        if not wanted:
            return self.paths[:limit]
        found: dict[int, None] = {}
        for tier in (self._beginnings, self._in_names, self._in_paths, self._letters):
            fresh = [at for at in tier(wanted) if at not in found]
            found.update(dict.fromkeys(sorted(fresh, key=lambda at: self._key(at, wanted))))
            if len(found) >= limit:
                break
        return [self.paths[at] for at in list(found)[:limit]]

    def _beginnings(self, wanted: str) -> list[int]:
        names = _lines_with(self._name_text, self._name_starts, "\n" + wanted)
        paths = _lines_with(self._path_text, self._path_starts, "\n" + wanted) if "/" in wanted else ()
        return [*names, *paths]

    def _in_names(self, wanted: str) -> Iterable[int]:
        return _lines_with(self._name_text, self._name_starts, wanted)

    def _in_paths(self, wanted: str) -> Iterable[int]:
        return _lines_with(self._path_text, self._path_starts, wanted)

    def _letters(self, wanted: str) -> list[int]:
        hits = self._with_letters(wanted)
        if len(hits) <= SCORED:
            return hits
        in_name = _matcher(wanted)
        near = [at for at in hits if in_name(self._names[at])][:SCORED]
        return near + hits[: SCORED - len(near)]

    def _with_letters(self, wanted: str) -> list[int]:
        """The paths that hold the letters in this order, the nearest `LOOKED_AT` of them."""
        known, candidates = self._narrowed
        if not wanted.startswith(known):
            candidates = range(len(self._lowered))
        in_order, lowered = _matcher(wanted), self._lowered
        # Most paths lack one of the rarer letters, which shows in a fraction of the time.
        a, b, c = (sorted(set(wanted), key=self._sample.count) * 3)[:3]
        found = (at for at in candidates if a in (path := lowered[at]) and b in path and c in path and in_order(path))
        hits = list(islice(found, LOOKED_AT))
        if len(hits) < LOOKED_AT:
            self._narrowed = (wanted, hits)
        return hits

    def _key(self, at: int, wanted: str) -> tuple[int, int]:
        return -score(wanted, self._lowered[at]), at


def score(wanted: str, path: str) -> int:
    """How well letters that a path holds in order fit it: beginnings of words and letters side by side count most, the
    name more than its directories, and what is left over counts against it. Both in lower case."""
    name_at = path.rfind("/", 0, -1) + 1
    spots = _spots(wanted, path, name_at)
    if spots is None and (spots := _spots(wanted, path, 0)) is None:
        return -1_000_000
    points, before = 0, -2
    for at in spots:
        points += 16 if at == before + 1 else -min(at - before, 6)
        points += 12 if at == 0 or path[at - 1] in _WORD_ENDS else 0
        points += 4 if at >= name_at else 0
        before = at
    left_over = len(path) - name_at - sum(at >= name_at for at in spots)
    return points - left_over // 2 - 2 * path.count("/")


def matches(pattern: str, path: str) -> bool:
    """Whether a path holds the letters of a pattern in order, whatever their case and the spaces between them."""
    return _matcher(_folded("".join(pattern.split())))(_folded(path)) is not None


def _spots(wanted: str, path: str, start: int) -> list[int] | None:
    """Where the letters are best taken from `start` on: beside the one before, else where a word begins, else as early
    as there is one. None where they are not all there."""
    latest = [0] * len(wanted)
    end = len(path)
    for index in range(len(wanted) - 1, -1, -1):
        end = path.rfind(wanted[index], start, end)
        if end < 0:
            return None
        latest[index] = end
    spots: list[int] = []
    at = start
    for index, letter in enumerate(wanted):
        spot = path.find(letter, at)
        if not (spots and spot == at):
            spot = _word_start(path, letter, spot, latest[index])
        spots.append(spot)
        at = spot + 1
    return spots


def _word_start(path: str, letter: str, first: int, last: int) -> int:
    """The first place of a letter from `first` to `last` at which a word begins; `first` where there is none."""
    at = first
    while 0 <= at <= last:
        if at == 0 or path[at - 1] in _WORD_ENDS:
            return at
        at = path.find(letter, at + 1)
    return first


def _matcher(wanted: str) -> Callable[[str], object]:
    # Possessive: nothing is tried twice, so a path costs its length and no more.
    return re.compile("".join(f"[^{re.escape(letter)}]*+{re.escape(letter)}" for letter in wanted)).match


def _folded(text: str) -> str:
    # `lower` makes two characters of a few; what counts is that pattern and path are treated alike.
    return text.lower()


def _joined(lines: Sequence[str]) -> tuple[str, list[int]]:
    """The lines with a line end before each and one at the end, and where each of them begins."""
    starts = list(accumulate((len(line) + 1 for line in lines), initial=1))
    return "\n" + "\n".join(lines) + "\n", starts


def _lines_with(text: str, starts: list[int], wanted: str) -> Iterator[int]:
    """The numbers of at most `SCORED` lines that hold a string, in order."""
    at, given = text.find(wanted), 0
    while at >= 0 and given < SCORED:
        line = bisect_right(starts, at + 1) - 1 if wanted[0] == "\n" else bisect_right(starts, at) - 1
        if line >= len(starts) - 1:
            return
        yield line
        given += 1
        at = text.find(wanted, starts[line + 1] - 1)


def _nearest_first(paths: Iterable[str]) -> list[str]:
    """By depth, then length, then letters. A sort of all of them at once would keep other threads waiting."""
    shelves: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        shelves.setdefault((path.count("/", 0, -1), len(path)), []).append(path)
    return [path for _, shelf in sorted(shelves.items()) for path in sorted(shelf)]
