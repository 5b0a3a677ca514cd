"""Who makes which matrix orthogonal, where several ranks each hold some rows of it, and in what order they travel.

Every rank works this out for itself and must come to the same result: from shapes alone, by whole numbers alone. Knows
numbers; must not know tensors nor processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Shape(NamedTuple):
    """Of a whole parameter that travels: [parts * rows each, columns], `rows` counting those of all parts."""

    rows: int
    columns: int
    parts: int = 1

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return self.rows * self.columns

    @property
    def work(self) -> int:
        """What one Newton-Schulz step costs it."""
        return self.parts * work(self.rows // self.parts, self.columns)


class Owned(NamedTuple):
    """A parameter that travels (`place` in the list that the plan was made for) and the rank that it travels to."""

    place: int
    shape: Shape
    owner: int


Bucket = tuple[Owned, ...]
"""What travels in one exchange."""


def work(rows: int, columns: int) -> int:
    """Floating-point operations of one Newton-Schulz step on one matrix."""
    short, long = min(rows, columns), max(rows, columns)
    return 4 * short * short * long + 2 * short**3


def rows_held(rows: int, ranks: int) -> list[int]:
    """How many of `rows` each rank holds: as torch.chunk cuts, so the last ones may hold fewer, or none."""
    most = -(-rows // ranks)
    return [max(0, min(most, rows - most * rank)) for rank in range(ranks)]


def plan(shapes: Sequence[Shape], at_home: Sequence[int], least: int) -> list[Bucket]:
    """An owner for each of `shapes`, and buckets of them in the order in which they travel.

    at_home: for each rank the work that it has apart from these (its experts). The most work is given away first, each
    time to the rank that has the least so far (Graham's longest-processing-time rule, at most 4/3 of the optimum where
    nothing is at home). A bucket is full when it holds `least` elements and as many parameters as there are ranks: with
    fewer some ranks would wait for the others in every exchange. Equal shapes lie side by side, for they are made
    orthogonal together.
    """
    loads = list(at_home)
    order = sorted(range(len(shapes)), key=lambda index: (-shapes[index].work, shapes[index], index))
    buckets: list[Bucket] = []
    filling: list[Owned] = []
    for index in order:
        owner = min(range(len(loads)), key=lambda rank: (loads[rank], rank))
        loads[owner] += shapes[index].work
        filling.append(Owned(index, shapes[index], owner))
        if len(filling) >= len(loads) and sum(owned.shape.elements for owned in filling) >= least:
            buckets.append(tuple(filling))
            filling = []
    if filling:
        buckets.append(tuple(filling))
    return buckets
