"""The person's repositories, read and never written: what their indexes track, and where their exclude files lie.

An index, like a `.git` file, comes with a clone and may be made to hurt, so it is read within bounds and believed
where it is whole; of one that is not, nothing is tracked. Knows git's layout on disk; runs nothing.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from laguna_agent.sandbox.git_directories import git_directories, read_small
from laguna_agent.sandbox.presence import is_real_directory

LARGEST_INDEX = 128 << 20
_ENTRY = 40
"""Bytes of an entry of an index before its hash."""


class Tracked(msgspec.Struct, frozen=True):
    """Paths that an index names, relative to the top of its repository, and every directory on the way to one."""

    paths: frozenset[bytes] = frozenset()
    directories: frozenset[bytes] = frozenset()


class Repository(msgspec.Struct, frozen=True):
    """`top` is the directory that it is checked out in, `own` its git directory, `common` what linked worktrees
    share."""

    top: Path
    own: Path
    common: Path

    @property
    def index(self) -> Path:
        """The index file."""
        return self.own / "index"

    @property
    def exclude(self) -> Path:
        """Its ignore file that is no part of it."""
        return self.common / "info" / "exclude"

    @property
    def hash_size(self) -> int:
        """Bytes of an object's name."""
        return 32 if re.search(r"(?i)objectformat\s*=\s*sha256", read_small(self.common / "config")) else 20


def repository_at(top: Path) -> Repository | None:
    """The repository whose `.git` lies in the real directory `top`; None where there is none to believe."""
    entry = top / ".git"
    if is_real_directory(entry):
        return Repository(top, entry, entry)
    found = git_directories(top) if os.path.lexists(entry) else ()
    pointer = re.match(r"gitdir:\s*(.+)", read_small(entry))
    if not found or not pointer:
        return None
    return Repository(top, Path(os.path.realpath(top / pointer[1].rstrip())), found[0])


def repository_above(directory: Path) -> Repository | None:
    """The repository that the real directory is a part of."""
    for top in (directory, *directory.parents):
        if os.path.lexists(top / ".git"):
            return repository_at(top)
    return None


def stamp_of(path: Path) -> tuple[int, ...]:
    """What changes when a file does; empty where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def tracked_by(repository: Repository) -> Tracked:
    """What the index of a repository names."""
    try:
        paths = frozenset(_paths(_read(repository.index), repository.hash_size))
    except (OSError, ValueError, struct.error, IndexError):
        return Tracked()
    directories: set[bytes] = set()
    for path in paths:
        above = path.rpartition(b"/")[0]
        while above and above not in directories:
            directories.add(above)
            above = above.rpartition(b"/")[0]
    return Tracked(paths, frozenset(directories))


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_INDEX:
            raise ValueError("no index")
        return file.read(LARGEST_INDEX)


def _paths(data: bytes, hash_size: int) -> Iterator[bytes]:
    """Raises ValueError, struct.error or IndexError for what is no index."""
    signature, version, count = struct.unpack_from(">4sLL", data)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("no index")
    at, previous = 12, b""
    for _ in range(count):
        start, at = at, at + _ENTRY + hash_size
        (flags,) = struct.unpack_from(">H", data, at)
        at += 4 if version >= 3 and flags & 0x4000 else 2
        stripped = 0
        if version == 4:
            stripped, at = _varint(data, at)
            if stripped > len(previous):
                raise ValueError("no index")
        end = data.index(b"\0", at)
        name = data[at:end]
        if version == 4:
            name, at = previous[: len(previous) - stripped] + name, end + 1
        else:
            at = start + ((end - start + 8) & ~7)
        previous = name
        yield name


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    value = byte & 0x7F
    while byte & 0x80:
        at += 1
        byte = data[at]
        value = ((value + 1) << 7) | (byte & 0x7F)
    return value, at + 1
