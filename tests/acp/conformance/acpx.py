"""Scenarios with acpx (npm), a command line that keeps its agent running in the background between commands."""

from __future__ import annotations

import json
import subprocess
import time

from tests.acp.conformance.stage import PATIENCE, Stage
from tests.model_server import reasoning, stall, text, tool_call

# How long acpx keeps an idle agent, in seconds: longer than this scenario, which closes it, and not for ever.
KEPT = ("--ttl", "60")


def once(stage: Stage) -> None:
    """One prompt and gone, with a session option set first and every permission given."""
    (stage.workspace / "greet.py").write_text('print("hello")\n')
    stage.model.reply(
        [reasoning("Look first."), tool_call("read", {"path": "greet.py"})],
        tool_call("edit", {"path": "greet.py", "old": "hello", "new": "goodbye"}),
        tool_call("shell", {"command": "cat greet.py"}),
        text("It says goodbye now."),
    )
    option = ("--config-option", "thought_level=low")
    said = stage.run(stage.acpx_command("--approve-all", "exec", *option, "Say goodbye instead"))
    assert "It says goodbye now." in said
    assert "goodbye" in (stage.workspace / "greet.py").read_text()


def kept(stage: Stage) -> None:
    """A session over several commands: made, prompted, put into a mode, cancelled, listed, closed."""
    stage.model.reply(tool_call("shell", {"command": "echo hi"}), text("It said hi."), stall())
    stage.run(stage.acpx_command("sessions", "new"))
    stage.run(stage.acpx_command(*KEPT, "--approve-all", "prompt", "Say hi"))
    stage.run(stage.acpx_command(*KEPT, "set-mode", "plan"))
    running = subprocess.Popen(
        stage.acpx_command(*KEPT, "prompt", "Take your time"),
        env=stage.environment,
        cwd=stage.workspace,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while len(stage.model.chats) < 3:
        assert time.monotonic() < deadline, "the prompt never reached the model"
        time.sleep(0.05)
    stage.run(stage.acpx_command("cancel"))
    assert "cancelled" in running.communicate(timeout=PATIENCE)[0]
    listed = json.loads(stage.run(stage.acpx_command("--format", "json", "sessions", "list")))
    assert str(stage.workspace) in json.dumps(listed)
    stage.run(stage.acpx_command("sessions", "close"))


SCENARIOS = (once, kept)
