"""Scenarios with the official Python SDK (PyPI agent-client-protocol) as an editor that offers little or nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import acp
from acp import schema

from tests.acp.conformance.stage import Stage
from tests.acp.python_editor import Editor, agent
from tests.mcp import bare as bare_server
from tests.mcp import serving
from tests.model_server import http, reasoning, stall, stream, text, tool_call

FILES = schema.ClientCapabilities(fs=schema.FileSystemCapabilities(read_text_file=True, write_text_file=True))
STEPS = [{"content": "Read greet.py", "status": "in_progress"}, {"content": "Change it", "status": "pending"}]
# The smallest PNG there is.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Play = Callable[[Any, str], Awaitable[None]]


def play(stage: Stage, editor: Editor, work: Play, capabilities: schema.ClientCapabilities | None = None) -> str:
    """Open a session and do `work(connection, session id)`; the id."""

    async def run() -> str:
        async with agent(editor, stage.agent, stage.environment) as (connection, process):
            await connection.initialize(acp.PROTOCOL_VERSION, client_capabilities=capabilities)
            opened = await connection.new_session(cwd=str(stage.workspace))
            await work(connection, opened.session_id)
        assert process.returncode == 0
        return str(opened.session_id)

    return asyncio.run(asyncio.wait_for(run(), 60))


async def prompt(connection: Any, session: str, *blocks: Any) -> str:
    said = [acp.text_block(block) if isinstance(block, str) else block for block in blocks]
    return str((await connection.prompt(session_id=session, prompt=said)).stop_reason)


def bare(stage: Stage) -> None:
    """A client that offers nothing: everything happens on the agent's side, and notices come as its words."""
    (stage.workspace / "greet.py").write_text('print("hello")\n')
    stage.model.reply(
        [reasoning("Look first."), text("I plan."), tool_call("plan", {"steps": STEPS})],
        tool_call("read", {"path": "greet.py"}),
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        tool_call("shell", {"command": "cat greet.py"}),
        text("It says goodbye now."),
        text("## State\ngreet.py says goodbye."),
        http(500, {"error": {"message": "broken"}}),
        text("Back again."),
    )

    async def work(connection: Any, session: str) -> None:
        link = acp.resource_link_block("greet.py", (stage.workspace / "greet.py").as_uri())
        seen = acp.image_block(PIXEL, "image/png")
        attached = acp.resource_block(acp.embedded_text_resource("file:///c.py", "x = 41"))
        assert await prompt(connection, session, "Say goodbye instead", link, seen, attached) == "end_turn"
        assert await prompt(connection, session, "/compact") == "end_turn"
        try:
            await prompt(connection, session, "Fail")
            raise AssertionError("a failing model must end the turn with an error")
        except acp.RequestError as error:
            assert error.code == -32603
        assert await prompt(connection, session, "Are you there?") == "end_turn"

    play(stage.having(LAGUNA_RETRY_BUDGET="0"), Editor(), work)
    assert "goodbye" in (stage.workspace / "greet.py").read_text()


def stops(stage: Stage) -> None:
    """Every way in which a turn can end that is no error; what came of them is replayed."""

    async def work(connection: Any, session: str) -> None:
        stage.model.reply(stream(text("No, I will n"), finish="content_filter"))
        assert await prompt(connection, session, "Refuse") == "refusal"
        stage.model.always(stream(text("On and on"), finish="length"))
        assert await prompt(connection, session, "Talk") == "max_tokens"
        stage.model.always(tool_call("list", {"path": "."}))
        assert await prompt(connection, session, "Look") == "max_turn_requests"
        stage.model.always(text("Done."))
        assert await prompt(connection, session, "End") == "end_turn"
        await connection.load_session(cwd=str(stage.workspace), session_id=session)

    play(stage.having(LAGUNA_MAX_TURNS="3"), Editor(), work)


def reopened(stage: Stage) -> None:
    """One session over four connections: made, loaded, resumed, closed; refusals and cancels in between."""
    stage.model.reply(
        tool_call("shell", {"command": "echo hi"}), text("As you like."), text("One."), stall(), text("Two.")
    )
    stage.model.always(text("Three."))

    async def make(connection: Any, session: str) -> None:
        assert await prompt(connection, session, "Say hi") == "end_turn"

    async def load(connection: Any, session: str) -> None:
        listed = (await connection.list_sessions(cwd=str(stage.workspace))).sessions
        assert session in [each.session_id for each in listed]
        opened = await connection.load_session(cwd=str(stage.workspace), session_id=session)
        await connection.set_session_mode(session, opened.modes.available_modes[0].id)
        await connection.set_config_option("thought_level", session, "low")
        assert await prompt(connection, session, "One?") == "end_turn"
        running = asyncio.create_task(prompt(connection, session, "Never mind"))
        while len(stage.model.chats) < 4:
            await asyncio.sleep(0.02)
        await connection.cancel(session)
        assert await running == "cancelled"

    async def resume(connection: Any, session: str) -> None:
        await connection.resume_session(session, cwd=str(stage.workspace))
        assert await prompt(connection, session, "Two?") == "end_turn"
        assert await prompt(connection, session, "/compact") == "end_turn"
        await connection.close_session(session)
        await connection.load_session(cwd=str(stage.workspace), session_id=session)
        assert await prompt(connection, session, "Three?") == "end_turn"

    async def run(work: Play, session: str) -> None:
        async with agent(Editor(), stage.agent, stage.environment) as (connection, _):
            await connection.initialize(acp.PROTOCOL_VERSION)
            await work(connection, session)

    session = play(stage, Editor("reject_once"), make)
    for work in (load, resume):
        asyncio.run(asyncio.wait_for(run(work, session), 60))


def files(stage: Stage) -> None:
    """A client that offers files and no terminal."""
    (stage.workspace / "greet.py").write_text('print("hello")\n')
    stage.model.reply(
        [tool_call("read", {"path": "greet.py"}), tool_call("read", {"path": "none.py"})],
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        tool_call("write", {"path": "new.py", "content": "x = 1\n"}),
        text("Done."),
    )

    async def work(connection: Any, session: str) -> None:
        assert await prompt(connection, session, "Say goodbye instead") == "end_turn"

    play(stage, Editor("allow_always"), work, FILES)
    assert "goodbye" in (stage.workspace / "greet.py").read_text()
    assert (stage.workspace / "new.py").read_text() == "x = 1\n"


def pages(stage: Stage) -> None:
    """More sessions than one answer holds."""
    stage.model.reply(text("One."))

    async def make(connection: Any, session: str) -> None:
        assert await prompt(connection, session, "One?") == "end_turn"

    async def list_all(connection: Any, _: str) -> None:
        found, cursor = [], None
        while page := await connection.list_sessions(cursor=cursor):
            found += [each.session_id for each in page.sessions]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len(found) == len(set(found)) == 121

    (made,) = (stage.folder / "home").rglob(f"*{play(stage, Editor(), make)}/log.jsonl")
    for number in range(120):
        copy = made.parent.with_name(f"20260101-000000-{number:06x}")
        copy.mkdir()
        (copy / made.name).write_text(made.read_text().replace(made.parent.name, copy.name))
    play(stage, Editor(), list_all)


def servers(stage: Stage) -> None:
    """MCP servers over stdio and HTTP, one that cannot start, and a client that can answer no question of theirs."""
    calls = [
        tool_call("remote__add", {"a": 2, "b": 3}),
        tool_call("bare__ask"),
        tool_call("bare__echo", {"text": "hi"}),
    ]
    stage.model.reply(calls, text("Five."))

    async def work(connection: Any, url: str) -> None:
        given = [
            schema.HttpMcpServer(type="http", name="remote", url=url, headers=[]),
            schema.McpServerStdio(name="bare", command=sys.executable, args=[bare_server.__file__], env=[]),
            schema.McpServerStdio(name="gone", command="/nonexistent/server", args=[], env=[]),
        ]
        opened = await connection.new_session(cwd=str(stage.workspace), mcp_servers=given)
        assert await prompt(connection, opened.session_id, "Add them") == "end_turn"

    with serving.over_http("http") as remote:
        play(stage.having(LAGUNA_APPROVE="all"), Editor(), lambda connection, _: work(connection, remote.url))
    heard = [message["content"] for message in stage.model.chats[-1]["messages"] if message["role"] == "tool"]
    assert heard[0] == "the sum is 5"
    assert heard[2] == "hi"


SCENARIOS = (bare, stops, reopened, files, pages, servers)
