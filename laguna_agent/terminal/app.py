"""The interactive face: what is drawn, who is asked, which session it is in.

The parts: `surface` is the screen, `transcript` what a turn looks like, `composer` the input line, `prompting` what
happens with what the person sends, `slash` the commands, `link` the agent. This module joins them, and is what commands
and panels see as `face.Face`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Iterable
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace
from rich.console import RenderableType
from rich.segment import Segment
from rich.text import Text

from laguna_agent.agent.events import Event, Forked, Rewound, Steered, UsageUpdated
from laguna_agent.errors import EXIT_SIGTERM, LagunaError
from laguna_agent.event_lines import printable
from laguna_agent.terminal import git_state
from laguna_agent.terminal.chosen_theme import first_theme, keep
from laguna_agent.terminal.face import Facts, Link, Panel, Question
from laguna_agent.terminal.folding import cut
from laguna_agent.terminal.frames import TICK, Frames
from laguna_agent.terminal.greeting import greeting, in_copy, welcome
from laguna_agent.terminal.inbox import Inbox
from laguna_agent.terminal.lines import Line, rendered
from laguna_agent.terminal.notify import notification
from laguna_agent.terminal.prompting import Prompting
from laguna_agent.terminal.questions import PermissionPanel
from laguna_agent.terminal.status import status_line
from laguna_agent.terminal.theme import Theme, theme_named

if TYPE_CHECKING:
    from laguna_agent.agent.commands import Command
    from laguna_agent.config import Settings
    from laguna_agent.terminal.composer import Composer, Submission
    from laguna_agent.terminal.face import SlashCommand
    from laguna_agent.terminal.file_index import FileIndex
    from laguna_agent.terminal.link import Links
    from laguna_agent.terminal.surface import Surface
    from laguna_agent.terminal.transcript import Transcript

R = TypeVar("R")
ASKED_KEYS = "a letter answers · Enter takes what > marks · Esc ends the turn"
MENU_KEYS = "Tab takes what > marks · Esc closes the list"
PATIENCE = 1.0
"""Seconds that opening a session takes until it is told."""
TYPING = 1.5
"""Seconds since the last key in which somebody with a text begun is still typing it."""


class InteractiveFace:
    """See the module. `build` (in `chat`) makes one; `run` is its life."""

    def __init__(self, links: Links, settings: Settings, resumed: str | None) -> None:
        self.theme: Theme = first_theme(settings)
        self.prompting = Prompting(self)
        self.surface: Surface
        self.composer: Composer
        self.transcript: Transcript
        self.files: FileIndex
        self.opened = False
        self._links = links
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._frames = Frames(loop, self._frame)
        self._inbox = Inbox(loop, self._frames.ask)
        self._link: Link = links(self._inbox.deliver, settings, resumed)
        self._usage: UsageUpdated | None = None
        self._git: git_state.GitState | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drafted = self._copy = ""
        self._exit_code = 0
        self._later = False

    # -- as commands and panels see it ------------------------------------------------------------------------------

    @property
    def link(self) -> Link:
        return self._link

    @property
    def settings(self) -> Settings:
        session = self._link.session
        return session.wanted if session is not None else self._settings

    @property
    def busy(self) -> bool:
        return self.prompting.busy

    @property
    def asked(self) -> bool:
        """Whether it is the turn that waits for the person's answer, not a list that they opened."""
        return self._question is not None

    @property
    def _question(self) -> PermissionPanel | None:
        """What the turn asks, while it waits for a key and not for a reason that is typed."""
        panel = self.surface.panel
        return panel if isinstance(panel, PermissionPanel) and panel.reading is None else None

    @property
    def width(self) -> int:
        return self.surface.columns

    def say(self, what: RenderableType, style: str = "") -> None:
        if isinstance(what, str):
            what = Text(printable(what), style=self.theme.style(style or "text"))
        self.transcript.insert(rendered(what, self.width))
        self._put(self.transcript.finished())

    async def show(self, panel: Panel[R]) -> R:
        return await self.surface.show(panel)

    def submit(self, text: str) -> None:
        self.prompting.submit(text)

    def sent(self, submission: Submission) -> None:
        """What the person sent from the input line: to the panel that reads there, else to be worked on."""
        panel = self.surface.panel
        if panel is not None and panel.reading is not None:
            panel.typed(submission.text)
        elif self._later:
            self.prompting.queue(submission)
        else:
            self.prompting.send(submission)

    def send_later(self) -> None:
        """Send what stands in the input line, to wait for the end of what runs."""
        self._later = True
        try:
            self.composer.submit()
        finally:
            self._later = False

    def all_commands(self) -> list[SlashCommand | Command]:
        """The slash commands that there are, the face's and the agent's."""
        from laguna_agent.terminal import slash

        own = slash.offered(self)
        names = {command.name for command in own}
        return [*own, *(command for command in self._link.commands if command.name not in names)]

    def draft(self, text: str) -> None:
        self.composer.fill(text)
        self.surface.draw()

    def use_theme(self, name: str) -> None:
        self.theme = self.transcript.theme = theme_named(name)
        if problem := keep(name):
            self.say(problem, "warning")
        self.surface.draw()

    async def go_on_in(self, session_id: str | None, **changed: object) -> None:
        before, settings = self._link, replace(self.settings, **changed)
        link = self._links(self._inbox.deliver, settings, session_id)
        past = await link.open()
        self._link, self._settings, self._usage = link, settings, None
        await before.close()
        await self._show_past(past)

    def unfold(self) -> None:
        self.transcript.insert(self.transcript.unfold())
        self._put(self.transcript.finished())

    def leave(self) -> None:
        self.end(0)

    # -- its life ---------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until the person leaves or the program is told to end; the exit code. Raises LagunaError where the session
        cannot be opened, and whatever a bug raised."""
        for line, style in greeting(self._link):
            self.say(line, style)
        try:
            await self.surface.app.run_async(pre_run=self._begin, set_exception_handler=False)
        except EOFError:
            # The terminal is gone.
            self._exit_code = EXIT_SIGTERM
        finally:
            self._frames.stop()
            self.prompting.stop()
            # First, so that a turn that runs ends by the reason that there is, and not because nobody waits for it.
            await self._link.close()
            for task in (*self._tasks, *self._questions):
                task.cancel()
            self._settle()
        return self._exit_code

    def end(self, exit_code: int) -> None:
        """Leave with an exit code; a turn that runs is ended."""
        self._exit_code = exit_code
        if self.surface.app.is_running and not self.surface.app.is_done:
            self.surface.app.exit()

    def start(self, work: asyncio.Task[None]) -> None:
        """Look after a task of the face: what it raises ends the program."""
        self._tasks.add(work)
        work.add_done_callback(self._ended)

    def fail(self, error: BaseException) -> None:
        """End the program with an error."""
        if self.surface.app.is_running and not self.surface.app.is_done:
            self.surface.app.exit(exception=error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._questions.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: self.fail(about.get("exception") or RuntimeError(about["message"])))
        # In it prompt_toolkit knows which application is meant.
        self._frames.context = contextvars.copy_context()
        self._frames.ask(PATIENCE)
        # What is imported for a session takes time from the first frame, which the person is waiting for.
        self.surface.when_drawn(lambda: self.start(asyncio.create_task(self._open())))

    async def _open(self) -> None:
        past = await self._link.open()
        # Before the first `/` is typed, for then somebody would wait for it.
        await asyncio.to_thread(import_module, "laguna_agent.terminal.slash")
        self.opened = True
        await self._show_past(past)
        self.prompting.go_on()

    async def _show_past(self, past: Iterable[Event]) -> None:
        for line, style in await asyncio.to_thread(welcome, self._link):
            self.say(line, style)
        for event in past:
            self._take(event)
        self._drafted = self._copy = ""
        self.transcript.settle()
        self._put(self.transcript.finished())
        self.look_at_git()

    def look_at_git(self) -> None:
        """See how the workspace's repository is now, for the status line."""
        self.start(asyncio.create_task(self._look_at_git()))

    async def _look_at_git(self) -> None:
        self._git = await git_state.look(self._link.facts.cwd)
        self.surface.draw()

    # -- drawing ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Draw soon."""
        self._frames.ask()

    def drain(self) -> None:
        """Draw everything that has come."""
        self._frames.now()

    def live(self, width: int, height: int) -> list[Line]:
        """What is open: of the turn, and what waits for its end."""
        if not self.opened and self._frames.running_for > PATIENCE:
            return rendered(Text("opening the session", style=self.theme.style("dim")), width)
        waiting = self.prompting.waiting_lines(width)
        # What is asked about stands in the panel, whole, but for the moment in which a reason is typed in its place.
        asked = self._question.request.call_id if self._question is not None else ""
        return [*self.transcript.live(max(1, height - len(waiting)), besides=asked), *waiting]

    def status(self, width: int) -> Line:
        """The status line; while something has the keyboard, what its keys are."""
        if hint := ASKED_KEYS if self.asked else MENU_KEYS if self.composer.menu.open else "":
            return (Segment(cut(hint, width), self.theme.style("status")),)
        began = self.prompting.began
        elapsed = None if began is None else monotonic() - began
        facts, queued = self._link.facts, self.prompting.queued
        return status_line(facts, self._usage, self._git, elapsed, queued, width, self.theme)

    def _frame(self) -> None:
        for item in self._inbox.take():
            if isinstance(item, Question):
                task = asyncio.create_task(self._ask(item))
                self._questions.add(task)
                task.add_done_callback(self._ended)
            else:
                self._take(item)
        self.transcript.width = self.width
        began = self.prompting.began
        if began is not None:
            self.transcript.tick(monotonic() - began)
            self._frames.ask(TICK)
        self._put(self.transcript.finished())

    def _take(self, event: Event) -> None:
        match event:
            case UsageUpdated():
                self._usage = event
            case Steered():
                self.prompting.heard(event.text)
            case Rewound():
                self._drafted = event.text
            case Forked():
                self._copy = event.session_id
        self.transcript.feed(event)

    def _settle(self) -> None:
        """Draw all that has come, closed where it is open: nothing follows it, and nobody waits for an answer."""
        for item in self._inbox.take():
            if not isinstance(item, Question):
                self._take(item)
        self.transcript.width = self.width
        self.transcript.settle()
        self._put(self.transcript.finished())

    def _put(self, lines: list[Line]) -> None:
        if lines:
            self.surface.put(lines)
        else:
            self.surface.draw()

    # -- questions, and the end of a turn ---------------------------------------------------------------------------

    async def _ask(self, question: Question) -> None:
        request = question.request
        self._tell(f"asks: {request.title}")
        typing = bool(self.composer.text) and self.surface.quiet < TYPING
        panel = PermissionPanel(request, self.theme, self._link.facts.cwd, typing=typing)
        answer = await self.surface.show(panel)
        question.answer(answer)
        # A denial is told by the call that it ends.
        if answer.allowed:
            self.say(panel.answered_line(answer), "dim")

    def _tell(self, text: str) -> None:
        """Let the person hear of it, where they look elsewhere."""
        self.surface.write(notification(text, self.surface.quiet, self.settings.notify, os.environ))

    async def turn_over(self) -> None:
        """What a turn leaves to be done: questions that nobody waits for, a text to change, a copy to go on in."""
        # A link that broke off sends no end of its turn.
        self._settle()
        self._tell("the turn is over")
        for task in self._questions:
            task.cancel()
        self.files.outdated()
        drafted, copy, self._drafted, self._copy = self._drafted, self._copy, "", ""
        if drafted and not self.composer.text:
            self.draft(drafted)
        self.look_at_git()
        if copy:
            await self._go_on_in_copy(copy)

    async def _go_on_in_copy(self, copy: str) -> None:
        before = self.facts.session_id
        try:
            await self.go_on_in(copy)
        except LagunaError as error:
            self.say(f"this session goes on: {error}", "error")
            return
        self.say(in_copy(copy, before), "dim")

    @property
    def facts(self) -> Facts:
        """What is so just now."""
        return self._link.facts
