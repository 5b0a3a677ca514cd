"""The conversation as rows: those that are finished, each given out once, and the open end of the turn that runs.

Events go in, lines come out, made for the width and the theme of the moment. Finished lines are never touched again and
not kept; what was shown folded is, within bounds. Must not know the screen, the keyboard or the session; time enters
through `tick` alone. All text of others is made printable before it becomes a line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from laguna_agent.agent.events import (
    Compaction,
    Event,
    Forked,
    ModelProgress,
    Notice,
    PermissionRequested,
    PermissionResolved,
    PlanUpdated,
    Redone,
    Retrying,
    Rewound,
    Steered,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
    TurnStarted,
    UserMessage,
)
from laguna_agent.event_lines import retry_line
from laguna_agent.messages import PlanEntry
from laguna_agent.terminal.cards import Call, Fold, ended_lines
from laguna_agent.terminal.closing import Changes, closing_lines
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.open_calls import CallEvent, OpenCalls
from laguna_agent.terminal.plan import plan_lines, plan_window
from laguna_agent.terminal.remarks import (
    Progress,
    compaction_lines,
    forked_lines,
    notice_lines,
    redone_lines,
    rewound_lines,
    said_lines,
    waiting_line,
)
from laguna_agent.terminal.speech import Output, Speech, Thought
from laguna_agent.terminal.theme import Theme

FOLDS = 30
"""Things shown folded that can still be unfolded, the newest."""
PLAN_ROWS = 8


class Transcript:
    """One conversation. `width` and `theme` may be set at any time; they hold for what is drawn from then on."""

    def __init__(self, theme: Theme, width: int, *, cwd: Path) -> None:
        self.theme, self.width = theme, width
        self.dirty = False
        """Whether `finished` or `live` would give something new."""
        self._events: list[Event | str] = []
        """What came since the last frame; a string is output of a command of the person."""
        self._out: list[Line] = []
        self._last = ""
        """What kind of thing the last rows were: things of another kind stand apart."""
        self._speech: Speech | Output | None = None
        self._thought: Thought | None = None
        self._space = ""
        """White space that an answer may begin with."""
        self._calls = OpenCalls(cwd)
        self._plan: tuple[PlanEntry, ...] = ()
        self._shown_plan: tuple[PlanEntry, ...] = ()
        self._progress: Progress | None = None
        self._room_made_since: float | None = None
        self._changes = Changes()
        self._turn_since: float | None = None
        self._waiting_since = 0.0
        self._now = self._ticked = 0.0
        self._folds: deque[Fold] = deque(maxlen=FOLDS)
        self._live: tuple[tuple[int, int, Theme, str], list[Line]] | None = None

    def feed(self, event: Event) -> None:
        """Take an event; the work is done when lines are asked for."""
        self._events.append(event)
        self.dirty = True

    def said(self, text: str) -> None:
        """The person's own words, as they stand in the history."""
        self.feed(UserMessage(text))

    def printed(self, text: str) -> None:
        """A piece of what a command that the person started prints."""
        self._events.append(text)
        self.dirty = True

    def insert(self, rows: Sequence[Line]) -> None:
        """Finished rows of somebody else, below what is finished now."""
        self._take_all()
        if isinstance(self._speech, Output):
            # Whoever speaks now, the command has no more to say.
            self._end_words()
        self._drain()
        self._put("inserted", rows)
        self.dirty = True

    def tick(self, seconds: float) -> None:
        """The clock's time now, in seconds since whenever; a clock that begins anew goes on from here."""
        before, passed = self._now, seconds - self._ticked
        self._now += passed if passed >= 0 else max(0.0, seconds)
        self._ticked = seconds
        moved = int(before * 10) != int(self._now * 10)
        if moved and (self._calls or self._progress or self._waits or self._room_made_since is not None):
            self.dirty = True

    def finished(self) -> list[Line]:
        """What goes into the history now; each line is given out once."""
        self._take_all()
        self._drain()
        rows, self._out = self._out, []
        return rows

    def settle(self) -> None:
        """Close what is open: nothing follows, as after a conversation that was shown again, or one that broke off."""
        self._take_all()
        self._close()
        self._turn_since = None
        self.dirty = True

    def live(self, height: int, *, besides: str = "") -> list[Line]:
        """The open part, at most `height` rows: the end of what is said, calls that run, the plan. After `finished`.
        The call with the id `besides` is left out, for it is shown elsewhere."""
        look = (height, self.width, self.theme, besides)
        if self._live is None or self.dirty or self._live[0] != look:
            self._live = look, self._drawn(height, besides) if height > 0 else []
            self.dirty = bool(self._events or self._out)
        return list(self._live[1])

    def unfold(self) -> list[Line]:
        """In full what was shown folded last; asked again, what was before it. Nothing where there is nothing more."""
        return self._folds.pop()(self.width, self.theme) if self._folds else []

    @property
    def _waits(self) -> bool:
        """Whether the turn runs and nothing is to be seen of it."""
        return self._turn_since is not None and not (self._speech or self._thought or self._calls)

    def _take_all(self) -> None:
        events, self._events = self._events, []
        for event in events:
            if isinstance(event, str):
                self._say(event, Output)
            else:
                self._take(event)

    def _take(self, event: Event) -> None:
        if not isinstance(event, ModelProgress):
            self._progress = None
            self._waiting_since = self._now
        match event:
            case TextDelta(text=text):
                self._say(text, Speech)
            case ThoughtDelta(text=text):
                self._think(text)
            case ToolCallStarted() | ToolCallUpdate() | PermissionRequested() | PermissionResolved():
                self._work(event)
            case PlanUpdated(entries=entries):
                self._plan = entries
            case ModelProgress():
                self._advance(event)
            case TurnStarted():
                self._turn_since = self._now
                self._changes = Changes()
            case UserMessage() | Steered():
                # What runs goes on below a word into the turn; only a prompt is said when nothing does.
                self._close() if isinstance(event, UserMessage) else self._end_words()
                self._put("user", said_lines(event, self.width, self.theme, self._folds), apart=True)
            case TurnEnded():
                self._end(event)
            case _:
                self._remark(event)

    def _remark(self, event: Event) -> None:
        """What is said about the conversation; other events are not shown, they are for the status line."""
        match event:
            case Notice():
                rows = notice_lines(event.severity, event.text, self.width, self.theme)
            case Retrying():
                rows = notice_lines("warning", retry_line(event), self.width, self.theme)
            case Compaction(status="started"):
                self._room_made_since = self._now
                return
            case Compaction():
                self._room_made_since = None
                rows = compaction_lines(event, self.width, self.theme, self._folds)
            case Rewound():
                rows = rewound_lines(event, self.width, self.theme)
            case Redone():
                rows = redone_lines(event, self.width, self.theme)
            case Forked():
                rows = forked_lines(event, self.width, self.theme)
            case _:
                return
        self._end_words()
        self._put("notice", rows)

    def _say(self, text: str, kind: type[Speech | Output]) -> None:
        if not isinstance(self._speech, kind):
            text, self._space = self._space + text, ""
            if kind is Speech and not text.strip():
                # Nothing is said yet, so a thought goes on; an indentation may still belong to what follows.
                self._space = text
                return
            self._end_words()
            self._show_cards(self._calls.ended())
            self._speech = Output() if kind is Output else Speech(self.theme, self.width)
            if self._last == "text":
                self._last = "words before"
        self._speech.feed(text)

    def _drain(self) -> None:
        if self._speech is not None:
            self._put(self._kind(self._speech), self._speech.finished(self.theme, self.width))

    @staticmethod
    def _kind(speech: Speech | Output) -> str:
        return "text" if isinstance(speech, Speech) else "output"

    def _think(self, text: str) -> None:
        if self._thought is None:
            if not text.strip():
                return
            self._end_words()
            self._show_cards(self._calls.ended())
            self._thought = Thought()
        self._thought.feed(text)

    def _end_words(self) -> None:
        """The model's words are over, or broken off."""
        self._space = ""
        speech, self._speech = self._speech, None
        if speech is not None:
            self._put(self._kind(speech), speech.end(self.theme, self.width))
        thought, self._thought = self._thought, None
        if thought is not None:
            self._put("thought", thought.end(self.theme, self.width, self._folds))

    def _work(self, event: CallEvent) -> None:
        if self._calls.begins(event):
            self._end_words()
        self._show_cards(self._calls.take(event, self._now))

    def _show_cards(self, calls: Sequence[Call]) -> None:
        for call in calls:
            # What was said until now stands above, whether or not a frame was drawn since.
            self._drain()
            self._show_card(call)

    def _show_card(self, call: Call) -> None:
        if call.over is not None:
            self._changes.add(call.over.diffs)
        rows, fold = ended_lines(call, self.width, self.theme)
        if fold is not None:
            self._folds.append(fold)
        # Cards of one row stand close; what has more below it stands apart.
        kind = "card" if len(rows) == 1 else "opened card"
        self._put(kind, rows, apart=kind != "card")

    def _advance(self, event: ModelProgress) -> None:
        if event.total and event.done >= event.total:
            self._progress = None
        elif self._progress is None or self._progress.event.stage != event.stage:
            self._progress = Progress(event, self._now)
        else:
            self._progress = Progress(event, self._progress.since)

    def _end(self, event: TurnEnded) -> None:
        self._close()
        elapsed = 0.0 if self._turn_since is None else self._now - self._turn_since
        self._turn_since = None
        self._put("end", closing_lines(event, self._changes, elapsed, self.width, self.theme))

    def _close(self) -> None:
        """Nothing goes on: write what is open."""
        self._end_words()
        self._show_cards(self._calls.all())
        self._progress = self._room_made_since = None
        if self._plan and self._plan != self._shown_plan:
            self._shown_plan = self._plan
            self._put("plan", plan_lines(self._plan, self.width, self.theme))

    def _put(self, kind: str, rows: Sequence[Line], *, apart: bool = False) -> None:
        """Rows into the history; below an empty one where they stand `apart`, or what is above is of another kind."""
        if not rows:
            return
        if self._last and (apart or self._last != kind):
            self._out.append(())
        self._out += rows
        self._last = kind

    def _drawn(self, height: int, besides: str) -> list[Line]:
        """The live rows, from below: what is least in danger of filling the screen gets its room first."""
        below = self._status_rows()[:height]
        plan: list[Line] = []
        if self._turn_since is not None and self._plan and self._plan != self._shown_plan:
            plan = plan_window(self._plan, self.width, self.theme, min(PLAN_ROWS, height // 3))
        calls = self._calls.lines(height - len(below) - len(plan), self._now, self.width, self.theme, besides)
        words = self._words(height - len(below) - len(plan) - len(calls))
        blocks = [
            (self._kind(self._speech) if self._speech else "thought", words),
            ("card", calls),
            ("waiting", below),
            ("plan", plan),
        ]
        rows: list[Line] = []
        last = self._last
        for kind, block in blocks:
            if block:
                rows += [(), *block] if last and kind != last else block
                last = kind
        # Above all else the end is seen; empty rows are the first to go.
        while len(rows) > height and () in rows:
            rows.remove(())
        return rows[-height:]

    def _words(self, height: int) -> list[Line]:
        if height < 1:
            return []
        if self._speech is not None:
            return self._speech.live(height)
        return self._thought.live(self.width, self.theme)[-height:] if self._thought is not None else []

    def _status_rows(self) -> list[Line]:
        if self._progress is not None and self._progress.lasts(self._now):
            return self._progress.lines(self._now, self.width, self.theme)
        if self._room_made_since is not None:
            words = "making room in the history"
            return [waiting_line(words, self._now - self._room_made_since, self._now, self.width, self.theme)]
        if self._waits and self._turn_since is not None:
            return [waiting_line("working", self._now - self._turn_since, self._now, self.width, self.theme)]
        return []
