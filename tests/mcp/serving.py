"""Servers for the tests: the bare one and one of the official package, alone or under a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.elicitation import Elicitation, ElicitationAnswer
from laguna_agent.mcp.servers import McpServers
from laguna_agent.tools.base import ToolContext, ToolResult
from laguna_agent.tools.ledger import FileLedger
from laguna_agent.tools.workspace import LocalWorkspace

HERE = Path(__file__).resolve().parent


def bare(name: str = "bare", *behaviour: str, **env: str | Path) -> McpServer:
    """The bare server."""
    variables = {key: str(value) for key, value in env.items()}
    return McpServer(name, command=sys.executable, args=(str(HERE / "bare.py"), *behaviour), env=variables)


def official(name: str = "official") -> McpServer:
    """The official package's server on stdio."""
    return McpServer(name, command=sys.executable, args=(str(HERE / "server.py"),), env={"FLAVOUR": "sour"})


@contextmanager
def over_http(kind: str) -> Iterator[McpServer]:
    """The official package's server on loopback; `kind` is http or sse."""
    command = [sys.executable, str(HERE / "server.py"), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield McpServer(
            "remote", kind, url=f"{url}/{'mcp' if kind == 'http' else 'sse'}", headers={"X-Flavour": "sour"}
        )
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


Elicit = Callable[[Elicitation], Awaitable[ElicitationAnswer]]


class Asked:
    """A person who answers with `elicit`."""

    def __init__(self, elicit: Elicit) -> None:
        self.elicit = elicit

    async def visited(self, id: str) -> None:
        assert id


class Running:
    """Servers that run. `offer` gives names and notices; `call` calls a tool."""

    def __init__(self, servers: McpServers, folder: Path) -> None:
        self.servers = servers
        self.context = ToolContext(LocalWorkspace(folder), FileLedger(), spool=folder / "output", call_id="call-1")

    async def offer(self) -> tuple[list[str], list[str]]:
        tools, notices = await self.servers.offer()
        return [tool.name for tool in tools], list(notices)

    async def call(self, name: str, **arguments: object) -> ToolResult:
        return await self.servers.call(name, dict(arguments), self.context)


@asynccontextmanager
async def running(
    folder: Path, *servers: McpServer, elicit: Elicit | None = None, patience: float = 60.0
) -> AsyncIterator[Running]:
    """The servers, started in `folder`, and closed at the end."""
    theirs = McpServers(servers, patience=patience)
    async with anyio.create_task_group() as group:
        theirs.start(group, folder, (folder,), None if elicit is None else Asked(elicit))
        try:
            yield Running(theirs, folder)
        finally:
            with anyio.CancelScope(shield=True):
                await theirs.aclose()
