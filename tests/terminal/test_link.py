"""The way to the session's thread: what is shown of its past, and what is left when opening it fails or is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.events import Event, Notice, TextDelta, UserMessage
from laguna_agent.config import Settings
from laguna_agent.errors import UsageError
from laguna_agent.terminal.agent_link import AgentLink
from laguna_agent.terminal.link import SessionLink, newest

WAIT = 20.0


@given(st.lists(st.sampled_from(["prompt", "answer"]), max_size=30), st.integers(1, 5))
def test_the_newest_prompts_are_shown_whole_and_the_others_counted(kinds: list[str], prompts: int) -> None:
    said: list[Event] = [
        UserMessage(f"{at}") if kind == "prompt" else TextDelta(f"{at}") for at, kind in enumerate(kinds)
    ]
    shown = newest(said, prompts)
    places = [at for at, kind in enumerate(kinds) if kind == "prompt"]
    if len(places) <= prompts:
        assert shown == said
        return
    notice, *rest = shown
    assert rest == said[places[-prompts] :]
    assert isinstance(notice, Notice)
    assert notice.text.startswith(f"{len(places) - prompts} earlier")


@pytest.mark.parametrize("kind", ["session", "agent"])
def test_a_link_that_cannot_be_opened_holds_nothing_up(kind: str, workspace: Path) -> None:
    async def run(link: SessionLink | AgentLink) -> None:
        with pytest.raises(UsageError):
            await link.open()
        await link.close()

    # The end of the portal waits for all that still runs there.
    with start_blocking_portal() as portal:
        link = (
            SessionLink(portal, workspace, lambda _: None, Settings(), "19990101-000000-none")
            if kind == "session"
            else AgentLink(portal, "no-such-agent --acp", workspace, lambda _: None, Settings(), None)
        )
        asyncio.run(asyncio.wait_for(run(link), WAIT))


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_a_session_is_left_while_it_opens(steps: int, workspace: Path) -> None:
    async def run(link: SessionLink) -> None:
        opening = asyncio.create_task(link.open())
        for _ in range(steps):
            await asyncio.sleep(0.002)
        await link.close()
        await asyncio.wait([opening])

    with start_blocking_portal() as portal:
        link = SessionLink(portal, workspace, lambda _: None, Settings(sandbox="none"), None)
        asyncio.run(asyncio.wait_for(run(link), WAIT))
