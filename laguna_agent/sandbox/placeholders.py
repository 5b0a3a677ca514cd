"""Empty directories that keep a name from being taken while a sandbox that could write there is up.

A mount needs something to lie on, so an absent protected path gets a directory that is removed afterwards. They are
counted in our state directory, by workspace: several sessions may share one, and after one that was killed the next
cleans up. Nothing that is not ours, or not empty, is ever removed. Knows directories and processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from laguna_agent.atomic import replace_file
from laguna_agent.directories import state_directory
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.presence import is_real_directory

_NOT_OURS_TO_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR}


_ANY = 0


class _Holder(msgspec.Struct, frozen=True):
    """A process that relies on them, and how many of its wardens do; `born` tells it from a later one of that id."""

    pid: int
    born: str
    wardens: int = 1


class _Record(msgspec.Struct):
    made: dict[str, int] = msgspec.field(default_factory=dict)
    """Path to inode; to `_ANY` where it was about to be made, by a process that may have been killed at it."""
    holders: list[_Holder] = msgspec.field(default_factory=list)


class Placeholders:
    """Those of one workspace, held by this process."""

    def __init__(self, root: Path) -> None:
        self._folder = state_directory() / "sandbox" / "placeholders"
        self._file = self._folder / (hashlib.sha256(os.fsencode(root)).hexdigest()[:32] + ".json")

    def hold(self, absent: tuple[Path, ...]) -> tuple[Path, ...]:
        """Make what is absent, until `release`. Returns what exists now; a place where we may not write is left out:
        nobody in the sandbox may either. Raises SandboxError where no record can be kept."""
        try:
            with self._record() as record:
                record.holders = _with_this_process(record.holders, 1)
                missing = [path for path in absent if not os.path.lexists(path)]
                if missing:
                    # On record before they are there: whoever is killed in between has made nothing unknown.
                    self._write(record, dict.fromkeys(map(os.fsdecode, missing), _ANY))
                for path in missing:
                    try:
                        path.mkdir(mode=0o755)
                    except OSError as error:
                        if error.errno not in _NOT_OURS_TO_WRITE:
                            raise
                    else:
                        record.made[os.fsdecode(path)] = path.lstat().st_ino
        except OSError as error:
            raise SandboxError(f"the sandbox cannot block absent names: {error}") from error
        return tuple(path for path in absent if is_real_directory(path))

    def release(self) -> None:
        """Remove them when nobody else relies on them."""
        with contextlib.suppress(OSError), self._record() as record:
            record.holders = _with_this_process(record.holders, -1)

    def tidy(self) -> None:
        """Remove what a process left that was killed, if nobody else relies on it."""
        if self._file.exists():
            with contextlib.suppress(OSError), self._record():
                pass

    @contextlib.contextmanager
    def _record(self) -> Iterator[_Record]:
        """The record, locked, without the dead; written, or removed with all it names, at the end."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with Path(self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = self._read()
            record.holders = [each for each in record.holders if born(each.pid) == each.born]
            if not record.holders:
                _remove(record)
            yield record
            if record.holders:
                self._write(record)
            else:
                _remove(record)
                self._file.unlink(missing_ok=True)

    def _write(self, record: _Record, about_to_be: dict[str, int] | None = None) -> None:
        made = record.made if about_to_be is None else about_to_be | record.made
        replace_file(self._file, msgspec.json.encode(_Record(made, record.holders)), mode=0o600)

    def _read(self) -> _Record:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.MsgspecError):
            return _Record()


def born(pid: int) -> str:
    """When a process began, in the system's own ticks; empty where there is no such process."""
    try:
        with Path(f"/proc/{pid}/stat").open("rb") as file:
            return file.read().rpartition(b") ")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _with_this_process(holders: list[_Holder], change: int) -> list[_Holder]:
    me = os.getpid()
    wardens = sum(each.wardens for each in holders if each.pid == me) + change
    others = [each for each in holders if each.pid != me]
    return [*others, _Holder(me, born(me), wardens)] if wardens > 0 else others


def _remove(record: _Record) -> None:
    """What we made and what is still that and empty; the rest is the person's."""
    # The deepest first: one may lie in another.
    for text, inode in sorted(record.made.items(), reverse=True):
        path = Path(text)
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_ino == inode or (inode == _ANY and found.st_uid == os.geteuid()):
                path.rmdir()
    record.made.clear()
