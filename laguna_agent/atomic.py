"""Replacing a file whole or not at all. Knows bytes and modes, nothing of what the file means."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

OWNER_ONLY = 0o600
UNLESS_TOLD = 0o666
# Nameless files need /proc to be given a name.
_NAMELESS: int | None = getattr(os, "O_TMPFILE", None) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH112
_SUFFIX = ".tmp"
_TOKEN = re.compile("[0-9a-f]{12}")


def replace_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Put `data` at `path`; a reader sees the old file or the new one, never a part. Parent directories are made.

    `mode` is set from the first byte on; without it an old file keeps its own and a new one gets what the umask asks
    for. A symbolic link stays one: people keep their settings in repositories of dotfiles. Raises OSError.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileNotFoundError):
        mode = mode if mode is not None else target.stat().st_mode & 0o7777
    with replacing(target, UNLESS_TOLD if mode is None else mode) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(data)


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable. Blocking. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(
    target: Path, mode: int = UNLESS_TOLD, *, directory: int | None = None, durable: bool = True
) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target`, durably, when the block ends; an error leaves what was there.

    It is made with `mode` less the umask, in the directory of `target`, which must exist. With `directory`, the
    descriptor of one, `target` is a name in it, and nothing happens anywhere else. Without `durable` it is not waited
    for the disk: for what may be lost with the machine's power, and is known to be damaged then. Raises OSError.

    A process that is killed leaves nothing behind: the file has no name while it is written, and a new one gets its
    own at once. Only to replace another does it need a second name for a moment, which `sweep` knows. Where the file
    system has no nameless files, it has that name from the start.
    """
    temporary = target.with_name(f"{_prefix(target.name)}{secrets.token_hex(6)}{_SUFFIX}")
    handle, named = _begin(target, temporary, mode, directory)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(handle)
            if not named and not _named_at_once(handle, target, directory):
                _give_name(handle, temporary, directory)
                named = True
            if named:
                os.replace(temporary, target, src_dir_fd=directory, dst_dir_fd=directory)
                named = False
    finally:
        if named:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)


def sweep(target: Path, *, directory: int | None = None) -> list[str]:
    """Remove what a killed process left of replacing `target`, and return the names; what one that lives is writing
    stays. `directory` as for `replacing`. Raises OSError."""
    prefix, swept = _prefix(target.name), []
    for name in os.listdir(target.parent if directory is None else directory):  # noqa: PTH208 - a descriptor, too
        middle = name.removeprefix(prefix).removesuffix(_SUFFIX)
        if name != f"{prefix}{middle}{_SUFFIX}" or not _TOKEN.fullmatch(middle):
            continue
        path = target.with_name(name)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path, dir_fd=directory)
            swept.append(name)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
    return swept


def _begin(target: Path, temporary: Path, mode: int, directory: int | None) -> tuple[int, bool]:
    """A file to write, locked for as long as it is open, and whether it has the name `temporary`."""
    handle, named = -1, False
    if _NAMELESS is not None:
        place = "." if directory is not None else target.parent
        # Not every file system has them, and not every kernel says so with the same error.
        with suppress(OSError):
            handle = os.open(place, os.O_WRONLY | _NAMELESS | os.O_CLOEXEC, mode, dir_fd=directory)
    if handle < 0:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle, named = os.open(temporary, flags, mode, dir_fd=directory), True
    # Says to `sweep` that somebody is at it; without locks there, nobody can sweep either.
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle, named


def _named_at_once(handle: int, target: Path, directory: int | None) -> bool:
    """Give the file the name it is meant to have; False where that is taken."""
    try:
        _give_name(handle, target, directory)
    except FileExistsError:
        return False
    return True


def _give_name(handle: int, name: Path, directory: int | None) -> None:
    # Without the descriptor of a directory, Python would not follow the link that leads to the nameless file.
    place = os.open(name.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if directory is None else directory
    try:
        os.link(f"/proc/self/fd/{handle}", name.name, dst_dir_fd=place, follow_symlinks=True)
    finally:
        if directory is None:
            os.close(place)


def _prefix(name: str) -> str:
    # A name may have 255 bytes, and what comes before and after it here takes some.
    return f".{os.fsencode(name)[:200].decode('utf-8', 'ignore')}."
