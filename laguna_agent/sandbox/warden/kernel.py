"""The system calls that Python has no name for. Knows libc and errno; must not know what is confined or why."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine(), "")
"""The processor as the kernel's tables name it; empty where we have no table."""

_OPENAT2 = 437
"""One of the calls whose number is the same on every architecture of Linux but Alpha."""
NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 0x02, 0x04, 0x08
_TRIES = 8

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


def syscall(number: int, *arguments: Any) -> int:
    """Raises OSError."""
    # A Python int would go as a C int: pointers and 64-bit masks must keep all their bits.
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise _error()
    return int(result)


def prctl(option: int, *arguments: int) -> int:
    """Raises OSError."""
    wide = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    result = LIBC.prctl(ctypes.c_int(option), *wide)
    if result < 0:
        raise _error()
    return int(result)


def unshare(namespaces: int) -> None:
    """unshare(2). Raises OSError."""
    if LIBC.unshare(ctypes.c_int(namespaces)) < 0:
        raise _error()


def mount(source: bytes | None, place: bytes, kind: bytes | None, flags: int) -> None:
    """mount(2), without options of the file system's own. Raises OSError."""
    if LIBC.mount(source, place, kind, ctypes.c_ulong(flags), None) < 0:
        raise _error()


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_how(base: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2): open a path from the directory `base`, under the given rules of resolution. Raises OSError."""
    how = _OpenHow(flags, 0, resolve)
    for attempt in range(_TRIES):
        try:
            return syscall(_OPENAT2, base, path, ctypes.byref(how), ctypes.sizeof(how))
        except OSError as error:
            # EAGAIN: something was renamed meanwhile, and the kernel cannot be sure.
            if error.errno not in (errno.EAGAIN, errno.EINTR) or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
