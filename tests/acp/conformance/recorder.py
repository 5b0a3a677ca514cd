"""Stands between a client and an agent as "the agent's command", and writes down what they say to each other.

    python recorder.py FOLDER COMMAND ARGS...

Bytes pass through untouched, in order and at once. Each run makes one file in FOLDER, one JSON object a line:
`{"from": "client"|"agent", "line": TEXT}`; `{"from": ..., "end": true}` when that side closed its stream, with
`"unheard": true` where the other one stopped reading before; `{"exit": CODE}` at last. A line is written down before
its newline is passed on, so nobody can have answered a line that stands further down. Bytes that are no UTF-8 are kept
as surrogates. Knows nothing of the protocol.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Journal:
    """The file. One lock makes one order of both directions."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.time_ns():020d}-{os.getpid()}.jsonl"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        self._lock = threading.Lock()

    def write(self, **entry: Any) -> None:
        with self._lock:
            write_all(self._fd, json.dumps(entry).encode() + b"\n")


def write_all(fd: int, data: bytes) -> None:
    """Write every byte; raises OSError when the other side is gone."""
    while data:
        data = data[os.write(fd, data) :]


def relay(source: int, sink: int, sender: str, journal: Journal) -> None:
    """Pass on everything from `source` to `sink`, to the end of either."""
    rest = bytearray()
    while data := os.read(source, 1 << 16):
        rest += data
        lines = rest.split(b"\n") if b"\n" in data else [rest]
        rest = lines.pop()
        for line in lines:
            journal.write(**{"from": sender, "line": line.decode(errors="surrogateescape")})
        try:
            write_all(sink, data)
        except OSError:
            journal.write(**{"from": sender, "end": True, "unheard": True})
            return
    if rest:
        journal.write(**{"from": sender, "line": rest.decode(errors="surrogateescape"), "unterminated": True})
    journal.write(**{"from": sender, "end": True})


def main(folder: str, *command: str) -> int:
    """Run the agent and record it; its exit code, or 128 + the signal that ended it."""
    journal = Journal(Path(folder))
    received: list[int] = []
    agents: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        for agent in agents:
            agent.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    agents.append(agent)
    for missed in received:  # before there was anybody to tell
        agent.send_signal(missed)
    assert agent.stdin is not None
    assert agent.stdout is not None

    def to_agent(sink: int) -> None:
        with suppress(OSError):
            relay(0, sink, "client", journal)
        os.close(sink)

    threading.Thread(target=to_agent, args=(os.dup(agent.stdin.fileno()),), daemon=True).start()
    agent.stdin.close()
    relay(agent.stdout.fileno(), 1, "agent", journal)
    # A client that closed only its reading end must be felt by the agent as it would be without us.
    agent.stdout.close()
    code = agent.wait()
    journal.write(exit=code)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    # Not sys.exit: the other thread still waits for a client that may never speak again.
    os._exit(code)
