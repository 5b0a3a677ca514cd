"""What a chat says first: where one is, and what of it one should know. For both faces, as lines and styles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laguna_agent import __version__
from laguna_agent.directories import displaced
from laguna_agent.terminal.face import Link
from laguna_agent.trust_lines import notices

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

Said = list[tuple[str, str]]
"""Lines with the names of their styles: "", dim, warning."""


def greeting(link: Link) -> Said:
    """The first line, known before the session is there."""
    facts = link.facts
    who = f"{facts.agent}, shown by laguna-agent {__version__}," if facts.agent else f"laguna-agent {__version__}:"
    model = "" if facts.agent else facts.model or "no model"
    return [(" ".join(filter(None, (who, model, f"in {facts.cwd}; /help for help"))), "")]


def welcome(link: Link) -> Said:
    """What is to be said of a session that was opened. Blocking: it looks at the workspace's files."""
    session = link.session
    return _of_session(session) if session is not None else []


def in_copy(copy: str, before: str) -> str:
    """Where one is after a fork."""
    return f"You are in {copy} now; {before} stays as it was (laguna-agent chat --resume {before})."


def _of_session(session: Session) -> Said:
    from laguna_agent.agent.keeping import undone

    said: Said = []
    if session.walls is not None:
        said.append((f"sandbox: {session.walls.summary}", "dim"))
    if warning := displaced():
        said.append((warning, "warning"))
    said += [(notice, "warning") for notice in notices(session.trust.news(session.trust.look()), here=True)]
    if session.resumed and undone(session.records())[1]:
        said.append(("An undo was cut off: /undo finishes it, /redo takes it back.", "warning"))
    return said
