"""Agents that others made: with the official Python SDK, and the example of the official TypeScript SDK."""

from __future__ import annotations

import shlex
import sys
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from laguna_agent.acp.client.agent import ForeignAgent
from laguna_agent.agent.events import (
    Event,
    PlanUpdated,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    UserMessage,
)
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.messages import FileDiff, PlanEntry, TextBlock
from tests.acp.foreign.driving import Person, all_of, driven, ended, spoken, turn
from tests.acp.node import FOLDER, NODE, install

PYTHON = shlex.join([sys.executable, str(Path(__file__).with_name("sdk_agent.py"))])
EXAMPLE = FOLDER / "node_modules" / "acpx" / "node_modules" / "@agentclientprotocol" / "sdk" / "dist" / "examples"


async def cancelled_after(agent: ForeignAgent, words: str) -> list[Event]:
    """A turn that is cancelled when the agent has begun to say something."""
    events = []
    async with aclosing(agent.prompt((TextBlock(words),))) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, TextDelta):
                agent.cancel()
    return events


def test_an_agent_of_the_python_sdk(workspace: Path) -> None:
    (workspace / "todo.txt").write_text("finish it")
    person = Person()

    async def run() -> tuple[list[Event], list[Event]]:
        async with driven(PYTHON, workspace, person) as agent:
            assert (agent.name, agent.version, agent.mode) == ("Everything", "1.2", "careful")
            await agent.set_mode("bold")
            assert agent.mode == "bold"
            return await turn(agent, "Go"), await cancelled_after(agent, "More")

    events, cancelled = anyio.run(run)
    assert (workspace / "done.txt").read_text() == "FINISH IT"
    assert "".join(each.text for each in all_of(events, ThoughtDelta)) == "Let me see."
    assert all_of(events, PlanUpdated)[0].entries == (PlanEntry("Read it", "in_progress", "high"),)
    assert [call.title for call in all_of(events, ToolCallStarted)] == ["Write done.txt", "cat done.txt"]
    # Once for the edit, which it then makes through us; a command that only looks needs no leave.
    (asked,) = person.asked
    assert asked.diffs == (FileDiff("done.txt", None, "FINISH IT"),)
    wrote, ran = (update for update in all_of(events, ToolCallUpdate) if update.status == "completed")
    assert wrote.diffs == asked.diffs
    assert (ran.exit_code, ran.content) == (0, (TextBlock("FINISH IT"),))
    assert spoken(events) == "It says FINISH IT."
    assert (ended(events).outcome, ended(events).files_changed) == ("completed", ("done.txt",))
    assert ended(cancelled).outcome == "interrupted"


@pytest.mark.slow
def test_a_session_of_the_python_sdk_is_taken_up(workspace: Path) -> None:
    async def run() -> list[Event]:
        async with driven(PYTHON, workspace, resume="python-1") as agent:
            return agent.past()

    assert anyio.run(run) == [UserMessage("What was that?"), TextDelta("A test.")]


@pytest.mark.slow
def test_the_example_of_the_typescript_sdk(workspace: Path) -> None:
    install()
    person = Person(PermissionAnswer(False), PermissionAnswer(True))

    async def run() -> list[list[Event]]:
        async with driven(shlex.join([str(NODE), str(EXAMPLE / "agent.js")]), workspace, person) as agent:
            return [await turn(agent, "Go"), await turn(agent, "Again"), await cancelled_after(agent, "More")]

    refused, allowed, cancelled = anyio.run(run)
    assert spoken(refused).endswith("I'll skip the configuration update.")
    assert spoken(allowed).endswith("The changes have been applied.")
    assert person.asked[0].input["path"] == "/home/user/project/config.json"
    # It numbers the calls of each turn alike.
    for events in (refused, allowed):
        assert [call.id for call in all_of(events, ToolCallStarted)] == ["call_1", "call_2"]
    read, _ = (update for update in all_of(allowed, ToolCallUpdate) if update.status == "completed")
    assert read.content == (TextBlock("# My Project\n\nThis is a sample project..."),)
    # A call that was refused, and of which the agent says no more, is closed with the turn.
    assert [update.status for update in all_of(refused, ToolCallUpdate)] == ["completed", "failed"]
    assert ended(cancelled).outcome == "interrupted"
