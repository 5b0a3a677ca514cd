"""Whether a contender's logits are those of its weights: compared with exact arithmetic on the same weights.

A speed counts only while the guard holds. Knows logits; must not know who computed them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    """How far logits may be: `rms`, their root mean square error as a part of their spread; `kl`, the mean divergence
    of the next-token distributions in nats; `top`, how often the most probable token is the same at least."""

    rms: float
    kl: float
    top: float


TOLERANCE = Tolerance(rms=0.06, kl=0.02, top=0.90)
"""What activations in 8 bits cost, and no more: llama.cpp's own, on its own weights, are printed beside ours."""


@dataclass(frozen=True)
class Judgement:
    """Figures like those of `Tolerance`, over `rows` positions."""

    rms: float
    kl: float
    top: float
    rows: int

    @property
    def holds(self) -> bool:
        """Whether they are within `TOLERANCE`; what is no number is not."""
        return self.rms <= TOLERANCE.rms and self.kl <= TOLERANCE.kl and self.top >= TOLERANCE.top


def judgement(exact: Path, given: Path, vocabulary: int) -> Judgement:
    """Two files of logits, fp32 [rows, vocabulary], against each other."""
    right, found = (np.memmap(path, np.float32, "r").reshape(-1, vocabulary) for path in (exact, given))
    if right.shape != found.shape or not len(right):
        raise SystemExit(f"{given.name} has {len(found)} rows of logits, {exact.name} {len(right)}")
    error = spread = divergence = 0.0
    equal = 0
    for ours, theirs in zip(found, right, strict=True):
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        # What is added to all logits changes no probability.
        a, b = a - a.mean(), b - b.mean()
        error += float(np.square(a - b).sum())
        spread += float(np.square(b).sum())
        first, second = _logprobs(b), _logprobs(a)
        divergence += float((np.exp(first) * (first - second)).sum())
        equal += int(a.argmax() == b.argmax())
    rows = len(right)
    return Judgement(float(np.sqrt(error / spread)), divergence / rows, equal / rows, rows)


def _logprobs(logits: Any) -> Any:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
