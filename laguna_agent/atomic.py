"""Replacing a file whole or not at all. Knows bytes and modes, nothing of what the file means."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

OWNER_ONLY = 0o600
UNLESS_TOLD = 0o666


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


@contextmanager
def replacing(target: Path, mode: int = UNLESS_TOLD, *, directory: int | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target`, durably, when the block ends; an error leaves what was there.

    It is made with `mode` less the umask, in the directory of `target`, which must exist. With `directory`, the
    descriptor of one, `target` is a name in it, and nothing happens anywhere else. Raises OSError.
    """
    temporary = target.with_name(f".{_beginning(target.name)}.{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, mode, dir_fd=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        os.replace(temporary, target, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _beginning(name: str) -> str:
    # A name may have 255 bytes, and what comes before and after it here takes some.
    return os.fsencode(name)[:200].decode("utf-8", "ignore")
