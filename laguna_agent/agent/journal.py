"""The open log of a session: records appended, each a whole line or nothing.

Knows how a record is written and that no key may be in it; what records there are and how a log is read is `store`'s.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from laguna_agent.agent.log_file import LogFile
from laguna_agent.agent.store import AnyRecord
from laguna_agent.redaction import bytes_without_keys

_encode = msgspec.json.Encoder().encode


class Journal:
    """The open log of one session. Only one process may hold it."""

    def __init__(self, path: Path) -> None:
        """Open (or create) the log at `path` for appending; raises UsageError where another process has it open, and
        StorageError where it cannot be written."""
        self.path = path
        self._file = LogFile(path)

    def append(self, record: AnyRecord, *, durable: bool = True) -> None:
        """Write one record durably, or leave that to a later `sync`; a failed write leaves no partial line behind.
        Raises StorageError."""
        # The last wall: whatever came here by a way that nobody thought of holds no key either.
        self._file.append(bytes_without_keys(_encode(record)) + b"\n", durable=durable)

    def sync(self) -> None:
        """Make what was appended durable."""
        self._file.sync()

    def close(self) -> None:
        """Release the log."""
        self._file.close()
