"""What the training benchmark prints, and the arithmetic between its timings and its table.

Knows numbers and text; must not know models, data nor how a figure was taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HEADINGS = ("claim", "naive arm", "figure", "aim", "held")
EXTENSIONS = 4
"""Times that a search for a learning rate may step beyond its grid."""


@dataclass(frozen=True)
class Settings:
    """How much is done: `quick` for a test that everything runs (its figures mean nothing); files that may be lost go
    to `cache`."""

    quick: bool
    cache: Path


@dataclass(frozen=True)
class Row:
    """One line of the table. `held`: whether the figure keeps the aim; None where there is no aim."""

    claim: str
    naive: str
    figure: str
    aim: str = "–"
    held: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        held = "–" if self.held is None else "yes" if self.held else "**no**"
        return (self.claim, self.naive, self.figure, self.aim, held)


def markdown(rows: Sequence[Row]) -> str:
    """The table of all rows."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median, and least and greatest where there are several: `0.83 (0.81..0.85)`."""
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}..{max(values):{form}})"


def steps_to(loss: float, runs: Mapping[int, float]) -> float:
    """Steps of a run that would end at `loss`, from whole runs of other lengths: {steps: last loss}.

    A line through the two that lie next to each other around it, in the logarithm of the steps; of several such places
    the last, for a later run that is worse again says that the earlier was luck. Where no run was so good: infinity.
    Where all were: the fewest steps, which is then an upper bound.
    """
    lengths = sorted(runs)
    if all(runs[length] > loss for length in lengths):
        return math.inf
    for before, after in zip(reversed(lengths[:-1]), reversed(lengths[1:]), strict=True):
        if runs[before] > loss >= runs[after]:
            way = (runs[before] - loss) / (runs[before] - runs[after])
            return math.exp(math.log(before) + way * (math.log(after) - math.log(before)))
    return float(lengths[0]) if runs[lengths[-1]] <= loss else math.inf


def bracketed(
    grid: Sequence[float], losses: Callable[[Sequence[float]], Sequence[float]], factor: float = 2.0
) -> tuple[float, dict[float, float], bool]:
    """The best rate of a grid, which is extended until the best is not at its edge: (rate, {rate: loss}, bracketed).

    `losses` gives the final losses of several rates at once, so that runs lie side by side. A loss that is not a number
    counts as the worst.
    """
    found: dict[float, float] = {}
    wanted = list(grid)
    for _ in range(EXTENSIONS + 1):
        found |= zip(wanted, (_or_worst(loss) for loss in losses(wanted)), strict=True)
        best = min(found, key=lambda rate: (found[rate], rate))
        if best == min(found):
            wanted = [best / factor]
        elif best == max(found):
            wanted = [best * factor]
        else:
            return best, found, True
    return best, found, False


def _or_worst(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def interleaved(
    arms: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each arm in each of so many rounds through all of them, after one round that does not count.

    What runs on one thread may be timed by the processor's time (`time.process_time`), which does not see the others.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, work in arms.items():
            begin = clock()
            work()
            if turn:
                taken[name].append(clock() - begin)
    return taken


def ratios(taken: Mapping[str, Sequence[float]], slow: str, fast: str) -> list[float]:
    """How many times as long `slow` took as `fast`, round by round."""
    return [a / b for a, b in zip(taken[slow], taken[fast], strict=True)]


def milliseconds(values: Sequence[float]) -> str:
    """The median of seconds, in ms."""
    return f"{1e3 * median(values):.1f} ms"
