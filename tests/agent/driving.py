"""Whole turns through a real Session against the loopback model server, each of them replayed at once.

`converse` is the front door: prompts in, everything that came of them out. Every conversation that it drives is
replayed from its log before the test sees it, so that each scenario of this room also proves that replays are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from laguna_agent.agent.compaction import instruction
from laguna_agent.agent.events import Event, TurnEnded
from laguna_agent.agent.outcome import RunRecord
from laguna_agent.agent.permissions import Approver, deny_all
from laguna_agent.agent.replay import replay
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import find_session, read_log
from laguna_agent.config import Settings
from tests.model_server import MODEL, ModelServer

E = TypeVar("E", bound=Event)
R = TypeVar("R")


@dataclass
class Conversation:
    """What came of some prompts: the events of each, its final record, and the log."""

    turns: list[list[Event]] = field(default_factory=list)
    results: list[RunRecord] = field(default_factory=list)
    id: str = ""

    @property
    def log(self) -> Path:
        return find_session(self.id)

    @property
    def events(self) -> list[Event]:
        return [event for turn in self.turns for event in turn]

    @property
    def result(self) -> RunRecord:
        return self.results[-1]

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def records(self, kind: type[R]) -> list[R]:
        """The log's records of one kind, in order."""
        return [record for record in read_log(self.log) if isinstance(record, kind)]


def lines(events: list[Event]) -> bytes:
    """Events as the JSON lines of `run --output stream-json`, which has none that are live only."""
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events if not event.live_only)


def replayed(log: Path) -> list[Event]:
    """All events of a replay."""

    async def collect() -> list[Event]:
        async with aclosing(replay(log)) as events:
            return [event async for event in events]

    return anyio.run(collect)


async def talk(session: Session, prompt: str, watch: Callable[[Session, Event], None] | None = None) -> list[Event]:
    """One prompt to its end; `watch` sees each event and may cancel."""
    seen: list[Event] = []
    async with aclosing(session.prompt(prompt)) as events:
        async for event in events:
            seen.append(event)
            if watch is not None:
                watch(session, event)
    return seen


def settings_for(server: ModelServer, **values: Any) -> Settings:
    return Settings(**({"model": MODEL, "base_url": server.url, "approve": "all", "retry_budget": 0.0} | values))


def converse(
    server: ModelServer,
    workspace: Path,
    *prompts: str,
    approver: Approver = deny_all,
    check: str | None = None,
    schema: dict[str, Any] | None = None,
    snapshot: bool = False,
    resume: Conversation | None = None,
    watch: Callable[[Session, Event], None] | None = None,
    **settings: Any,
) -> Conversation:
    """Say `prompts` one after the other in a new session, or in the one of `resume`; then replay the whole log."""
    spoken = Conversation() if resume is None else Conversation(list(resume.turns), list(resume.results), resume.id)

    async def run() -> None:
        wanted: dict[str, Any] = {
            "approver": approver,
            "check": check,
            "output_schema": schema,
            "snapshot": snapshot,
        }
        wished = settings_for(server, **settings)
        if resume is None:
            session = await Session.start(workspace, wished, **wanted)
        else:
            session = await Session.resume(resume.id, wished, **wanted)
        spoken.id = session.id
        try:
            for prompt in prompts:
                spoken.turns.append(await talk(session, prompt, watch))
                spoken.results.append(session.record())
        finally:
            await session.aclose()

    anyio.run(run)
    for turn in spoken.turns:
        assert isinstance(turn[-1], TurnEnded)
    assert lines(replayed(spoken.log)) == lines(spoken.events)
    return spoken


def posted(server: ModelServer, at: int = -1) -> list[dict[str, Any]]:
    """The messages of a posted request."""
    messages: list[dict[str, Any]] = server.chats[at]["messages"]
    return messages


def roles(server: ModelServer, at: int = -1) -> list[str]:
    return [message["role"] for message in posted(server, at)]


def text_of(message: dict[str, Any]) -> str:
    """A posted message's text, however it is spelled."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def wants_summary(body: dict[str, Any]) -> bool:
    """Whether a posted request asks for a summary of the conversation."""
    last = body["messages"][-1]
    return last["role"] == "user" and instruction(0).partition("at most")[0] in text_of(last)


def require_valid_conversation(messages: list[dict[str, Any]]) -> None:
    """What servers insist on: calls are followed by their results, each once, and no result stands alone."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls, f"a result without its call: {message}"
            open_calls.remove(message["tool_call_id"])
            continue
        assert not open_calls, f"{message['role']} comes before the results of {open_calls}"
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    assert not open_calls, f"calls without results: {open_calls}"
