"""The plain face: lines that are only ever added, and a line of input from readline.

For screen readers, for terminals that cannot move their cursor, and for whoever wants a transcript and nothing else
(`--plain`). It talks to the same `Link` as the interactive face, from an event loop that runs while a turn does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from laguna_agent.agent.commands import command_in
from laguna_agent.agent.events import Forked, Rewound
from laguna_agent.config import MODES
from laguna_agent.early_signals import ENDING, unwind_on_signals
from laguna_agent.errors import EXIT_SIGTERM, LagunaError
from laguna_agent.messages import TextBlock
from laguna_agent.terminal.face import Link, Question
from laguna_agent.terminal.greeting import greeting, in_copy, welcome
from laguna_agent.terminal.history_file import HistoryFile
from laguna_agent.terminal.inbox import Inbox
from laguna_agent.terminal.plain_screen import Screen
from laguna_agent.visible import visible_line

if TYPE_CHECKING:
    from laguna_agent.agent.events import Event
    from laguna_agent.config import Settings
    from laguna_agent.terminal.link import Links

T = TypeVar("T")


class PlainChat:
    """A line of the person, the turn's events, and again."""

    def __init__(self, links: Links, settings: Settings, resumed: str | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._screen = Screen()
        self._history = HistoryFile()
        self._draft = self._copy = ""
        self._terminated = False
        self._links = links
        self._inbox = Inbox(self._loop, self._show_all)
        self._link: Link = links(self._inbox.deliver, settings, resumed)

    def run(self) -> int:
        """Until the person leaves; the exit code. Raises LagunaError where the session cannot be opened."""
        try:
            past = self._wait(self._link.open())
            for said, style in (*greeting(self._link), *welcome(self._link)):
                self._screen.say(said, PLAIN_STYLES.get(style, ""))
            for event in past:
                self._screen.draw(event)
            recall(self._history.stored())
            while (line := self._read()) is not None:
                if self._take(line) == "quit":
                    break
        finally:
            self._wait(self._link.close())
            self._loop.close()
        return 0

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

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
        prompt = "\n".join(lines)
        if prompt.strip():
            self._history.append(prompt)
        return prompt

    def _take(self, line: str) -> str:
        known = {command.name for command in self._link.commands}
        if line.startswith("/") and command_in((TextBlock(line),)) is None and line[1:].split(" ")[0] not in known:
            return self._command(line)
        if line.strip():
            self._turn(line)
        return ""

    def _turn(self, prompt: str) -> None:
        self._hear_signals()
        try:
            self._wait(self._link.send((TextBlock(prompt),)))
            self._show_all()
        except LagunaError as error:
            self._screen.say(str(error), "red")
        finally:
            self._leave_signals()
        if self._terminated:
            raise SystemExit(EXIT_SIGTERM)
        if self._copy:
            self._go_on_in_copy()

    def _show_all(self) -> None:
        for item in self._inbox.take():
            if isinstance(item, Question):
                self._ask(item)
            else:
                self._show(item)

    def _ask(self, question: Question) -> None:
        # Signals at the question are for `input`, which waits here, not in the loop.
        self._leave_signals()
        try:
            question.answer(self._screen.ask(question.request))
        except KeyboardInterrupt:
            self._link.cancel()
        finally:
            self._hear_signals()

    def _hear_signals(self) -> None:
        """Have them end the turn, by the loop: what raises in the middle of its work would leave it half ended."""
        self._loop.add_signal_handler(signal.SIGINT, self._link.cancel)
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._terminate)

    def _leave_signals(self) -> None:
        for number in (signal.SIGINT, *ENDING):
            self._loop.remove_signal_handler(number)
        unwind_on_signals()

    def _terminate(self) -> None:
        self._terminated = True
        self._link.cancel("terminated")

    def _show(self, event: Event) -> None:
        if isinstance(event, Rewound):
            self._draft = event.text
        elif isinstance(event, Forked):
            self._copy = event.session_id
        self._screen.draw(event)

    def _go_on_in_copy(self) -> None:
        before, copy, self._copy = self._link, self._copy, ""
        session = before.session
        if session is None:
            return
        link = self._links(self._inbox.deliver, session.wanted, copy)
        try:
            self._wait(link.open())
        except LagunaError as error:
            self._screen.say(f"this session goes on: {error}", "red")
            return
        self._link = link
        self._wait(before.close())
        self._screen.say(in_copy(copy, session.id))

    def _command(self, line: str) -> str:
        """Obey a slash command of this face; returns its name."""
        name, _, argument = line[1:].strip().partition(" ")
        facts, session = self._link.facts, self._link.session
        match name:
            case "help":
                self._screen.say(self._help())
            case "model" if argument:
                self._change(model=argument.strip())
            case "model":
                fallen = session is not None and session.fallback.taken
                now = f" (the session has fallen back to {facts.model})" if fallen else ""
                chosen = session.wanted.model if session is not None else facts.model
                self._screen.say((chosen or "no model; /model NAME chooses one") + now)
            case "mode" if argument.strip() in MODES:
                self._change(approve=argument.strip())
            case "mode":
                self._screen.say(f"{facts.mode}; there are {', '.join(MODES)}")
            case "quit" | "exit":
                return "quit"
            case _:
                self._screen.say(f"unknown command /{name}; /help lists them")
        return name

    def _help(self) -> str:
        listed = "".join(f"{'/' + command.name:<15}{command.description}\n" for command in self._link.commands)
        return HELP_BEGIN + listed + HELP_END

    def _change(self, **settings: str) -> None:
        """Go on in the same session with other settings."""
        try:
            self._wait(self._link.change(**settings))
        except LagunaError as error:
            self._screen.say(str(error), "red")
            return
        self._screen.say(", ".join(settings.values()))


PLAIN_STYLES = {"dim": "dim", "warning": "yellow", "error": "red"}
HELP_BEGIN = """\
/help          this
/model [NAME]  show the model, or go on with another one
/mode [MODE]   show what needs your leave, or change it: plan, ask, edits, all
"""
HELP_END = """\
/quit          leave (Ctrl-D does too)
Ctrl-C cancels the turn. A line that ends in a backslash goes on in the next one."""


def input_from(prompt: str, draft: str) -> str:
    """A line of the person, who finds `draft` there already."""
    import readline

    readline.set_startup_hook(lambda: readline.insert_text(draft))
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook(None)


def recall(entries: Iterable[str]) -> None:
    """Have readline offer earlier prompts; it edits lines only, and writes them to the terminal as they are."""
    import readline

    readline.clear_history()
    for entry in entries:
        if visible_line(entry) == entry:
            readline.add_history(entry)
