"""What refusing a hostile file may cost, and that it is told in one short line."""

from __future__ import annotations

import contextlib
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from laguna_agent.errors import LagunaError

MEMORY = 200 << 20
SECONDS = 1.0


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """At most 200 MB more of private memory, and one second of the processor."""
    torch.zeros(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = 4096 * int(Path("/proc/self/statm").read_text().split()[5]) if Path("/proc/self/statm").exists() else 0
    started = time.process_time()
    if used:
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert time.process_time() - started < SECONDS


def refused(open_it: Callable[[], Any], words: str) -> None:
    with bounded(), pytest.raises(LagunaError, match=re.escape(words)) as caught:
        open_it()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000
