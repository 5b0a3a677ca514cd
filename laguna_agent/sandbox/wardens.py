"""This side of the walls: starting wardens, and asking them for processes.

Knows sockets, descriptors and what a warden answers (`warden/`); must not know how the walls are put up.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.archive import warden_archive
from laguna_agent.sandbox.warden.starting import BORN, ENDED, FAILED, REPORT, RUNNING
from laguna_agent.sandbox.warden.walls import Rules

PATIENCE = 30.0
"""Seconds that a warden may take to get ready, or to start a process, on a very busy machine."""
_END_PATIENCE = 8.0
_KILLED = -9
_TRIES = 3
_CREDENTIALS = struct.Struct("=iII")
_PACKAGE = str(Path(__file__).parent)
_START = "import sys; sys.path.append({path!r}); from warden.{module} import main; main()"


class Recipe(msgspec.Struct, frozen=True):
    """How to put up one warden: the words before the interpreter's own (empty where nothing is started around it), the
    rules it is told, and what to do when it has ended."""

    wrapper: tuple[str, ...]
    rules: Rules
    ended: Callable[[], None] = lambda: None


class WardenGone(Exception):
    """The warden ended before it had started the process."""


class Warden:
    """One running warden."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._over = threading.Event()
        self._error: Exception | None = None
        self._closed = False
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the warden
        # The kernel ends a wrapper with the thread that started it: that must be one that lives as long.
        self._keeper = threading.Thread(target=self._keep, args=(theirs,), name="warden", daemon=True)
        self._keeper.start()
        self._started.wait()
        try:
            self.landlock = self._put_up()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._over.is_set() and not self._closed

    def _keep(self, theirs: socket.socket) -> None:
        try:
            self._run(theirs)
        except OSError as error:
            self._error = error
        finally:
            theirs.close()
            self._started.set()
        if self._process is not None:
            self._process.wait()
        self._over.set()
        self._recipe.ended()

    def _run(self, theirs: socket.socket) -> None:
        archive = _file_of(warden_archive())
        descriptors = (theirs.fileno(), archive.fileno())
        # A file without a name, so that nobody can have changed it; where there is no such path, the package itself.
        place = f"/proc/self/fd/{archive.fileno()}" if sys.platform == "linux" else _PACKAGE
        try:
            self._process = subprocess.Popen(
                [*self._recipe.wrapper, *interpreter("serving", place), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                pass_fds=descriptors,
                start_new_session=True,
            )
        finally:
            archive.close()

    def _put_up(self) -> int:
        """Tell the rules; the Landlock ABI in force. Raises SandboxError with the warden's or the wrapper's words."""
        try:
            if self._error is not None:
                raise self._error
            self._send(self._recipe.rules)
            with self._control.makefile("rb") as lines:
                answer = lines.readline()
        except OSError as error:
            raise SandboxError(f"the sandbox cannot be started: {self._said() or error}") from error
        if not answer:
            raise SandboxError(f"the sandbox cannot be started: {self._said() or 'it ended at once, without a word'}")
        told: dict[str, Any] = json.loads(answer)
        if "error" in told:
            raise SandboxError(f"the sandbox cannot be put up: {told['error']}")
        return int(told["landlock"])

    def _said(self) -> str:
        """The last thing that went to standard error, in one line."""
        self._over.wait(1.0)
        self._words.seek(0)
        return " ".join(self._words.read(4096).decode(errors="replace").strip().splitlines()[-1:])

    def start(self, request: dict[str, Any], stdio: Sequence[int]) -> WardedChild:
        """Raises WardenGone, OSError and SandboxError."""
        ours, theirs = socket.socketpair()
        try:
            if sys.platform == "linux":
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.settimeout(PATIENCE)
            try:
                self._send(request, *stdio, theirs.fileno())
            except (BrokenPipeError, ConnectionError) as error:
                raise WardenGone from error
            except TimeoutError as error:
                raise SandboxError(f"the sandbox does not answer within {PATIENCE:g} s") from error
            finally:
                theirs.close()
            return _await_start(ours, request["argv"][0])
        except BaseException:
            ours.close()
            raise

    def _send(self, content: Any, *descriptors: int) -> None:
        with _file_of(json.dumps(content).encode()) as file, self._lock:
            socket.send_fds(self._control, [b"!"], [file.fileno(), *descriptors])

    def close(self) -> None:
        """End it and everything that it started; once or several times."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._over.wait(_END_PATIENCE) and self._process is not None:
            self._process.kill()
            self._over.wait(_END_PATIENCE)
        self._keeper.join(_END_PATIENCE)
        self._control.close()
        self._words.close()


def put_up(recipe: Callable[[], Recipe]) -> Warden:
    """A new warden. What was looked at for its recipe may be gone when it is mounted (a socket, a repository), so
    that is looked at anew a few times. Raises SandboxError."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(SandboxError):
            return Warden(recipe())
    return Warden(recipe())


class WardedChild:
    """A process that a warden started, by the socket on which its end is reported."""

    def __init__(self, reports: socket.socket, pid: int) -> None:
        self._reports: socket.socket | None = reports
        self._pid = pid
        self._exit_code: int | None = None
        self._lock = threading.Lock()
        reports.setblocking(False)

    @property
    def pid(self) -> int:
        """Its id as this process sees it."""
        return self._pid

    @property
    def watch(self) -> int | None:
        """Readable when it ends."""
        return self._reports.fileno() if self._reports is not None else None

    def poll(self) -> int | None:
        """Its exit code; -9 where the warden was killed, and so all that it had started."""
        with self._lock:
            if self._exit_code is None and self._reports is not None:
                self._exit_code = _read_end(self._reports)
            return self._exit_code

    def close(self) -> None:
        """Give the socket back."""
        with self._lock:
            reports, self._reports = self._reports, None
            if reports is not None:
                reports.close()


def _read_end(reports: socket.socket) -> int | None:
    try:
        data = reports.recv(REPORT.size)
    except BlockingIOError:
        return None
    except ConnectionError:
        data = b""
    what, number = REPORT.unpack(data) if len(data) == REPORT.size else (ENDED, _KILLED)
    return number if what == ENDED else _KILLED


def interpreter(module: str, place: str = _PACKAGE) -> tuple[str, ...]:
    """The words that run a module of the package `warden`, from a directory or an archive: this Python without site
    packages, environment or current directory. The real file, not a link: a virtual environment may lie in a
    workspace."""
    code = _START.format(path=place, module=module)
    return (os.path.realpath(sys.executable), "-I", "-S", "-X", "utf8", "-c", code)


def _await_start(reports: socket.socket, program: str) -> WardedChild:
    """Read reports until the program runs."""
    pid = 0
    while True:
        try:
            data, ancillary, _, _ = reports.recvmsg(REPORT.size, socket.CMSG_SPACE(_CREDENTIALS.size))
        except TimeoutError as error:
            raise SandboxError(f"the sandbox did not start {program} within {PATIENCE:g} s") from error
        except ConnectionError:
            data, ancillary = b"", []
        if len(data) < REPORT.size:
            if pid:
                # It may have run, and have killed the warden itself: it counts as killed, and is never run twice.
                return WardedChild(reports, pid)
            raise WardenGone
        what, number = REPORT.unpack(data)
        if what == FAILED:
            raise OSError(number, os.strerror(number), program)
        if what == BORN:
            # The kernel says who sent it, by the id that this process knows; the child itself may live in a namespace.
            pid = next((_CREDENTIALS.unpack(each)[0] for _, _, each in ancillary), number)
        elif what == RUNNING:
            return WardedChild(reports, pid)


def as_request(argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """What to ask a warden. Raises OSError for what no program could be given."""
    texts = [*argv, str(cwd), *environment, *environment.values()]
    if not argv or any("\0" in text for text in texts) or any("=" in name or not name for name in environment):
        raise OSError(22, "no argument, or a NUL in one, or an '=' in the name of a variable", *argv[:1])
    return {
        "argv": [_portable(each) for each in argv],
        "environment": {_portable(name): _portable(value) for name, value in environment.items()},
        "cwd": _portable(str(cwd)),
    }


def _portable(text: str) -> str:
    """The warden reads texts as UTF-8, whatever this process's locale says."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def _file_of(data: bytes) -> BinaryIO:
    """A file without a name: an environment can be larger than what a socket takes at once."""
    file: BinaryIO
    if sys.platform == "linux":
        file = os.fdopen(os.memfd_create("request"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
    try:
        file.write(data)
        file.flush()
    except OSError:
        # What is left in the buffer would fail again, later and elsewhere.
        with contextlib.suppress(OSError):
            file.close()
        raise
    return file
