"""Agents that are none, die, hang, flood or ramble."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from laguna_agent.acp.client import agent as module
from laguna_agent.acp.client import incoming
from laguna_agent.acp.client.agent import ForeignAgent
from laguna_agent.agent.events import Event, Notice, TextDelta, TurnEnded, TurnStarted, UsageUpdated, UserMessage
from laguna_agent.errors import AuthenticationFailed, LagunaError, ProviderError, ProviderUnavailable, UsageError
from laguna_agent.messages import ImageBlock, TextBlock
from tests.acp.foreign.driving import (
    PATIENCE,
    Person,
    all_of,
    driven,
    ended,
    isolated,
    reported,
    scripted,
    spoken,
    turn,
)
from tests.acp.program import is_alive, wait_for


def refusal(command: str, cwd: Path, **more: Any) -> LagunaError:
    """The error that starting it ends with."""

    async def run() -> LagunaError:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                with pytest.raises(LagunaError) as caught:
                    await ForeignAgent.start(command, cwd, ask=Person(), tasks=tasks, **more)
                # Whoever gets the error need not end anything.
                assert not tasks.cancel_scope.cancel_called
        return caught.value

    error = anyio.run(run)
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    return error


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        ("no-such-program --acp", UsageError, "the agent cannot be started: no-such-program: No such file"),
        ("  ", UsageError, "the agent's command is empty"),
        ("x 'y", UsageError, "cannot be read"),
        (scripted("dies"), ProviderUnavailable, "ended with exit code 3; it said: no model \\u{1B}[31mhere"),
        (scripted("newer"), ProviderError, "speaks version 2 of the protocol, this program 1"),
        (scripted("locked"), AuthenticationFailed, "who are you?; it offers Log in with a browser."),
        (scripted("nameless"), ProviderError, "without the id of a session"),
    ],
)
def test_what_cannot_be_started_says_why(command: str, kind: type, said: str, workspace: Path) -> None:
    error = refusal(command, workspace)
    assert isinstance(error, kind)
    assert said in str(error)


def test_a_directory_that_is_not_there(workspace: Path) -> None:
    assert "working directory does not exist" in str(refusal(scripted("asks"), workspace / "gone"))


def test_one_that_never_says_hello_is_given_up(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO", 0.5)
    said = str(refusal(scripted("silent"), workspace))
    assert "no answer to initialize within 0.5 s" in said
    assert "Welcome to the interactive prompt!" in said


def test_one_that_cannot_take_up_sessions(workspace: Path) -> None:
    assert "cannot take up sessions" in str(refusal(scripted("asks"), workspace, resume="s-9"))


def turns(name: str, cwd: Path, *prompts: str) -> list[list[Event]]:
    async def run() -> list[list[Event]]:
        async with driven(scripted(name), cwd) as agent:
            return [await turn(agent, words) for words in prompts]

    return anyio.run(run)


def test_one_that_dies_ends_its_turn_and_every_later_one(workspace: Path) -> None:
    first, second = turns("dies_in_a_turn", workspace, "Go", "Again")
    assert spoken(first) == "And so "
    end = ended(first)
    assert (end.outcome, end.exit_code, end.error) == ("provider_error", 3, "ProviderUnavailable")
    assert "failed: it ended with exit code 9; it said: out of memory" in end.message
    assert ended(second).message == end.message


def test_the_last_words_of_one_that_is_gone_are_heard(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "HIGH_WATER", 4_000)

    async def run() -> list[Event]:
        events = []
        async with (
            driven(scripted("answers_and_is_gone"), workspace) as agent,
            aclosing(agent.prompt((TextBlock("Go"),))) as stream,
        ):
            async for event in stream:
                events.append(event)
                if len(events) == 2:
                    # The face is busy, while the agent goes and the command ends.
                    await anyio.sleep(1.5)
        return events

    events = anyio.run(run)
    assert spoken(events).count("\n") == 50
    assert ended(events).outcome == "completed"


def test_what_an_agent_leaves_behind_goes_with_it(workspace: Path) -> None:
    (events,) = turns("leaves_a_child", workspace, "Go")
    assert "ended with exit code 0" in ended(events).message
    assert not is_alive(int(spoken(events)))


HOST = """
import sys, anyio
from pathlib import Path
from tests.acp.foreign.driving import driven

async def run():
    async with driven(sys.argv[1], Path(sys.argv[2])):
        await anyio.sleep_forever()

anyio.run(run)
"""


def test_no_agent_outlives_this_program_however_it_ends(workspace: Path) -> None:
    command = [sys.executable, "-c", HOST, scripted("tells_its_number"), str(workspace)]
    with subprocess.Popen(command) as host:
        agent = int(wait_for(workspace / "pid"))
        assert is_alive(agent)
        host.kill()
    deadline = time.monotonic() + PATIENCE
    while is_alive(agent):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_conversation_that_comes_late_is_the_past_all_the_same(workspace: Path) -> None:
    async def run() -> tuple[list[Event], list[Event]]:
        async with driven(scripted("replays_late"), workspace, resume="s-1") as agent:
            return agent.past(), await turn(agent, "Go")

    past, now = anyio.run(run)
    assert past == [UserMessage("What was it?"), TextDelta("This.")]
    assert spoken(now) == "Now."


def test_every_stop_reason_has_an_outcome(workspace: Path) -> None:
    outcomes = [ended(events) for events in turns("stops", workspace, *"123456")]
    assert [(each.outcome, each.stop_reason, each.exit_code) for each in outcomes] == [
        ("model_stopped", "max_tokens", 4),
        ("budget_spent", "max_turn_requests", 5),
        ("model_stopped", "refusal", 4),
        ("interrupted", "cancelled", 130),
        ("model_stopped", "end_turn", 4),
        ("provider_error", "error", 3),
    ]
    assert outcomes[-2].message.endswith("does not know: _tired")
    assert outcomes[-1].message.endswith("Internal error: quota\\u{1B}[2J exceeded (-32603)")


def test_a_flood_comes_whole_and_waits_for_a_slow_face(workspace: Path) -> None:
    heaviest = 0

    async def run() -> str:
        nonlocal heaviest
        said = []
        async with driven(scripted("floods"), workspace) as agent, aclosing(agent.prompt((TextBlock("Go"),))) as events:
            async for event in events:
                if isinstance(event, TurnStarted):
                    # The agent writes on, until nobody reads it any more.
                    await anyio.sleep(1)
                heaviest = max(heaviest, agent._incoming._weight)
                if isinstance(event, TextDelta):
                    said.append(event.text)
        return "".join(said)

    assert anyio.run(run) == "".join(f"{number} {'x' * 1_000}\n" for number in range(5_000))
    assert heaviest < incoming.HIGH_WATER + (1 << 18)


def test_noise_costs_nothing_but_itself(workspace: Path) -> None:
    async def run() -> list[Event]:
        async with driven(scripted("rambles"), workspace) as agent:
            assert [command.name for command in agent.commands] == ["early"]
            return await turn(agent, "Go")

    events = anyio.run(run)
    assert ended(events).outcome == "completed"
    assert spoken(events) == "-32601\n-32602\na\x1b[31m\x07\u202ebOne.\n\nTwo."
    assert all_of(events, UsageUpdated) == [UsageUpdated(20, 10)]


@pytest.mark.parametrize("seed", range(8))
def test_one_that_raves_is_a_nuisance_and_no_more(seed: int, workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> tuple[list[Event], list[Event]]:
        async with driven(isolated("raving.py", str(seed)), workspace) as agent:
            return await turn(agent, "Go"), agent.past()

    events, _ = anyio.run(run)
    assert ended(events).outcome == "completed", ended(events).message
    # The peer says so of what it did not expect.
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    for event in events:
        msgspec.json.encode(event)


def test_options_of_every_form(workspace: Path) -> None:
    async def run() -> None:
        async with driven(scripted("offers"), workspace) as agent:
            assert agent.model == "Model One"
            depth, fast = agent.options
            assert [value.id for value in depth.values] == ["a", "b"]
            assert (fast.values, fast.current) == ((), False)
            await agent.set_option("fast", True)
            # The update that came with the answer is the newer one.
            assert [option.current for option in agent.options] == ["b"]
            with pytest.raises(UsageError, match="has no option fast; there are depth"):
                await agent.set_option("fast", False)
            with pytest.raises(UsageError, match="has no mode wild; there are none"):
                await agent.set_mode("wild")

    anyio.run(run)


async def cancelled_at_the_first_word(agent: ForeignAgent) -> list[Event]:
    events = []
    async with aclosing(agent.prompt((TextBlock("Go"),))) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, TextDelta):
                agent.cancel()
                agent.cancel()
    return events


def test_a_cancel_that_is_answered_with_an_error_is_a_cancel(workspace: Path) -> None:
    async def run() -> list[Event]:
        async with driven(scripted("answers_a_cancel_with_an_error"), workspace) as agent:
            return await cancelled_at_the_first_word(agent)

    assert ended(anyio.run(run)).outcome == "interrupted"


def test_one_that_ignores_a_cancel_is_not_waited_for(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCELLING", 0.3)

    async def run() -> tuple[list[Event], list[Event]]:
        async with driven(scripted("ignores_cancel"), workspace) as agent:
            return await cancelled_at_the_first_word(agent), await turn(agent, "Again")

    cancelled, after = anyio.run(run)
    assert ended(cancelled).outcome == "interrupted"
    assert "it may still be at work" in all_of(cancelled, Notice)[0].text
    assert ended(after).outcome == "completed"


@pytest.mark.parametrize("leave", ["close", "cancel"])
def test_a_face_that_leaves_in_mid_turn(leave: str, workspace: Path) -> None:
    async def run() -> list[Event]:
        async with driven(scripted("answers_a_cancel_with_an_error"), workspace) as agent:
            events: list[Event] = []
            with anyio.CancelScope() as scope:
                await listen(agent, events, scope)
            return events

    async def listen(agent: ForeignAgent, events: list[Event], scope: anyio.CancelScope) -> None:
        async with aclosing(agent.prompt((TextBlock("Go"),))) as stream:
            async for event in stream:
                events.append(event)
                if isinstance(event, TextDelta):
                    if leave == "close":
                        break
                    scope.cancel()

    assert [type(event) for event in anyio.run(run)] == [TurnStarted, TextDelta]


def test_the_end_of_a_turn_that_the_face_left_is_not_that_of_the_next(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAVING", 0.1)
    monkeypatch.setattr(module, "CANCELLING", 0.6)

    async def run() -> list[Event]:
        async with driven(scripted("ignores_cancel"), workspace) as agent:
            async with aclosing(agent.prompt((TextBlock("Go"),))) as stream:
                assert isinstance(await anext(stream), TurnStarted)
            return await turn(agent, "Again")

    started, late, end = anyio.run(run)
    assert isinstance(started, TurnStarted)
    assert isinstance(late, Notice)
    assert isinstance(end, TurnEnded)
    assert (started.turn, end.outcome) == (2, "completed")


def test_an_image_for_one_that_takes_none(workspace: Path) -> None:
    async def run() -> list[Event]:
        async with driven(scripted("asks"), workspace, Person()) as agent:
            return await turn(agent, (TextBlock("Look"), ImageBlock("image/png", "AAAA")))

    events = anyio.run(run)
    assert "takes no images" in all_of(events, Notice)[0].text
    assert reported(events)[0]["outcome"] == "selected"
