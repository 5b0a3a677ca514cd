"""The slash commands of the face, by name: `COMMANDS`, and what of them there is for a face.

What the agent answers itself (`link.commands`) is sent to it like a prompt. Where both have a command of one name, the
face's stands for the bare name, and one with an argument goes to the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from laguna_agent.terminal.slash.export import EXPORT
from laguna_agent.terminal.slash.help import HELP
from laguna_agent.terminal.slash.model import MODEL
from laguna_agent.terminal.slash.modes import APPROVE, MODE, PLAN
from laguna_agent.terminal.slash.numbers import CONTEXT, USAGE
from laguna_agent.terminal.slash.past import DIFF, REWIND
from laguna_agent.terminal.slash.sessions import CLEAR, NEW, QUIT, RESUME, SESSIONS
from laguna_agent.terminal.slash.surroundings import DOCTOR, MCP, SANDBOX, TOOLS
from laguna_agent.terminal.slash.themes import THEME

if TYPE_CHECKING:
    from laguna_agent.terminal.face import Face, SlashCommand

COMMANDS: tuple[SlashCommand, ...] = (
    *(HELP, MODEL, MODE, APPROVE, PLAN, CONTEXT, USAGE, DIFF, REWIND, NEW, CLEAR, RESUME, SESSIONS, EXPORT),
    *(MCP, TOOLS, SANDBOX, THEME, DOCTOR, QUIT),
)


def offered(face: Face) -> list[SlashCommand]:
    """Those that there are with the agent that is driven."""
    own = face.link.session is not None
    theirs = {command.name for command in face.link.commands}
    # Another agent's command goes before ours of that name, but for those that are about the face itself.
    return [each for each in COMMANDS if own or not (each.session or each.name in theirs - {"help", "theme", "quit"})]


def names(face: Face) -> list[str]:
    """The names of those."""
    return [command.name for command in offered(face)]


def find(name: str, face: Face, argument: str = "") -> SlashCommand | None:
    """The face's command of that name for what follows the name; None where it has none, or the agent is to answer."""
    if argument and any(command.name == name for command in face.link.commands):
        return None
    return next((command for command in offered(face) if command.name == name), None)
