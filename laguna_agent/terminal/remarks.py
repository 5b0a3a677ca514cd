"""The rows that are neither answer nor call: the person's words, notices, what happened to the history, progress.

Knows one event each and how it looks; must not know what stands around it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from rich.segment import Segment

from laguna_agent.agent.events import Compaction, Forked, ModelProgress, Redone, Rewound, Steered, UserMessage
from laguna_agent.event_lines import one_line, printable, progress_line
from laguna_agent.progress_line import PATIENCE
from laguna_agent.terminal.cards import FOLDED_CHARACTERS, HINT, Fold, elapsed_words, spinner
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import cells, clipped, wrapped

SAID_ROWS = 20
"""Rows of a prompt that are shown; a pasted file can be unfolded."""
BAR_CELLS = 24
Severity = Literal["info", "warning", "error"]
_SEVERITIES: dict[Severity, tuple[str, str]] = {
    "info": ("\u00b7 ", "dim"),
    "warning": ("! ", "warning"),
    "error": ("error: ", "error"),
}


@dataclass(frozen=True)
class Progress:
    """Work before the model's first token; `since` is when its stage began."""

    event: ModelProgress
    since: float

    def lasts(self, now: float) -> bool:
        """Whether it takes long enough to be shown: less only flickers."""
        return now - self.since >= PATIENCE

    def lines(self, now: float, width: int, theme: Theme) -> list[Line]:
        """What is done and how far it is; the bar has two kinds of line, not only two colours."""
        event = self.event
        words = Segment(f"{spinner(now)} {one_line(progress_line(event))}", theme.style("running"))
        if not event.total:
            return [clipped([words], width)]
        share = max(0.0, min(1.0, event.done / event.total))
        percent = "" if "%" in words.text else f" {100 * share:.0f} %"
        room = min(BAR_CELLS, width - cells([words]) - len(percent) - 2)
        if room < 4:
            return [clipped([words, Segment(percent, theme.style("dim"))], width)]
        full = int(share * room)
        bar = (Segment("\u2501" * full, theme.style("bar")), Segment("\u2500" * (room - full), theme.style("rule")))
        return [(words, Segment("  "), *(part for part in bar if part.text), Segment(percent, theme.style("dim")))]


def waiting_line(words: str, elapsed: float, now: float, width: int, theme: Theme) -> Line:
    """Something that takes its time and has no measure."""
    time = f" \u00b7 {elapsed_words(elapsed)}" if elapsed >= 1 else ""
    mark = Segment(f"{spinner(now)} ", theme.style("running"))
    return clipped([mark, Segment(f"{words}{time}", theme.style("dim"))], width)


def said_lines(event: UserMessage | Steered, width: int, theme: Theme, folds: deque[Fold]) -> list[Line]:
    """The person's words behind a mark."""
    text = printable(event.text.rstrip("\n")).expandtabs(4)
    if event.images:
        text += f"{chr(10) if text else ''}[{len(event.images)} image{'s' * (len(event.images) != 1)}]"
    rows = _said(text[: SAID_ROWS * width], width, theme)
    if len(rows) <= SAID_ROWS and len(text) <= SAID_ROWS * width:
        return rows
    kept = text[:FOLDED_CHARACTERS]
    folds.append(lambda width, theme: _said(kept, width, theme))
    shown = rows[: SAID_ROWS // 2]
    lines = text.count("\n") + 1
    return [*shown, clipped([Segment(f"  \u2026 {lines:,} lines in all ({HINT})", theme.style("dim"))], width)]


def _said(text: str, width: int, theme: Theme) -> list[Line]:
    style = theme.style("user")
    return wrapped(text, width, style, (Segment("\u203a ", style),), (Segment("  "),))


def notice_lines(severity: Severity, text: str, width: int, theme: Theme) -> list[Line]:
    """Something the person should know; its mark says how bad it is."""
    mark, name = _SEVERITIES[severity]
    style = theme.style(name)
    return wrapped(printable(text), width, style, (Segment(mark, style),), (Segment("  "),))


def compaction_lines(event: Compaction, width: int, theme: Theme, folds: deque[Fold]) -> list[Line]:
    """Room was made in the window, or not; the summary that stands for the older part can be unfolded."""
    if event.status == "failed":
        return notice_lines("warning", f"no summary of the history: {event.summary}", width, theme)
    tokens = f" ({event.before:,} to {event.after:,} tokens)" if event.before else ""
    hint = f" ({HINT})" if event.text else ""
    if event.text:
        text = printable(event.text)[:FOLDED_CHARACTERS]
        folds.append(lambda width, theme: wrapped(text, width, theme.style("dim")))
    return notice_lines("info", f"history shortened: {event.summary}{tokens}{hint}", width, theme)


def rewound_lines(event: Rewound, width: int, theme: Theme) -> list[Line]:
    """Prompts were taken back."""
    prompts = f"{event.prompts} prompt{'s' * (event.prompts != 1)}"
    return notice_lines("info", f"took back {prompts}{_files(event.files)}", width, theme)


def redone_lines(event: Redone, width: int, theme: Theme) -> list[Line]:
    """What was taken back is there again."""
    return notice_lines("info", f"what was taken back is there again{_files(event.files)}", width, theme)


def forked_lines(event: Forked, width: int, theme: Theme) -> list[Line]:
    """There is a copy of the conversation."""
    return notice_lines("info", f"copied into session {event.session_id}", width, theme)


def _files(files: tuple[str, ...]) -> str:
    return f"; files put back: {', '.join(map(one_line, files))}" if files else ""
