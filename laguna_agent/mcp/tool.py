"""A server's tool as a tool of the registry.

What of it enters the conversation is `ServedTool`, which goes into the log: a replay, and a session looked back at,
make the same tool of it with no server there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import Location, ToolKind, ToolSpec
from laguna_agent.tools.base import Need, ToolContext, ToolResult
from laguna_agent.tools.workspace import Workspace

Args = dict[str, Any]
CallTool = Callable[[str, Args, ToolContext], Awaitable[ToolResult]]
"""Calls a tool by its name in the session."""


class ServedTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool as it is offered to the model: `name` is its name in the session, `tool` the one that `server` knows."""

    name: str
    server: str
    tool: str
    description: str
    parameters: dict[str, Any]


class ServerTool:
    """See the module. Its methods get the arguments as they are sent to the server."""

    kind: ToolKind = "other"

    def __init__(self, served: ServedTool, call: CallTool) -> None:
        self.name = served.name
        self.spec = ToolSpec(served.name, served.description, served.parameters)
        # Not the title that the server gives it: who is asked for leave must see what is called.
        self._shown = " ".join(f"{served.server}: {served.tool}".split())
        self._call = call

    def title(self, args: Args) -> str:
        return self._shown

    def needs(self, args: Args, workspace: Workspace) -> Need | None:
        return Need("execute", self._shown, tool=self.name)

    def locations(self, args: Args) -> tuple[Location, ...]:
        return ()

    async def run(self, args: Args, context: ToolContext) -> ToolResult:
        return await self._call(self.name, args, context)


async def not_connected(name: str, args: Args, context: ToolContext) -> ToolResult:
    """Of a tool that is only remembered."""
    raise ToolError(f"{name} belongs to an MCP server that is not connected.")
