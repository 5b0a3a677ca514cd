"""Finding a host by name, for no longer than a person would wait.

The event loop looks names up in a pool of threads that it waits for at its end, and a resolver that gets no answer
takes half a minute: a program that gave up in time would still hang. So the first look-up is tried in a thread that
nobody waits for. Knows names; must not know HTTP.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress

import anyio


async def look_up(host: str, patience: float) -> None:
    """Return once `host` can be found by name. Raises socket.gaierror where it cannot, TimeoutError where that is not
    known after `patience` seconds."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return
    found, loop = anyio.Event(), asyncio.get_running_loop()
    problem: list[OSError] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            problem.append(error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error)))
        with suppress(RuntimeError):  # the loop is over: nobody waits for the answer
            loop.call_soon_threadsafe(found.set)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    with anyio.fail_after(patience):
        await found.wait()
    if problem:
        raise problem[0]
