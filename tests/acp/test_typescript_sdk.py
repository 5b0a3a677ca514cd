"""Whole sessions with the official TypeScript SDK as the client, against the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acp.node import FOLDER, NODE, install
from tests.model_server import ModelServer, reasoning, text, tool_call


@pytest.fixture(scope="session")
def node() -> Path:
    """Node, with the SDK installed beside the client script."""
    install()
    return NODE


def test_a_whole_session(node: Path, model_server: ModelServer, workspace: Path) -> None:
    (workspace / "greet.py").write_text('print("hello")\n')
    model_server.reply(
        [reasoning("Look first."), tool_call("read", {"path": "greet.py"})],
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        text("It says goodbye now."),
        tool_call("shell", {"command": "touch begun; sleep 300"}),
    )
    # The prompt that is aborted at once may or may not reach the model.
    model_server.always(text("You asked me to say goodbye."))
    command = [node, FOLDER / "client.mjs", workspace, sys.executable, "-m", "laguna_agent", "acp"]
    done = subprocess.run(
        command, env=os.environ | model_server.env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)

    assert report["initialized"]["protocolVersion"] == 1
    assert report["initialized"]["agentInfo"]["name"] == "laguna-agent"
    assert report["edited"] == {"stopReason": "end_turn"}
    assert (workspace / "greet.py").read_text() == 'print("goodbye")\n'
    assert [asked["kind"] for asked in report["asked"]] == ["edit", "execute"]
    assert report["cancelled"] == {"stopReason": "cancelled"}
    assert report["cancelMilliseconds"] < 5000
    assert report["aborted"] == {"stopReason": "cancelled"}
    assert report["continued"] == {"stopReason": "end_turn"}
    assert report["exitCode"] == 0
    assert set(report["strays"]) <= {"$/cancel_request"}

    before = report["replayed"][: report["replayedBeforeAnswer"]]
    prompts = [u["content"]["text"] for u in before if u["sessionUpdate"] == "user_message_chunk"]
    assert prompts[:2] == ["Say goodbye instead", "Run it for a long time"]
    diffs = [c for u in before for c in u.get("content", []) if isinstance(c, dict) and c.get("type") == "diff"]
    assert [(diff["path"], diff["newText"]) for diff in diffs] == [(str(workspace / "greet.py"), 'print("goodbye")\n')]
    history = json.dumps(model_server.chats[-1]["messages"])
    assert "Say goodbye instead" in history
    assert "What did I ask first?" in history
