"""The MCP servers of a session: those that a face hands over, and those that a trusted workspace brings.

Knows the session and its trust; what a server is and how it runs is the business of `laguna_agent.mcp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio.abc
import anyio.to_thread

from laguna_agent.trust import SERVERS, Trust

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session
    from laguna_agent.mcp.description import McpServer
    from laguna_agent.mcp.elicitation import Person
    from laguna_agent.mcp.servers import McpServers
    from laguna_agent.sandbox.walls import Walls


def servers_for(trust: Trust, handed: Sequence[McpServer] = ()) -> McpServers | None:
    """The servers that a person handed over, with those of the workspace where they are trusted; None where there are
    none, and nothing to be told of them. Blocking."""
    text = trust.look().text(SERVERS)
    if text is None and not handed:
        return None
    from laguna_agent.mcp.project import project_servers
    from laguna_agent.mcp.servers import McpServers

    brought, notices = project_servers(text, {server.name for server in handed}) if text is not None else ([], [])
    if not handed and not brought and not notices:
        return None
    return McpServers([*handed, *brought], accepts=trust.accept_tools, notices=notices)


async def start_servers(
    session: Session, group: anyio.abc.TaskGroup, handed: Sequence[McpServer] = (), person: Person | None = None
) -> None:
    """Start the session's servers in tasks of `group`; what comes of them is seen by its next prompt."""
    session.servers = await anyio.to_thread.run_sync(servers_for, session.trust, handed)
    if session.servers is not None:
        roots = (session.workspace.root, *session.workspace.roots)
        session.servers.start(group, session.cwd, roots, person, _walls(session))


def _walls(session: Session) -> Walls | None:
    """Where the workspace's servers run; None, and they do not run, where there is no sandbox and nobody wants that."""
    walls = session.walls
    if walls is not None and walls.tier == "none" and session.settings.sandbox != "none":
        return None
    return walls
