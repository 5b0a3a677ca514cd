"""What a run writes down as it goes: one line of JSON for each step, and one for whatever else happened.

    metrics.jsonl   a line per applied step, in order, none twice, whatever was killed or rolled back meanwhile
    events.jsonl    what happened: begun, resumed, checkpoint, rolled_back, stopped, finished

Every line is durable before the next step begins. Knows lines and files; must not know what the numbers mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from laguna_agent.errors import StorageError

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"


class RunLog:
    """The two files of a run, open for appending. For rank 0 alone. Raises StorageError where they cannot be
    written."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._events = folder / METRICS, folder / EVENTS
        try:
            for path in (self._metrics, self._events):
                path.touch()
                _cut(path, _whole_bytes(path))
            self._open: dict[Path, BinaryIO] = {path: path.open("ab") for path in (self._metrics, self._events)}
        except OSError as error:
            raise _refused(error, folder) from error

    def step(self, values: Mapping[str, Any]) -> None:
        """Write the line of one step; `values` has its number under "step"."""
        self._append(self._metrics, values)

    def event(self, kind: str, **values: Any) -> None:
        """Write what happened."""
        self._append(self._events, {"event": kind, **values})

    def keep_until(self, step: int) -> list[dict[str, Any]]:
        """Forget the lines of later steps, which will be taken again; returns those that stay."""
        kept, size = [], 0
        for line in self._metrics.read_bytes().splitlines(keepends=True):
            values = msgspec.json.decode(line)
            if values["step"] > step:
                break
            kept.append(values)
            size += len(line)
        _cut(self._metrics, size)
        return kept

    def close(self) -> None:
        """Close both files."""
        for file in self._open.values():
            file.close()

    def _append(self, path: Path, values: Mapping[str, Any]) -> None:
        file = self._open[path]
        try:
            file.write(msgspec.json.encode(values) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise _refused(error, path) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of such a file; half of one, which a kill left at its end, does not count. Raises OSError."""
    return [msgspec.json.decode(line) for line in path.read_bytes()[: _whole_bytes(path)].splitlines()]


def _whole_bytes(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _cut(path: Path, size: int) -> None:
    """Shorten the file to `size` bytes, durably; writers that append go on from there."""
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _refused(error: OSError, path: Path) -> StorageError:
    return StorageError(
        f"cannot write the run's log {error.filename or path}: {error.strerror}; make room, start again"
    )
