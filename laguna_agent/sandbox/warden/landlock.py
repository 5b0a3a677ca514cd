"""Landlock: which files this process and all its descendants may write and read, from now on.

Knows the kernel's rights and its ABI; must not know what a workspace is. The caller has set no_new_privs.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from .kernel import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

WRITE_FILE, READ_FILE = 1 << 1, 1 << 2
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_OF_FILES = WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock version; 0 where it has none or it is switched off."""
    try:
        return syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def write_rights(version: int) -> int:
    """Every right that changes something, as far as this ABI knows it."""
    rights = WRITE_FILE | _REMOVE_AND_MAKE
    for right, since in ((REFER, 2), (TRUNCATE, 3), (IOCTL_DEV, 5)):
        rights |= right if version >= since else 0
    return rights


def restrict(writable: Iterable[str], readable: Iterable[str] | None, *, tcp: bool) -> int:
    """Confine this process: writing only below `writable`; where `readable` is not None, reading files only below
    `readable` and `writable`; TCP only where `tcp`; signals and abstract sockets to processes inside only, where the
    kernel can. Paths that are not there are left out. Returns the ABI, 0 where there is no Landlock; OSError."""
    version = abi()
    if version == 0:
        return 0
    writing = write_rights(version)
    reading = READ_FILE if readable is not None else 0
    attributes = _RulesetAttributes(fs=writing | reading)
    if version >= 4 and not tcp:
        attributes.net = _BIND_TCP | _CONNECT_TCP
    if version >= 6:
        attributes.scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = syscall(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        for path in writable:
            _allow(ruleset, path, writing | reading)
        for path in readable or ():
            _allow(ruleset, path, reading)
        syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        # O_NOFOLLOW: paths are real ones, and what has become a link since is not what was meant.
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, PermissionError):
        return
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode):
            return
        beneath = _PathBeneath(allowed=rights if stat.S_ISDIR(mode) else rights & _OF_FILES, parent=handle)
        syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(handle)
