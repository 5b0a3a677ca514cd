"""A model that fails, and a person who changes their mind: each prompt is answered in time, and the session goes on.

Every conversation here is recorded and held against the rules of the conformance suite.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acp.conformance import recorder
from tests.acp.conformance.judge import judge
from tests.acp.conformance.recording import load
from tests.acp.program import Message, Program, allow, prompt
from tests.model_server import ModelServer, Part, Scripted, cut, http, reset, stall, stream, text, tool_call

Start = Callable[..., Program]
# What a busy machine may add to any budget. A hang is longer.
SLACK = 12.0
BUDGET = 1.5
SLOW_DOWN = {"error": {"message": "slow down"}}
DONE = {"stopReason": "end_turn"}


@pytest.fixture
def start(model_server: ModelServer, workspace: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the program under the recorder; at the end it must go, and every message must keep the rules."""
    started: list[Program] = []
    recordings = tmp_path / "recordings"

    def begin(answer: Callable[[Message], Message | None] = allow, **env: str) -> Program:
        command = [sys.executable, recorder.__file__, str(recordings), sys.executable, "-m", "laguna_agent", "acp"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | model_server.env | env,
            cwd=workspace,
            encoding="utf-8",
            start_new_session=True,
        )
        started.append(Program(process, answer))
        return started[-1]

    yield begin
    try:
        for program in started:
            assert program.close() == 0
        faults, _ = judge([load(path) for path in sorted(recordings.iterdir())])
        assert not faults, "\n".join(map(str, faults))
    finally:
        for program in started:
            with suppress(ProcessLookupError):
                os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait(10)


def answered(program: Program, session: str, within: float) -> Message:
    """The answer to a prompt, which must come in time."""
    begun = time.monotonic()
    outcome = program.prompt(session)
    assert time.monotonic() - begun < within + SLACK
    return outcome


def goes_on(program: Program, model_server: ModelServer, session: str) -> None:
    """The session still answers, and the model hears of nothing but what was said."""
    model_server.reply(text("Here I am."))
    model_server.always(http(400, {"error": {"message": "the test scripted no further reply"}}))
    assert answered(program, session, 0) == DONE
    roles = [message["role"] for message in model_server.chats[-1]["messages"]]
    assert roles[0] == "system"
    assert roles[-1] == "user"


AGAIN: list[tuple[str, Scripted]] = [
    ("500", http(500, {"error": {"message": "broken"}})),
    ("503", http(503, "upstream is gone")),
    ("429 without Retry-After", http(429, SLOW_DOWN)),
    ("429 with Retry-After", http(429, SLOW_DOWN, {"Retry-After": "1"})),
    ("reset before the answer", stream(reset())),
]


@pytest.mark.parametrize("failure", [reply for _, reply in AGAIN], ids=[name for name, _ in AGAIN])
def test_a_failure_that_may_pass_is_tried_again_within_the_budget(
    start: Start, model_server: ModelServer, workspace: Path, failure: Scripted
) -> None:
    program = start(LAGUNA_RETRY_BUDGET=str(BUDGET))
    session = program.begin(workspace, {"session": {"notices": {}}})
    model_server.reply(failure, text("After all."))
    assert answered(program, session, BUDGET) == DONE
    assert len(model_server.chats) == 2
    assert [update["severity"] for update in program.updates() if update["sessionUpdate"] == "notice"] == ["warning"]

    model_server.always(failure)
    error = answered(program, session, BUDGET)
    assert (error["code"], error["data"]["outcome"]) == (-32603, "provider_error")
    assert len(model_server.chats) > 3
    goes_on(program, model_server, session)


def test_a_wait_beyond_the_budget_is_not_begun(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start(LAGUNA_RETRY_BUDGET="60")
    session = program.begin(workspace)
    model_server.reply(http(429, SLOW_DOWN, {"Retry-After": "3600"}))
    error = answered(program, session, 0)
    assert error["code"] == -32603
    assert "slow down" in error["message"]
    assert len(model_server.chats) == 1
    goes_on(program, model_server, session)


@pytest.mark.parametrize("end", [cut(), reset()], ids=["cut", "reset"])
def test_an_answer_that_breaks_off_is_asked_for_again_but_not_for_ever(
    start: Start, model_server: ModelServer, workspace: Path, end: Part
) -> None:
    program = start(LAGUNA_RETRY_BUDGET="30")
    session = program.begin(workspace)
    model_server.always(stream(text("half an ans"), end))
    assert answered(program, session, 30)["code"] == -32603
    assert 1 < len(model_server.chats) < 6
    goes_on(program, model_server, session)
    assert "half an ans" not in str(model_server.chats[-1]["messages"])


HUNG: list[tuple[str, Scripted]] = [
    ("no word", stall()),
    ("half a sentence", stream(text("half an ans"), stall())),
    ("half a call", stream(tool_call("list", {"path": "."}), stall())),
]


@pytest.mark.parametrize("failure", [reply for _, reply in HUNG], ids=[name for name, _ in HUNG])
def test_a_model_that_falls_silent_is_given_up(
    start: Start, model_server: ModelServer, workspace: Path, failure: Scripted
) -> None:
    program = start(LAGUNA_RETRY_BUDGET="0", LAGUNA_STALL_TIMEOUT="0.3")
    session = program.begin(workspace)
    model_server.reply(failure)
    assert answered(program, session, 0.3)["code"] == -32603
    goes_on(program, model_server, session)


def test_cancel_while_a_server_takes_the_connection_and_says_nothing(start: Start, workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        program = start(LAGUNA_BASE_URL=f"http://127.0.0.1:{deaf.getsockname()[1]}/v1")
        session = program.begin(workspace)
        for _ in range(2):
            id = program.send("session/prompt", prompt(session, "Go on"))
            connection, _ = deaf.accept()
            with connection:
                cancelled(program, session, id)


def test_a_server_that_is_not_there(start: Start, model_server: ModelServer, workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/v1"
    program = start(LAGUNA_BASE_URL=url)
    session = program.begin(workspace)
    # Nobody may listen for a few seconds, whatever the budget: a local server may be starting.
    error = answered(program, session, 4)
    assert error["code"] == -32603
    assert url.removeprefix("http://").removesuffix("/v1") in error["message"]


def test_a_refused_key_asks_for_a_login(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    session = program.begin(workspace)
    model_server.reply(http(401, {"error": {"message": "no such key"}}))
    assert answered(program, session, 0)["code"] == -32000
    goes_on(program, model_server, session)


def cancelled(program: Program, session: str, id: int) -> None:
    """Cancel, and the answer must come at once."""
    begun = time.monotonic()
    program.notify("session/cancel", {"sessionId": session})
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    assert time.monotonic() - begun < SLACK


def test_cancel_while_waiting_to_try_again(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start(LAGUNA_RETRY_BUDGET="300")
    session = program.begin(workspace, {"session": {"notices": {}}})
    model_server.reply(http(429, SLOW_DOWN, {"Retry-After": "200"}))
    id = program.send("session/prompt", prompt(session, "Go on"))
    program.update(sessionUpdate="notice")
    cancelled(program, session, id)
    goes_on(program, model_server, session)


MOMENTS: list[tuple[str, Scripted, Message]] = [
    ("thought", stream(text("half an ans"), stall()), {"sessionUpdate": "agent_message_chunk"}),
    ("call", tool_call("shell", {"command": "sleep 300"}), {"sessionUpdate": "tool_call"}),
    ("running", tool_call("shell", {"command": "sleep 300"}), {"status": "in_progress"}),
]


@pytest.mark.parametrize(("reply", "moment"), [m[1:] for m in MOMENTS], ids=[m[0] for m in MOMENTS])
def test_cancel_at_any_moment(
    start: Start, model_server: ModelServer, workspace: Path, reply: Scripted, moment: Message
) -> None:
    program = start()
    session = program.begin(workspace)
    for _ in range(3):
        program.seen.clear()
        model_server.reply(reply)
        id = program.send("session/prompt", prompt(session, "Go on"))
        program.update(**moment)
        cancelled(program, session, id)
    goes_on(program, model_server, session)


def test_prompt_and_cancel_in_one_write_and_over_and_over(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    program = start()
    first = program.begin(workspace)
    other = str(program.call("session/new", {"cwd": str(workspace), "mcpServers": []})["sessionId"])
    model_server.always(stall())
    for number in range(100, 130):
        session = first if number % 2 else other
        asked = program.line("session/prompt", prompt(session, "x"), number)
        program.raw(asked + program.line("session/cancel", {"sessionId": session}))
        assert program.answer_to(number)["result"] == {"stopReason": "cancelled"}
    goes_on(program, model_server, first)
    goes_on(program, model_server, other)


def test_a_failing_session_leaves_the_other_one_alone(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start(LAGUNA_RETRY_BUDGET="0")
    hung = program.begin(workspace)
    other = str(program.call("session/new", {"cwd": str(workspace), "mcpServers": []})["sessionId"])
    model_server.reply(stream(text("half an ans"), stall()))
    id = program.send("session/prompt", prompt(hung, "Go on"))
    program.update(sessionUpdate="agent_message_chunk")
    model_server.reply(http(500, {"error": {"message": "broken"}}))
    assert answered(program, other, 0)["code"] == -32603
    goes_on(program, model_server, other)
    cancelled(program, hung, id)
    goes_on(program, model_server, hung)
