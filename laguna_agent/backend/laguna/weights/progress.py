"""How a long piece of work on weights tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Stage = Literal["reading", "packing", "waiting"]

Progress = Callable[[Stage, int, int], None]
"""Called with the stage, bytes done and bytes in all, from the thread that works. "waiting" means that another
process is packing the same model; it has no measure and gives (0, 0). What the callback raises stops the work."""


def silent(stage: Stage, done: int, total: int) -> None:
    """The progress that nobody watches."""
