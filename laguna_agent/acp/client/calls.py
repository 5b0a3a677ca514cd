"""A foreign agent's tool calls, from what it tells of them piece by piece: https://agentclientprotocol.com/protocol/v1/tool-calls

An update replaces what it names and leaves the rest, and what a command prints comes as ever longer content; our events
hold a fragment of live output each, and at the end the whole. Knows calls; must not know sessions or questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laguna_agent.acp import schema
from laguna_agent.acp.prompts import local_path
from laguna_agent.agent.events import Event, ToolCallStarted, ToolCallUpdate
from laguna_agent.messages import ContentBlock, FileDiff, ImageBlock, Location, TextBlock, ToolKind

_FENCED = re.compile(r"\s*(`{3,})[^\n`]*\n(.*?)\n?\1\s*", re.DOTALL)
_OVERLAP = 200
"""Characters by which live output that lost its beginning is found again in what was shown before."""
CHANGING: frozenset[ToolKind] = frozenset({"edit", "delete", "move"})
DAYS = 1e7
"""Seconds that no call takes."""
LIVE = 64 * 1024
"""Characters of a call's output that are shown live: nobody reads more, and no face may have to wait for it."""
MORE = "\n[more output follows; it is not shown live]\n"
_OUTPUT_KEYS = ("output", "formatted_output", "stdout")


@dataclass
class Call:
    """What is known of a call so far. `shown` is the output whose live part the face has seen, `room` the characters
    that it may still see live."""

    id: str
    title: str = ""
    name: str = ""
    kind: ToolKind = "other"
    status: schema.ToolCallStatus = "pending"
    input: dict[str, Any] = field(default_factory=dict)
    raw_output: Any = None
    content: list[schema.ToolCallContent] = field(default_factory=list)
    locations: tuple[Location, ...] = ()
    diffs: tuple[FileDiff, ...] = ()
    shown: str = ""
    room: int = LIVE

    @property
    def paths(self) -> set[str]:
        """The files that it is about."""
        return {each.path for each in self.diffs} | {each.path for each in self.locations}


def no_terminal(_: str) -> str:
    """The output of a terminal, where there are none."""
    return ""


class Calls:
    """The calls of one session in `root`. `terminal` gives what a terminal of ours has printed, by its id."""

    def __init__(self, root: Path, terminal: Callable[[str], str] = no_terminal) -> None:
        self._root = root
        self._terminal = terminal
        self._open: dict[str, Call] = {}
        self._ended: set[str] = set()

    def take(self, update: schema.ToolCall | schema.ToolCallUpdate) -> Iterator[Event]:
        """What the face should know of news of a call. A call whose title changes starts again under the same id."""
        id = update.tool_call_id
        if id in self._ended:
            if not isinstance(update, schema.ToolCall):
                return
            # Another call: there are agents that count from one again.
            self._ended.discard(id)
        call = self._open.get(id)
        before = None if call is None else call.title
        status = "pending" if call is None else call.status
        call = self._open.setdefault(id, Call(id))
        self._merge(call, update)
        if call.title != before:
            yield ToolCallStarted(id, call.name or call.kind, call.kind, call.title or id, call.input, call.locations)
        if call.status in {"completed", "failed"}:
            yield self._end(call)
            return
        fragment = self._fragment(call)
        if fragment or (call.status == "in_progress" and status == "pending"):
            yield ToolCallUpdate(id, "in_progress", output=fragment)

    def printed(self, terminal: str) -> Iterator[Event]:
        """A terminal of ours has printed more: news of the calls that show it."""
        for call in list(self._open.values()):
            if any(isinstance(each, schema.Terminal) and each.terminal_id == terminal for each in call.content):
                fragment = self._fragment(call)
                if fragment:
                    yield ToolCallUpdate(call.id, "in_progress", output=fragment)

    def known(self, id: str) -> Call:
        """What is known of a call that has not ended."""
        return self._open.get(id) or Call(id)

    def about(self, path: str) -> Call | None:
        """The newest running call that names the file, as people read it; else the only one that changes any."""
        running = list(self._open.values())
        named = [each for each in running if path in each.paths]
        changing = [each for each in running if each.kind in CHANGING]
        return named[-1] if named else changing[0] if len(changing) == 1 else None

    def commanding(self) -> Call | None:
        """The newest running call that runs a command."""
        return next((each for each in reversed(self._open.values()) if each.kind == "execute"), None)

    def abandon(self) -> Iterator[Event]:
        """The turn is over: calls that have not ended are closed."""
        for call in self._open.values():
            yield ToolCallUpdate(call.id, "failed")
        self._ended |= self._open.keys()
        self._open.clear()

    def diff(self, diff: schema.Diff) -> FileDiff:
        """A change, with the path as people read it."""
        return FileDiff(self._shown_path(diff.path), diff.old_text, diff.new_text)

    def _merge(self, call: Call, update: schema.ToolCall | schema.ToolCallUpdate) -> None:
        call.title = update.title or call.title
        call.name = update.name or call.name
        call.status = update.status or call.status
        if update.kind is not None:
            call.kind = "other" if update.kind == "switch_mode" else update.kind
        if update.raw_input is not None:
            call.input = update.raw_input if isinstance(update.raw_input, dict) else {"input": update.raw_input}
        if update.raw_output is not None:
            call.raw_output = update.raw_output
        if update.locations is not None:
            call.locations = tuple(Location(self._shown_path(each.path), each.line) for each in update.locations)
        if update.content is not None:
            call.content = update.content
            # An agent may show the change first, and at the end only what came of it.
            diffs = tuple(self.diff(each) for each in update.content if isinstance(each, schema.Diff))
            call.diffs = diffs or call.diffs

    def _fragment(self, call: Call) -> str:
        """What the live output has more than the face has seen."""
        text = "".join(self._text(each) for each in call.content) if call.room > 0 else ""
        if not text:
            return ""
        before, call.shown = call.shown, text
        fragment = added(before, text)
        cut, call.room = call.room, call.room - len(fragment)
        return fragment if call.room > 0 else fragment[:cut] + MORE

    def _text(self, content: schema.ToolCallContent) -> str:
        match content:
            case schema.Content(content=block):
                return unfenced(text_of(block))
            case schema.Terminal(terminal_id=id):
                return self._terminal(id)
        return ""

    def _end(self, call: Call) -> ToolCallUpdate:
        del self._open[call.id]
        self._ended.add(call.id)
        raw = call.raw_output if isinstance(call.raw_output, dict) else {}
        code, seconds, sandbox = raw.get("exitCode", raw.get("exit_code")), raw.get("seconds"), raw.get("sandbox")
        return ToolCallUpdate(
            call.id,
            "completed" if call.status == "completed" else "failed",
            content=tuple(self._blocks(call)),
            diffs=call.diffs,
            locations=call.locations,
            exit_code=code if type(code) is int else None,
            seconds=float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < DAYS else None,
            sandbox=sandbox if isinstance(sandbox, str) else "",
        )

    def _blocks(self, call: Call) -> Iterator[ContentBlock]:
        for each in call.content:
            if isinstance(each, schema.Content) and isinstance(each.content, schema.ImageContent):
                yield ImageBlock(each.content.mime_type, each.content.data)
            elif text := self._text(each):
                yield TextBlock(text)
        if not call.content and (text := output_of(call.raw_output)):
            yield TextBlock(text)

    def _shown_path(self, path: str) -> str:
        """A path as people read it: relative to the workspace where it lies inside."""
        place = Path(local_path(path))
        return place.relative_to(self._root).as_posix() if place.is_relative_to(self._root) else str(place)


def text_of(block: schema.ContentBlock) -> str:
    """A content block as text; of what is none, what it is."""
    match block:
        case schema.TextContent(text=text):
            return text
        case schema.ResourceLink(uri=uri, name=name):
            place = local_path(uri)
            return place if place == name else f"{name} ({place})"
        case schema.EmbeddedResource(resource=resource) if resource.text is not None:
            return resource.text
        case schema.EmbeddedResource(resource=resource):
            return f"[{local_path(resource.uri)}, {resource.mime_type or 'binary'}]"
    return f"[{block.mime_type}]"


def unfenced(text: str) -> str:
    """The inside of a text that is one code block, any other as it is: fences are for editors, which read Markdown."""
    found = _FENCED.fullmatch(text)
    return found[2] if found and found[1] not in found[2] else text


def added(before: str, now: str) -> str:
    """What `now` has behind `before`, which it may have lost the beginning of; all of it where they share nothing."""
    if now.startswith(before):
        return now[len(before) :]
    begun = now[:_OVERLAP]
    at = before.find(begun)
    while at >= 0:
        if now.startswith(before[at:]):
            return now[len(before) - at :]
        at = before.find(begun, at + 1)
    return now


def output_of(raw: Any) -> str:
    """The text in a raw result, where agents usually put it; "" where it is elsewhere."""
    texts: Iterable[Any] = [raw.get(key) for key in _OUTPUT_KEYS] if isinstance(raw, dict) else [raw]
    return next((text for text in texts if isinstance(text, str)), "")
