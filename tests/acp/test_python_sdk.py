"""Whole sessions with the official Python SDK as the client, against the real program."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import acp
import pytest

from tests.acp.python_editor import Editor, agent
from tests.model_server import ModelServer, reasoning, stall, text, tool_call

COMMAND = [sys.executable, "-m", "laguna_agent", "acp"]


async def start(connection: Any, cwd: Path) -> str:
    hello = await connection.initialize(protocol_version=acp.PROTOCOL_VERSION)
    assert hello.protocol_version == 1
    assert hello.agent_capabilities.load_session
    await connection.authenticate(hello.auth_methods[0].id)
    return str((await connection.new_session(cwd=str(cwd), mcp_servers=[])).session_id)


async def prompt(connection: Any, session_id: str, words: str) -> Any:
    return await asyncio.wait_for(connection.prompt(session_id=session_id, prompt=[acp.text_block(words)]), 30)


@pytest.fixture
def greeting(workspace: Path) -> Path:
    path = workspace / "greet.py"
    path.write_text('print("hello")\n')
    return path


def test_a_prompt_with_an_edit(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(
        [reasoning("Look first."), text("I read it."), tool_call("read", {"path": "greet.py"})],
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        text("It says goodbye now."),
    )

    async def run() -> Editor:
        editor = Editor()
        async with agent(editor, COMMAND, os.environ | model_server.env) as (connection, process):
            session_id = await start(connection, greeting.parent)
            assert (await prompt(connection, session_id, "Say goodbye instead")).stop_reason == "end_turn"
        assert process.returncode == 0
        return editor

    editor = asyncio.run(run())
    assert greeting.read_text() == 'print("goodbye")\n'
    (asked,) = editor.asked
    assert (asked.kind, asked.title, asked.raw_input["new"]) == ("edit", "Edit greet.py", "goodbye")
    assert asked.locations[0].path == str(greeting)
    assert "".join(u.content.text for u in editor.all("agent_thought_chunk")) == (
        "Look first.unverified: no test ran after the edits\n"
    )
    spoken = "".join(u.content.text for u in editor.all("agent_message_chunk"))
    assert spoken == "I read it.It says goodbye now."
    progress = [(u.tool_call_id, u.status) for u in editor.all("tool_call_update")]
    read, edit = (u.tool_call_id for u in editor.all("tool_call"))
    assert progress == [(read, "in_progress"), (read, "completed"), (edit, "in_progress"), (edit, "completed")]
    (diff,) = [c for u in editor.all("tool_call_update") for c in u.content or [] if c.type == "diff"]
    assert (diff.path, diff.old_text, diff.new_text) == (str(greeting), 'print("hello")\n', 'print("goodbye")\n')


def test_a_rejection_is_heard_by_the_model_and_changes_nothing(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(
        tool_call("read", {"path": "greet.py"}),
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        text("As you like."),
    )

    async def run() -> str:
        editor = Editor(answer="reject_once")
        async with agent(editor, COMMAND, os.environ | model_server.env) as (connection, _):
            session_id = await start(connection, greeting.parent)
            return str((await prompt(connection, session_id, "Say goodbye instead")).stop_reason)

    assert asyncio.run(run()) == "end_turn"
    assert greeting.read_text() == 'print("hello")\n'
    assert "Denied" in json.dumps(model_server.chats[-1]["messages"][-1])


def test_cancel_while_a_tool_runs_and_while_the_model_stalls(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "echo begun; sleep 300"}), stall(), text("Here I am."))

    async def cancelled(connection: Any, session_id: str, ready: Any) -> float:
        prompted = asyncio.create_task(prompt(connection, session_id, "Go on"))
        await ready
        begun = time.monotonic()
        await connection.cancel(session_id=session_id)
        assert (await prompted).stop_reason == "cancelled"
        return time.monotonic() - begun

    async def asked_the_model_twice() -> None:
        while len(model_server.chats) < 2:
            await asyncio.sleep(0.02)

    async def run() -> None:
        editor = Editor()
        async with agent(editor, COMMAND, os.environ | model_server.env) as (connection, _):
            session_id = await start(connection, greeting.parent)
            assert await cancelled(connection, session_id, editor.until(status="in_progress")) < 5
            assert editor.updates[-1].status == "failed"
            assert await cancelled(connection, session_id, asked_the_model_twice()) < 5
            assert (await prompt(connection, session_id, "Are you there?")).stop_reason == "end_turn"

    asyncio.run(run())


def test_a_loaded_session_is_shown_whole_and_goes_on(model_server: ModelServer, greeting: Path) -> None:
    model_server.reply(
        [reasoning("Hm."), tool_call("read", {"path": "greet.py"})], text("A greeting."), text("You asked what it is.")
    )

    async def first() -> str:
        async with agent(Editor(), COMMAND, os.environ | model_server.env) as (connection, _):
            session_id = await start(connection, greeting.parent)
            await prompt(connection, session_id, "What is greet.py?")
            return session_id

    async def second(session_id: str) -> Editor:
        editor = Editor()
        async with agent(editor, COMMAND, os.environ | model_server.env) as (connection, _):
            await connection.initialize(protocol_version=acp.PROTOCOL_VERSION)
            await connection.load_session(cwd=str(greeting.parent), session_id=session_id, mcp_servers=[])
            editor.shown = [update.session_update for update in editor.updates]
            await prompt(connection, session_id, "What did I ask?")
        return editor

    editor = asyncio.run(second(asyncio.run(first())))
    assert editor.shown == [
        "user_message_chunk",
        "agent_thought_chunk",
        "tool_call",
        "tool_call_update",
        "agent_message_chunk",
    ]
    history = json.dumps(model_server.chats[-1]["messages"])
    assert "What is greet.py?" in history
    assert "A greeting." in history
