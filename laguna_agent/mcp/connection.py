"""One server from its start to its end, in one task: the package's contexts are entered and left by the same task.

Whatever a server does, nothing but `problem` comes of it here: it is missing, refuses, hangs, dies, or sends what
nobody can read. Who calls its tools gets a ToolError. Knows the package `mcp`, which the first `run` loads in a thread,
because that takes about a second of work; must not know the session, the registry or the log.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.to_thread
import msgspec

from laguna_agent import __version__
from laguna_agent.errors import ToolError
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.elicitation import Elicitation, Person
from laguna_agent.sandbox.walls import Walls

if TYPE_CHECKING:
    from mcp.client.client import Client

    from laguna_agent.mcp.transports import Evidence

CONNECT_TIMEOUT = 60.0
"""Seconds from the start to the first list of tools: `npx` may have a package to fetch."""
CALL_TIMEOUT = 300.0
"""Seconds that a call may take without any news of its progress; the person's time to answer does not count."""
CLOSE_TIMEOUT = 3.0
"""Seconds that a server over HTTP may take to hear that the session is over; a process has its own."""
GONE_TIMEOUT = 15.0
MAX_PAGES = 100
UNSUPPORTED_VERSION, METHOD_NOT_FOUND, CONNECTION_CLOSED = -32022, -32601, -32000
SESSION_TERMINATED = "Session terminated"
"""The package's words for a server that has forgotten the session."""

State = Literal["starting", "ready", "failed", "ended"]


class ToolInfo(msgspec.Struct, frozen=True):
    """A tool as its server lists it."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass
class Flight:
    """A call on its way; `questions` are those that the server asks the person meanwhile."""

    call_id: str
    scope: anyio.CancelScope
    timeout: float
    questions: list[anyio.CancelScope] = field(default_factory=list)

    def extend(self) -> None:
        """There is news of it; while the person is asked the clock stands still."""
        self.scope.deadline = math.inf if self.questions else anyio.current_time() + self.timeout


class Connection:
    """See the module. `run` is one life; a server that ended can be given another. `state` is "failed" before it was
    ever ready, "ended" after."""

    def __init__(
        self, server: McpServer, cwd: Path, roots: Sequence[Path], person: Person | None, walls: Walls | None = None
    ) -> None:
        self.server = server
        self.state: State = "starting"
        self.problem = ""
        self.told = False
        self.tools: tuple[ToolInfo, ...] = ()
        self.stale = False
        self.settled = anyio.Event()
        self.gone = anyio.Event()
        self.call_timeout = CALL_TIMEOUT
        self._cwd = cwd
        self._walls = walls
        self._roots = roots
        self._person = person
        self._visits: set[str] = set()
        self._client: Client | None = None
        self._stop = anyio.Event()
        self._scope = anyio.CancelScope()
        self._flights: list[Flight] = []

    @property
    def ending(self) -> bool:
        """Whether it was ready and is not any more, with its processes still being ended."""
        return self.state == "ready" and self._client is None

    def reset(self) -> None:
        """Make ready for another life."""
        self.state, self.problem, self.told, self.stale = "starting", "", False, False
        self.settled, self.gone, self._stop = anyio.Event(), anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Start the server, list its tools, and keep it until it ends or `close` is called."""
        try:
            with self._scope:
                await anyio.to_thread.run_sync(_load, abandon_on_cancel=True)
                # The handshake first: every server of today knows it, and some end at any other first message.
                if not await self._live("legacy"):
                    await self._live("auto")
        except Exception as error:  # noqa: BLE001 - a broken installation costs the servers, not every session
            self._end(_one_line(error))
        finally:
            self._client = None
            if self.state in {"starting", "ready"}:
                self.state, self.problem = "ended", self.problem or "the session was closed"
            self.settled.set()
            self.gone.set()

    async def close(self) -> None:
        """End the server; returns when its processes are gone."""
        self._stop.set()
        if self.state == "starting":
            self._scope.cancel()
        with anyio.move_on_after(GONE_TIMEOUT):
            await self.gone.wait()

    async def _live(self, mode: Literal["legacy", "auto"]) -> bool:
        """False where the server is there, but speaks only the revisions that `mode` does not."""
        from mcp.shared.exceptions import MCPError

        from laguna_agent.mcp.transports import Evidence

        evidence = Evidence()
        error: Exception | None = None
        try:
            with anyio.fail_after(CONNECT_TIMEOUT) as patience:
                async with self._contexts(mode, evidence) as client:
                    self.tools = await _list_tools(client)
                    patience.deadline = math.inf
                    self._client, self.state = client, "ready"
                    self.settled.set()
                    await self._over(evidence)
                    self._client = None
                    patience.deadline = anyio.current_time() + CLOSE_TIMEOUT
        except Exception as problem:  # noqa: BLE001 - a server's faults reach us as whatever the package met
            error = _first(problem)
        if isinstance(error, MCPError) and error.code in {UNSUPPORTED_VERSION, METHOD_NOT_FOUND} and mode == "legacy":
            return False
        self._end(_explained(error, evidence))
        return True

    def _end(self, problem: str) -> None:
        self.problem = problem
        self.state = "ended" if self.state == "ready" else "failed"

    def _contexts(self, mode: Literal["legacy", "auto"], evidence: Evidence) -> Client:
        import mcp_types
        from mcp.client.client import Client

        from laguna_agent.mcp.transports import reach

        async def roots(context: Any) -> mcp_types.ListRootsResult:
            listed = [mcp_types.Root(uri=root.as_uri(), name=root.name) for root in self._roots]  # type: ignore[arg-type]
            return mcp_types.ListRootsResult(roots=listed)

        async def heard(message: Any) -> None:
            if isinstance(message, mcp_types.ToolListChangedNotification):
                self.stale = True
            elif isinstance(message, mcp_types.ElicitCompleteNotification):
                await self._visited(message.params.elicitation_id)

        return Client(
            reach(self.server, self._cwd, evidence, self._walls),
            mode=mode,
            cache=None,
            client_info=mcp_types.Implementation(name="laguna-agent", title="Laguna Agent", version=__version__),
            list_roots_callback=roots,
            message_handler=heard,
            elicitation_callback=self._asked if self._person is not None else None,
        )

    async def _over(self, evidence: Evidence) -> None:
        """Wait until the server or the session ends."""
        async with anyio.create_task_group() as group:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            group.start_soon(wait, self._stop)
            group.start_soon(wait, evidence.ended)

    # -- using it ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Wait until it is known whether the server is there, and list its tools again if it said that they changed."""
        await self.settled.wait()
        client = self._client
        if client is None or not (self.stale or client.protocol_version >= "2026"):
            # Servers of the newer revision tell of changes only on a stream of its own; they are asked each time.
            return
        # Before the list is asked for: it may change again while it comes.
        self.stale, listed = False, False
        try:
            self.tools = await _list_tools(client)
            listed = True
        except Exception as error:  # noqa: BLE001 - as in _live; the tools known so far stay
            self.problem, self.told = f"its tools could not be listed again: {_one_line(_first(error))}", False
        finally:
            self.stale = self.stale or not listed

    async def call(self, tool: str, arguments: dict[str, Any], call_id: str) -> dict[str, Any]:
        """Call a tool; the answer as JSON (`CallToolResult`). ToolError when there is none. Being cancelled tells the
        server and takes back what it asks the person."""
        if self._client is None:
            raise ToolError(
                f"The MCP server {self.server.name} is not running: {self.problem or 'it has just ended'}. "
                "Go on without it; it is started again with the next prompt."
            )
        with anyio.CancelScope(deadline=anyio.current_time() + self.call_timeout) as scope:
            flight = Flight(call_id, scope, self.call_timeout)
            self._flights.append(flight)
            try:
                return await self._answer(self._client, flight, tool, arguments)
            finally:
                self._flights.remove(flight)
                for question in flight.questions:
                    question.cancel()
        raise ToolError(f"{tool} gave no answer and no news for {self.call_timeout:g} s; the call was cancelled.")

    async def _answer(self, client: Client, flight: Flight, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from mcp.shared.exceptions import MCPError

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            flight.extend()

        try:
            result = await client.call_tool(tool, arguments, progress_callback=progressed)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED or error.message == SESSION_TERMINATED:
                self._lost()
                raise ToolError(f"The MCP server {self.server.name} ended while it worked on this call.") from error
            raise ToolError(f"{self.server.name} refused the call: {error.message}") from error
        except Exception as error:
            raise ToolError(f"{self.server.name} gave an answer that cannot be used: {_one_line(error)}") from error
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    def _lost(self) -> None:
        """The connection is of no use any more; its own task finds out why."""
        self._client = None
        self._stop.set()

    async def _asked(self, context: Any, params: Any) -> Any:
        """A question of the server to the person; only in the course of a call, where somebody waits for it."""
        import mcp_types

        if not self._flights or self._person is None:
            return mcp_types.ElicitResult(action="decline")
        flight = self._flights[-1]
        question = Elicitation(
            self.server.name,
            params.message,
            flight.call_id,
            params.requested_schema if params.mode == "form" else None,
            getattr(params, "url", ""),
            getattr(params, "elicitation_id", None) or flight.call_id,
        )
        if question.url:
            self._visits.add(question.id)
        with anyio.CancelScope() as scope:
            flight.questions.append(scope)
            flight.extend()
            try:
                answer = await self._person.elicit(question)
            finally:
                flight.questions.remove(scope)
                flight.extend()
            return mcp_types.ElicitResult(action=answer.action, content=answer.content)
        return mcp_types.ElicitResult(action="cancel")

    async def _visited(self, id: str) -> None:
        # Only what it has asked for: an id is unique among the questions of one server, not of all.
        if self._person is not None and id in self._visits:
            self._visits.discard(id)
            await self._person.visited(id)


@cache
def _load() -> None:
    import mcp.client.client  # noqa: F401

    import laguna_agent.mcp.transports  # noqa: F401

    # The package's classes live as long as the program. Looking for garbage among them would take most of a second at
    # its end, and editors wait two for that.
    gc.freeze()


async def _list_tools(client: Client) -> tuple[ToolInfo, ...]:
    if client.server_capabilities.tools is None:
        return ()
    found: list[ToolInfo] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += [ToolInfo(tool.name, tool.description or tool.title or "", tool.input_schema) for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(found)


def _first(error: Exception) -> Exception:
    """The first error of a group, which the package's task groups make of every failure."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _explained(error: Exception | None, evidence: Evidence) -> str:
    from mcp.shared.exceptions import MCPError

    match error:
        case None | MCPError(code=-32000):
            reason = "it ended"
        case TimeoutError():
            reason = f"it did not answer within {CONNECT_TIMEOUT:g} s"
        case FileNotFoundError() | PermissionError() | NotADirectoryError():
            reason = f"{error.filename}: {error.strerror}"
        case _:
            reason = _one_line(error)
    return reason + evidence.text


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
