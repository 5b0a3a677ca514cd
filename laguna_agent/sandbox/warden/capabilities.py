"""Giving up every capability for good, also as root. Knows the kernel's capability sets and nothing else."""

from __future__ import annotations

import ctypes
import os

from .kernel import LIBC, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, PR_CAPBSET_READ, prctl

_VERSION_3 = 0x20080522
_HIGHEST = 63


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_all() -> None:
    """Empty the bounding, ambient, permitted, effective and inheritable sets, and look whether they are empty. The
    bounding set of a user without rights stays: under no_new_privs nothing is gained from it. Raises OSError."""
    for capability in _bounding():
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except PermissionError:
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = _Header(version=_VERSION_3, pid=0), (_Data * 2)()
    if LIBC.capset(ctypes.byref(header), nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities cannot be dropped: {os.strerror(number)}")
    left = (_Data * 2)()
    if LIBC.capget(ctypes.byref(header), left) != 0 or any(each.permitted or each.effective for each in left):
        raise PermissionError("capabilities are left")


def _bounding() -> list[int]:
    """What is in the bounding set; the kernel knows fewer than there are bits."""
    found = []
    for capability in range(_HIGHEST + 1):
        try:
            if prctl(PR_CAPBSET_READ, capability):
                found.append(capability)
        except OSError:
            break
    return found
