"""What the peer holds on to is bounded whatever a client does, and reading goes on where it must."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from laguna_agent.acp.peer import MAX_IN_FLIGHT
from laguna_agent.acp.streams import FdSource
from tests.acp.wire import PATIENCE, Service, Wire, connected

Connection = tuple[Wire, Service]
MANY = 20_000


@pytest.fixture
def connection() -> Iterator[Connection]:
    with connected() as pair:
        yield pair


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens on the service's thread."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def stalled(wire: Wire, service: Service) -> None:
    """Request a flood as number 1 and read nothing, until the peer has no room left."""
    wire.call(1, "flood", MANY)
    until(service.is_full)


def read_to(wire: Wire, id: Any) -> list[dict[str, Any]]:
    """Everything up to the answer to a request."""
    got = [wire.read()]
    while got[-1].get("id") != id:
        got.append(wire.read())
    return got


def test_a_cancel_is_read_while_the_client_reads_nothing(connection: Connection) -> None:
    wire, service = connection
    wire.call("held", "wait")
    stalled(wire, service)
    for number in range(500):
        wire.call(number, "unknown method")
        wire.raw(b"garbage\n")
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": "held"}})
    until(lambda: service.outcomes == ["cancelled"])


def test_answers_that_nobody_reads_are_bounded(connection: Connection) -> None:
    wire, service = connection
    stalled(wire, service)
    count = MAX_IN_FLIGHT + 500
    for number in range(count):
        wire.call(f"e{number}", "echo", "x" * 100)
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 1}})
    # Read on only when all of it was taken in: reading makes room.
    wire.send({"jsonrpc": "2.0", "method": "release"})
    until(service.released.is_set)
    answers = [m for m in read_to(wire, f"e{MAX_IN_FLIGHT - 2}") if str(m.get("id")).startswith("e")]
    refused = [m["id"] for m in answers if "error" in m]
    assert refused == [f"e{n}" for n in range(MAX_IN_FLIGHT - 1, count)]
    assert [m["id"] for m in answers if "result" in m] == [f"e{n}" for n in range(MAX_IN_FLIGHT - 1)]


def test_a_client_that_sends_garbage_and_reads_nothing_is_read_no_further(connection: Connection) -> None:
    wire, _ = connection
    wire.socket.settimeout(1.0)
    sent, line = 0, b"garbage\n"
    with pytest.raises(TimeoutError):
        while sent < 64 << 20:
            sent += wire.socket.send(line * 512)
    wire.socket.settimeout(PATIENCE)
    for _ in range(sent // len(line)):
        assert wire.read()["error"]["code"] == -32700


def test_a_burst_of_quick_requests_is_answered(connection: Connection) -> None:
    wire, _ = connection
    wire.raw(
        b"".join(
            b'{"jsonrpc":"2.0","id":%d,"method":"echo","params":{"value":%d}}\n' % (n, n)
            for n in range(4 * MAX_IN_FLIGHT)
        )
    )
    assert [wire.read().get("result") for _ in range(4 * MAX_IN_FLIGHT)] == [
        {"value": n} for n in range(4 * MAX_IN_FLIGHT)
    ]


def test_requests_are_bounded_by_their_size_too(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laguna_agent.acp.peer.MAX_HELD", 1_000_000)
    wire, _ = connection
    for number in range(4):
        wire.call(number, "wait", "x" * 300_000)
    wire.call("small", "echo")
    assert [(wire.read()["error"]["code"]) for _ in range(1)] == [-32603]
    wire.send({"jsonrpc": "2.0", "method": "release"})
    assert {wire.read()["id"] for _ in range(4)} == set(range(4))
    wire.call("again", "echo", "y")
    assert wire.read()["result"] == {"value": "y"}


def test_a_flood_does_not_starve_the_other_answers(connection: Connection) -> None:
    wire, service = connection
    stalled(wire, service)
    wire.call("other", "echo", "x")
    assert len(read_to(wire, "other")) < MANY / 2
    assert read_to(wire, 1)[-1]["result"] == {}


def test_a_cancel_after_the_end_of_the_work_reaches_nobody(connection: Connection) -> None:
    wire, service = connection
    wire.send({"jsonrpc": "2.0", "method": "release"})
    stalled(wire, service)
    wire.call("done", "polite")
    until(lambda: "polite ended" in service.outcomes)
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": "done"}})
    answers = {m["id"]: m["result"] for m in wire.until_alive() if "id" in m}
    assert answers["done"] == {"value": "ended politely"}
    assert "asked to end" not in service.outcomes


def test_a_descriptor_that_another_process_emptied_is_no_end() -> None:
    """Two readers of one pipe are woken by the same byte, and one of them finds nothing."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    twin = os.dup(theirs.fileno())
    got: list[bytes] = []

    async def read_both() -> None:
        async def read(fd: int) -> None:
            got.append(await FdSource(fd).read())

        async with anyio.create_task_group() as group:
            group.start_soon(read, theirs.fileno())
            group.start_soon(read, twin)
            for byte in (b"a", b"b"):
                await anyio.wait_all_tasks_blocked()
                ours.send(byte)
                while byte not in got:
                    await anyio.sleep(0.01)

    with ours, theirs:
        anyio.run(read_both)
        os.close(twin)
    assert got == [b"a", b"b"]
