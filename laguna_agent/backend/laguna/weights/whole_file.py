"""Writing a large file so that it is there whole or not at all, even if the process is killed at any moment.

Where the system can, the file has no name until it is complete (Linux, O_TMPFILE), so that a killed process leaves
nothing. Elsewhere it is written under a name that is never opened, which the next writer removes. Knows bytes only.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the one process that works on `path`; `waiting` is called again and again while another one does.

    The lock is a file beside it, which stays; any death frees the lock.
    """
    with path.with_name(path.name + ".lock").open("wb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(0.1)
        yield


@contextmanager
def whole_file(path: Path, size: int, *, anonymous: bool = True, mode: int = 0o644) -> Iterator[int]:
    """A file descriptor to `size` bytes, which become `path` when the block ends and vanish when it raises.

    It is made with `mode` less the umask. The space is taken at once, so a full disk shows before work is done. To be
    called under `locked`. Raises OSError.
    """
    (path.parent / f"{path.name}{PARTIAL}").unlink(missing_ok=True)
    handle = _unnamed(path.parent, mode) if anonymous else None
    if handle is None:
        with _named(path, size, mode) as named:
            yield named
        return
    try:
        os.posix_fallocate(handle, 0, size)
        yield handle
        os.fsync(handle)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            path.unlink(missing_ok=True)
            # Only with a folder's descriptor does Python ask to follow the link to the nameless file.
            os.link(f"/proc/self/fd/{handle}", path.name, dst_dir_fd=folder, follow_symlinks=True)
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.close(handle)


def _unnamed(folder: Path, mode: int) -> int | None:
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, os.O_RDWR | flag, mode)
    except OSError:
        # Network and overlay file systems may not know nameless files.
        return None


@contextmanager
def _named(path: Path, size: int, mode: int) -> Iterator[int]:
    partial = path.parent / f"{path.name}{PARTIAL}"
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        with suppress(AttributeError):  # macOS has no posix_fallocate
            os.posix_fallocate(handle, 0, size)
        yield handle
        os.fsync(handle)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
