"""The demo: a copy of examples/orderdesk has a failing test, and a 1.5B model on this machine repairs it.

usage: python scripts/demo.py [MODEL]        `make demo` installs what it needs and calls it

Runs the program as a person would and shows its event stream; changes nothing outside a temporary folder and the
model store. Exits with the program's own exit code: 0 only where the tests pass at the end.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

from laguna_agent.sandbox.tiers import prove

EXAMPLE = Path(__file__).parents[1] / "examples" / "orderdesk"
AGENT = [sys.executable, "-m", "laguna_agent"]
CHECK = "python -m unittest -q"
PROMPT = "A test fails. Find the bug in orderdesk/figures.py and fix it."


class Screen:
    """Standard output, where the model's words arrive in pieces and everything else in lines."""

    def __init__(self) -> None:
        self._in_line = False

    def line(self, text: str = "") -> None:
        self.piece(("\n" if self._in_line else "") + text + "\n")

    def piece(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._in_line = not text.endswith("\n")

    def event(self, event: dict[str, Any]) -> None:
        """One event of the stream, as a person wants to see it."""
        match event["type"]:
            case "text_delta":
                self.piece(event["text"])
            case "tool_call":
                self.line(f"* {event.get('title') or event['name']}")
            case "notice":
                self.line(f"{event['severity']}: {event['text']}")


def run_agent(screen: Screen, model: str, project: Path, patch: Path) -> dict[str, Any]:
    """Let the agent work in `project`; returns the final record of the run."""
    options = ["--model", f"local/{model}", "--check", CHECK, "--approve", "edits"]
    if prove("auto").tier == "none":
        screen.line("no sandbox works on this machine; the only command is the check, which this script chose")
        options += ["--sandbox", "none"]
    options += ["--patch-out", f"../{patch.name}", "--output", "stream-json", PROMPT]
    screen.line("$ laguna-agent run " + shlex.join(options))
    screen.line("(the model is loaded from disk and reads the prompt: on a CPU that takes a while)")
    # The check's `python` is the one that runs this script, whatever else the machine has or lacks.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    record: dict[str, Any] = {}
    with subprocess.Popen(
        [*AGENT, "run", *options],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as agent:
        assert agent.stdout is not None
        for line in agent.stdout:
            record = json.loads(line)
            screen.event(record)
    return record


def summarise(screen: Screen, record: dict[str, Any], patch: Path, seconds: float) -> None:
    screen.line("\n--- what changed")
    screen.line(patch.read_text() if patch.exists() else "(nothing)")
    screen.line("--- how it ended")
    for check in record["checks"]:
        screen.line(f"{check['when']:>6}: `{check['command']}` exit {check['exit_code']}")
    requests = f"{record['turns']} request" + ("s" if record["turns"] != 1 else "")
    tokens = f"{record['input_tokens']} tokens in, {record['output_tokens']} out"
    screen.line(f"{record['outcome']}: {requests}, {tokens}, {seconds:.0f} s, on this machine alone")
    screen.line(f"sandbox of the commands: {record['sandbox']}")


def main() -> int:
    screen = Screen()
    model = sys.argv[1] if len(sys.argv) > 1 else "qwen2.5-coder-1.5b"
    pulled = subprocess.run([*AGENT, "models", "pull", model], check=False)
    if pulled.returncode:
        return pulled.returncode
    with tempfile.TemporaryDirectory(prefix="laguna-demo-") as folder:
        project = Path(folder) / EXAMPLE.name
        copytree(EXAMPLE, project, ignore=ignore_patterns("__pycache__"))
        patch = Path(folder) / "demo.patch"
        started = time.monotonic()
        record = run_agent(screen, model, project, patch)
        if record.get("type") != "result":
            screen.line("the agent ended without a result")
            return 1
        summarise(screen, record, patch, time.monotonic() - started)
        return int(record["exit_code"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
