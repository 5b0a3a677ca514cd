"""One run of the real program that something happens to, and what must be true of it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laguna_agent.agent.store import AnyRecord, Checkpointed, Ended, read_log, sessions_directory
from tests.agent.driving import posted, require_valid_conversation, text_of
from tests.conftest import RunCli
from tests.model_server import ModelServer, text
from tests.processes import commands_in, descendants, still_alive

PATIENCE = 30.0
RUN = ("run", "Do it.", "--approve", "all", "--output", "json")
GOING_ON = "Going on."


def wait_until(what: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Until it is so; fails where the program ends before it."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def wait_for_file(path: Path, process: subprocess.Popen[Any]) -> str:
    """The text of a file that a command of the agent writes, when it has a whole line."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), process)
    return path.read_text()


def ended(process: subprocess.Popen[str], code: int) -> dict[str, Any]:
    """The final record of a process that was left to end, with nothing below it that stays."""
    below = descendants(process.pid)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    require_gone(below)
    return record_of(out, code)


def record_of(out: str, code: int) -> dict[str, Any]:
    """The final record, in the last line."""
    record: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert (record["type"], record["exit_code"]) == ("result", code), record
    return record


def require_gone(processes: set[tuple[int, str]], within: float = 10.0) -> None:
    """They end by themselves, at once or soon."""
    deadline = time.monotonic() + within
    while left := still_alive(processes):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.02)


def require_nothing_runs(workspace: Path, within: float = 10.0) -> None:
    """No command of an agent works there any more."""
    deadline = time.monotonic() + within
    while left := commands_in(workspace):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.02)


def the_log() -> Path:
    """The log of the only session."""
    (log,) = sessions_directory().glob("*/log.jsonl")
    return log


def records(log: Path | None = None) -> list[AnyRecord]:
    """What is in a log, which has no unfinished line."""
    path = log or the_log()
    assert path.read_bytes().endswith(b"\n")
    return read_log(path)


def require_outcome(outcome: str, log: Path | None = None) -> None:
    """The log says how the run ended; "" for one that could not say it any more. Behind it stands at most how the run
    left the files."""
    last = next(record for record in reversed(records(log)) if not isinstance(record, Checkpointed))
    assert (last.result.outcome if isinstance(last, Ended) else "") == outcome


def resume(run_cli: RunCli, server: ModelServer, *, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Go on with the only session: it does, to its end, the server is told everything that it was told before, and
    every call has a result. The messages that it was told."""
    before = posted(server) if server.chats else []
    server.reply(text(GOING_ON))
    done = run_cli("run", "Go on.", "--continue", "--output", "json", env={**server.env, **(env or {})})
    assert done.returncode == 0, done.stderr
    record = record_of(done.stdout, 0)
    assert (record["outcome"], record["text"]) == ("completed", GOING_ON)
    messages = posted(server)
    require_valid_conversation(messages)
    assert messages[: len(before)] == before, "what was said before is told again as it was"
    assert "Go on." in text_of(messages[-1])
    require_outcome("completed", the_log())
    return messages


def results(messages: list[dict[str, Any]]) -> list[str]:
    """What the calls gave, in order."""
    return [text_of(message) for message in messages if message["role"] == "tool"]


def leftovers(workspace: Path) -> list[str]:
    """Names that a killed program may have left where it replaces files."""
    return [name for _, _, names in os.walk(workspace) for name in names if name.endswith(".tmp")]
