"""The guard: whether a step may be applied, by its loss and its gradients.

Knows numbers that are equal on every rank, so every rank decides the same without asking; must not know models nor
checkpoints: who asks it does what follows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from laguna_agent.errors import TrainingDiverged

LEAST = 8
"""Losses that must have been seen before one can be called a spike: the first steps fall steeply."""
SPREADS = 8.0
"""How many median absolute deviations, scaled to a normal distribution's sigma, a spike is above the median at least:
where the loss is noisy by itself, as on small batches near 0, a ratio alone would call half of them spikes."""
_SIGMA = 1.4826


class Guard:
    """Remembers the last `window` losses that were applied.

    A step is bad where its loss or gradient norm is no finite number, or its loss is a spike: above `spike` times the
    running median, and far outside the usual spread. After a bad step a run rolls back, at most `roll_backs` times.
    """

    def __init__(self, *, spike: float, window: int, roll_backs: int) -> None:
        self.spike, self.allowed, self.rolled_back = spike, roll_backs, 0
        self._losses: deque[float] = deque(maxlen=window)

    def objection(self, loss: float, norm: float) -> str:
        """Why the step must not be applied; empty where it may."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradients is {norm}"
        if len(self._losses) >= LEAST:
            usual = median(self._losses)
            spread = _SIGMA * median(abs(each - usual) for each in self._losses)
            if loss > self.spike * usual and loss > usual + SPREADS * spread:
                return f"the loss is {loss:.4g}, the median of the last {len(self._losses)} steps {usual:.4g}"
        return ""

    def applied(self, loss: float) -> None:
        """The step was good and its loss counts from now on."""
        self._losses.append(loss)

    def roll_back(self, step: int, objection: str, state: Mapping[str, Any]) -> None:
        """Count a roll-back, and remember what the checkpoint's `state` did. Raises TrainingDiverged where no more are
        allowed."""
        if self.rolled_back >= self.allowed:
            raise TrainingDiverged(
                f"step {step}: {objection}; {self.rolled_back} roll-backs were made, which is all that "
                "guard.roll_backs allows: lower optimizer.lr, or look at the data of the steps in events.jsonl"
            )
        count = self.rolled_back + 1
        self.load_state_dict(state)
        self.rolled_back = count

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON can hold it."""
        return {"losses": list(self._losses), "rolled_back": self.rolled_back}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._losses.clear()
        self._losses.extend(state["losses"])
        self.rolled_back = int(state["rolled_back"])
