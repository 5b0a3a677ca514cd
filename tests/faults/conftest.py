"""The process that runs are forked from: one for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.provider_runs import Forker


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """Starts runs of the real program; see `tests.faults.forker`."""
    started = Forker()
    yield started
    started.close()
