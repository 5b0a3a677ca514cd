"""Many deltas that come at once reach the face at once."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from laguna_agent.agent.events import TextDelta
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from tests.agent.driving import settings_for
from tests.model_server import ModelServer, raw, sse, stream

DELTAS = 300


async def steps_between(session: Session) -> tuple[int, list[str]]:
    """In how many different steps of the event loop the deltas of one answer came, and the deltas."""
    step, seen, texts = 0, set[int](), list[str]()

    async def count() -> None:
        nonlocal step
        while True:
            step += 1
            await checkpoint()

    async with anyio.create_task_group() as group, aclosing(session.prompt("Count.")) as events:
        group.start_soon(count)
        async for event in events:
            if isinstance(event, TextDelta):
                seen.add(step)
                texts.append(event.text)
        group.cancel_scope.cancel()
    return len(seen), texts


def test_a_burst_of_deltas_takes_no_step_of_the_event_loop_for_each(model_server: ModelServer, workspace: Path) -> None:
    words = [f" {number}" for number in range(DELTAS)]
    burst = b"".join(sse({"choices": [{"delta": {"content": word}}]}) for word in words)
    model_server.reply(stream(raw(burst)))

    async def run() -> tuple[int, list[str]]:
        session = await Session.start(workspace, settings_for(model_server), approver=deny_all)
        try:
            return await steps_between(session)
        finally:
            await session.aclose()

    steps, texts = anyio.run(run)
    assert texts == words
    assert steps < DELTAS / 8, "an editor would get a line for each, and each would be written by itself"
