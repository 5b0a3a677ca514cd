"""Drafts by prompt lookup: what followed the last time the text ended like this, and whether guessing pays.

Knows token ids and seconds; must not know the model. What it proposes is checked by the model, so it can cost time and
never change a token.
"""

from __future__ import annotations

from collections.abc import Sequence


class Drafter:
    """Proposes up to `longest` tokens that may follow a sequence."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def propose(self, ids: Sequence[int], room: int) -> list[int]:
        """At most `room` tokens that may follow `ids`; none where nothing is known or guessing does not pay."""
        return []

    def learn(self, guessed: int, right: int, seconds: float) -> None:
        """A pass that read `guessed` guesses beside the last token took `seconds`; `right` of them were right."""
