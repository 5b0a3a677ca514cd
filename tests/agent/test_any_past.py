"""Whatever happens in a session, in any order: the log tells exactly what the running session knows."""

from __future__ import annotations

from pathlib import Path
from random import Random

import anyio
import pytest

from laguna_agent.agent.conversation import Past, orphan_results, rebuild
from laguna_agent.agent.events import Event, ToolCallStarted
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Compacted, Shortened, Uncompacted, find_session, read_log
from laguna_agent.backend.base import Delta, Finished, ToolCallDelta, Usage, UsageDelta
from laguna_agent.config import Settings
from laguna_agent.messages import Message
from tests.agent.driving import lines, replayed, talk
from tests.agent.listed_backend import ListedBackend, answer

SETTINGS = Settings(model="local/listed", context_length=4_500)
STEPS = {"plain": 3, "tool": 8, "steered": 4, "cancelled": 2, "failed": 1, "/usage": 1, "/compact": 1, "reopened": 2}
STEPS |= {"/compact the names": 3, "/compact undo": 2}
BACK = {"/rewind 1": 2, "/rewind 2": 1, "/rewind 4": 1}


def reading(line: int) -> list[Delta]:
    """An answer that calls; each reads something else, for repeats are shown once."""
    call = ToolCallDelta(0, "", "read", f'{{"path":"long.txt","offset":{line}}}')
    return [call, UsageDelta(Usage(900 + line, 5)), Finished("tool_calls")]


class Told:
    """A session with what must be true of it: the history before each of its prompts for the model; None where a
    compaction was taken back since, for then that is no longer what was before it."""

    def __init__(self, session: Session) -> None:
        self.backend = ListedBackend()
        self.before: list[tuple[Message, ...] | None] = []
        self.events: list[Event] = []
        self.attach(session)

    def attach(self, session: Session) -> None:
        self.session = session
        session.backend, session.wire_model = self.backend, "listed"

    async def step(self, what: str) -> None:
        if what == "reopened":
            await self.session.aclose()
            self.attach(await Session.resume(self.session.id, SETTINGS, approver=deny_all))
        elif what.startswith("/rewind"):
            count = int(what.split()[1])
            there_are = count <= len(self.before)
            then = self.before[-count] if there_are else None
            self.events += await talk(self.session, what)
            if there_are:
                del self.before[-count:]
            if then is not None:
                assert tuple(self.session.history) == then
        elif what.startswith("/"):
            self.backend.answers = [answer("## State\nIt was read.")] if what.endswith("names") else []
            compactions = self.session.work.compactions
            self.events += await talk(self.session, what)
            if self.session.work.compactions < compactions:
                self.before = [None] * len(self.before)
        else:
            await self._ask(what)

    async def _ask(self, what: str) -> None:
        read = reading(len(self.backend.requests) + 1)
        answers = {
            "plain": [answer("Yes.")],
            "tool": [read, answer("I have read it.")],
            "steered": [read, answer("I have heard it.")],
            "cancelled": [read],
            "failed": [],
        }
        self.backend.answers = list(answers[what])
        history = tuple(self.session.history)
        self.before.append(history)
        told = history + tuple(orphan_results(history, self.session.unanswered))
        asked, shortened = len(self.backend.requests), self._shortened()

        def watch(session: Session, event: Event) -> None:
            if what in ("steered", "cancelled") and isinstance(event, ToolCallStarted):
                assert session.steer(f"Mind {asked}.")
                if what == "cancelled":
                    session.cancel()

        self.events += await talk(self.session, what, watch)
        request = self.backend.requests[asked]
        # What was said before is told again, and the only new message is the prompt; unless the window was full.
        if history and self._shortened() == shortened:
            assert request.messages[:-1] == told

    def _shortened(self) -> int:
        return sum(
            isinstance(record, Shortened | Compacted | Uncompacted)
            for record in read_log(find_session(self.session.id))
        )

    def require_agreement(self) -> None:
        session, past = self.session, rebuild(read_log(find_session(self.session.id)))
        for name in ("history", "prompts", "asked", "words", "prompt_number", "call_ids", "work"):
            assert getattr(session, name) == getattr(past, name), name
        assert session.untaken == tuple(past.untaken)
        assert waiting(session) == waiting(past)
        assert session.estimate.tokens(10**6) == past.estimate.tokens(10**6)
        assert len(session.asked) == len(self.before)


def waiting(past: Session | Past) -> list[Message]:
    return orphan_results(past.history, past.unanswered)


@pytest.mark.parametrize("seed", range(12))
def test_the_log_tells_what_the_session_knows(workspace: Path, seed: int) -> None:
    (workspace / "long.txt").write_text("line\n" * 900)
    weights = STEPS | BACK
    steps = [*["tool"] * 9, *Random(seed).choices(list(weights), list(weights.values()), k=16)]

    async def run() -> Told:
        told = Told(await Session.start(workspace, SETTINGS, approver=deny_all))
        for step in steps:
            await told.step(step)
            told.require_agreement()
        await told.session.aclose()
        return told

    told = anyio.run(run)
    kinds = {type(record) for record in read_log(find_session(told.session.id))}
    assert kinds & {Shortened, Compacted}
    assert lines(replayed(find_session(told.session.id))) == lines(told.events)
