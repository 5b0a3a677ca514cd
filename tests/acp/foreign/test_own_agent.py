"""Our own agent, driven over the protocol as a foreign one: whole turns against the model server."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from laguna_agent.agent.events import (
    Event,
    PermissionRequested,
    PermissionResolved,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnStarted,
    UsageUpdated,
    UserMessage,
)
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.errors import ProviderError
from laguna_agent.messages import FileDiff, TextBlock
from tests.acp.foreign.driving import OURS, Person, all_of, driven, ended, turn
from tests.model_server import ModelServer, http, reasoning, stall, text, tool_call


@pytest.fixture
def greeting(workspace: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in model_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAGUNA_RETRY_BUDGET", "0")
    monkeypatch.setenv("LAGUNA_CONTEXT_LENGTH", "32768")
    path = workspace / "greet.py"
    path.write_text('print("hello")\n')
    return path


def spoken(events: list[Event]) -> str:
    return "".join(event.text for event in all_of(events, TextDelta))


def test_a_turn_with_an_edit_that_is_asked_about(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(
        [reasoning("Look first."), text("I read it."), tool_call("read", {"path": "greet.py"})],
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        text("It says goodbye now."),
    )
    person = Person()

    async def run() -> list[Event]:
        async with driven(OURS, greeting.parent, person) as agent:
            assert (agent.name, agent.model) == ("Laguna Agent", "test-model")
            assert [mode.id for mode in agent.modes] == ["plan", "ask", "edits", "all"]
            assert agent.mode == "ask"
            assert {option.id for option in agent.options} == {"mode", "model", "thought_level"}
            events = await turn(agent, "Say goodbye instead")
            assert "compact" in {command.name for command in agent.commands}
            assert agent.title == "Say goodbye instead"
            return events

    events = anyio.run(run)
    assert greeting.read_text() == 'print("goodbye")\n'
    assert isinstance(events[0], TurnStarted)
    assert spoken(events) == "I read it.It says goodbye now."
    assert "".join(each.text for each in all_of(events, ThoughtDelta)) == "Look first."
    assert [(call.name, call.kind, call.title) for call in all_of(events, ToolCallStarted)] == [
        ("read", "read", "Read greet.py"),
        ("edit", "edit", "Edit greet.py"),
    ]
    done = [update for update in all_of(events, ToolCallUpdate) if update.status == "completed"]
    assert done[1].diffs == (FileDiff("greet.py", 'print("hello")\n', 'print("goodbye")\n'),)
    (asked,) = person.asked
    assert asked in events
    assert (asked.title, asked.kind, asked.diffs) == ("Edit greet.py", "edit", done[1].diffs)
    assert [option.kind for option in asked.options] == ["allow_once", "allow_always", "reject_once", "reject_always"]
    assert [each.allowed for each in all_of(events, PermissionResolved)] == [True]
    usage = all_of(events, UsageUpdated)[-1]
    assert (usage.input_tokens, usage.context_window) == (30, 32768)
    end = ended(events)
    assert (end.outcome, end.exit_code, end.files_changed) == ("completed", 0, ("greet.py",))


def test_a_refusal_touches_the_call_alone(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(
        tool_call("read", {"path": "greet.py"}),
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        text("As you like."),
    )

    async def run() -> list[Event]:
        async with driven(OURS, greeting.parent, Person(PermissionAnswer(False))) as agent:
            return await turn(agent, "Say goodbye instead")

    events = anyio.run(run)
    assert greeting.read_text() == 'print("hello")\n'
    assert spoken(events) == "As you like."
    assert [update.status for update in all_of(events, ToolCallUpdate)][-1] == "failed"
    assert ended(events).files_changed == ()


def test_cancelled_while_a_question_is_open_and_while_the_model_is_silent(
    model_server: ModelServer, greeting: Path
) -> None:
    model_server.reply(tool_call("write", {"path": "new.txt", "content": "x"}), stall(), text("Here I am."))

    async def never(_: PermissionRequested) -> PermissionAnswer:
        await anyio.sleep_forever()
        raise AssertionError

    async def run() -> list[list[Event]]:
        turns: list[list[Event]] = []
        async with driven(OURS, greeting.parent, never) as agent, anyio.create_task_group() as group:
            for chats in (1, 2):
                events: list[Event] = []
                turns.append(events)
                async with aclosing(agent.prompt((TextBlock("Go on"),))) as stream:
                    async for event in stream:
                        events.append(event)
                        if chats == 1 and isinstance(event, PermissionRequested):
                            group.start_soon(cancelled_soon, agent.cancel)
                        if chats == 2 and isinstance(event, TurnStarted):
                            group.start_soon(cancelled_when, agent.cancel, lambda: len(model_server.chats) == 2)
            turns.append(await turn(agent, "Are you there?"))
        return turns

    async def cancelled_soon(cancel) -> None:  # type: ignore[no-untyped-def]
        await anyio.sleep(0.05)
        cancel()

    async def cancelled_when(cancel, ready) -> None:  # type: ignore[no-untyped-def]
        while not ready():
            await anyio.sleep(0.02)
        cancel()

    asked, silent, after = anyio.run(run)
    assert [each.allowed for each in all_of(asked, PermissionResolved)] == [False]
    for events in (asked, silent):
        end = ended(events)
        assert (end.outcome, end.stop_reason, end.exit_code) == ("interrupted", "cancelled", 130)
    assert not (greeting.parent / "new.txt").exists()
    assert spoken(after) == "Here I am."
    assert ended(after).outcome == "completed"


def test_a_session_is_taken_up_with_its_past(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(
        [reasoning("Hm."), tool_call("read", {"path": "greet.py"})], text("A greeting."), text("What it is.")
    )

    async def run() -> tuple[list[Event], list[Event]]:
        async with driven(OURS, greeting.parent) as agent:
            await turn(agent, "What is greet.py?")
            session = agent.session_id
        async with driven(OURS, greeting.parent, resume=session) as agent:
            past = agent.past()
            assert agent.past() == past
            return past, await turn(agent, "What did I ask?")

    past, now = anyio.run(run)
    assert [type(event) for event in past if not isinstance(event, UsageUpdated)] == [
        UserMessage,
        ThoughtDelta,
        ToolCallStarted,
        ToolCallUpdate,
        TextDelta,
    ]
    assert all_of(past, UserMessage)[0].text == "What is greet.py?"
    assert not all_of(now, UserMessage)
    assert spoken(now) == "What it is."


def test_what_a_command_prints_comes_live_and_once(model_server: ModelServer, greeting: Path) -> None:
    command = "touch it; echo one; sleep 0.4; echo two; sleep 0.4; exit 3"
    model_server.reply(tool_call("shell", {"command": command}), text("Done."))
    person = Person()

    async def run() -> list[Event]:
        async with driven(OURS, greeting.parent, person) as agent:
            return await turn(agent, "Run it")

    events = anyio.run(run)
    live = [update.output for update in all_of(events, ToolCallUpdate) if update.output]
    assert "".join(live).split() == ["one", "two"]
    assert len(live) == 2
    (end,) = (update for update in all_of(events, ToolCallUpdate) if update.status in {"completed", "failed"})
    assert end.exit_code == 3
    assert "two" in end.content[0].text  # type: ignore[union-attr]
    assert not end.content[0].text.startswith("`")  # type: ignore[union-attr]
    (asked,) = person.asked
    assert asked.parts == ("touch it", "echo one", "sleep 0.4", "echo two", "sleep 0.4", "exit 3")


def test_modes_options_and_errors(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(tool_call("write", {"path": "new.txt", "content": "x"}), text("Written."))
    model_server.always(http(500, {"error": {"message": "the server is down"}}))

    async def run() -> tuple[list[Event], list[Event]]:
        async with driven(OURS, greeting.parent) as agent:
            await agent.set_mode("edits")
            assert agent.mode == "edits"
            await agent.set_option("thought_level", "low")
            level = next(option for option in agent.options if option.id == "thought_level")
            assert (level.current, level.category) == ("low", "thought_level")
            with pytest.raises(ProviderError, match=r"does not change Thought: .*no value 'odd'"):
                await agent.set_option("thought_level", "odd")
            return await turn(agent, "Write it"), await turn(agent, "Go on")

    written, failed = anyio.run(run)
    # The agent does not ask in this mode, and writes through us, who do: on behalf of its call.
    (call,) = all_of(written, ToolCallStarted)
    assert [event.call_id for event in all_of(written, PermissionRequested)] == [call.id]
    end = ended(failed)
    assert (end.outcome, end.exit_code, end.error) == ("provider_error", 3, "ProviderError")
    assert "the server is down" in end.message
