"""What one sequence gives to a pass, and how its tokens are made of what the pass computed.

Knows a row of logits and the decoding that it belongs to; must not know the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from laguna_agent.backend.laguna.sampling import Choice, not_numbers

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.decoding import Decoding


@dataclass
class Turn:
    """What one sequence has in a pass: `ids` that must be read, a `draft` behind them, of which the last `guessed`
    tokens are guesses, and logits of the `wanted` last tokens, from `row` of the pass on."""

    decoding: Decoding
    ids: list[int]
    draft: list[int] = field(default_factory=list)
    guessed: int = 0
    wanted: int = 0
    skipped: int = 0
    draws: bool = False
    row: int = 0
    drawn: int = 0

    def raw(self, logits: Tensor) -> Tensor | None:
        """The logits that decide on the next token, out of the pass's; None where it is forced and they were not
        asked for. Raises ProviderError where they are not numbers."""
        if self.drawn < self.skipped:
            return None
        found = logits[self.row + self.drawn - self.skipped]
        if not math.isfinite(found.max().item()):
            raise not_numbers()
        return found

    def choice(self) -> Choice | None:
        """How its one token is drawn, where somebody else may do that; None where it has a draft, or draws none."""
        return self.decoding.choice() if self.draws and not self.draft else None

    def say_drawn(self, index: int) -> None:
        """Make a token that was drawn where the logits are. Raises ProviderError for -1: they are not numbers."""
        if index < 0:
            raise not_numbers()
        self.decoding.made(index, None)
        self.drawn += 1

    def say(self, index: int, logits: Tensor) -> bool:
        """Make the token; whether the next one can be made in this pass too."""
        self.decoding.made(index, self.raw(logits))
        self.drawn += 1
        return not self.decoding.done and self.drawn <= len(self.draft) and self.draft[self.drawn - 1] == index


def grouped(turns: Sequence[Turn], rows: int) -> list[list[Turn]]:
    """The turns in passes: those of few tokens together in passes of at most `rows`, which a device makes at once, and
    all longer ones in one. So a token is computed alike whether or not somebody else reads a prompt meanwhile."""
    groups: list[list[Turn]] = []
    long, held = [], rows
    for turn in turns:
        size = len(turn.ids) + len(turn.draft)
        if size > rows:
            long.append(turn)
            continue
        if held + size > rows:
            groups.append([])
            held = 0
        groups[-1].append(turn)
        held += size
    return [*groups, long] if long else groups
