"""Drawing a turn on the terminal: streamed text, one-line tool cards, coloured diffs, permission questions.

Only ever appends; nothing is redrawn, so nothing flickers and the scrollback is the transcript. The exception is the
progress of a model before its first token, which is erased again.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from laguna_agent.agent.events import (
    Compaction,
    Event,
    ModelProgress,
    Notice,
    PermissionRequested,
    PermissionResolved,
    PlanUpdated,
    Retrying,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
)
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.event_lines import (
    answer_to,
    diff_lines,
    ended_line,
    evidence_words,
    one_line,
    printable,
    question_lines,
    retry_line,
    started_line,
)
from laguna_agent.progress_line import ProgressLine
from laguna_agent.visible import Revealer

DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
NOTICE_STYLES = {"info": "dim", "warning": "yellow", "error": "red"}
PLAN_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class Screen:
    """The terminal, written to from the main thread."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._titles: dict[str, str] = {}
        self._mid_line = False
        self._progress_line = ProgressLine()
        self._speech = Revealer()

    def say(self, text: str, style: str = "") -> None:
        """Whole lines, on a line of their own. Nothing in them is markup, a link or an order to the terminal."""
        self._end_line()
        self._console.print(Text(printable(text), style=style))

    def draw(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, ModelProgress):
            self._end_line()
            self._progress_line.show(event)
            return
        self._progress_line.clear()
        match event:
            case TextDelta():
                self._stream(event.text, "")
            case ThoughtDelta():
                self._stream(event.text, "dim")
            case ToolCallStarted():
                self._titles[event.id] = event.title or event.name
                self.say(started_line(event), "bold")
            case ToolCallUpdate(status="completed" | "failed"):
                self._draw_end(event)
            case PermissionResolved(allowed=False):
                self.say(f"denied: {one_line(event.reason)}", "yellow")
            case PlanUpdated():
                self.say("\n".join(f"{PLAN_MARKS[each.status]} {one_line(each.content)}" for each in event.entries))
            case Retrying():
                self.say(printable(retry_line(event)), NOTICE_STYLES["warning"])
            case Notice():
                self.say(printable(event.text), NOTICE_STYLES[event.severity])
            case Compaction():
                self.say(one_line(f"history {event.status}: {event.summary}", 2_000), "dim")
                if event.text:
                    self.say(printable(event.text), "dim")
            case TurnEnded():
                self._draw_turn_end(event)

    def ask(self, request: PermissionRequested) -> PermissionAnswer:
        """Ask until there is an answer; the end of the terminal's input denies. Raises KeyboardInterrupt."""
        question, *rest = question_lines(request)
        self.say(question, "bold yellow")
        for line in rest:
            self.say(line, DIFF_STYLES.get(line[:1], ""))
        while True:
            try:
                answer = answer_to(input("? "), request)
            except EOFError:
                return PermissionAnswer(False, reason="the person left the question open")
            if answer is not None:
                return answer

    def _end_line(self) -> None:
        self._put(self._speech.feed("", final=True), "")
        self._speech = Revealer()
        if self._mid_line:
            self._console.print()
            self._mid_line = False

    def _stream(self, text: str, style: str) -> None:
        # What joins an emoji may come in the next piece.
        self._put(self._speech.feed(text.replace("\r", "")), style)

    def _put(self, text: str, style: str) -> None:
        if text:
            self._console.print(Text(text.replace("\f", ""), style=style), end="")
            self._mid_line = not text.endswith("\n")

    def _draw_end(self, event: ToolCallUpdate) -> None:
        title = self._titles.pop(event.id, event.id)
        for diff in event.diffs:
            for line in diff_lines(diff):
                self.say(line, DIFF_STYLES.get(line[:1], ""))
        self.say(f"  {ended_line(event, title)}", "red" if event.status == "failed" else "dim")

    def _draw_turn_end(self, event: TurnEnded) -> None:
        if event.exit_code != 0:
            self.say(printable(event.message or event.outcome), "red")
        words = evidence_words(event.evidence, event.evidence_note).removeprefix(", ")
        if words or self._mid_line:
            self.say(words, "dim" if words else "")
