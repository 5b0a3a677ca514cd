"""session/update of a foreign agent -> our events: https://agentclientprotocol.com/protocol/v1/prompt-turn

Knows the order of things said and done in one session; what is a state rather than an event (modes, options, commands,
the title) is the agent's. Text comes through as it was sent: the faces make it printable. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from laguna_agent.acp import schema
from laguna_agent.acp.client.calls import Calls, no_terminal, text_of
from laguna_agent.acp.client.choices import OptionsTold
from laguna_agent.acp.client.usage import Usage
from laguna_agent.agent.events import (
    Compaction,
    Event,
    Notice,
    PlanUpdated,
    TextDelta,
    ThoughtDelta,
    ToolCallUpdate,
    UserMessage,
)
from laguna_agent.messages import ImageBlock, PlanEntry

Update = (
    schema.UserMessageChunk
    | schema.AgentMessageChunk
    | schema.AgentThoughtChunk
    | schema.ToolCall
    | schema.SessionUpdateToolCallUpdate
    | schema.Plan
    | schema.AvailableCommandsUpdate
    | schema.CurrentModeUpdate
    | OptionsTold
    | schema.SessionInfoUpdate
    | schema.UsageUpdate
    | schema.Notice
    | schema.CompactionUpdate
    | schema.CompactionSummaryChunk
)
"""What is understood; an update of any other kind is ignored, as the protocol wants it."""
STATES = (schema.AvailableCommandsUpdate, schema.CurrentModeUpdate, OptionsTold, schema.SessionInfoUpdate)
Severity = Literal["info", "warning", "error"]
SEVERITIES: dict[str, Severity] = {"info": "info", "warning": "warning", "error": "error"}


class Told(schema.Wire, frozen=True):
    """Params of session/update."""

    session_id: str
    update: Update


class Translator:
    """One session's updates, in `root`. `in_turn` says that the person's own words, which some agents repeat, are known
    already; `changed` are the files that ended calls changed, `told` counts the updates that are no states."""

    def __init__(self, root: Path, terminal: Callable[[str], str] = no_terminal) -> None:
        self.calls = Calls(root, terminal)
        self.usage = Usage()
        self.in_turn = False
        self.changed: dict[str, None] = {}
        self.told = 0
        self._speaking: tuple[str, str | None] = ("", None)
        self._said: list[str] = []
        self._images: list[ImageBlock] = []
        self._compacting: dict[str, str] = {}

    def events(self, update: Update) -> Iterator[Event]:
        """The events that an update stands for; none for a state."""
        if isinstance(update, STATES):
            return
        self.told += 1
        if isinstance(update, schema.UserMessageChunk):
            yield from self._hear(update)
            return
        yield from self.heard()
        match update:
            case schema.AgentMessageChunk():
                yield TextDelta(self._spoken("agent", update))
            case schema.AgentThoughtChunk():
                yield ThoughtDelta(self._spoken("thought", update))
            case schema.ToolCall() | schema.SessionUpdateToolCallUpdate():
                yield from self._silent(self.calls.take(update))
            case schema.Plan(entries=entries):
                yield PlanUpdated(tuple(PlanEntry(each.content, each.status, each.priority) for each in entries))
            case schema.UsageUpdate():
                yield self.usage.take(update)
            case schema.Notice(severity=severity, title=title, description=more):
                yield Notice(SEVERITIES.get(severity, "info"), ": ".join(filter(None, [title, more])))
            case schema.CompactionUpdate():
                yield from self._compacted(update)
            case schema.CompactionSummaryChunk(compaction_id=id, content=block):
                self._compacting[id] = self._compacting.get(id, "") + text_of(block)

    def heard(self) -> Iterator[Event]:
        """What the person said, once it is complete."""
        if self._said or self._images:
            yield UserMessage("".join(self._said), tuple(self._images))
            self._said, self._images = [], []

    def begin_turn(self) -> None:
        """A prompt was sent."""
        self.in_turn = True
        self._speaking = ("", None)
        self.changed = {}

    def end_turn(self) -> Iterator[Event]:
        """It was answered."""
        yield from self.heard()
        yield from self.calls.abandon()
        self.in_turn = False

    def printed(self, terminal: str) -> Iterator[Event]:
        """A terminal of ours has printed more."""
        yield from self.calls.printed(terminal)

    def _hear(self, chunk: schema.UserMessageChunk) -> Iterator[Event]:
        if self.in_turn:
            return
        if self._speaking != ("user", chunk.message_id):
            yield from self.heard()
            self._speaking = ("user", chunk.message_id)
        if isinstance(chunk.content, schema.ImageContent):
            self._images.append(ImageBlock(chunk.content.mime_type, chunk.content.data))
        else:
            self._said.append(text_of(chunk.content))

    def _spoken(self, speaker: str, chunk: schema.ContentChunk) -> str:
        """The words; a message that follows another of the same speaker begins a paragraph."""
        before, self._speaking = self._speaking, (speaker, chunk.message_id)
        text = text_of(chunk.content)
        apart = before[0] == speaker and None not in {before[1], chunk.message_id} and before[1] != chunk.message_id
        return f"\n\n{text}" if apart else text

    def _silent(self, news: Iterator[Event]) -> Iterator[Event]:
        for event in news:
            self._speaking = ("", None)
            if isinstance(event, ToolCallUpdate) and event.status == "completed":
                self.changed.update(dict.fromkeys(diff.path for diff in event.diffs))
            yield event

    def _compacted(self, update: schema.CompactionUpdate) -> Iterator[Event]:
        id = update.compaction_id
        if update.status == "in_progress":
            if id not in self._compacting:
                self._compacting[id] = ""
                yield Compaction("started")
            return
        told = "".join(map(text_of, update.summary or ())) or self._compacting.get(id, "")
        self._compacting.pop(id, None)
        if update.status == "completed":
            yield Compaction("completed", "the conversation was shortened", text=told)
        else:
            yield Compaction("failed", update.error or update.status)
