"""The real program with servers that the editor hands over: used, asked about, asking, and gone at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from laguna_agent.mcp.description import McpServer
from tests.acp.program import Message, Program, allow, is_alive, prompt, wait_for
from tests.conftest import ROOT, StartCli
from tests.mcp.serving import bare, official, over_http
from tests.model_server import ModelServer, text, tool_call

Start = Callable[..., Program]
NOTICES = {"session": {"notices": {}}}
FORMS = {"elicitation": {"form": {}}}


@pytest.fixture
def start(start_cli: StartCli, model_server: ModelServer) -> Iterator[Start]:
    """Starts the program against the model server."""

    def begin(answer: Callable[[Message], Message | None] = allow, **env: str) -> Program:
        return Program(start_cli("acp", env=model_server.env | env), answer)

    yield begin


def wire(server: McpServer) -> Message:
    """A server as an editor spells it."""
    if server.transport != "stdio":
        headers = [{"name": name, "value": value} for name, value in server.headers.items()]
        return {"type": server.transport, "name": server.name, "url": server.url, "headers": headers}
    env = [{"name": name, "value": value} for name, value in server.env.items()]
    return {"name": server.name, "command": server.command, "args": list(server.args), "env": env}


def begin(program: Program, cwd: Path, *servers: McpServer, capabilities: Message | None = None) -> str:
    """Initialize and open a session with servers; its id."""
    initialized = program.call("initialize", {"protocolVersion": 1, "clientCapabilities": capabilities or {}})
    assert initialized["agentCapabilities"]["mcpCapabilities"] == {"http": True, "sse": True}
    opened = program.call("session/new", {"cwd": str(cwd), "mcpServers": [wire(server) for server in servers]})
    return str(opened["sessionId"])


def results(server: ModelServer) -> list[str]:
    """What the model was told of its calls."""
    return [message["content"] for message in server.chats[-1]["messages"] if message["role"] == "tool"]


def test_the_three_transports_in_one_turn(start: Start, model_server: ModelServer, workspace: Path) -> None:
    asked: list[Message] = []

    def person(request: Message) -> Message | None:
        asked.append(request["params"])
        return allow(request)

    program = start(person)
    with over_http("http") as far, over_http("sse") as old:
        servers = official("near"), msgspec.structs.replace(far, name="far"), msgspec.structs.replace(old, name="old")
        session = begin(program, workspace, *servers, capabilities=NOTICES)
        offered: list[str] = []
        # On a busy machine a server may be late, and joins at a later prompt.
        while offered != ["near__add", "far__add", "old__add"]:
            model_server.reply(text("Good morning."))
            assert program.prompt(session) == {"stopReason": "end_turn"}
            names = [tool["function"]["name"] for tool in model_server.chats[-1]["tools"]]
            offered = [name for name in names if name.endswith("__add")]
        model_server.reply(
            tool_call("near__add", {"a": 1, "b": 2}),
            tool_call("far__add", {"a": 3, "b": 4}),
            tool_call("old__add", {"a": 5, "b": 6}),
            text("Added."),
        )
        assert program.prompt(session) == {"stopReason": "end_turn"}
        assert results(model_server) == ["the sum is 3", "the sum is 7", "the sum is 11"]
        assert [request["toolCall"]["title"] for request in asked] == ["near: add", "far: add", "old: add"]
        assert asked[0]["toolCall"]["rawInput"] == {"a": 1, "b": 2}
        assert '"a": 1' in asked[0]["toolCall"]["content"][0]["content"]["text"]
        assert "near: add" in asked[0]["options"][1]["name"]
        notices = [update["title"] for update in program.updates() if update["sessionUpdate"] == "notice"]
        assert not [notice for notice in notices if "cannot be used" in notice]
        assert program.close() == 0


@pytest.mark.parametrize("how", ["eof", "sigterm", "session/close"])
def test_no_server_outlives_its_session(start: Start, model_server: ModelServer, workspace: Path, how: str) -> None:
    model_server.reply(tool_call("bare__spawn", {"mark": str(workspace / "child")}), text("Started."))
    model_server.reply(tool_call("bare__wait"))
    program = start()
    session = begin(program, workspace, bare("bare", *("stubborn",) * (how == "eof"), PID=workspace / "pid"))
    program.prompt(session)
    program.send("session/prompt", prompt(session, "Wait."))
    program.update(sessionUpdate="tool_call_update", status="in_progress")
    pids = [int(wait_for(workspace / name)) for name in ("pid", "child")]
    assert all(is_alive(pid) for pid in pids)
    if how == "session/close":
        assert program.call("session/close", {"sessionId": session}) == {}
    elif how == "sigterm":
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == 143
    else:
        assert program.close() == 0
    assert not any(is_alive(pid) for pid in pids)


def test_failures_are_told_and_stderr_stays_quiet(start: Start, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("Without it, then."))
    program = start()
    broken = McpServer("broken", command="sh", args=("-c", "echo 'no licence found' >&2; exit 3"))
    session = begin(program, workspace, broken, McpServer("strange", "telepathy"), capabilities=NOTICES)
    assert program.prompt(session) == {"stopReason": "end_turn"}
    notices = [update["title"] for update in program.updates() if update["sessionUpdate"] == "notice"]
    assert notices[0] == "MCP server broken cannot be used: it ended (exit code 3); it said: no licence found"
    assert notices[1].startswith("MCP server strange cannot be used: the transport 'telepathy' is not supported")
    assert program.close() == 0
    assert program.process.stderr is not None
    assert program.process.stderr.read() == ""


def test_a_cancel_while_a_server_hangs_is_answered(start: Start, model_server: ModelServer, workspace: Path) -> None:
    program = start()
    session = begin(program, workspace, bare("slow", "hang", PID=workspace / "pid"))
    number = program.send("session/prompt", prompt(session, "x"))
    wait_for(workspace / "pid")
    program.notify("session/cancel", {"sessionId": session})
    assert program.answer_to(number)["result"] == {"stopReason": "cancelled"}
    assert not model_server.chats
    assert program.close() == 0


def test_a_server_asks_the_person_through_the_editor(start: Start, model_server: ModelServer, workspace: Path) -> None:
    answers = [{"action": "accept", "content": {"colour": "blue"}}, {"action": "decline"}, {"action": "cancel"}]
    questions: list[Message] = []

    def person(request: Message) -> Message | None:
        questions.append(request["params"])
        return answers[len(questions) - 1]

    model_server.reply(*(tool_call("bare__ask", id=f"ask-{number}") for number in range(3)), text("Asked."))
    program = start(person, LAGUNA_APPROVE="all")
    session = begin(program, workspace, bare(), capabilities=FORMS)
    assert program.prompt(session) == {"stopReason": "end_turn"}
    assert [json.loads(result) for result in results(model_server)] == answers
    question = questions[0]
    assert question["sessionId"] == session
    assert question["mode"] == "form"
    assert question["message"] == "bare: Which colour?"
    assert question["requestedSchema"]["properties"] == {"colour": {"type": "string", "enum": ["red", "blue"]}}
    assert question["requestedSchema"]["required"] == ["colour"]
    assert [each["toolCallId"] for each in questions] == ["ask-0", "ask-1", "ask-2"]
    # The editor knows the call before it is asked about it.
    requests = [message["params"] for message in program.seen if "method" in message]
    order = [each["update"].get("status") if "update" in each else "asked" for each in requests]
    assert order.index("in_progress") < order.index("asked")


def test_only_what_the_editor_can_show_is_asked(start: Start, model_server: ModelServer, workspace: Path) -> None:
    questions: list[Message] = []

    def person(request: Message) -> Message | None:
        questions.append(request["params"])
        return {"action": "accept"}

    model_server.reply(tool_call("bare__ask"), tool_call("bare__ask", {"url": "https://example.invalid/login"}))
    model_server.reply(text("Asked."), tool_call("bare__ask"), text("Not asked."))
    program = start(person, LAGUNA_APPROVE="all")
    session = begin(program, workspace, bare(), capabilities={"elicitation": {"url": {}}})
    assert program.prompt(session) == {"stopReason": "end_turn"}
    assert [json.loads(result) for result in results(model_server)] == [{"action": "decline"}, {"action": "accept"}]
    (question,) = questions
    assert (question["mode"], question["url"]) == ("url", "https://example.invalid/login")
    completes = [message for message in program.seen if message.get("method") == "elicitation/complete"]
    # It may come after the answer to the prompt, too.
    complete = (completes or [program.until(lambda message: message.get("method") == "elicitation/complete")])[0]
    assert complete["params"] == {"elicitationId": question["elicitationId"]}
    session = begin(program, workspace, bare(), capabilities={})
    assert program.prompt(session) == {"stopReason": "end_turn"}
    assert json.loads(results(model_server)[0])["message"] == "Elicitation not supported"
    assert len(questions) == 1


def test_a_question_is_taken_back_with_the_turn(start: Start, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("bare__ask"), tool_call("bare__echo", {"text": "alive"}), text("Good."))
    program = start(lambda _: None, LAGUNA_APPROVE="all")
    session = begin(program, workspace, bare(), capabilities=FORMS)
    number = program.send("session/prompt", prompt(session, "x"))
    question = program.until(lambda message: message.get("method") == "elicitation/create")
    program.notify("session/cancel", {"sessionId": session})
    assert program.answer_to(number)["result"] == {"stopReason": "cancelled"}
    taken_back = [m["params"]["requestId"] for m in program.seen if m.get("method") == "$/cancel_request"]
    assert taken_back == [question["id"]]
    assert program.prompt(session) == {"stopReason": "end_turn"}
    assert results(model_server)[-1] == "alive"


def test_a_loaded_session_shows_the_calls_and_uses_the_servers_it_is_given(
    start: Start, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("bare__echo", {"text": "first"}), text("Done."))
    first = start(LAGUNA_APPROVE="all")
    session = begin(first, workspace, bare())
    first.prompt(session)
    assert first.close() == 0
    model_server.reply(tool_call("other__echo", {"text": "second"}), text("Done."))
    again = start(LAGUNA_APPROVE="all")
    again.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
    again.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": [wire(bare("other"))]})
    assert [u["title"] for u in again.updates() if u["sessionUpdate"] == "tool_call"] == ["bare: echo"]
    assert again.prompt(session) == {"stopReason": "end_turn"}
    assert results(model_server) == ["first", "second"]


def test_nothing_is_loaded_where_there_are_no_servers() -> None:
    code = (
        "import sys, laguna_agent.agent.session, laguna_agent.agent.replay, laguna_agent.acp.conversation, "
        "laguna_agent.acp.servers; "
        "print(sorted({'mcp', 'mcp_types', 'pydantic', 'httpx2', 'jsonschema', 'starlette'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_broken_installation_costs_the_servers_only(
    start: Start, model_server: ModelServer, workspace: Path, tmp_path: Path
) -> None:
    (tmp_path / "stub" / "mcp").mkdir(parents=True)
    (tmp_path / "stub" / "mcp" / "__init__.py").write_text("raise ImportError('no module named rpds')\n")
    model_server.reply(text("Without them, then."))
    program = start(PYTHONPATH=f"{tmp_path / 'stub'}:{ROOT}")
    session = begin(program, workspace, bare(), capabilities=NOTICES)
    assert program.prompt(session) == {"stopReason": "end_turn"}
    (notice,) = [update["title"] for update in program.updates() if update["sessionUpdate"] == "notice"]
    assert notice == "MCP server bare cannot be used: no module named rpds"
    assert program.close() == 0
