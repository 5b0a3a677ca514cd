"""All MCP servers of one session: started in the background, waited for by the first prompt, asked at each prompt.

What they offer changes only between prompts, so the model's prefix stays the same within a turn. A server that fails
costs a notice; one that ended after it was ready is started again once, at the next prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError, UsageError
from laguna_agent.mcp.answers import tool_result
from laguna_agent.mcp.connection import Connection, State, ToolInfo
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.elicitation import Person
from laguna_agent.mcp.naming import Names
from laguna_agent.mcp.project import tool_listing
from laguna_agent.mcp.tool import Args, ServedTool
from laguna_agent.sandbox.walls import Walls
from laguna_agent.tools.base import ToolContext, ToolResult
from laguna_agent.trust import LARGEST
from laguna_agent.trust_lines import HOW
from laguna_agent.visible import visible

PATIENCE = 15.0
"""Seconds that a prompt waits for servers that are still starting; each is waited for once."""
MAX_TOOLS = 120
"""Tools of servers in one session; model servers refuse requests with more than 128."""
NO_LIMIT = 1 << 60


class ServerState(msgspec.Struct, frozen=True):
    """A server as a person sees it; `tools` are (name, description) as it lists them, `held` says that they are not
    offered because nobody has trusted them as they are, `problem` why it cannot be used."""

    name: str
    transport: str
    state: State
    project: bool
    problem: str = ""
    held: bool = False
    tools: tuple[tuple[str, str], ...] = ()


AcceptTools = Callable[[str, str], bool]
"""Whether the tools of the server of that name may be what they are: `Trust.accept_tools`."""


class McpServers:
    """See the module. `start` them, ask for the `offer` before each turn, `aclose` them with the session."""

    def __init__(
        self,
        servers: Sequence[McpServer],
        *,
        patience: float = PATIENCE,
        accepts: AcceptTools | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        """`accepts` decides on the tools of a project's servers: without it they offer none. `notices` are told with
        the first offer."""
        self.servers = tuple(servers)
        self.patience = patience
        self._connections: list[Connection] = []
        self._group: anyio.abc.TaskGroup | None = None
        self._names = Names()
        self._routes: dict[str, tuple[Connection, str]] = {}
        self._notices = list(notices)
        self._accepts = accepts
        self._held: dict[Connection, str] = {}
        self._waited: set[Connection] = set()
        self._left_out = 0

    def start(
        self,
        group: anyio.abc.TaskGroup,
        cwd: Path,
        roots: Sequence[Path],
        person: Person | None,
        walls: Walls | None = None,
    ) -> None:
        """Start all servers in tasks of `group`, in the folder `cwd`, the confined ones behind `walls`. They may ask
        for `roots`; `person` is asked what they ask, where the face can."""
        self._group = group
        for server in self.servers:
            connection = Connection(server, cwd, roots, person, walls)
            self._connections.append(connection)
            group.start_soon(connection.run, name=f"mcp server {server.name}")

    async def offer(self, room: int = NO_LIMIT) -> tuple[tuple[ServedTool, ...], tuple[str, ...]]:
        """The tools for the next turn, in the order of the servers and of their lists, and what the person should be
        told of the servers. Waits for those that are starting, at most `patience` seconds. What does not go into `room`
        bytes of descriptions is left out."""
        ended: dict[Connection, str] = {}

        async def ready(connection: Connection) -> None:
            if connection.ending:
                await connection.gone.wait()
            if connection.state == "ended":
                ended[connection] = connection.problem
                self._restart(connection)
            if connection.settled.is_set() or connection not in self._waited:
                await connection.refresh()

        with anyio.move_on_after(self.patience):
            async with anyio.create_task_group() as group:
                for connection in self._connections:
                    group.start_soon(ready, connection)
        for connection in self._connections:
            self._tell(connection, ended.get(connection))
            if connection.server.project and connection.state == "ready":
                await self._hold(connection)
        tools = self._named(room)
        notices, self._notices = tuple(self._notices), []
        return tools, notices

    def states(self) -> tuple[ServerState, ...]:
        """How the servers are just now. To be called on the session's thread."""
        return tuple(
            ServerState(
                each.server.name,
                each.server.transport,
                each.state,
                each.server.project,
                each.problem,
                each in self._held,
                tuple((tool.name, visible(tool.description)) for tool in each.tools),
            )
            for each in self._connections
        )

    async def call(self, name: str, args: Args, context: ToolContext) -> ToolResult:
        """Call a tool by its name in the session; raises ToolError."""
        if name not in self._routes:
            raise ToolError(f"{name} is not offered any more.")
        connection, tool = self._routes[name]
        answer: dict[str, Any] = await connection.call(tool, args, context.call_id)
        return tool_result(answer, context.output_cap, context.spool)

    async def aclose(self) -> None:
        """End all servers and wait until their processes are gone."""
        async with anyio.create_task_group() as group:
            for connection in self._connections:
                group.start_soon(connection.close)

    def _restart(self, connection: Connection) -> None:
        assert self._group is not None
        connection.reset()
        self._waited.discard(connection)
        self._group.start_soon(connection.run, name=f"mcp server {connection.server.name}")

    def _tell(self, connection: Connection, ended: str | None) -> None:
        server = f"MCP server {connection.server.name}"
        if not connection.settled.is_set():
            if connection not in self._waited:
                self._notices.append(f"{server} is still starting; its tools come with a later prompt")
            self._waited.add(connection)
        elif connection.problem and not connection.told:
            before = f"{ended}, and the next start failed: " if ended else ""
            self._notices.append(f"{server} cannot be used: {before}{connection.problem}")
            connection.told = True
        elif ended is not None:
            verb = "started" if connection.server.transport == "stdio" else "connected to"
            self._notices.append(f"{server} was {verb} again: {ended}")

    async def _hold(self, connection: Connection) -> None:
        """Hold back the tools of a project's server that are not those which a person trusted."""
        listing, before = tool_listing(connection.tools), self._held.pop(connection, None)
        if len(listing) > LARGEST:
            why = f"the list of its tools is longer than {LARGEST // 1024} KiB"
        elif self._accepts is None:
            why = "nobody has trusted them"
        else:
            try:
                if await anyio.to_thread.run_sync(self._accepts, connection.server.name, listing):
                    return
                why = f"they are not what it offered when it was trusted; see what has changed with {HOW}"
            except UsageError as error:
                why = str(error)
        self._held[connection] = listing
        if listing != before:
            self._notices.append(f"the tools of MCP server {connection.server.name} are not used: {why}")

    def _named(self, room: int) -> tuple[ServedTool, ...]:
        self._routes.clear()
        offered: list[ServedTool] = []
        listed = [
            (place, connection, tool)
            for place, connection in enumerate(self._connections)
            if connection.state == "ready" and connection not in self._held
            for tool in connection.tools
        ]
        left_out = 0
        for place, connection, tool in listed:
            name = self._names.name(place, connection.server.name, tool.name)
            served = _served(name, connection.server, tool)
            room -= len(msgspec.json.encode(served))
            if room < 0 or len(offered) == MAX_TOOLS:
                left_out += 1
            elif name not in self._routes:
                # A server that lists a tool twice has one of that name.
                self._routes[name] = (connection, tool.name)
                offered.append(served)
        if left_out and left_out != self._left_out:
            why = "more than the model's window has room for" if room < 0 else "more than model servers take"
            self._notices.append(f"the MCP servers offer {len(listed)} tools, {why}; the last {left_out} are left out")
        self._left_out = left_out
        return tuple(offered)


def _served(name: str, server: McpServer, tool: ToolInfo) -> ServedTool:
    # A model server that is given anything but an object with properties refuses the whole request; some choke on the
    # schema's own address too.
    parameters = {key: value for key, value in tool.parameters.items() if key != "$schema"} | {"type": "object"}
    if not isinstance(parameters.get("properties"), dict):
        parameters["properties"] = {}
    description = visible(tool.description or f"{tool.name} of {server.name}.")
    return ServedTool(name, server.name, tool.name, description, _described(parameters))


def _described(schema: Any) -> Any:
    """The schema with its descriptions visible: they are words for the model, the rest is what a call must match."""
    if isinstance(schema, list):
        return [_described(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    words = ("description", "title")
    return {
        key: visible(value) if key in words and isinstance(value, str) else _described(value)
        for key, value in schema.items()
    }
