"""Replacing a person's file whole or not at all. Knows bytes and modes, nothing of what the file means."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

OWNER_ONLY = 0o600
_UNLESS_TOLD = 0o666


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
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode if mode is not None else _UNLESS_TOLD)
    try:
        with os.fdopen(handle, "wb") as file:
            if mode is not None:
                os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
