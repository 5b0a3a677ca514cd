"""The real program: order, cancellation, failure and its end, with nothing on stdout but protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acp.program import Message, Program, allow, prompt, wait_for
from tests.conftest import StartCli
from tests.model_server import ModelServer, cut, http, stream, text, tool_call
from tests.processes import commands_in

Start = Callable[..., Program]
# How a shell tool proves that it runs, and who it is.
HOLD = "echo $$ > pid; sleep 300"


@pytest.fixture
def start(start_cli: StartCli, model_server: ModelServer) -> Iterator[Start]:
    """Starts the program against the model server."""

    def begin(answer: Callable[[Message], Message | None] = allow, **env: str) -> Program:
        return Program(start_cli("acp", env=model_server.env | env), answer)

    yield begin


@pytest.fixture
def program(start: Start) -> Program:
    return start()


def test_initialize_negotiates_and_advertises_only_what_works(program: Program) -> None:
    for version in (1, 2, 65535, "2024-11-05"):
        answer = program.call("initialize", {"protocolVersion": version, "clientCapabilities": {"future": True}})
        assert answer["protocolVersion"] == 1
    assert answer["agentCapabilities"] == {
        "loadSession": True,
        "promptCapabilities": {"image": True, "embeddedContext": True},
        "mcpCapabilities": {"http": True, "sse": True},
        "sessionCapabilities": {"list": {}, "delete": {}, "additionalDirectories": {}, "resume": {}, "close": {}},
        "auth": {"logout": {}},
    }
    assert answer["authMethods"]
    assert program.call("authenticate", {"methodId": answer["authMethods"][0]["id"]}) == {}
    assert program.call("authenticate", {"methodId": "other"})["code"] == -32602
    assert program.call("session/fork", {})["code"] == -32601
    assert program.close() == 0


@pytest.mark.parametrize(
    ("redirection", "code", "answers"),
    [("< hello", 0, 1), ("< /dev/null", 0, 0), ("< hello 2>&-", 0, 1), ("<&-", 2, 0), ("< hello >&-", 2, 0)],
)
def test_standard_streams_of_every_kind(workspace: Path, redirection: str, code: int, answers: int) -> None:
    hello = '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}'
    (workspace / "hello").write_text(hello)
    command = f"{sys.executable} -m laguna_agent acp {redirection}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=False, cwd=workspace)
    assert (done.returncode, done.stdout.count("\n")) == (code, answers)
    assert "internal error" not in done.stderr


def test_initialize_loads_nothing_heavy(workspace: Path) -> None:
    hello = '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}\n'
    command = [sys.executable, "-X", "importtime", "-m", "laguna_agent", "acp"]
    done = subprocess.run(command, input=hello, capture_output=True, text=True, timeout=30, check=True, cwd=workspace)
    assert json.loads(done.stdout)["id"] == 1
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "laguna_agent.acp.peer" in loaded
    heavy = ("httpx", "httpcore", "rich", "typer", "click", "tree_sitter", "git", "torch", "pydantic", "prompt_toolkit")
    assert not {name for name in loaded if name.split(".")[0] in heavy}
    assert "laguna_agent.agent.session" not in loaded


def test_what_the_first_prompt_needs_is_loaded_while_it_is_typed(workspace: Path, tmp_path: Path) -> None:
    log = tmp_path / "imports"
    environment = os.environ | {"LAGUNA_MODEL": "m", "LAGUNA_BASE_URL": "http://127.0.0.1:9/v1"}
    command = [sys.executable, "-X", "importtime", "-m", "laguna_agent", "acp"]
    opening = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}},
        {"jsonrpc": "2.0", "id": 2, "method": "session/new", "params": {"cwd": str(workspace), "mcpServers": []}},
    ]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=workspace,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        for message in opening:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            assert "result" in json.loads(process.stdout.readline())
        # The end of input waits for what follows an answer, as for any work that was begun.
        process.stdin.close()
        assert process.wait(30) == 0
    loaded = [line.split("|")[-1].strip() for line in log.read_text().splitlines()]
    assert loaded.index("laguna_agent.agent.session") < loaded.index("httpx")
    assert "httpcore" in loaded
    assert not {"rich", "click", "typer", "tree_sitter", "git", "pydantic", "mcp"} & set(loaded)


WRONG = [
    ("session/new", {"cwd": "relative", "mcpServers": []}, -32602),
    ("session/new", {"cwd": "/nonexistent/folder", "mcpServers": []}, -32602),
    ("session/new", {"cwd": "/", "mcpServers": "none"}, -32602),
    ("session/new", {"mcpServers": []}, -32602),
    ("session/prompt", {"sessionId": "nobody", "prompt": [{"type": "text", "text": "x"}]}, -32002),
    ("session/load", {"sessionId": "nobody", "cwd": "/", "mcpServers": []}, -32002),
    ("session/load", {"sessionId": "../../etc", "cwd": "/", "mcpServers": []}, -32002),
]


def test_a_wrong_request_has_its_error(program: Program) -> None:
    for method, params, code in WRONG:
        assert program.call(method, params)["code"] == code, (method, params)


def test_a_prompt_must_hold_something_that_was_advertised(program: Program, workspace: Path) -> None:
    session = program.begin(workspace)
    for blocks in ([], [{"type": "text", "text": " "}], [{"type": "audio", "data": "", "mimeType": "audio/wav"}]):
        assert program.call("session/prompt", {"sessionId": session, "prompt": blocks})["code"] == -32602


def test_a_wrong_configuration_is_told_in_the_answer(start: Start, workspace: Path) -> None:
    program = start(LAGUNA_APPROVE="maybe")
    program.call("initialize", {"protocolVersion": 1})
    error = program.call("session/new", {"cwd": str(workspace), "mcpServers": []})
    assert error["code"] == -32602
    assert "LAGUNA_APPROVE" in error["message"]


FAILURES = [
    (http(401, {"error": {"message": "no such key"}}), -32000, "AuthenticationFailed"),
    (http(402, {"error": {"message": "no credit"}}), -32603, "QuotaExceeded"),
    (http(404, {"error": {"message": "no such model"}}), -32603, "ModelNotFound"),
    (http(429, {"error": {"message": "slow down"}}, {"Retry-After": "3600"}), -32603, None),
    (http(500, {"error": {"message": "broken"}}), -32603, "ProviderUnavailable"),
    (stream(text("half an ans"), cut()), -32603, "ProviderUnavailable"),
]


def test_a_failing_model_ends_the_turn_and_not_the_session(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    program = start(LAGUNA_RETRY_BUDGET="0")
    session = program.begin(workspace)
    for reply, code, error in FAILURES:
        model_server.reply(reply, text("Back again."))
        failure = program.prompt(session)
        assert failure["code"] == code, failure
        assert failure["data"]["outcome"] == "provider_error"
        assert error is None or failure["data"]["error"] == error
        assert program.prompt(session) == {"stopReason": "end_turn"}


def test_a_spent_budget_says_so_and_is_no_error(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start(LAGUNA_MAX_TURNS="1")
    session = program.begin(workspace)
    model_server.always(tool_call("list", {"path": "."}))
    assert program.prompt(session) == {"stopReason": "max_turn_requests"}
    assert program.updates()[-1]["sessionUpdate"] == "agent_message_chunk"


def run_command(program: Program, model_server: ModelServer, workspace: Path) -> tuple[str, int]:
    """Have the model run a command that does not end; the session and the prompt's id."""
    model_server.reply(tool_call("shell", {"command": HOLD}))
    session = program.begin(workspace)
    id = program.send("session/prompt", prompt(session, "Run it"))
    program.update(status="in_progress")
    wait_for(workspace / "pid")
    assert commands_in(workspace)
    return session, id


def test_cancel_ends_the_command_then_tells_of_it_then_answers(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    session, id = run_command(program, model_server, workspace)
    program.notify("session/cancel", {"sessionId": session})
    begun = time.monotonic()
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    assert time.monotonic() - begun < 5
    assert program.updates()[-1]["status"] == "failed"
    assert not commands_in(workspace)
    model_server.reply(text("Still here."))
    assert program.prompt(session) == {"stopReason": "end_turn"}
    assert program.close() == 0


def test_prompt_and_cancel_in_one_breath(program: Program, model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Hello."))
    session = program.begin(workspace)
    for number in range(100, 110):
        asked = program.line("session/prompt", prompt(session, "x"), number)
        program.raw(asked + program.line("session/cancel", {"sessionId": session}))
        assert program.answer_to(number)["result"] == {"stopReason": "cancelled"}
    assert program.prompt(session) == {"stopReason": "end_turn"}


def test_cancel_while_the_person_is_asked_withdraws_the_question(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    program = start(answer=lambda _: None)
    model_server.reply(tool_call("shell", {"command": "touch hi"}))
    session = program.begin(workspace)
    id = program.send("session/prompt", prompt(session, "Run it"))
    question = program.until(lambda m: m.get("method") == "session/request_permission")
    shown = [m["params"]["update"].get("toolCallId") for m in program.seen if m.get("method") == "session/update"]
    assert question["params"]["toolCall"]["toolCallId"] in shown
    program.notify("session/cancel", {"sessionId": session})
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    withdrawn = [m["params"]["requestId"] for m in program.seen if m.get("method") == "$/cancel_request"]
    assert withdrawn == [question["id"]]
    program.raw(json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": {"outcome": {"outcome": "cancelled"}}}))
    program.raw("\n")
    model_server.reply(text("Still here."))
    assert program.prompt(session) == {"stopReason": "end_turn"}


def test_cancel_request_answers_a_prompt_as_cancelled(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    _, id = run_command(program, model_server, workspace)
    program.notify("$/cancel_request", {"requestId": id})
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    assert not commands_in(workspace)


NO_LEAVE: list[Message] = [
    {"outcome": {"outcome": "cancelled"}},
    {"outcome": {"outcome": "selected", "optionId": "never offered"}},
    {"outcome": "yes"},
    {},
]


def test_an_answer_that_is_no_leave_denies_that_call_only(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    answers = iter(NO_LEAVE)
    program = start(answer=lambda _: next(answers))
    session = program.begin(workspace)
    for _ in NO_LEAVE:
        program.seen.clear()
        calls = [tool_call("shell", {"command": "touch denied"}), tool_call("list", {"path": "."})]
        model_server.reply(calls, text("As you like."))
        assert program.prompt(session)["stopReason"] == "end_turn"
        assert not (workspace / "denied").exists()
        ends = [u["status"] for u in program.updates() if u.get("status") in {"completed", "failed"}]
        assert ends == ["failed", "completed"]


def test_one_prompt_at_a_time_and_two_sessions_side_by_side(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    first, id = run_command(program, model_server, workspace)
    assert program.prompt(first)["code"] == -32600
    assert program.call("session/load", {"sessionId": first, "cwd": str(workspace), "mcpServers": []})["code"] == -32600
    other = str(program.call("session/new", {"cwd": str(workspace), "mcpServers": []})["sessionId"])
    model_server.reply(text("From the other one."))
    assert program.prompt(other) == {"stopReason": "end_turn"}
    program.notify("session/cancel", {"sessionId": first})
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}


def test_the_editor_leaving_ends_everything_and_the_session_can_be_loaded(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    program = start()
    session, id = run_command(program, model_server, workspace)
    begun = time.monotonic()
    assert program.close() == 0
    assert time.monotonic() - begun < 6
    assert {m["id"]: m.get("result") for m in program.seen if "method" not in m}[id] == {"stopReason": "cancelled"}
    assert not commands_in(workspace)
    again = start()
    again.call("initialize", {"protocolVersion": 1})
    assert "modes" in again.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": []})
    assert again.updates()[0]["content"] == {"type": "text", "text": "Run it"}
    model_server.reply(text("Where were we?"))
    assert again.prompt(session) == {"stopReason": "end_turn"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_in_the_middle_of_a_command_leaves_no_process(
    program: Program, model_server: ModelServer, workspace: Path, number: signal.Signals, code: int
) -> None:
    run_command(program, model_server, workspace)
    os.kill(program.process.pid, number)
    assert program.end() == code
    assert not commands_in(workspace)


def test_nothing_but_protocol_reaches_stdout_and_no_command_reads_stdin(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": "echo noise; cat; echo end"}), text("Done."))
    session = program.begin(workspace)
    assert program.prompt(session) == {"stopReason": "end_turn"}
    done = next(u for u in program.updates() if u.get("status") == "completed")
    assert "noise\nend" in done["content"][0]["content"]["text"]
    assert done["rawOutput"]["exitCode"] == 0
    assert program.close() == 0


def test_the_history_comes_before_the_answer_and_survives_being_loaded_twice(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("list", {"path": "."}), text("Nothing here."))
    session = program.begin(workspace)
    program.prompt(session, "What is here?")
    shown: list[list[str]] = []
    for _ in range(2):
        program.seen.clear()
        loaded = program.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": []})
        assert loaded["modes"]["currentModeId"] == "ask"
        told = [update["sessionUpdate"] for update in program.updates()]
        shown.append([kind for kind in told if kind != "available_commands_update"])
    kinds = ["user_message_chunk", "tool_call", "tool_call_update", "agent_message_chunk"]
    assert shown == [kinds, kinds]


def test_what_the_editor_attaches_reaches_the_model(
    program: Program, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(text("Seen."))
    session = program.begin(workspace)
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "Look at "},
        {"type": "resource_link", "uri": f"file://{workspace}/a%20b.py", "name": "a b.py"},
        {"type": "resource", "resource": {"uri": "file:///c.py", "text": "x = 41"}},
        {"type": "image", "mimeType": "image/png", "data": "iVBORw0KGgo="},
    ]
    assert program.call("session/prompt", {"sessionId": session, "prompt": blocks}) == {"stopReason": "end_turn"}
    posted = json.dumps(model_server.chats[-1]["messages"])
    assert f"{workspace}/a b.py" in posted
    assert "x = 41" in posted
    assert "data:image/png;base64,iVBORw0KGgo=" in posted
    program.seen.clear()
    program.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": []})
    shown = [u["content"] for u in program.updates() if u["sessionUpdate"] == "user_message_chunk"]
    assert shown == blocks


def test_garbage_between_real_messages(program: Program, workspace: Path) -> None:
    program.raw("garbage\n[]\n42\n\n" + "[" * 50_000 + "\n")
    session = program.begin(workspace)
    assert session
    assert [m["error"]["code"] for m in program.seen if m.get("id") is None] == [-32700, -32600, -32600, -32700]
