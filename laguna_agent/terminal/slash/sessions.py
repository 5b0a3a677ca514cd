"""`/resume`, `/sessions`, `/new`, `/clear` and `/quit`: to other sessions, and out."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import anyio.to_thread

from laguna_agent.errors import UsageError
from laguna_agent.event_lines import one_line
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.picker import Picker

if TYPE_CHECKING:
    from pathlib import Path

    from laguna_agent.agent.archive import SessionSummary
    from laguna_agent.terminal.face import Face

MOST = 200
"""Sessions that are offered; older ones by their id."""


async def _resume(face: Face, argument: str) -> None:
    session = face.link.session
    assert session is not None, "the command needs our own session"
    wanted: str | None = argument.strip()
    if wanted:
        wanted = await anyio.to_thread.run_sync(_whole_id, wanted, session.cwd)
    else:
        found = await anyio.to_thread.run_sync(_newest, session.cwd, session.id)
        if not found:
            face.say(f"There is no other session of {session.cwd} yet.", "dim")
            return
        now = datetime.datetime.now(datetime.UTC)
        items = [(each.id, each.title or "(no prompt yet)", _about(each, now)) for each in found]
        wanted = await face.show(Picker("Which session goes on", items, face.theme))
    if wanted is None:
        return
    if wanted == session.id:
        raise UsageError("that is the session you are in")
    await face.go_on_in(wanted)


def _newest(cwd: Path, but: str) -> list[SessionSummary]:
    from itertools import islice

    from laguna_agent.agent.archive import newest_first

    others = (summary for _, summary in newest_first(cwd) if summary.id != but)
    return list(islice(others, MOST))


def _whole_id(prefix: str, cwd: Path) -> str:
    from laguna_agent.session_choice import choose_session

    chosen, _ = choose_session(resume=prefix, continue_latest=False, cwd=cwd)
    assert chosen is not None, "one was named"
    return chosen


def _about(summary: SessionSummary, now: datetime.datetime) -> str:
    prompts = "1 prompt" if summary.prompts == 1 else f"{summary.prompts} prompts"
    ended = "" if summary.outcome == "completed" else f", {summary.outcome}"
    return f"{age(summary.updated, now)}, {prompts}{ended}, {one_line(summary.model, 40) or 'no model'}"


def age(stamp: str, now: datetime.datetime) -> str:
    """How long ago a time of the archive (`2026-01-31T12:00:00Z`) was, in words; the date where that is long."""
    try:
        then = datetime.datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        return one_line(stamp, 20)
    seconds = int((now - then).total_seconds())
    if seconds < 60:
        return "now"
    for words, unit, most in (("min", 60, 60), ("h", 3600, 24), ("days", 86_400, 14)):
        if seconds < unit * most:
            number = seconds // unit
            return "1 day ago" if words == "days" and number == 1 else f"{number} {words} ago"
    return then.strftime("%Y-%m-%d")


async def _new(face: Face, argument: str) -> None:
    before = face.link.facts.session_id
    await face.go_on_in(None)
    face.say(f"A new session; the one before is {before} (/resume finds it).", "dim")


async def _quit(face: Face, argument: str) -> None:
    face.leave()


RESUME = SlashCommand("resume", "Go on with another session of this directory", _resume, "ID", session=True)
SESSIONS = SlashCommand("sessions", "The same as /resume", _resume, "ID", session=True)
NEW = SlashCommand("new", "Begin a new session", _new, session=True)
CLEAR = SlashCommand("clear", "The same as /new; this session is kept", _new, session=True)
QUIT = SlashCommand("quit", "Leave; the session is kept", _quit, at_work=True)
