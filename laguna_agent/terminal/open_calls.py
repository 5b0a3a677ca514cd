"""The calls that run, and those that are over and wait for an elder one, in the order in which they began.

Knows calls by their ids and what events say of them; must not know the history, nor what stands beside them.
"""

from __future__ import annotations

from pathlib import Path

from laguna_agent.agent.events import PermissionRequested, PermissionResolved, ToolCallStarted, ToolCallUpdate
from laguna_agent.terminal.cards import TAIL_ROWS, Call, running_lines
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import Theme

CallEvent = ToolCallStarted | ToolCallUpdate | PermissionRequested | PermissionResolved


class OpenCalls:
    """The open calls of one conversation in `cwd`."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._calls: dict[str, Call] = {}
        self._unshown: set[str] = set()
        """Calls that have no card: what they do is shown by an event of its own."""

    def __bool__(self) -> bool:
        return bool(self._calls)

    def begins(self, event: CallEvent) -> bool:
        """Whether the event begins a call, and is no news of one that is open."""
        known = self._calls.get(event.id) if isinstance(event, ToolCallStarted) else None
        return isinstance(event, ToolCallStarted) and (known is None or known.over is not None)

    def take(self, event: CallEvent, now: float) -> list[Call]:
        """Take an event; the calls whose cards are to be shown now, which are open no longer."""
        if isinstance(event, ToolCallStarted):
            return self._begin(event, now)
        call_id = event.id if isinstance(event, ToolCallUpdate) else event.call_id
        if call_id in self._unshown:
            if not isinstance(event, ToolCallUpdate) or event.status != "failed":
                return []
            self._unshown.discard(call_id)
            self._calls[call_id] = Call(call_id, "plan", "think", "Plan", now)
        call = self._calls.setdefault(call_id, Call(call_id, "", "other", call_id, now))
        match event:
            case PermissionRequested():
                call.asks = True
            case PermissionResolved(allowed=allowed, reason=reason):
                # A person takes their time; the call's own begins now.
                call.asks, call.started = False, now
                call.denied = None if allowed else reason
            case ToolCallUpdate(status="completed" | "failed"):
                call.over = event
                return self._eldest_ended()
            case _:
                call.heard(event.output)
        return []

    def ended(self) -> list[Call]:
        """The calls that are over, also those that wait for an elder one: what is said next waits for none."""
        return self._without([call for call in self._calls.values() if call.over is not None])

    def all(self) -> list[Call]:
        """Every call: nothing goes on."""
        self._unshown.clear()
        return self._without(list(self._calls.values()))

    def lines(self, height: int, now: float, width: int, theme: Theme, besides: str = "") -> list[Line]:
        """How they look now, all but the one with the id `besides`, in at most `height` rows."""
        calls = [call for call in self._calls.values() if call.id != besides]
        if height < 1 or not calls:
            return []
        tail = max(0, min(TAIL_ROWS, height // len(calls) - 1))
        drawn = [running_lines(call, now, width, theme, tail) for call in calls]
        return [line for rows in drawn for line in rows][-height:]

    def _begin(self, event: ToolCallStarted, now: float) -> list[Call]:
        title = event.title or event.name
        if event.kind != "execute":
            # Paths within the workspace are short; a command is as it is.
            title = title.replace(f"{self._cwd}/", "")
        known = self._calls.get(event.id)
        if known is not None and known.over is None:
            # Other agents name a call anew once they know what it does.
            known.name, known.kind, known.title = event.name, event.kind, title
            return []
        before = self._without([known]) if known is not None else []
        if event.name == "plan" and event.kind == "think":
            self._unshown.add(event.id)
        else:
            self._calls[event.id] = Call(event.id, event.name, event.kind, title, now)
        return before

    def _eldest_ended(self) -> list[Call]:
        ended: list[Call] = []
        for call in self._calls.values():
            if call.over is None:
                break
            ended.append(call)
        return self._without(ended)

    def _without(self, calls: list[Call]) -> list[Call]:
        for call in calls:
            del self._calls[call.id]
        return calls
