"""Another agent in the interactive face: this program once more, as an agent that speaks ACP."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.model_server import ModelServer, text, tool_call
from tests.terminal.conftest import StartTty
from tests.terminal.driving import Chat


def test_another_agent_is_driven(tty: StartTty, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "touch made"}), text("**Made** by the other one."))
    shown = tty("--agent", f"{sys.executable} -m laguna_agent acp", **model_server.env)
    driving = Chat(shown, workspace)
    driving.idle()
    driving.send("make it")
    driving.asked()
    driving.press("y")
    shown.wait_for("Made by the other one.")
    driving.idle()
    assert (workspace / "made").exists()
    driving.leave()
