"""The one way in which a command that the model chose becomes processes, and in which they all end.

Knows shells, process groups, output and time; it must not know tools, permissions or the model, nor how a
`Confinement` puts up its walls. Where one cannot, the command does not run.

A command runs in a session of its own with stdin closed and a filtered environment. One thread per running command
copies its output, so the output flows whatever the event loop does, and a pipe that a grandchild keeps open blocks
nobody. When a command is cancelled, timed out or ended, everything it started is found (see `processes`) and gets TERM,
then KILL two seconds later. When it ends by itself, what is left in its process group goes the same way; a daemon that
has made a session of its own is taken to be meant, and stays as long as the program does.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import secrets
import selectors
import shutil
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, Protocol

import anyio
import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.sandbox import processes
from laguna_agent.sandbox.confinement import Child, Confinement, Kind
from laguna_agent.sandbox.output import Capture
from laguna_agent.sandbox.shells import start_shell
from laguna_agent.sandbox.unconfined import Unconfined
from laguna_agent.sandbox.walls import Walls
from laguna_agent.sandbox.watch import Watch

GRACE = 2.0
"""Seconds between TERM and KILL."""
MAX_JOBS = 32
"""Background jobs that may run at once, and ended ones that are remembered."""
_GIVE_UP = 5.0
"""Seconds after KILL when a process that the kernel will not let die is abandoned."""
_TOLD = 5.0
"""Seconds in which a warden, which may have to wait for a processor, tells that a process has ended."""
_LINGER = 0.5
"""Seconds that what a command left in its group may take to end by itself."""
_LIVE_CAP = 64 * 1024
"""Characters of live output that wait for a slow reader; the oldest are dropped, from the live view only."""


class Output(Protocol):
    """What a command wrote, however it is kept."""

    def text(self, cap: int) -> str:
        """All of it in at most about `cap` characters, cleaned of escape sequences; else the beginning and end."""
        ...


class CommandResult(msgspec.Struct, frozen=True):
    """What a command gave so far.

    `exit_code` is None while it runs, 128 + n after signal n. `strays` counts processes that it left in its group,
    which were ended.
    """

    output: Output
    exit_code: int | None
    seconds: float
    timed_out: bool = False
    strays: int = 0
    sandbox: str = "none"
    """The tier that confined it, and the kind where that is not the usual one: `bubblewrap, network`."""
    restored: tuple[str, ...] = ()
    """Protected files that it changed and that were put back, one line each."""


Granted = Literal[Kind, "unconfined"]
"""What a command may reach: see `Kind`; "unconfined" is whatever the person may, by their own word."""


class RunningCommand:
    """A command and the thread that serves it."""

    def __init__(
        self,
        id: str,
        command: str,
        cwd: Path,
        spool: Path,
        walls: Walls | None,
        confinement: Confinement,
        kind: Kind = "workspace",
    ) -> None:
        self.id = id
        self.command = command
        tier = walls.tier if walls else "none"
        self.sandbox = tier if kind == "workspace" or tier == "none" else f"{tier}, {kind}"
        self._watch: Watch | None = walls.watch if walls else None
        self._restored: tuple[str, ...] = ()
        self._capture = Capture(spool)
        self._live = ""
        self._lock = threading.Lock()
        self._waiting = anyio.Lock()
        self._exit_code: int | None = None
        self._strays = 0
        self._started = time.monotonic()
        self._ended: float | None = None
        self._mark = secrets.token_hex(8)
        self._output, writer = os.pipe()
        self._news, self._tell = os.pipe()
        self._stop, self._order = os.pipe()
        for each in (self._output, self._news, self._tell):
            os.set_blocking(each, False)
        try:
            if self._watch is not None:
                self._watch.begin(id)
            self._process: Child = start_shell(command, cwd, writer, self._mark, walls, confinement, kind)
        except BaseException:
            for each in (self._output, self._news, self._tell, self._stop, self._order):
                os.close(each)
            if self._watch is not None:
                self._watch.end(id)
            raise
        finally:
            os.close(writer)
        self._thread = threading.Thread(target=self._serve, name=f"command {id}", daemon=True)
        self._thread.start()

    @property
    def result(self) -> CommandResult:
        """What it has given so far."""
        return self._result(timed_out=False)

    async def follow(self, timeout: float, emit: Callable[[str], Awaitable[None]] | None) -> CommandResult:
        """Wait for the end, handing live output to `emit`; ended by force after `timeout` seconds or when cancelled."""
        try:
            with anyio.move_on_after(timeout) as scope:
                while await self._wait_for_news():
                    if emit is not None and (text := self._take_live()):
                        await emit(text)
        finally:
            await self.end()
        if emit is not None and (text := self._take_live()):
            await emit(text)
        return self._result(timed_out=scope.cancelled_caught)

    async def wait(self, timeout: float) -> None:
        """Wait for the end, at most `timeout` seconds."""
        with anyio.move_on_after(timeout):
            async with self._waiting:
                while await self._wait_for_news():
                    pass

    async def end(self) -> None:
        """Stop it and everything it started; returns when they are gone, whatever happens to the caller."""
        self.order_end()
        with anyio.CancelScope(shield=True):
            await self.wait(math.inf)

    def order_end(self) -> None:
        """Have the thread end the command; returns at once."""
        with self._lock:
            # The mark first: closing wakes the thread, which looks at it.
            order, self._order = self._order, -1
            if order >= 0:
                os.close(order)

    def join(self, timeout: float) -> None:
        """Wait for the end, blocking; for the interpreter's own end."""
        self._thread.join(timeout)

    def _result(self, *, timed_out: bool) -> CommandResult:
        seconds = (self._ended or time.monotonic()) - self._started
        return CommandResult(
            self._capture, self._exit_code, seconds, timed_out, self._strays, self.sandbox, self._restored
        )

    async def _wait_for_news(self) -> bool:
        """Wait until there is live output; False when the command has ended."""
        if self._news < 0:
            return False
        await anyio.wait_readable(self._news)
        if self._news >= 0 and os.read(self._news, 4096):
            return True
        self.forget()
        return False

    def forget(self) -> None:
        """Nobody will wait for it any more."""
        news, self._news = self._news, -1
        if news >= 0:
            os.close(news)

    def _take_live(self) -> str:
        with self._lock:
            text, self._live = self._live, ""
        return text

    # What follows runs in the command's own thread.

    def _serve(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._output, selectors.EVENT_READ)
                selector.register(self._stop, selectors.EVENT_READ)
                if self._process.watch is not None:
                    selector.register(self._process.watch, selectors.EVENT_READ)
                self._copy_to_the_end(selector, self._process.watch)
            with selectors.DefaultSelector() as selector:
                selector.register(self._output, selectors.EVENT_READ)
                self._sweep(selector)
            # A pipe holds no more than 1 MiB; a surviving daemon may write for ever.
            for _ in range(16):
                if not self._read():
                    break
        finally:
            self._finish()

    def _copy_to_the_end(self, selector: selectors.BaseSelector, watch: int | None) -> None:
        """Copy output until the shell has ended or an order to stop comes."""
        while self._process.poll() is None:
            # With no descriptor that tells of the exit, ask every now and then.
            for key, _ in selector.select(None if watch is not None else 0.05):
                if key.fd == self._stop:
                    return
                if key.fd == self._output and self._read() == b"":
                    selector.unregister(self._output)

    def _sweep(self, selector: selectors.BaseSelector) -> None:
        """After an order end everything, else what is left in the group; meanwhile its output still flows."""
        ordered = self._order < 0
        leader = self._process.pid
        # Where protected files are only looked after, nothing may stay that could write them after the look.
        group_only = not ordered and self.sandbox.partition(",")[0] != "landlock"
        remaining = processes.members(leader, self._mark, group_only=group_only)
        steps = [(signal.SIGTERM, GRACE), (signal.SIGKILL, _GIVE_UP)]
        # The tee of a `> >(tee log)` lives a moment longer than the shell, and is about to end by itself.
        for number, patience in steps if ordered else [(None, _LINGER), *steps]:
            deadline = time.monotonic() + patience
            told: set[int] = set()
            while remaining and time.monotonic() < deadline:
                if number is not None:
                    processes.send(remaining - told, number)
                    self._strays = max(self._strays, 0 if ordered else len(remaining))
                    told |= remaining
                if selector.get_map() and selector.select(0.02):
                    if self._read() == b"":
                        selector.unregister(self._output)
                else:
                    time.sleep(0 if selector.get_map() else 0.02)
                self._process.poll()
                remaining = processes.members(leader, self._mark, group_only=group_only)

    def _read(self) -> bytes | None:
        """Copy what is there: empty at the end of the pipe, None when there is nothing yet."""
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return None
        if data:
            self._announce(self._capture.feed(data))
        return data

    def _announce(self, text: str) -> None:
        with self._lock:
            self._live = (self._live + text)[-_LIVE_CAP:]
        # A full pipe already holds news enough.
        with contextlib.suppress(BlockingIOError):
            os.write(self._tell, b".")

    def _finish(self) -> None:
        self._announce(self._capture.close())
        code = self._code()
        if self._watch is not None:
            self._restored = self._watch.end(self.id)
        self._ended = time.monotonic()
        self._exit_code = code if code >= 0 else 128 - code
        self.order_end()
        self._process.close()
        for each in (self._output, self._stop, self._tell):
            os.close(each)

    def _code(self) -> int:
        """Its exit code, negative for a signal. A warden tells of an end a moment after it. What is still alive after
        KILL, because the kernel does not let it go, counts as killed."""
        deadline = time.monotonic() + _TOLD
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            if processes.members(self._process.pid, self._mark, group_only=True):
                break
            time.sleep(0.005)
        return -signal.SIGKILL if code is None else code


class Launcher:
    """Starts commands and knows those in the background. `spool` is the directory for long output; without `walls`
    nothing confines a command."""

    def __init__(self, spool: Path | None, walls: Walls | None = None) -> None:
        self.walls = walls
        self.spool = spool if spool is None else Path(os.path.realpath(spool))
        self.jobs: dict[str, RunningCommand] = {}
        self._temporary = spool is None
        self._count = 0
        self._lock = threading.Lock()
        self._unconfined: Unconfined | None = None

    async def run(
        self,
        command: str,
        cwd: Path,
        *,
        timeout: float,
        emit: Callable[[str], Awaitable[None]] | None,
        kind: Granted = "workspace",
    ) -> CommandResult:
        """Run to the end. ToolError when it cannot be started at all, SandboxError when the walls do not stand."""
        # The first of a kind puts up its walls, which takes a moment.
        running = await anyio.to_thread.run_sync(self._begin, "command", command, cwd, kind)
        return await running.follow(timeout, emit)

    def start(self, command: str, cwd: Path, kind: Granted = "workspace") -> RunningCommand:
        """Start in the background; blocking. ToolError when it cannot be started, or too many are running,
        SandboxError when the walls do not stand."""
        ended = [job for job in self.jobs.values() if job.result.exit_code is not None]
        if len(self.jobs) - len(ended) >= MAX_JOBS:
            raise ToolError(f"{MAX_JOBS} background jobs are running; kill one first.")
        for job in ended[:-MAX_JOBS]:
            del self.jobs[job.id]
            job.forget()
        job = self._begin("job", command, cwd, kind)
        self.jobs[job.id] = job
        return job

    async def aclose(self) -> None:
        """End the background jobs; remove the spool directory if it was a temporary one."""
        for job in self.jobs.values():
            job.order_end()
        for job in self.jobs.values():
            await job.end()
        if self._unconfined is not None:
            await anyio.to_thread.run_sync(self._unconfined.close)
            self._unconfined = None
        if self._temporary and self.spool is not None:
            shutil.rmtree(self.spool, ignore_errors=True)
            self.spool = None

    def place(self, kind: str) -> tuple[str, Path]:
        """An id for a command, and the file for its output."""
        if self.spool is None:
            self.spool = Path(os.path.realpath(tempfile.mkdtemp(prefix="laguna-agent-")))
        self._count += 1
        # A resumed session finds the output of its earlier commands there.
        while (self.spool / f"{kind}-{self._count}.log").exists():
            self._count += 1
        id = f"{kind}-{self._count}"
        return id, self.spool / f"{id}.log"

    def _without_walls(self) -> Unconfined:
        with self._lock:
            self._unconfined = self._unconfined or Unconfined()
            return self._unconfined

    def _begin(self, role: str, command: str, cwd: Path, granted: Granted) -> RunningCommand:
        # Walls may still hold a directory that is gone; what is done there, nobody sees.
        if not cwd.is_dir():
            raise ToolError(f"The command could not be started: the directory {cwd} is gone.")
        id, spool = self.place(role)
        kind: Kind = "workspace" if granted == "unconfined" else granted
        walls = None if granted == "unconfined" else self.walls
        try:
            confinement = walls.confinement if walls else self._without_walls()
            running = RunningCommand(id, command, cwd, spool, walls, confinement, kind)
        except (OSError, ValueError) as error:
            raise ToolError(f"The command could not be started: {error}.") from error
        _alive.add(running)
        return running


_alive: weakref.WeakSet[RunningCommand] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """No command outlives the program, even when nobody closed the workspace."""
    running = [each for each in _alive if each.result.exit_code is None]
    for each in running:
        each.order_end()
    for each in running:
        each.join(GRACE + 1)
