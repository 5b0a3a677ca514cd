"""How what a workspace brings is read: from its root, without following a link, bounded, and without ever waiting.

Knows descriptors; must not know what is read nor what is trusted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path


def bytes_below(root: Path, name: str, largest: int) -> bytes | None:
    """The beginning of a regular file, reached without a link, one byte more than `largest` at most; None where there
    is none. Raises OSError for what is there and is not that."""
    *parts, last = name.split("/")
    with _directory_below(root, parts) as directory:
        return None if directory is None else _bytes_of(last, directory, largest)


def names_below(root: Path, name: str, most: int) -> list[str] | None:
    """What is in a directory, reached without a link, at most `most`; None where there is none. Raises OSError."""
    with _directory_below(root, name.split("/")) as directory:
        if directory is None:
            return None
        with os.scandir(directory) as entries:
            return [entry.name for entry in islice(entries, most)]


@contextmanager
def _directory_below(root: Path, parts: Sequence[str]) -> Iterator[int | None]:
    """A directory, opened without following a link; None where there is none. Raises OSError."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            except FileNotFoundError:
                yield None
                return
            except NotADirectoryError:
                if stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode):
                    raise OSError(errno.ELOOP, "") from None
                yield None
                return
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _bytes_of(name: str, directory: int, largest: int) -> bytes | None:
    # O_NONBLOCK: what lies there may be a FIFO, and opening one would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode) and not os.listdir(handle):  # noqa: PTH208 - of a descriptor
            # A sandbox of another session keeps the name from being taken.
            return None
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(largest + 1)
    finally:
        os.close(handle)


def why_not(error: OSError) -> str:
    """Why such a file cannot be trusted."""
    match error.errno:
        case errno.ELOOP:
            return "it is reached through a symbolic link"
        case errno.EINVAL:
            return "it is no regular file"
        case _:
            return f"it cannot be read: {error.strerror or error}"
