"""The MCP servers that a workspace brings: its `.mcp.json`, in the form that many programs read.

    {"mcpServers": {NAME: {"command", "args", "env"} | {"type": "http" | "sse", "url", "headers"}}}

Knows that form and what of it is not done here; must not know who trusts what: callers bring a text that a person has
trusted. Values are taken as they are written: no variable is ever put in, for that would hand the person's secrets to
whoever wrote the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from laguna_agent.mcp.connection import ToolInfo
from laguna_agent.mcp.description import McpServer
from laguna_agent.trust import SERVERS
from laguna_agent.visible import visible_line

_VARIABLE = re.compile(r"\$\{[^}]*\}|\$[A-Za-z_]\w*")

_STREAMABLE = frozenset({"streamable-http", "streamable_http", "streamableHttp"})
"""What programs call the transport http too."""


class _Entry(msgspec.Struct):
    type: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}
    disabled: bool = False


def project_servers(text: str, taken: Collection[str] = ()) -> tuple[list[McpServer], list[str]]:
    """The servers in a trusted text, and what the person should be told of it. A server whose name is in `taken` is
    left out: the person's own one goes first. Their processes are for the sandbox alone."""
    servers: list[McpServer] = []
    told: list[str] = []
    for name, given in _entries(text, told):
        try:
            entry = msgspec.convert(given, _Entry)
        except msgspec.ValidationError as error:
            told.append(f"{SERVERS}: the server {visible_line(name)} is not used: {error}")
            continue
        if entry.disabled or name in taken:
            continue
        if not entry.command and not entry.url:
            told.append(f"{SERVERS}: the server {visible_line(name)} is not used: it has neither a command nor a url")
            continue
        servers.append(_server(name, entry))
        if variables := _variables(entry):
            told.append(
                f"{SERVERS}: the server {visible_line(name)} is given {visible_line(', '.join(variables))} as it is "
                "written; no variable is put in"
            )
    return servers, told


def _server(name: str, entry: _Entry) -> McpServer:
    named = entry.type or ("stdio" if entry.command else "http")
    return McpServer(
        name,
        "http" if named in _STREAMABLE else named,
        entry.command,
        entry.args,
        entry.env,
        entry.url,
        entry.headers,
        confined=True,
        project=True,
    )


def tool_listing(tools: Sequence[ToolInfo]) -> str:
    """What a server offers, as a text that is the same for the same tools, in ASCII alone."""
    # Of two of one name the first is offered.
    by_name = {tool.name: tool for tool in reversed(tools)}
    listed = [
        {"name": name, "description": by_name[name].description, "inputSchema": by_name[name].parameters}
        for name in sorted(by_name)
    ]
    return json.dumps(listed, indent=1, sort_keys=True)


def _entries(text: str, told: list[str]) -> Iterator[tuple[str, Any]]:
    try:
        given = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        told.append(f"{SERVERS} is not used: it is not valid JSON: {' '.join(str(error).split())}")
        return
    entries = given.get("mcpServers") if isinstance(given, dict) else None
    if not isinstance(entries, dict):
        told.append(f'{SERVERS} is not used: it holds no "mcpServers"')
        return
    yield from entries.items()


def _variables(entry: _Entry) -> list[str]:
    values = [entry.command, *entry.args, *entry.env.values(), entry.url, *entry.headers.values()]
    return list(dict.fromkeys(found for value in values for found in _VARIABLE.findall(value)))
