"""Whose turn it is: sources with weights take turns so that every beginning of the row has each one's share.

Tijdeman's rule for the chairman assignment problem (Discrete Mathematics 32, 1980): after n turns a source of weight w
out of W, one of k, has had w n / W turns give or take 1 - 1/(2k - 2), which no rule can improve. Taking whoever lacks
most is off by more than one turn where sources are many. In whole numbers, so that every machine takes the same turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from laguna_agent.errors import ConfigError

_FINENESS = 1 << 32


class Turns:
    """The turns of sources with these weights, `taken` of which each has had already."""

    def __init__(self, weights: Sequence[float], taken: Sequence[int] | None = None) -> None:
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ConfigError(f"a blend's weights are {list(weights)}, expected numbers of 0 or more")
        total = math.fsum(weights)
        if total <= 0:
            raise ConfigError("the weights of a blend sum to 0: give one source a weight above 0")
        # Whole numbers of 2^-32 of all; what is above 0 stays so.
        self._parts = [max(1, round(weight / total * _FINENESS)) if weight else 0 for weight in weights]
        self._whole = sum(self._parts)
        self.taken = list(taken) if taken is not None else [0] * len(self._parts)
        self._active = [index for index, part in enumerate(self._parts) if part]

    def next(self) -> int:
        """The source whose turn it is; the turn is taken."""
        chosen = self._chosen(sum(self.taken) + 1)
        self.taken[chosen] += 1
        return chosen

    def _chosen(self, turn: int) -> int:
        if len(self._active) == 1:
            return self._active[0]
        slack = 2 * len(self._active) - 2
        best, deadline = -1, (0, 1)
        for index in self._active:
            part = self._parts[index]
            lacking = part * turn - self.taken[index] * self._whole
            if slack * lacking < self._whole:
                continue
            # Turns until it would lack more than is allowed, as a quotient: ((1 - 1/slack) whole - lacking) / part.
            until = ((slack - 1) * self._whole - slack * lacking, part)
            if best < 0 or until[0] * deadline[1] < deadline[0] * until[1]:
                best, deadline = index, until
        return best
