"""Clearing up after a run of a session that was killed, when the session is taken up again.

A killed process removes nothing, but the log tells what it was at: the calls that have no result. Knows the workspace;
must not change a file of the person's. The session's log is held, so nobody else is at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from laguna_agent.errors import ToolError
from laguna_agent.messages import Message
from laguna_agent.sandbox.placeholders import Placeholders
from laguna_agent.tools.base import ToolResult
from laguna_agent.tools.registry import Registry
from laguna_agent.tools.workspace import Workspace


def clear_up(
    history: Sequence[Message], unanswered: Mapping[str, ToolResult], registry: Registry, workspace: Workspace
) -> None:
    """Remove the second names under which files were being replaced when the session was killed, and what kept names
    from being taken while commands ran. Blocking."""
    Placeholders(workspace.root).tidy()
    last = next((message for message in reversed(history) if message.role == "assistant"), None)
    for call in last.tool_calls if last is not None else ():
        if call.id in unanswered:
            continue
        # A call that cannot be understood wrote nothing, and what cannot be reached now stays.
        with suppress(ToolError):
            tool = registry.get(call.name)
            need = tool.needs(registry.decode(call), workspace)
            place = workspace.resolve(need.subject) if need is not None and need.access == "write" else None
            if place is not None and not place.outside:
                workspace.files.sweep(place.path)
