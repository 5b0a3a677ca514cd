"""The smallest ACP client that can time an agent: spawns it, calls it, notes when each piece of an answer arrived.

It offers the agent nothing (no files, no terminals) and refuses what is asked of it. Knows no agent by name.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INITIALIZE: dict[str, Any] = {
    "protocolVersion": 1,
    "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
    "clientInfo": {"name": "acp-benchmark", "version": "1"},
}
ANSWER_LIMIT = 60.0
END_LIMIT = 5.0
CHUNK = 1 << 16
Message = dict[str, Any]


class AgentError(Exception):
    """The agent answered with an error, did not answer, or ended. `code` is JSON-RPC's, where there is one."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Answer:
    """What came of one prompt: seconds since it was sent for each piece of the answer's text, and for its end."""

    arrived: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    ended: float = 0.0

    def begun(self, word: str) -> float | None:
        """When the first piece with `word` arrived: an agent may say something of its own before its model does."""
        return next((when for when, piece in zip(self.arrived, self.pieces, strict=True) if word in piece), None)


class Client:
    """One running agent. `spawned` is the time (`perf_counter`) just before it was started."""

    def __init__(self, argv: list[str], environment: dict[str, str], folder: Path, errors: Path) -> None:
        """Start the agent in `folder`; what it writes to stderr goes to the file `errors`."""
        self._errors = errors
        with errors.open("wb") as stderr:
            self.spawned = time.perf_counter()
            self._process = subprocess.Popen(
                argv,
                env=environment,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._calls = 0
        self._rest = b""

    def request(self, method: str, params: Message, answer: Answer | None = None, limit: float = ANSWER_LIMIT) -> Any:
        """Call a method and wait for its result; text that arrives until then goes into `answer`. Raises AgentError."""
        self._calls += 1
        sent = time.perf_counter()
        self._send({"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params})
        while True:
            lines, now = self._read(sent + limit, method)
            for line in lines:
                message = json.loads(line)
                if "method" in message:
                    self._heard(message, answer, now - sent)
                elif message.get("id") == self._calls:
                    if answer is not None:
                        answer.ended = now - sent
                    return self._result(method, message)

    def close(self) -> None:
        """End the agent as an editor does, by closing its stdin; what is left of its processes is killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        family = [handle for pid in descendants(self.pid) if (handle := handle_of(pid)) is not None]
        try:
            self._process.stdin.close()
            self._process.wait(END_LIMIT)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass
        finally:
            for handle in family:
                end(handle)
            self._process.wait()
            self._process.stdout.close()

    def _heard(self, message: Message, answer: Answer | None, seconds: float) -> None:
        if "id" in message:
            refusal = {"code": -32601, "message": "this client offers nothing"}
            self._send({"jsonrpc": "2.0", "id": message["id"], "error": refusal})
        elif answer is not None and message["method"] == "session/update":
            update = message["params"]["update"]
            if update["sessionUpdate"] == "agent_message_chunk" and update["content"].get("text"):
                answer.arrived.append(seconds)
                answer.pieces.append(update["content"]["text"])

    def _result(self, method: str, message: Message) -> Any:
        error = message.get("error")
        if error is None:
            return message["result"]
        details = f" ({json.dumps(error['data'])[:300]})" if error.get("data") else ""
        raise AgentError(f"{method}: {error.get('message')}{details}", error.get("code"))

    def _send(self, message: Message) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AgentError(f"it ended: {self._last_words()}") from None

    def _read(self, deadline: float, method: str) -> tuple[list[bytes], float]:
        """The next whole lines, at least one, and when they came."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while True:
            left = deadline - time.perf_counter()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise AgentError(f"{method}: no answer in time; {self._last_words()}")
            data = os.read(descriptor, CHUNK)
            now = time.perf_counter()
            if not data:
                raise AgentError(f"{method}: it ended: {self._last_words()}")
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return [line for line in lines if line.strip()], now

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "nothing on stderr"


def descendants(pid: int) -> list[int]:
    """The process and everything below it (Linux); what ends meanwhile is left out."""
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def handle_of(pid: int) -> int | None:
    """A descriptor of the process, so that its number, used again, means no other one; None when it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def end(handle: int) -> None:
    """Kill a process and wait until it is gone: the next one measured must not share the machine with it."""
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], END_LIMIT)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def memory_mb(pid: int) -> tuple[float, float]:
    """Megabytes (10**6 bytes) of the process and everything below it: resident (a page that two processes share is
    counted twice), and proportional (it is counted once)."""
    resident = proportional = 0
    for each in descendants(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines[1:])}
        resident += int(sizes["Rss"].split()[0])
        proportional += int(sizes["Pss"].split()[0])
    return resident * 1024 / 1e6, proportional * 1024 / 1e6
