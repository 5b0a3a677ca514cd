"""What every model is told at the start, and the state of the workspace that goes with a prompt.

The system texts are the `.md` files beside this one. They hold nothing that changes within a session, so that system
message and tools form a prefix that servers can cache; what does change is said at the end of the newest message.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from laguna_agent.messages import Message, TextBlock
from laguna_agent.tools.workspace import Workspace
from laguna_agent.trust import INSTRUCTIONS
from laguna_agent.visible import visible_line

INSTRUCTIONS_CAP = 8_000
"""Characters of project instructions that are passed on."""


@cache
def system_text(name: Literal["system", "system_code"]) -> str:
    """The system message of a dialect."""
    return (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8").strip()


WHERE = "Working directory: "
RULES = f"The project's instructions ({INSTRUCTIONS})"


async def environment(workspace: Workspace) -> str:
    """Where the model works: the directory, and what lies in it."""
    entries = await workspace.list(workspace.root)
    names = [entry.name + ("/" if entry.kind == "directory" else "") for entry in entries if entry.name != ".git"]
    listing = " ".join(map(visible_line, names[:40])) + (f" … ({len(names)} in all)" if len(names) > 40 else "")
    text = f"{WHERE}{workspace.root}\nIt holds: {listing or '(nothing)'}"
    if workspace.roots:
        text += "\nThese directories belong to the task too (absolute paths): " + ", ".join(map(str, workspace.roots))
    return text


def rules(instructions: str) -> str:
    """The project's own instructions, which the caller has found to be trusted: whoever wrote a repository does not
    speak for the person. "" where there are none."""
    body = instructions.strip()
    cut = " …(cut)" if len(body) > INSTRUCTIONS_CAP else ""
    return f"{RULES}:\n{body[:INSTRUCTIONS_CAP]}{cut}" if body else ""


def told_last(history: Sequence[Message], kind: str) -> str | None:
    """The newest note in the history that tells of this kind of thing (WHERE, RULES), with all others around it; None
    where there is none."""
    for message in reversed(history):
        if message.role == "user" and not message.tool_call_id and message.content:
            note = message.content[-1]
            if isinstance(note, TextBlock) and note.text.startswith("\n\n") and f"\n\n{kind}" in note.text:
                return note.text
    return None


def untold(history: Sequence[Message], where: str, instructions: str) -> list[str]:
    """What of the notes has to be said: what was not told last. To say the same with every prompt would fill a window
    with it."""
    notes = []
    for kind, text in ((WHERE, where), (RULES, instructions)):
        last = told_last(history, kind)
        text = text or (f"{RULES} given before no longer hold." if kind == RULES and last else "")
        if text and f"\n\n{text}\n\n" not in f"{last or ''}\n\n":
            notes.append(text)
    return notes
