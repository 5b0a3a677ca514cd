"""Whole turns in which the model calls tools of servers; each is replayed with no server there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from laguna_agent.agent.events import Event, Notice, PermissionRequested, ToolCallStarted, ToolCallUpdate
from laguna_agent.agent.permissions import Approver, PermissionAnswer, deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Offered, find_session, read_log
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.servers import McpServers
from laguna_agent.messages import TextBlock
from tests.acp.program import is_alive
from tests.agent.driving import lines, replayed, require_valid_conversation, settings_for, talk
from tests.mcp.serving import bare
from tests.model_server import ModelServer, text, tool_call

OURS = ["read", "write", "edit", "list", "grep", "shell", "plan"]
DEAD = McpServer("dead", command="/does/not/exist")


def converse(
    server: ModelServer,
    workspace: Path,
    *prompts: str,
    servers: tuple[McpServer, ...] = (),
    approver: Approver = deny_all,
    resume: str | None = None,
    watch: Callable[[Session, Event], None] | None = None,
    **settings: Any,
) -> tuple[Session, list[list[Event]]]:
    """Say `prompts` in a session with `servers`; what came of it has been replayed from the log."""
    turns: list[list[Event]] = []

    async def run() -> Session:
        wished = settings_for(server, **settings)
        if resume is None:
            session = await Session.start(workspace, wished, approver=approver)
        else:
            session = await Session.resume(resume, wished, approver=approver)
        async with anyio.create_task_group() as group:
            if servers:
                session.servers = McpServers(servers, patience=60.0)
                session.servers.start(group, workspace, (workspace,), None)
            try:
                for prompt in prompts:
                    turns.append(await talk(session, prompt, watch))
            finally:
                await session.aclose()
        return session

    session = anyio.run(run)
    # The replay is of all prompts that the log holds; those of this run come last.
    whole = lines(replayed(find_session(session.id)))
    assert whole.endswith(lines([event for turn in turns for event in turn]))
    return session, turns


def of(turn: list[Event], kind: type[Event]) -> list[Any]:
    return [event for event in turn if isinstance(event, kind)]


def offered(server: ModelServer, at: int) -> list[str]:
    return [tool["function"]["name"] for tool in server.chats[at]["tools"]]


def test_the_model_calls_a_tool_of_a_server(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("bare__echo", {"text": "hello"}), text("It said hello."), text("Yes."))
    session, turns = converse(model_server, workspace, "Say hello", "Really?", servers=(bare(), DEAD))
    tools = [tool["function"] for tool in model_server.chats[0]["tools"]]
    assert [tool["name"] for tool in tools][:8] == [*OURS, "bare__echo"]
    assert tools[7]["description"] == "Say it again."
    assert tools[7]["parameters"]["required"] == ["text"]
    (started,) = of(turns[0], ToolCallStarted)
    assert (started.title, started.kind, started.input) == ("bare: echo", "other", {"text": "hello"})
    assert of(turns[0], ToolCallUpdate)[-1].content == (TextBlock("hello"),)
    assert model_server.chats[1]["messages"][-1]["content"] == "hello"
    (notice,) = of(turns[0], Notice)
    assert notice.text.startswith("MCP server dead cannot be used: /does/not/exist: No such file")
    assert not of(turns[1], Notice)
    # The prefix is the same, byte for byte, in every request.
    assert len({json.dumps([chat["tools"], chat["messages"][0]]) for chat in model_server.chats}) == 1
    # A face that shows the session again knows the tool too.
    shown = next(event for event in session.replay_events() if isinstance(event, ToolCallStarted))
    assert (shown.title, shown.kind) == ("bare: echo", "other")


def test_a_wrong_argument_is_named_and_never_sent(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("bare__echo", {"text": 5}), tool_call("bare__echo", {"txt": "x"}), text("Done."))
    converse(model_server, workspace, "x", servers=(bare(),))
    answers = [message["content"] for message in model_server.chats[-1]["messages"] if message["role"] == "tool"]
    assert answers == [
        "bare__echo: the field 'text' is wrong: 5 is not of type 'string'.",
        "bare__echo: the field 'text' is missing.",
    ]


def test_the_person_is_asked_and_always_means_this_tool(model_server: ModelServer, workspace: Path) -> None:
    asked: list[PermissionRequested] = []

    async def person(request: PermissionRequested) -> PermissionAnswer:
        asked.append(request)
        return PermissionAnswer(True, remember=True) if len(asked) == 1 else PermissionAnswer(False, reason="no")

    calls = [tool_call("bare__echo", {"text": word}) for word in ("one", "two")]
    model_server.reply(*calls, tool_call("bare__lines", {"count": 1}), text("Done."))
    converse(model_server, workspace, "x", servers=(bare(),), approve="edits", approver=person)
    assert [(request.title, request.input) for request in asked] == [
        ("bare: echo", {"text": "one"}),
        ("bare: lines", {"count": 1}),
    ]
    assert asked[0].options[1].grant == "allow every call of bare: echo for this session, whatever it is given"
    answers = [message["content"] for message in model_server.chats[-1]["messages"] if message["role"] == "tool"]
    assert answers[:2] == ["one", "two"]
    assert answers[2].startswith("Denied: no.")


def test_plan_mode_calls_no_server(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("bare__echo", {"text": "one"}), text("Here is my plan."))
    converse(model_server, workspace, "x", servers=(bare(),), approve="plan")
    assert model_server.chats[-1]["messages"][-1]["content"].startswith("Denied:")


def test_a_server_that_dies_costs_the_call_not_the_turn(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("bare__die"), tool_call("bare__echo", {"text": "?"}), text("It is gone."))
    model_server.reply(tool_call("bare__echo", {"text": "back"}), text("It is back."))
    session, turns = converse(model_server, workspace, "x", "y", servers=(bare(),))
    answers = [message["content"] for message in model_server.chats[-1]["messages"] if message["role"] == "tool"]
    assert "ended while it worked on this call" in answers[0]
    assert "is not running" in answers[1]
    assert answers[2] == "back"
    assert [notice.text.split(":")[0] for notice in of(turns[1], Notice)] == ["MCP server bare was started again"]
    assert session.record().outcome == "completed"


def test_a_cancelled_turn(model_server: ModelServer, workspace: Path) -> None:
    def cancel(session: Session, event: Event) -> None:
        if isinstance(event, ToolCallUpdate):
            session.cancel()

    model_server.reply(tool_call("bare__wait"), text("Let us go on."))
    pid = workspace / "pid"
    session, _ = converse(model_server, workspace, "x", servers=(bare(PID=pid),), watch=cancel)
    assert session.record().outcome == "interrupted"
    assert not is_alive(int(pid.read_text()))
    session, _ = converse(model_server, workspace, "go on", resume=session.id)
    require_valid_conversation(model_server.chats[-1]["messages"])
    assert session.record().outcome == "completed"


def test_a_session_goes_on_with_other_servers_or_none(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("bare__echo", {"text": "a"}), text("one"), text("two"))
    session, _ = converse(model_server, workspace, "x", servers=(bare(),))
    converse(model_server, workspace, "y", servers=(bare("other", "pages"),), resume=session.id)
    assert "other__echo" in offered(model_server, -1)
    assert "bare__echo" not in offered(model_server, -1)
    model_server.reply(tool_call("other__echo", {"text": "b"}), text("three"))
    converse(model_server, workspace, "z", resume=session.id)
    assert offered(model_server, -1) == OURS
    assert "no tool named 'other__echo'" in model_server.chats[-1]["messages"][-1]["content"]
    records = [record for record in read_log(find_session(session.id)) if isinstance(record, Offered)]
    assert [record.tools[0].name for record in records] == ["bare__echo", "other__echo"]


def test_a_model_that_calls_no_tools_is_offered_none(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.py").write_text("x = 1\n")
    model_server.always(text("I would change nothing."))
    _, turns = converse(model_server, workspace, "Change a.py", servers=(bare(),), edit_format="symbol")
    assert all(not chat.get("tools") for chat in model_server.chats)
    assert [notice.text for notice in of(turns[0], Notice)][:1] == [
        "this model calls no tools, so those of the MCP servers are not used"
    ]
