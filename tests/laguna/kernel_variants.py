"""The compiled library for tests, and each of its variants that runs on this processor."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest

from laguna_agent.backend.kernels.cpu.library import library


def opened() -> ctypes.CDLL:
    """The library; the test is skipped where there is none."""
    found = library()
    if found.opened is None:
        pytest.skip(f"the compiled kernels are not here: {found.says}")
    return found.opened


@cache
def variants() -> tuple[str, ...]:
    """Those that run here, the best first; one that cannot be chosen where there is no library."""
    found = library().opened
    if found is None:
        return ("none",)
    names = []
    while name := found.laguna_variant_name(len(names)):
        names.append(name)
    best = found.laguna_variant()
    running = tuple(name.decode() for name in names if not found.laguna_choose_variant(name))
    found.laguna_choose_variant(best)
    return running


@contextmanager
def using(variant: str) -> Iterator[ctypes.CDLL]:
    """The library with that variant in use."""
    found = opened()
    before = found.laguna_variant()
    assert found.laguna_choose_variant(variant.encode()) == 0
    try:
        yield found
    finally:
        found.laguna_choose_variant(before)


every_variant = pytest.mark.parametrize("variant", variants())
