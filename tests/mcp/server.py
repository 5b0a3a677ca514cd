"""An MCP server for the tests, made with the official package: `python server.py [stdio|http|sse]`.

Over HTTP it takes a free port of loopback and prints its URL. Each request of a tool's is what its name says.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

PIXEL = b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
server = MCPServer("test-server", "a server for tests")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"the sum is {a + b}"


@server.tool()
def fail(why: str) -> str:
    """Fail."""
    raise ValueError(why)


@server.tool()
def mixed() -> types.CallToolResult:
    """Content of every kind."""
    note = types.TextResourceContents(uri="file:///note.txt", mime_type="text/plain", text="a note")
    return types.CallToolResult(
        content=[
            types.TextContent(text="words"),
            types.ImageContent(data=PIXEL.decode(), mime_type="image/png"),
            types.AudioContent(data="AAAA", mime_type="audio/wav"),
            types.ResourceLink(uri="file:///other.txt", name="other", description="another file"),
            types.EmbeddedResource(resource=note),
        ]
    )


@server.tool()
def structured() -> types.CallToolResult:
    """An answer without text."""
    return types.CallToolResult(content=[], structured_content={"answer": 42})


@server.tool()
def long(lines: int) -> str:
    """Many lines."""
    return "\n".join(f"line {number} of many" for number in range(lines))


@server.tool()
async def where(ctx: Context) -> str:
    """The folder, the roots, and a variable."""
    roots = await ctx.session.list_roots()
    return f"{os.getcwd()} {[str(root.uri) for root in roots.roots]} {os.environ.get('FLAVOUR')}"


class Colour(BaseModel):
    colour: str
    loud: bool = True


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask the person."""
    answer = await ctx.elicit("Which colour?", Colour)
    return f"{answer.action}: {answer.data if answer.action == 'accept' else None}"


@server.tool()
async def sleep(seconds: float, ctx: Context) -> str:
    """Sleep; says on stderr when it is cancelled."""
    try:
        print("sleeping", file=sys.stderr, flush=True)
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        if mark := os.environ.get("CANCEL_MARK"):
            with open(mark, "w") as file:
                file.write("cancelled")
        raise
    return "slept"


@server.tool()
async def grow(name: str, ctx: Context) -> str:
    """Have one more tool from now on."""

    def grown() -> str:
        return "I am new"

    server.add_tool(grown, name=name, description="A tool that came later.")
    await ctx.session.send_tool_list_changed()
    return "grown"


@server.tool()
def die(code: int) -> str:
    """End at once."""
    print("dying as told", file=sys.stderr, flush=True)
    os._exit(code)


@server.tool()
def child(mark: str) -> str:
    """Start a process that ignores SIGTERM and outlives its parent."""
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"import os, signal, time; {ignore}; open({mark!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    return "started"


async def serve(app: Any) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([listening])


if __name__ == "__main__":
    kind = sys.argv[1] if len(sys.argv) > 1 else "stdio"
    if kind == "stdio":
        server.run()
    elif kind == "http":
        anyio.run(serve, server.streamable_http_app())
    else:
        anyio.run(serve, server.sse_app())
