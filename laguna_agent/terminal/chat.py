"""`laguna-agent` and `laguna-agent chat`: which face, which session, and what both need before they begin."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio.from_thread import BlockingPortal, start_blocking_portal

from laguna_agent.config import Settings, load
from laguna_agent.early_signals import ENDING
from laguna_agent.errors import EXIT_SIGTERM, UsageError
from laguna_agent.session_choice import choose_session, working_directory
from laguna_agent.terminal.link import Links, SessionLink

if TYPE_CHECKING:
    from laguna_agent.terminal.app import InteractiveFace

DUMB = ("", "dumb", "unknown")
"""Values of TERM that promise nothing but lines."""


def chat(
    *,
    cwd: Path | None,
    flags: Mapping[str, object],
    resume: str | None,
    continue_latest: bool,
    agent: str | None = None,
) -> int:
    """Chat until the person leaves, with our own agent or the one that the command line `agent` starts; returns the
    exit code. Raises UsageError where there is no terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UsageError("the chat needs a terminal; for scripts there is `laguna-agent run PROMPT`")
    if agent is None:
        resumed, directory = choose_session(resume=resume, continue_latest=continue_latest, cwd=cwd)
    elif continue_latest:
        raise UsageError("--continue is for our own sessions; --resume ID takes up one of the other agent's")
    else:
        resumed, directory = resume, working_directory(cwd)
    settings = load(directory, flags)
    with start_blocking_portal() as portal:
        links = _links(portal, directory, agent)
        if settings.plain or os.environ.get("TERM", "") in DUMB:
            from laguna_agent.terminal.plain import PlainChat

            return PlainChat(links, settings, resumed).run()
        from laguna_agent.terminal.guardian import guarded_terminal

        with guarded_terminal():
            return asyncio.run(_interactive(links, settings, resumed))


def _links(portal: BlockingPortal, directory: Path, agent: str | None) -> Links:
    if agent is None:
        return partial(SessionLink, portal, directory)
    from laguna_agent.terminal.agent_link import AgentLink

    return partial(AgentLink, portal, agent, directory)


async def _interactive(links: Links, settings: Settings, resumed: str | None) -> int:
    face = build(links, settings, resumed)
    loop = asyncio.get_running_loop()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, face.end, EXIT_SIGTERM)
    return await face.run()


def build(links: Links, settings: Settings, resumed: str | None) -> InteractiveFace:
    """The interactive face on this process's terminal, ready to run."""
    from prompt_toolkit.input import create_input

    from laguna_agent.terminal.app import InteractiveFace
    from laguna_agent.terminal.completion import Completer
    from laguna_agent.terminal.composer import Composer
    from laguna_agent.terminal.file_index import FileIndex
    from laguna_agent.terminal.history import History
    from laguna_agent.terminal.keys import program_keys
    from laguna_agent.terminal.paint import Output
    from laguna_agent.terminal.surface import Surface
    from laguna_agent.terminal.transcript import Transcript

    face = InteractiveFace(links, settings, resumed)
    face.files = FileIndex(lambda: face.link.files)
    face.composer = Composer(
        history=History(),
        completer=Completer(face.files, face.all_commands, lambda: face),
        on_submit=face.sent,
        vi=settings.editing == "vi",
        cwd=face.facts.cwd,
    )
    face.surface = Surface(
        output=Output(sys.stdout),
        input=create_input(sys.stdin),
        composer=face.composer,
        keys=program_keys(face),
        live=face.live,
        status=face.status,
        theme=lambda: face.theme,
    )
    face.transcript = Transcript(face.theme, face.width, cwd=face.facts.cwd)
    return face
