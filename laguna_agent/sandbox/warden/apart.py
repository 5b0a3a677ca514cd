"""Leaving the machine's processes: a fork into namespaces of its own for users, mounts and process ids.

In /proc every process shows its arguments to everybody, and no Landlock rule can tell the own ones from the others. So
where the kernel lets this process make namespaces, the warden gets a /proc in which nobody else's processes are. Knows
namespaces and what is mounted; must not know the other walls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re

from .kernel import mount, unshare

_NEW_MOUNTS, _NEW_USER, _NEW_PIDS = 0x00020000, 0x10000000, 0x20000000
_BIND, _RECURSIVE, _SLAVE = 1 << 12, 1 << 14, 1 << 19
_NO_SETUID, _NO_DEVICES, _NO_EXECUTION = 2, 4, 8
_OCTAL = re.compile(rb"\\([0-7]{3})")


def fork_apart() -> int:
    """fork(2), with the child as process 1 of its namespaces: gives 0 there, and its id out here to the caller, whose
    child it is as soon as the caller is a reaper. The caller has one thread. Raises OSError, in the caller where there
    can be no such namespaces, in the child where it can have no /proc of its own."""
    reader, writer = os.pipe()
    between = os.fork()
    if between == 0:
        os.close(reader)
        return _unshare_and_fork(writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        number = int(told.read() or -errno.EAGAIN)
    os.waitpid(between, 0)
    if number < 0:
        raise OSError(-number, f"no namespaces for processes here: {os.strerror(-number)}")
    return number


def _unshare_and_fork(writer: int) -> int:
    """The process between, which stays outside itself and ends: who makes a pid namespace is not in it."""
    try:
        _enter_namespaces()
        pid = os.fork()
    except OSError as error:
        os.write(writer, b"-%d" % (error.errno or 1))
        os._exit(1)
    if pid:
        os.write(writer, b"%d" % pid)
        os._exit(0)
    os.close(writer)
    _exchange_proc()
    return 0


def _enter_namespaces() -> None:
    """In a user namespace also as root: there the kernel refuses a new /proc that shows what is masked in the old."""
    user, group = os.geteuid(), os.getegid()
    unshare(_NEW_USER | _NEW_MOUNTS | _NEW_PIDS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        # One write, which is what the kernel takes.
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - no pathlib here
            file.write(text)


def _exchange_proc() -> None:
    """A /proc of these namespaces, at every place where the machine's is mounted."""
    places = other_places()
    # What the person mounts later still comes in; nothing goes out.
    mount(None, b"/", None, _SLAVE | _RECURSIVE)
    mount(b"proc", b"/proc", b"proc", _NO_SETUID | _NO_DEVICES | _NO_EXECUTION)
    for place in places:
        # Where this user cannot go, or what lies below another mount, no command reaches either.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            mount(b"/proc", place, None, _BIND)


def other_places() -> list[bytes]:
    """Where a proc file system is mounted beside /proc. See proc_pid_mountinfo(5). Raises OSError."""
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123
        lines = file.read().splitlines()
    found = []
    for line in lines:
        before, _, after = line.partition(b" - ")
        place = _OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), before.split()[4])
        if after.split()[0] == b"proc" and not (place + b"/").startswith(b"/proc/"):
            found.append(place)
    return found
