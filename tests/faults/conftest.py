"""The process that runs are forked from, one for all tests of a worker; and what every process scenario ends with."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.aftermath import Aftermath
from tests.faults.provider_runs import Forker
from tests.model_server import ModelServer


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """Starts runs of the real program; see `tests.faults.forker`."""
    started = Forker()
    yield started
    started.close()


@pytest.fixture
def aftermath(model_server: ModelServer, workspace: Path, forker: Forker) -> Aftermath:
    """What a process scenario calls in the end; see `tests.faults.aftermath`."""
    return Aftermath(model_server, workspace, forker)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A process scenario that has passed without looking at what the fault left has failed."""
    done = yield
    if pyfuncitem.path.name.startswith("test_process_"):
        aftermath = pyfuncitem.funcargs.get("aftermath")
        if not isinstance(aftermath, Aftermath) or not aftermath.looked:
            pytest.fail(f"{pyfuncitem.name} did not look at what the fault left; call `aftermath`", pytrace=False)
    return done
