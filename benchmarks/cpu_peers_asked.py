"""The contenders of `cpu_peers.py` as seen by the one who measures: processes that are opened, asked and closed.

Knows pipes and processes; must not know what an engine is.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cpu_peers_bytes import Traffic

FOLDER = Path(__file__).parent
BREATH = 0.3
"""Seconds between two questions: the threads of some engines spin for a while after their work."""


@dataclass(frozen=True, eq=False)
class Contender:
    """Who is measured: a name for people, the command of its process, what `open` is asked, and what it reads.

    `file`: what it opens, and `make`: what is called before, which makes the file where it is not there; None for a
    model that is made in memory. `exact`: who computes the same weights exactly, for the guard; None where that is not
    asked.
    """

    name: str
    command: Sequence[str]
    opening: dict[str, Any]
    traffic: Traffic
    file: Path | None = None
    make: Callable[[], object] | None = None
    exact: Contender | None = None
    ours: bool = False


class Process:
    """A running contender. As a context it is ended at the end, whatever happens."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
        self._process = subprocess.Popen(
            [*contender.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, question: str, **details: Any) -> dict[str, Any]:
        """The answer; SystemExit where its process dies, which has said why on standard error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        time.sleep(BREATH)
        try:
            self._process.stdin.write(json.dumps({"ask": question, **details}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"{self.name}: its process is gone") from None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its process ended with {self._process.wait()} when asked to {question}")
        told: dict[str, Any] = json.loads(line)
        return told

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def warm(path: Path) -> None:
    """Read the file, so that the next to map it finds it in memory."""
    with path.open("rb", buffering=0) as file:
        room = bytearray(1 << 22)
        while file.readinto(room):
            pass
