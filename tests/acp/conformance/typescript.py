"""Scenarios with the official TypeScript SDK (npm @agentclientprotocol/sdk); the client's half is in tests/acp/ts."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.acp.conformance.stage import Stage
from tests.mcp import bare
from tests.model_server import Scripted, http, reasoning, stall, text, tool_call

STEPS = [{"content": "Read greet.py", "status": "in_progress"}, {"content": "Change it", "status": "pending"}]


def turn(stage: Stage) -> None:
    (stage.workspace / "greet.py").write_text('print("hello")\n')
    stage.model.reply(
        [reasoning("Look first."), text("I plan."), tool_call("plan", {"steps": STEPS})],
        tool_call("read", {"path": "greet.py"}),
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        tool_call("shell", {"command": "echo noise; cat greet.py"}),
        text("It says goodbye now."),
        [tool_call("shell", {"command": "rm greet.py"}), tool_call("list", {"path": "."})],
        text("As you like."),
    )
    stage.typescript("turn")


def cancel(stage: Stage) -> None:
    stage.model.reply(tool_call("shell", {"command": "touch begun; sleep 300"}))
    # What is cancelled at once may or may not reach the model, which then must not be quicker than the cancel.
    stage.model.always(lambda body: text("Nothing.") if "What is left?" in str(body) else stall())
    stage.typescript("cancel")


def leave(stage: Stage) -> None:
    stage.model.reply(tool_call("shell", {"command": "touch begun; sleep 300"}), text("It was cut off."))
    stage.typescript("leave")


def together(stage: Stage) -> None:
    def answer(body: Any) -> Scripted:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return text("Nothing.")
        held = "Hold the line" in str(last)
        return tool_call("shell", {"command": "touch begun; sleep 300"}) if held else tool_call("list", {"path": "."})

    stage.model.always(answer)
    stage.typescript("together")


def login(stage: Stage) -> None:
    # A server that is busy at first: the client is told that we try again.
    stage.model.reply(http(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}), text("Here I am."))
    stage.typescript("login")


def servers(stage: Stage) -> None:
    asking = [tool_call("bare__ask"), tool_call("bare__ask", {"url": "https://example.invalid/login"})]
    stage.model.reply(*asking, tool_call("bare__echo", {"text": "red"}), text("Red it is."))
    stage.having(MCP_SERVER=json.dumps([sys.executable, bare.__file__]), LAGUNA_APPROVE="all").typescript("servers")
    heard = [message["content"] for message in stage.model.chats[-1]["messages"] if message["role"] == "tool"]
    assert json.loads(heard[0]) == {"action": "accept", "content": {"colour": "red"}}
    assert heard[2] == "red"


def sessions(stage: Stage) -> None:
    further = stage.folder / "further"
    further.mkdir()
    # So much that there is something to compact.
    much = " ".join(f"Nothing at all in {number}." for number in range(200))
    stage.model.reply(tool_call("list", {"path": "."}), text(much))
    stage.model.always(text("Nothing."))
    stage.having(FURTHER_DIRECTORY=str(further)).typescript("sessions")


SCENARIOS = (turn, cancel, together, leave, sessions, login, servers)
