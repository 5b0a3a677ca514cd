"""`/mode`, `/approve` and `/plan`: what needs the person's leave. Plan mode is one of the approval modes."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from laguna_agent.config import MODES, Approve
from laguna_agent.errors import UsageError
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.picker import Picker

if TYPE_CHECKING:
    from laguna_agent.terminal.face import Face

ALLOWS: dict[Approve, str] = {
    "plan": "only reads, and says what it would do",
    "ask": "asks before every change and every command",
    "edits": "edits the workspace and runs commands in the sandbox unasked",
    "all": "asks only about what would leave the sandbox or the workspace",
}
NO_WALLS = "asks before commands: there is no sandbox"


def allows(mode: Approve, face: Face) -> str:
    """What a mode lets happen unasked, with the sandbox that there is."""
    session = face.link.session
    walls = session.walls if session is not None else None
    if walls is None or walls.boundary == "full" or mode in {"plan", "ask"}:
        return ALLOWS[mode]
    if walls.boundary == "none" and mode == "all" and face.settings.sandbox == "none":
        return "changes and runs everything unasked, with your rights"
    if walls.boundary == "none":
        return f"edits the workspace unasked; {NO_WALLS}"
    return "edits the workspace unasked, asks before commands" if mode == "edits" else ALLOWS[mode]


async def _mode(face: Face, argument: str) -> None:
    mode: str | None = argument.strip()
    if not mode:
        mode = await face.show(_picker(face))
    if mode is None:
        return
    if mode not in MODES:
        near = difflib.get_close_matches(mode, MODES, n=1)
        raise UsageError(f"there is no mode {mode!r}{f' (is it {near[0]}?)' if near else ''}: {', '.join(MODES)}")
    await _change(face, mode)


def _picker(face: Face) -> Picker[str]:
    items = [(str(mode), mode, allows(mode, face)) for mode in MODES]
    return Picker("What may happen unasked", items, face.theme, filterable=False, chosen=face.settings.approve)


async def _change(face: Face, mode: str) -> None:
    await face.link.change(approve=mode)
    known = next(each for each in MODES if each == mode)
    face.say(f"mode {mode}: it {allows(known, face)}", "dim")


async def _plan(face: Face, argument: str) -> None:
    """Into plan mode, with a prompt where one follows; without one also out of it."""
    if face.settings.approve != "plan":
        await _change(face, "plan")
    elif not argument:
        await _change(face, "ask")
    if argument:
        face.submit(argument)


def _names(_: Face) -> tuple[str, ...]:
    return MODES


MODE = SlashCommand(
    "mode", "Choose what may happen unasked", _mode, " | ".join(MODES), _names, at_work=True, session=True
)
APPROVE = SlashCommand("approve", "The same as /mode", _mode, MODE.hint, _names, at_work=True, session=True)
PLAN = SlashCommand("plan", "Only read and plan, or end that", _plan, "what to plan", at_work=True, session=True)
