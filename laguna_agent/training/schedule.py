"""The learning rate over a run: warm-up, stable, decay (WSD; arXiv 2405.18392).

Knows arithmetic; must not know optimizers.
"""

from __future__ import annotations

import math


def wsd(step: float, *, steps: int, warmup: int = 0, decay: float = 0.3, floor: float = 0.05) -> float:
    """The share of the peak rate that step `step` (1 to `steps`) learns with.

    It rises linearly over the first `warmup` steps, stays 1, and falls over the last `decay` share of the steps as
    1 - sqrt(x) to `floor`, which the last step has. A function of the step alone, so a resumed run needs no state;
    where warm-up and decay overlap, the smaller counts.
    """
    rise = step / warmup if step < warmup else 1.0
    falling = decay * steps
    gone = (step - (steps - falling)) / falling if falling > 0 else 0.0
    fall = 1.0 - (1.0 - floor) * math.sqrt(min(max(gone, 0.0), 1.0))
    return max(0.0, min(rise, fall))
