"""The files of this machine, under a policy: looked at, read and replaced so that nothing outside can be reached.

Every path is a real one, as `Workspace.resolve` gives it, and every step goes through the descriptor of a directory
(see `beneath`): a link that appears on the way after the path was resolved is refused. What is no regular file is never
opened, so nothing waits for a FIFO or wakes a device. Whether a call has leave is decided elsewhere, except for what no
leave covers: what the person denies, and other names of what is hidden.

Blocking and thread-safe. Every method raises ToolError with a line meant for the model.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from laguna_agent.atomic import replacing, sweep
from laguna_agent.errors import ToolError
from laguna_agent.sandbox import beneath
from laguna_agent.sandbox.masks import denied_paths
from laguna_agent.sandbox.policy import PROTECTED_NAMES, Policy

EntryKind = Literal["file", "directory", "symlink", "other"]
HIDDEN_CAP = 5_000
"""Entries looked at below each hidden path for files that have a second name."""
# The clock that stamps files ticks every few milliseconds.
_TICK = 50_000_000
_CHUNK = 1 << 20
# Seconds for which it is known which links have a denied name: those of the person do not change much.
_LINKS_KNOWN = 30.0


class Entry(msgspec.Struct, frozen=True):
    """One file or directory; `size` is in bytes. Kind "other" is a FIFO, socket or device: never opened."""

    name: str
    kind: EntryKind
    size: int = 0


class Files:
    """See the module."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._lock = threading.Lock()
        self._twins: frozenset[tuple[int, int]] = frozenset()
        self._twins_known = 0
        self._behind_links: list[Path] = []
        self._behind_links_until = 0.0

    def entry(self, path: Path) -> Entry | None:
        """What lies at a real path; None where nothing does."""
        found = self.stat(path)
        return None if found is None else Entry(path.name, _kind(found.st_mode), found.st_size)

    def stat(self, path: Path) -> os.stat_result | None:
        """What is known of a real path; None where nothing lies."""
        try:
            with self._parent(path) as (directory, name):
                return _stat(name, directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refusal("look at", path, error) from error

    def list(self, path: Path) -> list[Entry]:
        """The entries of a directory, by name."""
        try:
            with self.directory(path) as handle, os.scandir(handle) as found:
                return sorted((_scanned(item) for item in found), key=lambda entry: entry.name)
        except OSError as error:
            raise refusal("list", path, error) from error

    def read(self, path: Path, limit: int) -> bytes:
        """A regular file's bytes; refuses anything longer than `limit`."""
        try:
            with self.regular(path) as handle:
                size = os.fstat(handle).st_size
                data = b"" if size > limit else _all(handle, limit + 1)
        except OSError as error:
            raise refusal("read", path, error) from error
        # Files of /proc report size 0, so the length that counts is the one that was read.
        if (size := max(size, len(data))) > limit:
            raise ToolError(f"{path} has {size:,} bytes, more than the {limit:,} that can be read at once.")
        return data

    @contextlib.contextmanager
    def regular(self, path: Path) -> Iterator[int]:
        """The descriptor of a regular file that may be read, closed afterwards. Raises OSError too."""
        self.require_readable(path)
        with self._parent(path) as (directory, name):
            # Before it is opened: opening alone does something to some devices.
            _require_regular(path, _stat(name, directory))
            # O_NONBLOCK: a FIFO that took its place meanwhile would otherwise wait for a writer.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(name, flags, dir_fd=directory)
        try:
            found = os.fstat(handle)
            _require_regular(path, found)
            if self.is_twin(path, found):
                raise ToolError(f"{path} is another name of a file that is hidden; it is not read.")
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def directory(self, path: Path) -> Iterator[int]:
        """The descriptor of a directory, closed afterwards. Raises OSError only."""
        with beneath.directory(self.policy.root_of(path) or Path(path.anchor), path) as handle:
            yield handle

    def write(self, path: Path, data: bytes) -> None:
        """Replace or create a file, whole or not at all; makes parent directories and keeps an old file's mode. Where
        it has other names, those keep the old content."""
        try:
            with self._parent(path, make=True) as (directory, name):
                old = _replaceable(path, name, directory)
                with replacing(Path(name), directory=directory) as file:
                    if old is not None:
                        with contextlib.suppress(PermissionError):
                            os.fchown(file.fileno(), old.st_uid, old.st_gid)
                        # Without set-user-id and its like, which the kernel drops too when a file is written to.
                        os.fchmod(file.fileno(), old.st_mode & 0o777)
                    file.write(data)
                    file.flush()
                    if old is not None and path.suffix == ".py":
                        outdate_bytecode(file.fileno(), old)
                os.fsync(directory)
        except OSError as error:
            raise refusal("write", path, error) from error

    def prepare(self, path: Path) -> None:
        """Make the parent directories; ToolError where `write` could not replace what lies at `path`."""
        try:
            with self._parent(path, make=True) as (directory, name):
                _replaceable(path, name, directory)
        except OSError as error:
            raise refusal("write", path, error) from error

    def sweep(self, path: Path) -> None:
        """Remove what a process that was killed left of writing to a real path."""
        try:
            with self._parent(path) as (directory, name):
                sweep(Path(name), directory=directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise refusal("clear up beside", path, error) from error

    def is_denied(self, path: Path) -> bool:
        """Whether the person denies reading a real path: by its own name, or by that of a link that leads to it."""
        if not self.policy.denied:
            return False
        if self.policy.is_denied(path):
            return True
        with self._lock:
            if time.monotonic() > self._behind_links_until:
                self._behind_links = [each for each in denied_paths(self.policy) if not self.policy.is_denied(each)]
                self._behind_links_until = time.monotonic() + _LINKS_KNOWN
        return any(path.is_relative_to(each) for each in self._behind_links)

    def require_readable(self, path: Path) -> None:
        """ToolError where the person denies reading it."""
        if self.is_denied(path):
            raise ToolError(f"{path} is not read: the person's rules deny it. Do without it.")

    def is_twin(self, path: Path, found: os.stat_result) -> bool:
        """Whether `found`, what is known of `path`, is a hidden or denied file by a second name (a hard link)."""
        if found.st_nlink < 2 or self.policy.is_hidden(path):
            return False
        with self._lock:
            # Giving a file another name changes its ctime, so what was found since then is still true; unless that was
            # at a time that has not come yet, for clocks are set back.
            began = time.time_ns()
            if found.st_ctime_ns > self._twins_known - _TICK or began < self._twins_known:
                self._twins = frozenset(_with_other_names(self._kept_back()))
                self._twins_known = began
            return (found.st_dev, found.st_ino) in self._twins

    def _kept_back(self) -> Iterator[Path]:
        yield from self.policy.hidden
        # Bounded like the look at the hidden ones.
        yield from denied_paths(self.policy)

    @contextlib.contextmanager
    def _parent(self, path: Path, *, make: bool = False) -> Iterator[tuple[int, str]]:
        root = self.policy.root_of(path.parent) or Path(path.anchor)
        with beneath.directory(root, path.parent, make=make) as handle:
            yield handle, path.name or "."


def refusal(verb: str, path: Path, error: OSError) -> ToolError:
    """The line for an error of the system."""
    if error.errno == errno.ELOOP:
        return ToolError(
            f"Cannot {verb} {path}: there are symbolic links in it that lead in a circle, or that were put there while "
            "it was looked at; they are not followed."
        )
    return ToolError(f"Cannot {verb} {path}: {error.strerror or error}.")


def _stat(name: str, directory: int) -> os.stat_result:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        # The path was resolved, so it was none then, or it leads to itself.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return found


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ToolError(f"{path} is not a regular file.")


def _replaceable(path: Path, name: str, directory: int) -> os.stat_result | None:
    try:
        old = _stat(name, directory)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(old.st_mode) and path.name in PROTECTED_NAMES:
        raise ToolError(f"{path} is a name that the sandbox keeps from being taken; ask the person to make that file.")
    _require_regular(path, old)
    if not os.access(name, os.W_OK, dir_fd=directory):
        raise ToolError(f"{path} is read-only.")
    return old


def _all(handle: int, most: int) -> bytes:
    pieces: list[bytes] = []
    while most > 0 and (piece := os.read(handle, min(most, _CHUNK))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "other"


def _scanned(item: os.DirEntry[str]) -> Entry:
    # A name that is no UTF-8 can be shown, but nobody who reads it could say it.
    name = os.fsencode(item.name).decode("utf-8", "replace")
    try:
        found = item.stat(follow_symlinks=False)
    except OSError:
        return Entry(name, "other")
    return Entry(name, "symlink" if item.is_symlink() else _kind(found.st_mode), found.st_size)


def _with_other_names(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Device and inode of each regular file with several names at or below the paths, within bounds."""
    for path in paths:
        waiting = [str(path)]
        room = HIDDEN_CAP
        while waiting and room > 0:
            current = waiting.pop()
            room -= 1
            try:
                found = os.lstat(current)
                if stat.S_ISDIR(found.st_mode):
                    with os.scandir(current) as entries:
                        waiting += [entry.path for entry, _ in zip(entries, range(room), strict=False)]
                elif stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                    yield found.st_dev, found.st_ino
            except OSError:
                # What cannot be looked at cannot be told from another file either.
                continue


def outdate_bytecode(handle: int, old: os.stat_result) -> None:
    """Python takes a cached module for current while the source's size and whole seconds are the same, so a change as
    long as what it replaces, within the second, would not be seen by the next run of a check."""
    new = os.fstat(handle)
    if int(new.st_mtime) <= int(old.st_mtime):
        os.utime(handle, (new.st_atime, int(old.st_mtime) + 1))
