"""Clearing up after a run of a session that was killed, when the session is taken up again.

A killed process removes nothing, but the log tells what it was at: the calls that have no result. Knows the workspace
and the session's directory; must not change a file of the person's. The session's log is held, so nobody else is at it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.errors import ToolError
from laguna_agent.messages import Message
from laguna_agent.sandbox.placeholders import Placeholders
from laguna_agent.sandbox.walls import TEMPORARY_PREFIX
from laguna_agent.tools.base import ToolResult
from laguna_agent.tools.registry import Registry
from laguna_agent.tools.workspace import Workspace

_NOTE = "temporary"


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


def take_over(directory: Path, temporary: Path | None) -> None:
    """Note in a session's `directory` which temporary directory its commands have from now on, and remove the one that
    was noted before, where a killed run has left it. Blocking."""
    note = directory / _NOTE
    with suppress(OSError, UnicodeDecodeError):
        _remove(Path(note.read_text(encoding="utf-8")))
    if temporary is not None:
        # Without the note a directory may stay behind; the session itself can do without.
        with suppress(OSError):
            replace_file(note, os.fsencode(temporary), mode=OWNER_ONLY)


def _remove(left: Path) -> None:
    """Only what we would have made there, and made ourselves."""
    found = left.lstat()
    ours = left.parent == Path(tempfile.gettempdir()) and left.name.startswith(TEMPORARY_PREFIX)
    if ours and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        shutil.rmtree(left, ignore_errors=True)
