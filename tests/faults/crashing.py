"""Running the scripted editing session of `editing`, killing it, and looking at what it left.

A kill comes at a moment of one of four kinds: after some time, when some request has reached the server, when the log
has some more records, or at some call that changes a file (before it, after it, or half way through a write).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from laguna_agent.agent.store import AnyRecord, Opened, Said, ToolRan, read_log
from laguna_agent.messages import Message
from tests.faults.editing import STEPS, answer
from tests.faults.shim import killed_at
from tests.model_server import ModelServer, Scripted, text
from tests.processes import descendants, still_alive

KINDS = ("time", "request", "record", "call")
Tree = dict[str, tuple[int, bytes]]


@dataclass
class Killed:
    """What the kills came to: their `moments` by kind, and where they found the program."""

    moments: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    runs: int = 0


class EditingSession:
    """One session in `workspace`, from its first prompt to its last answer, whatever happens to it in between."""

    def __init__(self, server: ModelServer, workspace: Path, home: Path) -> None:
        self.server, self.workspace = server, workspace
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        self.env = {
            **os.environ, **server.env, "HOME": str(home), "XDG_STATE_HOME": str(home), "TMPDIR": str(self.temporary)
        }  # fmt: skip
        self.sessions = home / "laguna-agent" / "sessions"
        self.process: subprocess.Popen[bytes] | None = None
        self.log_before = b""
        self.printed: list[str] = []
        self._kill_at_request: tuple[int, float] | None = None
        server.always(self._reply)

    @property
    def log(self) -> Path | None:
        """The session's log; None while it has none with a whole first line."""
        logs = [path for path in self.sessions.glob("*/log.jsonl") if b"\n" in path.read_bytes()]
        assert len(logs) <= 1, "a second session began"
        return logs[0] if logs else None

    def _reply(self, body: Any) -> Scripted:
        if self._kill_at_request is not None:
            left, wait = self._kill_at_request
            self._kill_at_request = (left - 1, wait)
            if left == 1:
                threading.Timer(wait, self.kill).start()
        # A request may be cut off too; nobody is there to read the answer.
        return text("") if body is None else answer(body)

    def start(self, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        prompt = ["Do what is to be done.", *(["--continue"] if self.log else [])]
        command = [sys.executable, "-m", "laguna_agent", "run", *prompt, "--approve", "all", "--output", "stream-json"]
        recorded = self.log.read_bytes() if self.log else b""
        self.log_before = recorded[: recorded.rfind(b"\n") + 1]
        self.process = subprocess.Popen(
            command,
            env={**self.env, **(env or {})},
            cwd=self.workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self.process

    def kill(self) -> None:
        assert self.process is not None
        self.children = descendants(self.process.pid)
        self.process.kill()

    def run_to_the_end(self) -> dict[str, Any]:
        """Without a kill; the final record."""
        out = self.start().communicate(timeout=120)[0]
        record: dict[str, Any] = json.loads(out.splitlines()[-1])
        return record

    def run_until_killed(self, random: Random, kind: str) -> dict[str, Any] | None:
        """With a kill at a moment of this kind; the final record where the session was done before it came."""
        self.children: set[tuple[int, str]] = set()
        call = (random.randint(1, 120), random.choice(("before", "after", "half")))
        self._kill_at_request = (random.randint(1, 5), random.uniform(0, 0.03)) if kind == "request" else None
        process = self.start(killed_at(*call) if kind == "call" else None)
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        if kind == "time":
            threading.Timer(random.uniform(0.0, 1.5), self.kill).start()
        elif kind == "record":
            self._kill_at_record(random.randint(1, 25), random.uniform(0, 0.01))
        process.wait(60)
        self._kill_at_request = None
        reader.join(30)
        return None if process.returncode == -signal.SIGKILL else json.loads(self.printed[-1])

    def _kill_at_record(self, more: int, wait: float) -> None:
        assert self.process is not None
        wanted = self.log_before.count(b"\n") + more
        while self.process.poll() is None:
            if self.log is not None and self.log.read_bytes().count(b"\n") >= wanted:
                time.sleep(wait)
                self.kill()
                return
            time.sleep(0.002)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.printed = process.stdout.read().decode().splitlines()

    # -- what must be true after a kill -------------------------------------------------------------------------------

    def require_nothing_lost(self) -> str:
        """What was shown to the server or to the person is in the log. Returns where the kill found the program."""
        deadline = time.monotonic() + 10
        while still_alive(self.children):
            assert time.monotonic() < deadline, [
                (x, Path(f"/proc/{x}/status").read_text()[:200], Path(f"/proc/{x}/cmdline").read_bytes()[:300])
                for x in still_alive(self.children)
            ]
            time.sleep(0.02)
        if self.log is None:
            assert not self.server.chats or not self.log_before
            return "before the log"
        assert self.log.read_bytes().startswith(self.log_before), "what was in the log has changed"
        records = read_log(self.log)
        assert isinstance(records[0], Opened)
        self._require_posted(records)
        self._require_printed(records)
        last = type(records[-1]).__name__
        return f"after {last}"

    def _require_posted(self, records: list[AnyRecord]) -> None:
        seen = [body for body in self.server.chats if body is not None]
        if not seen:
            return
        said = Counter(_key(record.message) for record in records if isinstance(record, Said))
        posted = Counter(_posted_key(message) for message in seen[-1]["messages"])
        assert not posted - said, f"the server saw what the log does not have: {posted - said}"

    def _require_printed(self, records: list[AnyRecord]) -> None:
        ran = {record.call.id for record in records if isinstance(record, ToolRan)}
        for line in self.printed:
            try:
                event = json.loads(line)
            except ValueError:
                assert line is self.printed[-1], line
                continue
            if event["type"] == "tool_call_update" and event["status"] in ("completed", "failed"):
                assert event["id"] in ran, f"{event['id']} was shown as done, and is not in the log"


def _key(message: Message) -> tuple[str, str, str]:
    return message.role, message.text, " ".join(call.id for call in message.tool_calls) or message.tool_call_id


def _posted_key(message: dict[str, Any]) -> tuple[str, str, str]:
    content = message.get("content") or ""
    plain = content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
    calls = " ".join(call["id"] for call in message.get("tool_calls") or ())
    return message["role"], plain, calls or message.get("tool_call_id", "")


def tree(root: Path) -> Tree:
    """Every file below `root` with its mode and bytes, directories too."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
    return found


class Versions:
    """What each file may hold at any moment: what it held before and after every step of the undisturbed session."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._by_path: dict[str, set[bytes]] = {}
        self._made_by_commands = {step.path for _, step in STEPS if step.tool == "shell"}

    def note(self) -> None:
        for path, (_, data) in tree(self._workspace).items():
            self._by_path.setdefault(path, set()).add(data)

    def require(self, workspace: Path) -> None:
        """No file holds anything else; what a command of the model writes is empty for a moment."""
        for path, (_, data) in tree(workspace).items():
            if path not in self._by_path:
                assert path.rpartition("/")[2].endswith(".tmp"), f"a file that nobody wrote: {path}"
                continue
            torn = path in self._made_by_commands and data == b""
            assert torn or data in self._by_path[path], f"{path} holds what it never held: {data[:200]!r}"
