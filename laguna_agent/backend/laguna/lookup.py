"""Drafts by prompt lookup: what followed the last time the text ended like this, and whether guessing pays.

Knows token ids and seconds; must not know the model. What it proposes is checked by the model, so it can cost time and
never change a token.
"""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST = 3
"""So many last tokens must have been there before; fewer are found everywhere and tell nothing."""
_LONGEST = 48
_PLACES = 16
_WINDOW = 4
"""Drafts after which it is asked whether they pay."""
_FIRST_REST, _LONGEST_REST = 8, 256
_NEWEST = 0.25


class Lookup:
    """Where each run of `SHORTEST` tokens of a growing sequence was seen."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], int] = {}
        self._previous: list[int] = []

    def continuation(self, ids: Sequence[int], room: int) -> list[int]:
        """At most `room` tokens: what follows the longest run that ends `ids` and was there before (of equals the
        latest); none where there is no such run. `ids` must only have grown since the last call."""
        self._index(ids)
        place = self._last.get(tuple(ids[-SHORTEST:]), -1) if len(ids) > SHORTEST else -1
        best, longest = -1, 0
        for _ in range(_PLACES):
            if place < 0:
                break
            run = _common_ending(ids, place)
            if run > longest:
                best, longest = place, run
            place = self._previous[place]
        if best < 0:
            return []
        # A run that reaches into the end of the sequence repeats itself, and goes on repeating.
        period = len(ids) - 1 - best
        return [ids[best + 1 + at % period] for at in range(room)]

    def _index(self, ids: Sequence[int]) -> None:
        """Note all runs but the one at the end, which is looked for."""
        for end in range(len(self._previous), len(ids) - 1):
            run = tuple(ids[end - SHORTEST + 1 : end + 1])
            whole = end >= SHORTEST - 1
            self._previous.append(self._last.get(run, -1) if whole else -1)
            if whole:
                self._last[run] = end


def _common_ending(ids: Sequence[int], place: int) -> int:
    """How many tokens up to `place` equal the last ones, as far as it is worth knowing."""
    end = len(ids) - 1
    count = 0
    while count <= min(place, _LONGEST) and ids[place - count] == ids[end - count]:
        count += 1
    return count


class Drafter:
    """Proposes up to `longest` tokens that may follow a sequence, as long as that saves time.

    A pass over a draft takes longer than a pass over one token, by how much depends on machine, weights and batch; so
    both are measured. Where a few drafts did not give more tokens per second than none, it rests for a while, and for
    twice as long if the next few fail too. Drafts grow while they are right to their end.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.resting = 0
        """Passes to go until the next draft."""
        self._lookup = Lookup()
        self._length = min(longest, 4)
        self._rest = _FIRST_REST
        self._plain: float | None = None
        self._drafts, self._tokens, self._seconds = 0, 0, 0.0

    def propose(self, ids: Sequence[int], room: int) -> list[int]:
        """At most `room` tokens that may follow `ids`; none where nothing is known or guessing does not pay."""
        if self.resting:
            self.resting -= 1
            return []
        if self._plain is None and self._drafts >= _WINDOW:
            return []
        return self._lookup.continuation(ids, min(room, self._length))

    def learn(self, guessed: int, right: int, seconds: float) -> None:
        """A pass that read `guessed` tokens beside the last one took `seconds`; `right` of them were right."""
        if not guessed:
            self._plain = seconds if self._plain is None else self._plain + _NEWEST * (seconds - self._plain)
            return
        self._length = min(self.longest, 2 * self._length if right == guessed else right + 2)
        self._drafts += 1
        self._tokens += right + 1
        self._seconds += seconds
        if self._drafts < _WINDOW or self._plain is None:
            return
        if self._tokens * self._plain > self._seconds:
            self._rest = _FIRST_REST
        else:
            self.resting, self._rest = self._rest, min(2 * self._rest, _LONGEST_REST)
        self._drafts, self._tokens, self._seconds = 0, 0, 0.0
