"""Directories below a root, opened so that nothing can lead out of it: not a link, not a race.

A path that was resolved holds no symbolic link any more. Whoever puts one there afterwards wants what is done with the
path to happen elsewhere, so a link on the way is an error, never followed. Everything else is then done by name in the
descriptor that comes back. Knows descriptors and names; must not know policies, tools or what a file holds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from laguna_agent.sandbox.warden.kernel import BENEATH, NO_MAGICLINKS, NO_SYMLINKS, open_how

_RULES = BENEATH | NO_SYMLINKS | NO_MAGICLINKS
# macOS has no O_PATH; there a directory on the way must be readable.
_ON_THE_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of a directory whose entries are wanted, or that is to be made durable."""


Opener = Callable[[int, tuple[str, ...], int], int]
"""(descriptor of a directory, names below it, flags) -> descriptor; raises OSError."""


def by_kernel(base: int, names: tuple[str, ...], flags: int) -> int:
    """Open a directory below `base` with openat2, in one step. Raises OSError: ELOOP where a link is on the way."""
    try:
        # O_NOFOLLOW would make it say of a link at the end that it is no directory.
        return open_how(base, os.fsencode("/".join(names) or "."), flags & ~os.O_NOFOLLOW, _RULES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "/".join(names)) from None


def by_walking(base: int, names: tuple[str, ...], flags: int) -> int:
    """The same name by name, for systems without openat2."""
    if not names:
        return os.open(".", flags, dir_fd=base)
    current = base
    try:
        for number, name in enumerate(names, 1):
            if name in ("", ".", "..") or "/" in name:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
            following = _open_directory(name, flags if number == len(names) else _ON_THE_WAY, current)
            if current != base:
                os.close(current)
            current = following
    except BaseException:
        if current != base:
            os.close(current)
        raise
    return current


def _open_directory(name: str, flags: int, base: int) -> int:
    try:
        return os.open(name, flags, dir_fd=base)
    except NotADirectoryError:
        # What O_NOFOLLOW and O_DIRECTORY together say of a link.
        if stat.S_ISLNK(os.stat(name, dir_fd=base, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


@cache
def opener() -> Opener:
    """The one for this system."""
    try:
        handle = os.open("/", _ON_THE_WAY)
    except OSError:
        return by_walking
    try:
        os.close(by_kernel(handle, (), _ON_THE_WAY))
    except (OSError, AttributeError):
        # ENOSYS before Linux 5.6; some containers say EPERM for calls that they do not know.
        return by_walking
    finally:
        os.close(handle)
    return by_kernel


@contextlib.contextmanager
def directory(root: Path, path: Path, flags: int = READING, *, make: bool = False) -> Iterator[int]:
    """The descriptor of the directory `path`, which is `root` or lies below it, both real paths; closed afterwards.

    With `make` what is missing of it is made. Raises OSError: ELOOP where a link is on the way.
    """
    names = path.relative_to(root).parts
    if ".." in names:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
    base = os.open(root, _ON_THE_WAY)
    try:
        try:
            handle = opener()(base, names, flags)
        except FileNotFoundError:
            if not make:
                raise
            handle = _made(base, names, flags)
    finally:
        os.close(base)
    try:
        yield handle
    finally:
        os.close(handle)


def _made(base: int, names: tuple[str, ...], flags: int) -> int:
    current = os.dup(base)
    try:
        for number, name in enumerate(names, 1):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=current)
            following = opener()(current, (name,), flags if number == len(names) else _ON_THE_WAY)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def name_of(handle: int) -> str:
    """A path by which a process that inherits `handle`, a directory, reaches exactly that directory."""
    if Path("/proc/self/fd").is_dir():
        return f"/proc/self/fd/{handle}"
    import fcntl

    # macOS: the directory's path as it is now. Whoever moves it afterwards is not kept out.
    return os.fsdecode(fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))  # type: ignore[attr-defined,unused-ignore]
