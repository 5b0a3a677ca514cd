"""Run by tests, confined or not: every call that changes modes, owners or times of files, in every form of its path.

Arguments: a directory in which it may, one outside. Prints JSON: for each form what the system said and what the file
then was. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {
        "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "lchown": 94, "fchown": 93,
        "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
    },
    "aarch64": {"fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "utimensat": 88},
}[os.uname().machine]  # fmt: skip
CWD, NOFOLLOW, EMPTY = -100, 0x100, 0x1000
NONE = 0xFFFFFFFF
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


def call(name: str, *arguments: object) -> str:
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if LIBC.syscall(ctypes.c_long(NUMBERS[name]), *wide) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def nanoseconds(*numbers: int) -> bytes:
    return struct.pack("=qqqq", *numbers)


def forms(place: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and attempts, on `place`/file, `place`/link (to file) and `place`/folder."""
    path, link, folder = (os.path.join(place, name).encode() for name in ("file", "link", "folder"))
    at, opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY), os.open(path, os.O_RDONLY)
    relative = os.path.relpath(path, os.getcwdb())
    own = b"/proc/self/fd/%d" % opened
    me, group = os.getuid(), os.getgid()
    paths = {
        "path": path, "relative": relative, "link": link, "dots": place.encode() + b"/folder/../file", "folder": folder,
        "own": own, "dev": b"/dev/fd/%d" % opened, "number": b"/proc/%d/fd/%d" % (os.getpid(), opened),
        "none": place.encode() + b"/none",
        "slash": path + b"/", "empty": b"", "long": b"x" * 5000, "below": path + b"/file",
    }  # fmt: skip
    wild = ctypes.c_void_p(8)
    seconds = struct.pack("=qq", 1_000_000_001, 1_000_000_002)
    parts = struct.pack("=qqqq", 1_100_000_000, 123456, 1_100_000_001, 654321)
    exact = nanoseconds(1_200_000_000, 123456789, 1_200_000_001, 987654321)
    if "chmod" in NUMBERS:
        for name, each in paths.items():
            yield f"chmod {name}", lambda each=each: call("chmod", each, 0o751)  # type: ignore[misc]
        yield "chmod wild", lambda: call("chmod", wild, 0o700)
        yield "chown", lambda: call("chown", path, me, group)
        yield "chown to nobody", lambda: call("chown", path, 65534, NONE)
        yield "lchown link", lambda: call("lchown", link, me, group)
        yield "utime", lambda: call("utime", path, seconds)
        yield "utimes", lambda: call("utimes", path, parts)
        yield "utimes wrong", lambda: call("utimes", path, nanoseconds(1, 1_000_000, 1, 0))
        yield "futimesat", lambda: call("futimesat", at, b"file", parts)
        yield "futimesat descriptor", lambda: call("futimesat", opened, None, parts)
        yield "utimes wild", lambda: call("utimes", path, wild)
    for name, each in paths.items():
        yield f"fchmodat {name}", lambda each=each: call("fchmodat", CWD, each, 0o715)  # type: ignore[misc]
        yield f"fchmodat nowhere {name}", lambda each=each: call("fchmodat", 999, each, 0o714)  # type: ignore[misc]
        yield f"utimensat {name}", lambda each=each: call("utimensat", CWD, each, exact, 0)  # type: ignore[misc]
    yield from with_descriptors(at, opened, exact)


def with_descriptors(at: int, opened: int, exact: bytes) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and attempts, by the descriptors of a place and of its file."""
    me, group = os.getuid(), os.getgid()
    yield "fchmod", lambda: call("fchmod", opened, 0o711)
    yield "fchmod folder", lambda: call("fchmod", at, 0o755)
    yield "fchmod nothing", lambda: call("fchmod", 999, 0o711)
    yield "fchmod minus", lambda: call("fchmod", -1, 0o711)
    yield "fchmod bits", lambda: call("fchmod", opened, 0o106755)
    yield "fchmodat directory", lambda: call("fchmodat", at, b"file", 0o604)
    yield "fchmodat no directory", lambda: call("fchmodat", opened, b"file", 0o604)
    yield "fchmodat2 link", lambda: call("fchmodat2", at, b"link", 0o640, NOFOLLOW)
    yield "fchmodat2 file", lambda: call("fchmodat2", at, b"file", 0o641, NOFOLLOW)
    yield "fchmodat2 empty", lambda: call("fchmodat2", opened, b"", 0o642, EMPTY)
    yield "fchmodat2 flags", lambda: call("fchmodat2", at, b"file", 0o642, 0x8)
    yield "fchown", lambda: call("fchown", opened, NONE, group)
    yield "fchownat link", lambda: call("fchownat", at, b"link", me, NONE, NOFOLLOW)
    yield "fchownat empty", lambda: call("fchownat", opened, b"", me, NONE, EMPTY)
    yield "utimensat link", lambda: call("utimensat", at, b"link", exact, NOFOLLOW)
    yield "utimensat descriptor", lambda: call("utimensat", opened, None, exact, 0)
    yield "utimensat omit", lambda: call("utimensat", at, b"file", nanoseconds(0, OMIT, 1_300_000_000, 5), 0)
    yield "utimensat wrong", lambda: call("utimensat", at, b"file", nanoseconds(1, 2_000_000_000, 1, 1), 0)
    yield "utimensat now", lambda: call("utimensat", at, b"file", nanoseconds(0, NOW, 0, NOW), 0)
    yield "utimensat null", lambda: call("utimensat", at, b"file", None, 0)
    yield "utimensat flags", lambda: call("utimensat", at, b"file", exact, 0x8)


def strange(place: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Honest in the workspace, but only the caller itself can say what they mean."""
    paths = (b"/proc/self/cwd/file", b"/proc/self/root" + place.encode() + b"/file", b"/proc/self/fd/0/file")
    for path in paths:
        yield path.decode(), lambda path=path: call("fchmodat", CWD, path, 0o751)  # type: ignore[misc]
    yield "of a link in /proc", lambda: call("fchownat", CWD, b"/proc/self/cwd", NONE, NONE, NOFOLLOW)


def look(path: str) -> list[object]:
    """What may have changed; a time of today only as such."""
    found = os.lstat(path)
    return [
        oct(found.st_mode), found.st_uid, found.st_gid,
        *(each if each < 1_400_000_000 * 10**9 else "today" for each in (found.st_atime_ns, found.st_mtime_ns)),
    ]  # fmt: skip


def race(inside: str, outside: str, seconds: float) -> str:
    """One thread exchanges the path while another asks for a change of it."""
    one, other = (os.path.join(each, "file").encode() for each in (inside, outside))
    buffer = ctypes.create_string_buffer(max(len(one), len(other)) + 1)
    ends = threading.Event()

    def exchange() -> None:
        while not ends.is_set():
            ctypes.memmove(buffer, one + b"\0", len(one) + 1)
            ctypes.memmove(buffer, other + b"\0", len(other) + 1)

    thread = threading.Thread(target=exchange)
    thread.start()
    deadline, said = time.monotonic() + seconds, set()
    while time.monotonic() < deadline:
        said.add(call("fchmodat", CWD, buffer, 0o777))
    ends.set()
    thread.join()
    return " ".join(sorted(said))


def main() -> None:
    inside, outside, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    told: dict[str, object] = {}
    for name, attempt in forms(inside):
        said = attempt()
        told[name] = [said, *(look(f"{inside}/{each}") for each in ("file", "link", "folder"))]
    refused = {name: attempt() for name, attempt in forms(outside)}
    refused |= {name: attempt() for name, attempt in (*strange(outside), *strange(inside))}
    os.chdir(outside)
    refused["relative outside"] = call("fchmodat", CWD, b"file", 0o777)
    os.symlink(f"{outside}/file", f"{inside}/away")
    refused["link away"] = call("fchmodat", CWD, f"{inside}/away".encode(), 0o777)
    refused["dots away"] = call("fchmodat", CWD, f"{inside}/../outside/file".encode(), 0o777)
    readable, writable = os.pipe()
    anonymous = os.memfd_create("x")
    kept = [call("fchmod", each, 0o600) for each in (readable, writable, anonymous)]
    mode = stat.S_IMODE(os.fstat(anonymous).st_mode)
    raced = race(inside, outside, seconds) if seconds else ""
    sys.stdout.write(json.dumps({"told": told, "refused": refused, "kept": [*kept, oct(mode)], "raced": raced}))


main()
