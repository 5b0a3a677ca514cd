"""The connection to a foreign agent: its process and the peer on its pipes, from the start to the end of both.

Knows how an agent fails (it is missing, prints what is no message, never answers, dies) and says so in one line; must
not know sessions, events or what the methods mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.abc
import msgspec
from anyio.abc import TaskStatus

from laguna_agent.acp import schema
from laguna_agent.acp.client.incoming import Incoming, Paced
from laguna_agent.acp.client.process import AgentProcess
from laguna_agent.acp.client.verdicts import refused
from laguna_agent.acp.peer import ConnectionClosed, NotificationHandler, Peer, RequestHandler, RpcError
from laguna_agent.errors import LagunaError, ProviderUnavailable, UsageError
from laguna_agent.event_lines import one_line

DRAINING = 0.5
"""Seconds of silence after which no more is waited for of what the agent wrote before its end."""
GONE = 10.0
"""Seconds that an agent whose connection has closed may take to be gone, until it is said how it ended."""

T = TypeVar("T")


class Connection:
    """See the module. `name` is the agent's, as errors call it; `methods` the logins that it offers."""

    def __init__(
        self,
        process: AgentProcess,
        incoming: Incoming,
        requests: Mapping[str, tuple[type, RequestHandler]],
        notifications: Mapping[str, tuple[type, NotificationHandler]],
        on_close: Callable[[], None],
    ) -> None:
        self.name = process.program
        self.methods: list[schema.AuthMethod] = []
        self.peer = Peer(Paced(process, incoming), process, requests, notifications)
        self._process = process
        self._on_close = on_close
        self._left = False
        self._over = anyio.Event()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Speak with the agent until one side has had enough; then nothing of it runs any more."""
        try:
            async with anyio.create_task_group() as group:
                heard = anyio.Event()
                group.start_soon(self._listen, heard)
                group.start_soon(self._watch)
                task_status.started()
                await self.peer.run(self._on_close)
                if not self._left:
                    # It ended by itself, and most likely says why.
                    with anyio.move_on_after(DRAINING):
                        await heard.wait()
                group.cancel_scope.cancel()
        finally:
            await self._process.end()
            self._over.set()

    async def request(
        self,
        method: str,
        params: msgspec.Struct,
        kind: type[T],
        what: str,
        seconds: float,
        at_once: Callable[[T], None] | None = None,
    ) -> T:
        """Ask the agent, and wait so long for the answer; what goes wrong is an error for a person, in which `what`
        says what the agent did not do. `at_once` is as `Peer.request` has it."""
        try:
            with anyio.fail_after(seconds):
                return await self.peer.request(method, params, kind, at_once=at_once)
        except TimeoutError:
            raise ProviderUnavailable(
                f"{self.name} {what}: no answer to {method} within {seconds:g} s; is this a command that speaks ACP?"
                + self._said()
            ) from None
        except LagunaError as error:
            raise await self.failure(error, what) from error

    async def failure(self, error: LagunaError, what: str) -> LagunaError:
        """What `error`, which a request ended with, means for a person."""
        if isinstance(error, RpcError):
            return refused(error, self.name, what, self.methods)
        if not isinstance(error, ConnectionClosed):
            return error
        with anyio.move_on_after(GONE):
            await self._over.wait()
        ended = self._process.ended
        how = f"it ended with {ended}" if ended else "it closed the connection"
        return ProviderUnavailable(f"{self.name} {what}: {how}{self._said()}")

    async def aclose(self) -> None:
        """End it; returns when nothing of it runs any more."""
        self._left = True
        with anyio.CancelScope(shield=True):
            self.peer.close()
            await self._over.wait()

    def _said(self) -> str:
        words = self._process.last_words
        return f"; it said: {words}" if words else ""

    async def _listen(self, heard: anyio.Event) -> None:
        await self._process.listen()
        heard.set()

    async def _watch(self) -> None:
        """The agent may be gone without an end of its output."""
        await self._process.silent(DRAINING)
        self.peer.close()


async def connect(
    command: str,
    cwd: Path,
    tasks: anyio.abc.TaskGroup,
    incoming: Incoming,
    requests: Mapping[str, tuple[type, RequestHandler]],
    notifications: Mapping[str, tuple[type, NotificationHandler]],
    on_close: Callable[[], None],
) -> Connection:
    """Start the agent in `cwd` and serve it in a task of `tasks`. Raises UsageError where it cannot be started."""
    if not cwd.is_dir():
        raise UsageError(f"the working directory does not exist: {one_line(str(cwd))}")
    process = await AgentProcess.start(command, cwd)
    try:
        connection = Connection(process, incoming, requests, notifications, on_close)
        await tasks.start(connection.serve)
    except BaseException:
        await process.end()
        raise
    return connection
