"""What every model is told at the start, and the state of the workspace that goes with a prompt.

The system texts are the `.md` files beside this one. They hold nothing that changes within a session, so that system
message and tools form a prefix that servers can cache; what does change is said at the end of the newest message.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from laguna_agent.tools.workspace import Workspace
from laguna_agent.trust import INSTRUCTIONS
from laguna_agent.visible import visible_line

INSTRUCTIONS_CAP = 8_000
"""Characters of project instructions that are passed on."""


@cache
def system_text(name: Literal["system", "system_code"]) -> str:
    """The system message of a dialect."""
    return (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8").strip()


async def environment(workspace: Workspace, instructions: str = "") -> str:
    """Where the model works: the directory, what lies in it, and the project's own instructions, which the caller has
    found to be trusted: whoever wrote a repository does not speak for the person."""
    entries = await workspace.list(workspace.root)
    names = [entry.name + ("/" if entry.kind == "directory" else "") for entry in entries if entry.name != ".git"]
    listing = " ".join(map(visible_line, names[:40])) + (f" … ({len(names)} in all)" if len(names) > 40 else "")
    text = f"Working directory: {workspace.root}\nIt holds: {listing or '(nothing)'}"
    if workspace.roots:
        text += "\nThese directories belong to the task too (absolute paths): " + ", ".join(map(str, workspace.roots))
    if body := instructions.strip():
        cut = " …(cut)" if len(body) > INSTRUCTIONS_CAP else ""
        text += f"\n\nThe project's instructions ({INSTRUCTIONS}):\n{body[:INSTRUCTIONS_CAP]}{cut}"
    return text
