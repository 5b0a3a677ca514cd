"""The demo: a copy of examples/orderdesk has a failing test, and a 1.5B model on this machine repairs it.

usage: python scripts/demo.py [MODEL]        `make demo` installs what it needs and calls it

Runs the program as a person would and shows its event stream; changes nothing outside a temporary folder and the
model store. Exits with the program's own exit code: 0 only where the tests pass at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

EXAMPLE = Path(__file__).parents[1] / "examples" / "orderdesk"
AGENT = [sys.executable, "-m", "laguna_agent"]
CHECK = "python3 -m unittest -q"
PROMPT = "A test fails. Find the bug in orderdesk/figures.py and fix it."


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show(event: dict[str, Any]) -> None:
    """One event of the stream, as a person wants to see it."""
    match event["type"]:
        case "text_delta":
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        case "tool_call":
            say(f"\n* {event.get('title') or event['name']}")
        case "notice":
            say(f"\n{event['severity']}: {event['text']}")


def run_agent(model: str, project: Path, patch: Path) -> dict[str, Any]:
    """Let the agent work; returns the final record of the run."""
    command = [*AGENT, "run", "--model", f"local/{model}", "--check", CHECK, "--approve", "edits"]
    command += ["--cwd", str(project), "--patch-out", str(patch), "--output", "stream-json", PROMPT]
    say("$ laguna-agent " + " ".join(repr(word) if " " in word else word for word in command[3:]))
    record: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as agent:
        assert agent.stdout is not None
        for line in agent.stdout:
            record = json.loads(line)
            show(record)
    return record


def summarise(record: dict[str, Any], patch: Path, seconds: float) -> None:
    say("\n\n--- what changed")
    say(patch.read_text() if patch.exists() else "(nothing)")
    say("--- how it ended")
    for check in record["checks"]:
        say(f"{check['when']:>6}: `{check['command']}` exit {check['exit_code']}")
    tokens = (
        f"{record['input_tokens']} tokens in ({record['cached_tokens']} from the cache), {record['output_tokens']} out"
    )
    say(f"{record['outcome']}: {record['turns']} requests, {tokens}, {seconds:.0f} s, on this machine alone")


def main() -> int:
    model = sys.argv[1] if len(sys.argv) > 1 else "qwen2.5-coder-1.5b"
    pulled = subprocess.run([*AGENT, "models", "pull", model], check=False)
    if pulled.returncode:
        return pulled.returncode
    with tempfile.TemporaryDirectory(prefix="laguna-demo-") as folder:
        project = Path(folder) / EXAMPLE.name
        copytree(EXAMPLE, project, ignore=ignore_patterns("__pycache__"))
        patch = Path(folder) / "demo.patch"
        started = time.monotonic()
        record = run_agent(model, project, patch)
        if record.get("type") != "result":
            say("the agent ended without a result")
            return 1
        summarise(record, patch, time.monotonic() - started)
        return int(record["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
