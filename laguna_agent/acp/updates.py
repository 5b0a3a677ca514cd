"""Events as `session/update`s: https://agentclientprotocol.com/protocol/v1/prompt-turn

A pure mapping with the little memory that the wire needs: which message a chunk belongs to, which calls are open, what
a running command has printed so far (an update replaces a call's content, it does not append). Sends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import msgspec

from laguna_agent.acp import schema
from laguna_agent.acp.prompts import given_blocks
from laguna_agent.acp.prose import Prose, unfetched
from laguna_agent.agent import events
from laguna_agent.event_lines import on_one_line, printable, retry_line
from laguna_agent.messages import ContentBlock, FileDiff, ImageBlock, Location, ToolKind
from laguna_agent.visible import Revealer, visible, visible_each

LIVE_TAIL = 8_000
LIVE_INTERVAL = 0.1
FENCED: frozenset[ToolKind] = frozenset({"execute", "read", "search"})


@dataclass
class OpenCall:
    """A call that has not ended; `shown_at` is when its live output was last sent."""

    kind: ToolKind
    tail: str = ""
    shown_at: float = float("-inf")


Chunk = schema.AgentMessageChunk | schema.AgentThoughtChunk


@dataclass
class Speech:
    """A message of the model that goes on: what is said of it comes as `chunk`s."""

    message: str
    chunk: type[Chunk]
    revealer: Revealer = field(default_factory=Revealer)
    prose: Prose = field(default_factory=Prose)

    def rest(self) -> str:
        """What was held back, at the end of the message."""
        return self.prose.feed(self.revealer.feed("", final=True), final=True)


class Renderer:
    """Renders one session's events for one client. `clock` gives seconds."""

    def __init__(self, cwd: Path, client: schema.ClientCapabilities, *, clock: Callable[[], float] = monotonic) -> None:
        self._cwd = cwd
        session = client.session or schema.ClientSessionCapabilities()
        self._notices = session.notices is not None
        self._compaction = session.compaction is not None
        self._clock = clock
        self._calls: dict[str, OpenCall] = {}
        self._speaking = ""
        self._turn = 0
        self._messages = 0
        self._compactions = 0
        self._compacting = False
        self._speech: Speech | None = None

    def render(self, event: events.Event) -> Iterator[schema.SessionUpdate]:
        """The updates that tell the client of `event`; none for what it need not know."""
        if not isinstance(event, events.TextDelta | events.ThoughtDelta):
            yield from self._finished_speech()
        yield from self._rendered(event)

    def _rendered(self, event: events.Event) -> Iterator[schema.SessionUpdate]:
        match event:
            case events.TextDelta(text=text):
                yield from self._spoken(text, self._message("agent"), schema.AgentMessageChunk)
            case events.ThoughtDelta(text=text):
                yield from self._spoken(text, self._message("thought"), schema.AgentThoughtChunk)
            case events.TurnStarted(turn=turn):
                self._begin_turn(turn)
            case events.UserMessage():
                self._begin_turn(self._turn + 1)
                yield from self._said(event)
            case events.Steered():
                yield from self._steered(event)
            case events.ToolCallStarted():
                yield self._started(event)
            case events.ToolCallUpdate():
                yield from self._progress(event)
            case events.PlanUpdated(entries=entries):
                yield schema.Plan(
                    entries=[
                        schema.PlanEntry(content=visible(e.content), priority=e.priority, status=e.status)
                        for e in entries
                    ]
                )
            case events.UsageUpdated(context_used=int(used), context_window=int(size), cost=cost):
                price = None if cost is None else schema.Cost(amount=cost, currency="USD")
                # The protocol has no word for what a cache spared; `_meta` is open to all.
                spared = {"inputTokens": event.input_tokens, "cachedTokens": event.cached_tokens}
                yield schema.UsageUpdate(used=used, size=size, cost=price, meta=spared)
            case events.Retrying():
                # What follows is another message: the one that broke off stays as it is, and is no beginning of it.
                self._speaking = ""
                yield self._notice("warning", retry_line(event))
            case events.Notice(severity=severity, text=text):
                yield self._notice(severity, text)
            case events.Rewound(text=text) if text:
                yield self._word(f"It was, to change and send again:\n{fenced(text)}")
            case events.Forked(session_id=copy):
                yield self._word(f"Open it from the list of sessions, or with `laguna-agent chat --resume {copy}`.")
            case events.Compaction():
                yield self._compacted(event)
            case events.TurnEnded():
                yield from self._ended(event)

    def look_back(self, event: events.Event) -> Iterator[schema.SessionUpdate]:
        """As `render`, for a replay: a notice is no part of the history, but the word that a turn ended with is."""
        if isinstance(event, events.Notice):
            yield self._word(event.text)
        else:
            yield from self.render(event)

    def permission(self, session_id: str, asked: events.PermissionRequested) -> schema.RequestPermissionRequest:
        """The question, complete in itself: editors draw the card from this alone."""
        content = self._diffs(asked.diffs)
        command = asked.input.get("command")
        if not content and asked.kind == "execute" and isinstance(command, str):
            content = [text_content(fenced(printable(command)))]
        elif asked.kind == "other" and asked.input:
            # A tool of a server, whose title cannot say what it is called with.
            content = [text_content(fenced(msgspec.json.format(msgspec.json.encode(asked.input)).decode()))]
        facts = [f"- {on_one_line(fact)}" for fact in asked.unusual]
        if len(asked.parts) > 1:
            content.append(text_content("It runs:\n" + fenced("\n".join(map(on_one_line, asked.parts)))))
        if facts:
            content.append(text_content("\n".join(facts)))
        return schema.RequestPermissionRequest(
            session_id=session_id,
            tool_call=schema.ToolCallUpdate(
                tool_call_id=asked.call_id,
                title=visible(asked.title),
                kind=asked.kind,
                status="pending",
                content=content or None,
                locations=self._locations(asked.locations) or None,
                raw_input=asked.input,
            ),
            options=[
                schema.PermissionOption(option_id=o.id, name=visible(o.grant), kind=o.kind) for o in asked.options
            ],
        )

    def _begin_turn(self, turn: int) -> None:
        self._turn, self._messages, self._speaking = turn, 0, ""

    def _message(self, speaker: str) -> str:
        """The id of the message that `speaker` is in the middle of, or begins.

        It names the turn: a session that is resumed in another process must not give the ids of earlier turns again.
        """
        if speaker != self._speaking:
            self._speaking = speaker
            self._messages += 1
        return f"{self._turn}-{speaker}-{self._messages}"

    def _said(self, event: events.UserMessage) -> Iterator[schema.SessionUpdate]:
        blocks: list[schema.ContentBlock] = list(given_blocks(event.given))
        if not blocks and event.text:
            blocks = [schema.TextContent(text=event.text)]
        blocks += (
            []
            if event.given
            else [schema.ImageContent(data=image.data, mime_type=image.mime_type) for image in event.images]
        )
        for block in blocks:
            yield schema.UserMessageChunk(content=block, message_id=self._message("user"))

    def _steered(self, event: events.Steered) -> Iterator[schema.SessionUpdate]:
        """A message of its own in the middle of the turn."""
        self._speaking = ""
        yield from self._said(events.UserMessage(event.text, event.images))
        self._speaking = ""

    def _thought(self, text: str) -> schema.AgentThoughtChunk:
        return schema.AgentThoughtChunk(
            content=schema.TextContent(text=visible(text)), message_id=self._message("thought")
        )

    def _spoken(self, text: str, message: str, chunk: type[Chunk]) -> Iterator[schema.SessionUpdate]:
        """A piece of the model's words. Two speakers share no word."""
        if self._speech is not None and self._speech.message != message:
            yield from self._finished_speech()
        if self._speech is None:
            self._speech = Speech(message, chunk)
        shown = self._speech.prose.feed(self._speech.revealer.feed(text))
        if shown or not text:
            yield chunk(content=schema.TextContent(text=shown), message_id=message)

    def _finished_speech(self) -> Iterator[schema.SessionUpdate]:
        speech, self._speech = self._speech, None
        if speech is not None and (rest := speech.rest()):
            yield speech.chunk(content=schema.TextContent(text=rest), message_id=speech.message)

    def _started(self, event: events.ToolCallStarted) -> schema.ToolCall:
        self._speaking = ""
        self._calls[event.id] = OpenCall(event.kind)
        return schema.ToolCall(
            tool_call_id=event.id,
            title=visible(event.title),
            name=event.name,
            kind=event.kind,
            status="pending",
            locations=self._locations(event.locations) or None,
            raw_input=event.input,
        )

    def _progress(self, event: events.ToolCallUpdate) -> Iterator[schema.SessionUpdate]:
        call = self._calls.setdefault(event.id, OpenCall("other"))
        if event.status in {"completed", "failed"}:
            del self._calls[event.id]
            content = self._diffs(event.diffs) + self._blocks(event.content, call.kind)
        elif event.terminal:
            content = [schema.Terminal(terminal_id=event.terminal)]
        elif event.output:
            call.tail = (call.tail + event.output)[-LIVE_TAIL:]
            if self._clock() - call.shown_at < LIVE_INTERVAL:
                return
            call.shown_at = self._clock()
            content = [text_content(fenced(call.tail))]
        else:
            content = []
        facts = {"exitCode": event.exit_code, "seconds": event.seconds, "sandbox": event.sandbox or None}
        known = {name: fact for name, fact in facts.items() if fact is not None}
        yield schema.SessionUpdateToolCallUpdate(
            tool_call_id=event.id,
            status=event.status,
            content=content or None,
            locations=self._locations(event.locations) or None,
            raw_output=known or None,
        )

    def _notice(self, severity: str, text: str) -> schema.SessionUpdate:
        if self._notices:
            return schema.Notice(severity=severity, title=visible(text))
        return self._thought(f"{text}\n")

    def _compacted(self, event: events.Compaction) -> schema.SessionUpdate:
        if not self._compaction:
            words = "\n".join(
                filter(None, [event.summary or "The conversation is being shortened.", unfetched(event.text)])
            )
            return self._thought(f"{words}\n")
        if not self._compacting:
            self._compactions += 1
        self._compacting = event.status == "started"
        # `summary` is what the model still knows of what went; results that were dropped by rule leave nothing.
        text = unfetched(visible(event.text))
        return schema.CompactionUpdate(
            compaction_id=f"{self._turn}-compaction-{self._compactions}",
            status="in_progress" if self._compacting else event.status,
            summary=[schema.TextContent(text=text)] if text else None,
            error=visible(event.summary) if event.status == "failed" else None,
        )

    def _ended(self, event: events.TurnEnded) -> Iterator[schema.SessionUpdate]:
        """Calls that were cut off are closed, and an end that is no success says why.

        An error says it in the answer, and who cancelled knows.
        """
        for call_id in self._calls:
            yield schema.SessionUpdateToolCallUpdate(tool_call_id=call_id, status="failed")
        self._calls.clear()
        if self._compacting:
            self._compacting = False
            yield schema.CompactionUpdate(
                compaction_id=f"{self._turn}-compaction-{self._compactions}", status="cancelled"
            )
        if event.message and event.exit_code and event.stop_reason not in {"error", "cancelled"}:
            if self._notices:
                yield schema.Notice(severity="warning", title=visible(event.message))
            else:
                yield self._word(event.message)
        # Who stopped it knows that it is not done.
        if event.evidence == "unverified" and event.stop_reason != "cancelled":
            yield self._notice("info", f"unverified: {event.evidence_note}")
        self._speaking = ""

    def _word(self, text: str) -> schema.AgentMessageChunk:
        """A message of the agent's own, apart from what the model says also where a client knows no message ids."""
        gap = "\n\n" if self._speaking == "agent" else ""
        self._speaking = ""
        return schema.AgentMessageChunk(
            content=schema.TextContent(text=gap + visible(text)), message_id=self._message("agent")
        )

    def _absolute(self, path: str) -> str:
        return str(self._cwd / path)

    def _locations(self, places: Iterable[Location]) -> list[schema.ToolCallLocation]:
        return [schema.ToolCallLocation(path=self._absolute(place.path), line=place.line) for place in places]

    def _diffs(self, diffs: Iterable[FileDiff]) -> list[schema.ToolCallContent]:
        return [
            schema.Diff(
                path=self._absolute(diff.path),
                old_text=None if diff.old_text is None else visible_each(diff.old_text),
                new_text=visible_each(diff.new_text or ""),
            )
            for diff in diffs
        ]

    def _blocks(self, blocks: Iterable[ContentBlock], kind: ToolKind) -> list[schema.ToolCallContent]:
        content: list[schema.ToolCallContent] = []
        for block in blocks:
            if isinstance(block, ImageBlock):
                image = schema.ImageContent(data=block.data, mime_type=block.mime_type)
                content.append(schema.Content(content=image))
            elif block.text:
                content.append(text_content(fenced(block.text) if kind in FENCED else unfetched(block.text)))
        return content


def text_content(text: str) -> schema.Content:
    """Text as content of a tool call."""
    return schema.Content(content=schema.TextContent(text=visible(text)))


def fenced(text: str) -> str:
    """`text` as a code block: editors render Markdown, and output is none."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text.rstrip(chr(10))}\n{fence}"
