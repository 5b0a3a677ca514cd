"""The random numbers of a process as a checkpoint keeps them, and arithmetic that gives the same bits again.

Knows the generators of Python, numpy and torch; must not know who draws from them.
"""

from __future__ import annotations

import base64
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import deterministic


def seed_all(seed: int) -> None:
    """Begin all generators with `seed`."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Where all generators of this process are, as JSON can hold it."""
    version, numbers, spare = random.getstate()
    kind, keys, at, has_spare, normal = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), spare],
        "numpy": [kind, [int(key) for key in keys], int(at), int(has_spare), float(normal)],
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Let all generators go on from there."""
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers), spare))
    kind, keys, at, has_spare, normal = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), at, has_spare, normal))
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


@contextmanager
def repeatable() -> Iterator[None]:
    """Within the block torch adds in one order wherever it can, so that the same steps give the same bits: without it
    even a CPU scatters gradients in the order in which its threads come."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A check for reads of memory that nobody wrote; it costs a pass over every new tensor.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
