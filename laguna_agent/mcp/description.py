"""How to reach an MCP server, as a face hands it over. Wire-neutral: knows neither ACP nor any configuration file."""

from __future__ import annotations

import msgspec


class McpServer(msgspec.Struct, frozen=True):
    """One server. Transport stdio runs `command` with `args` and `env` on top of a filtered environment; http
    (streamable) and sse (of the revision 2024-11-05) talk to `url` with `headers`. Any other transport is a server that
    cannot be reached, which is told like every other failure. A `confined` one runs in the session's sandbox; a
    `project`'s one came with the workspace, so that its list of tools needs a person's trust."""

    name: str
    transport: str = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}
    confined: bool = False
    project: bool = False
