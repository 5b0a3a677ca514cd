"""Changing modes, owners and times of files for a confined process, on descriptors of our own.

Knows the calls as the kernel defines them (chmod(2), chown(2), utimensat(2) and their kin) and where the file lies that
one of them means; must not know filters, nor any process but the one that asks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from .kernel import MACHINE, NO_MAGICLINKS, open_how, syscall

_FCHOWNAT = {"x86_64": 260, "aarch64": 54}
_UTIMENSAT = {"x86_64": 280, "aarch64": 88}
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000
_SECONDS = struct.Struct("=qq")
_PAIRS = struct.Struct("=qqqq")
_A_SECOND = 1_000_000
_LONGEST_PATH = 4096
# What programs write for one of their own descriptors. /proc/self would be this process here.
_DESCRIPTOR = re.compile(rb"/(?:proc/(?:self|thread-self|(\d+))/fd|dev/fd)/(\d+)")


class Call(NamedTuple):
    """A call whose caller waits: the id of its thread, its name, its arguments."""

    thread: int
    name: str
    arguments: tuple[int, ...]

    def memory(self, address: int, size: int) -> bytes:
        """Up to `size` bytes of the caller's memory. Raises OSError."""
        handle = os.open(f"/proc/{self.thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(handle, size, address)
        except (OSError, OverflowError):
            raise _error(errno.EFAULT) from None
        finally:
            os.close(handle)

    def text(self, address: int) -> bytes:
        """A path in the caller's memory. Raises OSError."""
        found, ended, _ = self.memory(address, _LONGEST_PATH).partition(b"\0")
        if not ended:
            raise _error(errno.ENAMETOOLONG if len(found) == _LONGEST_PATH else errno.EFAULT)
        return found


class Change(NamedTuple):
    """What a call asks for: of which file, and what to do with a descriptor of it (opened with O_PATH)."""

    directory: int
    path: bytes | None
    follow: bool
    apply: Callable[[int], None]


def change(call: Call, changeable: tuple[bytes, ...], still_there: Callable[[], bool]) -> None:
    """Do what a call asks for where the file lies below a path of `changeable`. Raises OSError with what the caller is
    to be told: EPERM where it lies elsewhere. `still_there` says whether what was read is still that of the caller."""
    wanted = _READERS[call.name](call)
    handle = _open(call, wanted)
    try:
        if not still_there() or not _lies_below(handle, changeable):
            raise _error(errno.EPERM)
        wanted.apply(handle)
    finally:
        os.close(handle)


def _open(call: Call, wanted: Change) -> int:
    """The file itself, without any right to its contents."""
    base = "cwd" if wanted.directory == _AT_FDCWD else f"fd/{wanted.directory}"
    path = wanted.path
    # glibc changes the mode of a link's target by such a path, and that of what it has open.
    if path is not None and (named := _DESCRIPTOR.fullmatch(path)) and wanted.follow:
        base, path = f"fd/{int(named[2])}", None
        if named[1] is not None and int(named[1]) != _process(call.thread):
            raise _error(errno.EPERM)
    if path is not None and path.startswith(b"/"):
        # The directory counts for nothing then, and need not be one.
        base = "root"
    start = _start(call.thread, base)
    if path is None:
        return start
    try:
        flags = os.O_PATH | os.O_CLOEXEC | (0 if wanted.follow else os.O_NOFOLLOW)
        return open_how(start, path, flags, NO_MAGICLINKS)
    finally:
        os.close(start)


def _start(thread: int, base: str) -> int:
    try:
        return os.open(f"/proc/{thread}/{base}", os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _error(errno.EBADF) from None


def _process(thread: int) -> int:
    """The process of a thread, by the number that it has for itself: the last one, in the innermost namespace."""
    with open(f"/proc/{thread}/status") as file:  # noqa: PTH123 - no pathlib here
        return next(int(line.split()[-1]) for line in file if line.startswith("NStgid:"))


def _lies_below(handle: int, changeable: tuple[bytes, ...]) -> bool:
    """Where the kernel says that it is, whatever path led there; what has no name lies nowhere and is the caller's."""
    found = os.fstat(handle)
    place = os.readlink(b"/proc/self/fd/%d" % handle)  # noqa: PTH115
    if not place.startswith(b"/") or (found.st_nlink == 0 and stat.S_ISREG(found.st_mode)):
        return True
    return any(place == root or place.startswith(root + b"/") for root in changeable)


# -- what the calls mean -----------------------------------------------------------------------------------------------


def _file(call: Call, directory: int, address: int, flags: int, apply: Callable[[int], None]) -> Change:
    """Of the calls with a directory, a path and flags."""
    if flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH):
        raise _error(errno.EINVAL)
    path: bytes | None = call.text(address)
    if not path:
        if not flags & _AT_EMPTY_PATH:
            raise _error(errno.ENOENT)
        path = None
    return Change(_int(directory), path, not flags & _AT_SYMLINK_NOFOLLOW, apply)


def _open_file(descriptor: int, apply: Callable[[int], None]) -> Change:
    if _int(descriptor) < 0:
        raise _error(errno.EBADF)
    return Change(_int(descriptor), None, True, apply)


def _mode(bits: int) -> Callable[[int], None]:
    def apply(handle: int) -> None:
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            raise _error(errno.EOPNOTSUPP)
        os.chmod(f"/proc/self/fd/{handle}", bits & 0o7777)  # noqa: PTH101

    return apply


def _owner(user: int, group: int) -> Callable[[int], None]:
    return lambda handle: _at(_FCHOWNAT, handle, user & 0xFFFFFFFF, group & 0xFFFFFFFF, _AT_EMPTY_PATH)


def _times(pairs: bytes | None) -> Callable[[int], None]:
    """Two pairs of seconds and nanoseconds, as utimensat has them; None is now."""
    buffer = None if pairs is None else ctypes.create_string_buffer(pairs, _PAIRS.size)
    return lambda handle: _at(_UTIMENSAT, handle, buffer, _AT_EMPTY_PATH)


def _at(number: dict[str, int], handle: int, *arguments: object) -> None:
    syscall(number[MACHINE], handle, b"", *arguments)


def _nanoseconds(call: Call, address: int) -> bytes | None:
    return _exactly(call, address, _PAIRS.size) if address else None


def _microseconds(call: Call, address: int) -> bytes | None:
    if not address:
        return None
    one, part, other, rest = _PAIRS.unpack(_exactly(call, address, _PAIRS.size))
    if not (0 <= part < _A_SECOND and 0 <= rest < _A_SECOND):
        raise _error(errno.EINVAL)
    return _PAIRS.pack(one, part * 1000, other, rest * 1000)


def _whole_seconds(call: Call, address: int) -> bytes | None:
    if not address:
        return None
    one, other = _SECONDS.unpack(_exactly(call, address, _SECONDS.size))
    return _PAIRS.pack(one, 0, other, 0)


def _exactly(call: Call, address: int, size: int) -> bytes:
    found = call.memory(address, size)
    if len(found) < size:
        raise _error(errno.EFAULT)
    return found


def _utimensat(call: Call) -> Change:
    directory, path, times, flags = call.arguments[:4]
    apply = _times(_nanoseconds(call, times))
    return _file(call, directory, path, flags, apply) if path else _open_file(directory, apply)


def _futimesat(call: Call) -> Change:
    directory, path, times = call.arguments[:3]
    apply = _times(_microseconds(call, times))
    return _file(call, directory, path, 0, apply) if path else _open_file(directory, apply)


_READERS: dict[str, Callable[[Call], Change]] = {
    "chmod": lambda c: _file(c, _AT_FDCWD, c.arguments[0], 0, _mode(c.arguments[1])),
    "fchmod": lambda c: _open_file(c.arguments[0], _mode(c.arguments[1])),
    "fchmodat": lambda c: _file(c, c.arguments[0], c.arguments[1], 0, _mode(c.arguments[2])),
    "fchmodat2": lambda c: _file(c, c.arguments[0], c.arguments[1], c.arguments[3], _mode(c.arguments[2])),
    "chown": lambda c: _file(c, _AT_FDCWD, c.arguments[0], 0, _owner(*c.arguments[1:3])),
    "lchown": lambda c: _file(c, _AT_FDCWD, c.arguments[0], _AT_SYMLINK_NOFOLLOW, _owner(*c.arguments[1:3])),
    "fchown": lambda c: _open_file(c.arguments[0], _owner(*c.arguments[1:3])),
    "fchownat": lambda c: _file(c, c.arguments[0], c.arguments[1], c.arguments[4], _owner(*c.arguments[2:4])),
    "utime": lambda c: _file(c, _AT_FDCWD, c.arguments[0], 0, _times(_whole_seconds(c, c.arguments[1]))),
    "utimes": lambda c: _file(c, _AT_FDCWD, c.arguments[0], 0, _times(_microseconds(c, c.arguments[1]))),
    "futimesat": _futimesat,
    "utimensat": _utimensat,
}
CALLS = frozenset(_READERS)
"""The calls that `change` knows."""


def _int(value: int) -> int:
    """An argument that is an int to the kernel, of which it sees the low half."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low & 0x80000000 else low


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
