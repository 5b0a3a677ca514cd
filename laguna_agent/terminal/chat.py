"""A plain chat: a line of the person, the turn's events, and again.

The main thread owns the terminal (readline, drawing, Ctrl-C); the session lives in an event loop on a second thread, so
that background commands keep running while the person types. Events cross over in one queue, in order.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Mapping
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec.structs import replace

from laguna_agent.agent.commands import COMMANDS, command_in
from laguna_agent.agent.events import Event, Forked, PermissionRequested, Rewound
from laguna_agent.agent.keeping import undone
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.config import MODES, Settings, load
from laguna_agent.directories import displaced, open_private, private_directory, state_directory
from laguna_agent.errors import UsageError
from laguna_agent.messages import TextBlock
from laguna_agent.redaction import without_keys
from laguna_agent.session_choice import choose_session
from laguna_agent.terminal.screen import Screen
from laguna_agent.trust_lines import notices

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

HISTORY_LINES = 2_000
HELP = (
    """/help          this
/model [NAME]  show the model, or go on with another one
/mode [MODE]   show what needs your leave, or change it: plan, ask, edits, all
"""
    + "".join(f"{'/' + command.name:<15}{command.description}\n" for command in COMMANDS)
    + """/quit          leave (Ctrl-D does too)
Ctrl-C cancels the turn. A line that ends in a backslash goes on in the next one."""
)


def chat(*, cwd: Path | None, flags: Mapping[str, object], resume: str | None, continue_latest: bool) -> int:
    """Chat until the person leaves; returns the exit code. Raises UsageError where there is no terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UsageError("the chat needs a terminal; for scripts there is `laguna-agent run PROMPT`")
    resumed, directory = choose_session(resume=resume, continue_latest=continue_latest, cwd=cwd)
    settings = load(directory, flags)
    with start_blocking_portal() as portal:
        conversation = Conversation(portal, directory, settings, resumed)
        try:
            conversation.converse()
        finally:
            conversation.close()
    return 0


class Question:
    """A permission request on its way to the person and back. Made and awaited on the session's thread."""

    def __init__(self, request: PermissionRequested) -> None:
        self.request = request
        self._answered = anyio.Event()
        self._answer = PermissionAnswer(False, reason="nobody answered")

    def give(self, answer: PermissionAnswer) -> None:
        """Hand the answer over; to be called on the session's thread."""
        self._answer = answer
        self._answered.set()

    async def answer(self) -> PermissionAnswer:
        """Wait for the answer."""
        await self._answered.wait()
        return self._answer


class Conversation:
    """The loop of the main thread, over one session."""

    def __init__(self, portal: BlockingPortal, cwd: Path, settings: Settings, resumed: str | None) -> None:
        self._portal = portal
        self._inbox: queue.SimpleQueue[Event | Question | None] = queue.SimpleQueue()
        self._screen = Screen()
        self._draft = self._copy = ""
        _, (self._tasks, self._over) = portal.start_task(self._lend_tasks)
        self._session: Session = portal.call(self._open, cwd, settings, resumed)

    def converse(self) -> None:
        """Take prompts until the person leaves."""
        with LineHistory():
            self._screen.say(f"{self._session.model or 'no model'} in {self._session.cwd}; /help for help")
            if self._session.walls is not None:
                self._screen.say(f"sandbox: {self._session.walls.summary}", "dim")
            if warning := displaced():
                self._screen.say(warning, "yellow")
            for event in self._session.replay_events():
                self._screen.draw(event)
            trust = self._session.trust
            for notice in notices(trust.news(trust.look()), here=True):
                self._screen.say(notice, "yellow")
            if self._session.resumed and undone(self._session.records())[1]:
                self._screen.say("An undo was cut off: /undo finishes it, /redo takes it back.", "yellow")
            while (line := self._read()) is not None:
                if line.startswith("/") and command_in((TextBlock(line),)) is None:
                    if self._command(line) == "quit":
                        break
                elif line.strip():
                    self._turn(line)

    def close(self) -> None:
        """End the session; a turn that still runs is cancelled."""
        self._portal.call(self._session.cancel, "terminated")
        self._portal.call(self._session.aclose)
        self._portal.call(self._over.set)

    def _read(self) -> str | None:
        """A prompt, "" after Ctrl-C, None after Ctrl-D. What was taken back last stands there to be changed."""
        lines: list[str] = []
        draft, self._draft = self._draft, ""
        try:
            lines.append(input_from("> ", draft))
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(input(". "))
        except EOFError:
            self._screen.say("")
            return None
        except KeyboardInterrupt:
            self._screen.say("")
            return ""
        return "\n".join(lines)

    def _turn(self, prompt: str) -> None:
        self._portal.start_task_soon(self._pump, prompt)
        over = False
        while not over:
            try:
                item = self._inbox.get()
                if item is None:
                    over = True
                elif isinstance(item, Question):
                    self._portal.call(item.give, self._screen.ask(item.request))
                else:
                    self._show(item)
            except KeyboardInterrupt:
                self._portal.call(self._session.cancel, "interrupted")
        if self._copy:
            self._go_on_in_copy()

    def _show(self, event: Event) -> None:
        if isinstance(event, Rewound):
            self._draft = event.text
        elif isinstance(event, Forked):
            self._copy = event.session_id
        self._screen.draw(event)

    def _go_on_in_copy(self) -> None:
        before, copy, self._copy = self._session, self._copy, ""
        try:
            self._session = self._portal.call(self._open, before.cwd, before.wanted, copy)
        except UsageError as error:
            self._screen.say(f"this session goes on: {error}", "red")
            return
        self._portal.call(before.aclose)
        self._screen.say(
            f"You are in {copy} now; {before.id} stays as it was (laguna-agent chat --resume {before.id})."
        )

    async def _pump(self, prompt: str) -> None:
        try:
            async with aclosing(self._session.prompt(prompt)) as events:
                async for event in events:
                    self._inbox.put(event)
        finally:
            self._inbox.put(None)

    async def _approve(self, request: PermissionRequested) -> PermissionAnswer:
        question = Question(request)
        self._inbox.put(question)
        return await question.answer()

    async def _open(self, cwd: Path, settings: Settings, resumed: str | None) -> Session:
        from laguna_agent.agent.serving import start_servers
        from laguna_agent.agent.session import Session

        if resumed is None:
            session = await Session.start(cwd, settings, approver=self._approve)
        else:
            session = await Session.resume(resumed, settings, approver=self._approve)
        session.trusting = True
        await start_servers(session, self._tasks)
        return session

    async def _lend_tasks(self, *, task_status: TaskStatus[tuple[TaskGroup, anyio.Event]]) -> None:
        """A task group for what lives as long as the chat."""
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            task_status.started((group, over))
            await over.wait()
            group.cancel_scope.cancel()

    def _command(self, line: str) -> str:
        """Obey a slash command; returns its name."""
        name, _, argument = line[1:].strip().partition(" ")
        match name:
            case "help":
                self._screen.say(HELP)
            case "model" if argument:
                self._change(model=argument.strip())
            case "model":
                chosen, model = self._session.wanted.model, self._session.model
                fallen = f" (the session has fallen back to {model})" if self._session.fallback.taken else ""
                self._screen.say((chosen or "no model; /model NAME chooses one") + fallen)
            case "mode" if argument.strip() in MODES:
                self._change(approve=argument.strip())
            case "mode":
                self._screen.say(f"{self._session.wanted.approve}; there are {', '.join(MODES)}")
            case "quit" | "exit":
                return "quit"
            case _:
                self._screen.say(f"unknown command /{name}; /help lists them")
        return name

    def _change(self, **settings: str) -> None:
        """Go on in the same session with other settings."""
        wanted = replace(self._session.wanted, **settings)
        self._portal.call(partial(self._session.configure, wanted, anew="model" in settings))
        self._screen.say(", ".join(settings.values()))


def input_from(prompt: str, draft: str) -> str:
    """A line of the person, who finds `draft` there already."""
    import readline

    readline.set_startup_hook(lambda: readline.insert_text(draft))
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook(None)


class LineHistory:
    """readline for `input`, with the lines of earlier chats."""

    def __enter__(self) -> None:
        import readline

        self._path = state_directory() / "chat_history"
        with suppress(OSError):
            readline.read_history_file(self._path)
        readline.set_history_length(HISTORY_LINES)

    def __exit__(self, *_: object) -> None:
        import readline

        with suppress(OSError):
            for at in range(readline.get_current_history_length()):
                readline.replace_history_item(at, without_keys(readline.get_history_item(at + 1)))
            private_directory(self._path.parent)
            os.close(open_private(self._path, os.O_WRONLY | os.O_CREAT))
            readline.write_history_file(self._path)
            self._path.chmod(0o600)
