"""The file under a session's log: whole lines appended, durably, by one process at a time.

Knows bytes, locks and the disk; must not know what a line means. A line is there whole or not at all: what a crash left
unfinished at the end is cut before anything is appended, and a failed write is taken back. The name of a new file is
made as durable as its content, for a log whose directory entry was lost is lost.

The lock is the kernel's, on the file itself, and ends with the process that holds it, however that ends; `holder`,
beside the log, has that process's id, for people alone.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from laguna_agent.atomic import sync
from laguna_agent.directories import open_private, private_directory
from laguna_agent.errors import StorageError, UsageError

HOLDER = "holder"
_CHUNK = 1 << 16


class LogFile:
    """See the module. Raises StorageError where the disk does not do what it must."""

    def __init__(self, path: Path) -> None:
        """Open (or create) the file at `path`; raises UsageError where another process has it open."""
        self.path = path
        self._broken = False
        try:
            # The session's directory may be a moment older than its log.
            new = [each for each in (path, *path.parents) if not each.exists()]
            new += [path.parent] if path in new else []
            private_directory(path.parent)
            self._fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._lock()
            for directory in dict.fromkeys(each.parent for each in new):
                sync(directory)
            self._end_last_line()
        except OSError as error:
            os.close(self._fd)
            raise self._failed(error) from error
        except UsageError:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        holder = self.path.with_name(HOLDER)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"session {self.path.parent.name} is open in another process{_named(holder)}") from None
        # Words for a message: where they cannot be written, the message has fewer.
        with suppress(OSError):
            handle = open_private(holder, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                os.write(handle, b"%d\n" % os.getpid())
            finally:
                os.close(handle)

    def _end_last_line(self) -> None:
        """Cut a line that was not written to its end; one that only lacks its line end gets it."""
        size = os.fstat(self._fd).st_size
        start, tail = size, b""
        while start and b"\n" not in tail:
            begin = max(0, start - _CHUNK)
            tail = os.pread(self._fd, start - begin, begin) + tail
            start = begin
        tail = tail[tail.rfind(b"\n") + 1 :]
        if is_whole(tail):
            self.append(b"\n", durable=True)
        elif tail:
            os.ftruncate(self._fd, size - len(tail))
            os.fsync(self._fd)

    def append(self, line: bytes, *, durable: bool) -> None:
        """Write at the end, to the disk where it must be `durable`; a failed write leaves nothing behind."""
        if self._broken:
            raise StorageError(f"cannot write the session log {self.path}: its last line could not be taken back")
        start = os.fstat(self._fd).st_size
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
            if durable:
                os.fsync(self._fd)
        except OSError as error:
            try:
                os.ftruncate(self._fd, start)
                if start == 0:
                    # A log that never began is no session's.
                    self.path.unlink()
            except OSError:
                # Half a line with another behind it would be a damaged log; half a line at the end is none.
                self._broken = True
            raise self._failed(error) from error

    def sync(self) -> None:
        """Make what was appended durable."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Release it; once or several times."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write the session log {self.path}: {error.strerror}")


def is_whole(tail: bytes) -> bool:
    """Whether what stands behind the last line end is a record that only lacks its own: of an object in JSON no
    beginning is one itself."""
    if not tail.startswith(b"{"):
        return False
    try:
        msgspec.json.decode(tail)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


def _named(holder: Path) -> str:
    try:
        pid = holder.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return f" (process {pid})" if pid.isdigit() else ""
