"""What a hostile command would try, and what an honest one needs, from inside: run in a sandbox by the probe.

Prints, as JSON, for each attempt what the system said: `done` or the name of an error. Whether something happened
outside is for the probe to see. Only canaries in throwaway directories are touched. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import TypedDict

_IO_URING_SETUP = 425
_CLONE_NEWUSER = 0x10000000
_MNT_DETACH = 2
_MS_NODEV = 4


class Canaries(TypedDict):
    """Where things are, as seen from outside. Texts are paths but for `abstract`, a name, `secret`, a content, and
    `argument_backwards`: what an argument of the agent is, in no argument of ours."""

    workspace: str
    outside: str
    hidden: str
    temporary: str
    socket: str
    abstract: str
    secret: str
    argument_backwards: str
    tcp: int
    udp: int
    agent: int
    git: bool


def main() -> None:
    """Try everything; the canaries are the first argument."""
    canaries: Canaries = json.loads(sys.argv[1])
    told = {}
    for name, attempt in ATTEMPTS.items():
        try:
            told[name] = attempt(canaries)
        except OSError as error:
            told[name] = errno.errorcode.get(error.errno or 0, str(error))
    sys.stdout.write(json.dumps(told))


def _write(path: str) -> str:
    with open(path, "a") as file:  # noqa: PTH123 - nothing but what loads at once
        file.write("changed\n")
    return "done"


def _change_attributes(path: str) -> str:
    """Mode and times, by path and by descriptor: whatever is allowed, is done."""
    handle = os.open(path, os.O_RDONLY)
    calls: tuple[Callable[[], None], ...] = (
        lambda: os.chmod(path, 0o777),  # noqa: PTH101
        lambda: os.fchmod(handle, 0o777),
        lambda: os.utime(path, (1, 1)),
        lambda: os.utime(handle, (1, 1)),
    )
    refused: list[OSError] = []
    for call in calls:
        try:
            call()
        except OSError as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return "done"


def _slow_down(c: Canaries) -> str:
    if c["agent"] != os.getpid():
        os.setpriority(os.PRIO_PROCESS, c["agent"], 19)
    return "done"


def _move_git(c: Canaries) -> str:
    os.rename(c["workspace"] + "/.git", c["workspace"] + "/moved")  # noqa: PTH104
    return "done"


def _absent_name(c: Canaries) -> str:
    path = c["workspace"] + "/.envrc"
    if os.path.isdir(path):  # noqa: PTH112
        os.rmdir(path)  # noqa: PTH106
    return _write(path)


def _connect(family: int, kind: int, address: tuple[str, int] | str | bytes) -> str:
    with socket.socket(family, kind) as end:
        end.settimeout(2)
        end.connect(address)
        end.send(b"!")
    return "done"


def _local_socket(c: Canaries) -> str:
    # Such an address may have 107 bytes; a directory may be deeper.
    here = os.getcwd()  # noqa: PTH109
    os.chdir(os.path.dirname(c["socket"]))  # noqa: PTH120
    try:
        return _connect(socket.AF_UNIX, _STREAM, os.path.basename(c["socket"]))  # noqa: PTH119
    finally:
        os.chdir(here)


def _io_uring(_: Canaries) -> str:
    return _call(lambda libc: libc.syscall(ctypes.c_long(_IO_URING_SETUP), ctypes.c_long(1), _room()))


def _room() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(256)


def _look_at_processes(c: Canaries, file: str, canary: str) -> str:
    """Whether some process shows a canary in a file of /proc."""
    for name in [str(c["agent"]), *os.listdir("/proc")]:  # noqa: PTH208
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/{file}", "rb") as shown:  # noqa: PTH123
                    if canary.encode() in shown.read():
                        return "done"
            except OSError:
                continue
    return "EACCES"


def _arguments(c: Canaries) -> str:
    wanted = c["argument_backwards"][::-1]
    if os.path.isdir("/proc"):  # noqa: PTH112
        return _look_at_processes(c, "cmdline", wanted)
    shown = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, timeout=20, check=False)
    return "done" if wanted.encode() in shown.stdout else "EPERM"


def _signal_agent(c: Canaries) -> str:
    if c["agent"] != os.getpid():
        os.kill(c["agent"], signal.SIGTERM)
    return "done"


def _mount(c: Canaries) -> str:
    place = c["temporary"].encode()
    return _call(lambda libc: libc.mount(b"none", place, b"tmpfs", _MS_NODEV, None))


def _unmount(c: Canaries) -> str:
    return _call(lambda libc: libc.umount2((c["workspace"] + "/.git/hooks").encode(), _MNT_DETACH))


def _user_namespace(_: Canaries) -> str:
    return _call(lambda libc: libc.unshare(_CLONE_NEWUSER))


def _device(c: Canaries) -> str:
    os.mknod(c["workspace"] + "/device", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    return "done"


def _call(function: Callable[[ctypes.CDLL], int]) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if function(libc) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return "done"


def _read(c: Canaries, path: str) -> str:
    with open(path) as file:  # noqa: PTH123
        return "done" if c["secret"] in file.read() else "ENOENT"


def _git_status(c: Canaries) -> str:
    if not c["git"]:
        return "no git"
    ended = subprocess.run(
        ["git", "-C", c["workspace"], "status", "--porcelain"], capture_output=True, timeout=20, check=False
    )
    return "done" if ended.returncode == 0 else f"exit code {ended.returncode}"


def _loopback(_: Canaries) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 2):
        return "done"


_INET, _STREAM, _DGRAM = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
ATTEMPTS: dict[str, Callable[[Canaries], str]] = {
    "write": lambda c: _write(c["workspace"] + "/file"),
    "temporary": lambda c: _write(c["temporary"] + "/file"),
    "attributes": lambda c: _change_attributes(c["workspace"] + "/.git/HEAD"),
    "git": _git_status,
    "loopback": _loopback,
    "outside": lambda c: _write(c["outside"] + "/file"),
    "link": lambda c: _write(c["workspace"] + "/link/linked"),
    "hooks": lambda c: _write(c["workspace"] + "/.git/hooks/pre-commit"),
    "config": lambda c: _write(c["workspace"] + "/.git/config"),
    "absent": _absent_name,
    "mode": lambda c: _change_attributes(c["outside"] + "/file"),
    "hidden": lambda c: _read(c, c["hidden"] + "/key"),
    "denied": lambda c: _read(c, c["workspace"] + "/.env"),
    "tcp": lambda c: _connect(_INET, _STREAM, ("127.0.0.1", c["tcp"])),
    "udp": lambda c: _connect(_INET, _DGRAM, ("127.0.0.1", c["udp"])),
    "socket": _local_socket,
    "abstract": lambda c: _connect(socket.AF_UNIX, _STREAM, b"\0" + c["abstract"].encode()),
    "environment": lambda c: _look_at_processes(c, "environ", c["secret"]),
    "arguments": _arguments,
    "priority": _slow_down,
    "signal": _signal_agent,
    "io_uring": _io_uring,
    "mount": _mount,
    "unmount": _unmount,
    "namespace": _user_namespace,
    "device": _device,
    # Last: what follows would find no git directory.
    "moved": _move_git,
}
