"""Names that are found, that are not, and that nobody answers for."""

from __future__ import annotations

import socket
import time

import anyio
import pytest

from laguna_agent.backend.lookup import look_up


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_what_can_be_found(host: str) -> None:
    anyio.run(look_up, host, 5.0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..b"])
def test_what_cannot(host: str) -> None:
    with pytest.raises(socket.gaierror):
        anyio.run(look_up, host, 5.0)


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's resolver is not ours to break, so its silence is acted; what must end in time is real."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        anyio.run(look_up, "model.example", 0.1)
    assert time.monotonic() - started < 2
