"""The backend's progress before the first token: seen by the face that listens, and by nobody later."""

from __future__ import annotations

from pathlib import Path

import anyio

from laguna_agent.agent.events import Event, ModelProgress, Retrying, TextDelta
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Ended, Replied, find_session, read_log
from laguna_agent.backend.assemble import Assembler
from laguna_agent.backend.base import Finished, ProgressDelta, Request, RetryDelta, TokenDelta
from laguna_agent.backend.base import TextDelta as TextPiece
from laguna_agent.config import Settings
from laguna_agent.event_lines import progress_line
from tests.agent.driving import lines, replayed, talk
from tests.agent.listed_backend import ListedBackend, answer

LOADING = [ProgressDelta("loading", done, 100) for done in (0, 45, 100)]


def spoken_with(backend: ListedBackend, workspace: Path, *prompts: str) -> tuple[Path, list[Event]]:
    """The log of a session with the backend, and the events of all prompts."""
    seen: list[Event] = []

    async def run() -> str:
        session = await Session.start(workspace, Settings(model="local/listed"), approver=deny_all)
        session.backend, session.wire_model = backend, "listed"
        for prompt in prompts:
            seen.extend(await talk(session, prompt))
        await session.aclose()
        return session.id

    return find_session(anyio.run(run)), seen


def test_progress_is_live_only(workspace: Path) -> None:
    backend = ListedBackend(
        [answer("One.", *LOADING, ProgressDelta("reading", 10, 20)), answer("Two.", ProgressDelta("waiting"))]
    )
    log, seen = spoken_with(backend, workspace, "x", "y")
    assert [event for event in seen if isinstance(event, ModelProgress)] == [
        *(ModelProgress("loading", "listed", done, 100) for done in (0, 45, 100)),
        ModelProgress("reading", "listed", 10, 20),
        ModelProgress("waiting", "listed"),
    ]
    recorded = [delta for record in read_log(log) if isinstance(record, Replied) for delta in record.deltas]
    assert not any(isinstance(delta, ProgressDelta) for delta in recorded)
    lasting = [event for event in seen if not event.live_only]
    assert lines(replayed(log)) == lines(lasting)
    counted = [record.events for record in read_log(log) if isinstance(record, Ended)]
    # All but the two ends of the turns.
    assert sum(counted) == len(lasting) - 2


def test_progress_of_an_attempt_that_failed(workspace: Path) -> None:
    retried = [ProgressDelta("loading", 1, 2), RetryDelta(1, 0.0, "busy"), ProgressDelta("loading", 2, 2)]
    log, seen = spoken_with(ListedBackend([answer("Yes.", *retried)]), workspace, "x")
    kinds = [type(event) for event in seen if isinstance(event, ModelProgress | Retrying | TextDelta)]
    assert kinds == [ModelProgress, Retrying, ModelProgress, TextDelta]
    assert lines(replayed(log)) == lines([event for event in seen if not event.live_only])


def test_an_answer_is_put_together_without_tokens_and_progress() -> None:
    assembler = Assembler(Request("m", ()))
    for delta in (ProgressDelta("loading", 1, 2), TokenDelta("Y", -0.1), TextPiece("Yes."), Finished("stop")):
        assembler.feed(delta)
    reply = assembler.reply()
    assert (reply.message.text, reply.message.reasoning, reply.finish) == ("Yes.", "", "stop")


def test_the_words() -> None:
    assert progress_line(ModelProgress("loading", "a-model", 45, 100)) == "loading a-model 45 %"
    assert progress_line(ModelProgress("packing", "a-model")) == "packing a-model"
    assert progress_line(ModelProgress("reading", "a-model", 1536, 4020)) == "reading 1,536 of 4,020 tokens"
    assert progress_line(ModelProgress("reading", "a-model")) == "reading the prompt"
    assert progress_line(ModelProgress("retrying", "a-model", 3, 20)) == "asking a-model again in 17 s"
    assert "waiting" in progress_line(ModelProgress("waiting", "a-model"))
