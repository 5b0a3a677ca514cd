"""The polynomials of the Newton-Schulz iteration, and where each sequence takes the singular values.

A step is X <- aX + b(XX^T)X + c(XX^T)^2 X: every singular value s becomes as + bs^3 + cs^5, and the singular vectors
stay. The first step gets a matrix divided by its Frobenius norm, so that no singular value is above 1. What is next to
nothing, as rounding leaves it in directions that a matrix has not, is multiplied by every a: 485 times with kj5, about
a thousand times with polar5, 79,000 times with hybrid10. Knows numbers alone; must not know tensors.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from laguna_agent.errors import UsageError

Coefficients = Literal["kj5", "polar5", "hybrid10"]
Step = tuple[float, float, float]

JORDAN: Step = (3.4445, -4.7750, 2.0315)
"""Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): the steepest slope at 0 whose values
stay bounded. They never settle at 1."""

POLAR_EXPRESS: tuple[Step, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Amsel et al., "The Polar Express" (arXiv 2505.16932), algorithm 1: the best polynomial of each step in turn, for
singular values from 1e-3 to 1. The first five of the list, before the safety factor."""

SAFETY = 1.01
"""Of the same algorithm: what each polynomial's argument is divided by, and the norm multiplied by once more, so that
rounding cannot push a value past the end of the interval that the next polynomial was made for."""

SETTLE: Step = (2.0, -1.5, 0.5)
"""The last two steps of DeepSeek-V4's hybrid (report of DeepSeek-V4, section 2.4), after eight of Jordan's: 1 is where
it rests, with slope 0."""


class Interval(NamedTuple):
    """Singular values from `smallest` to 1 (of the Frobenius norm) end from `low` to `high`, in exact arithmetic."""

    smallest: float
    low: float
    high: float


INTERVALS: dict[Coefficients, Interval] = {
    "kj5": Interval(2e-3, 0.681, 1.203),
    "polar5": Interval(2e-3, 0.870, 1.124),
    "hybrid10": Interval(1e-4, 0.9999, 1.0021),
}


def checked(coefficients: str) -> Coefficients:
    """The name, where there is such a sequence. Raises UsageError otherwise."""
    for known in get_args(Coefficients):
        if coefficients == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"coefficients: {coefficients!r} is unknown; use one of {', '.join(get_args(Coefficients))}")


def steps(coefficients: Coefficients) -> tuple[Step, ...]:
    """(a, b, c) of each step, for a matrix that was divided by its Frobenius norm and by nothing else.

    Raises UsageError where the name is unknown.
    """
    return _SEQUENCES[checked(coefficients)]


def _safe(step: Step) -> Step:
    a, b, c = step
    return a / SAFETY, b / SAFETY**3, c / SAFETY**5


_SEQUENCES: dict[Coefficients, tuple[Step, ...]] = {
    "kj5": (JORDAN,) * 5,
    # The norm's own factor is taken into the first polynomial.
    "polar5": (_safe(_safe(POLAR_EXPRESS[0])), *map(_safe, POLAR_EXPRESS[1:])),
    "hybrid10": (*(JORDAN,) * 8, SETTLE, SETTLE),
}
