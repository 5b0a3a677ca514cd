"""The compiled library for tests, and one of its variants for a while; the fixture `variant` goes through all."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from laguna_agent.backend.kernels.cpu.library import library


def opened() -> ctypes.CDLL:
    """The library; the test is skipped where there is none."""
    found = library()
    if found.opened is None:
        pytest.skip(f"the compiled kernels are not here: {found.says}")
    return found.opened


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
