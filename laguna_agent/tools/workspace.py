"""The place tools act on: files under one root, and commands run there.

`Workspace` is the whole contract: `LocalWorkspace` fulfils it with the disk and the launcher, an editor's workspace
with its own calls. It knows paths, bytes and processes; it must not know the model, the tools' arguments, or who may
do what (a tool states its needs, the session decides). Every method raises ToolError with a line meant for the model.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import anyio.to_thread
import msgspec

from laguna_agent.atomic import replacing
from laguna_agent.errors import ToolError
from laguna_agent.sandbox.launcher import CommandResult, Granted, Launcher
from laguna_agent.sandbox.output import Capture
from laguna_agent.sandbox.walls import Walls
from laguna_agent.tools.footprint import Change

Listener = Callable[[str], Awaitable[None]]
Scope = Literal["workspace", "spool", "outside"]
EntryKind = Literal["file", "directory", "symlink", "other"]


class Place(msgspec.Struct, frozen=True):
    """Where a path leads once every symlink on the way is followed.

    `shown` is how people and models name it: relative to the root where it lies inside, else absolute. Scope "spool" is
    the kept output of commands: outside the root, but the model's own.
    """

    path: Path
    shown: str
    scope: Scope

    @property
    def outside(self) -> bool:
        """Whether reaching it leaves both the workspace and the kept output."""
        return self.scope == "outside"


class Entry(msgspec.Struct, frozen=True):
    """One file or directory; `size` is in bytes. Kind "other" is a FIFO, socket or device: never opened."""

    name: str
    kind: EntryKind
    size: int = 0


class Job(Protocol):
    """A command running in the background."""

    id: str
    command: str

    @property
    def result(self) -> CommandResult:
        """What it has given so far; `exit_code` is None while it runs."""
        ...

    async def wait(self, timeout: float) -> None:
        """Wait for its end, at most `timeout` seconds."""
        ...

    async def end(self) -> None:
        """Stop it and everything it started: TERM, two seconds, KILL. Does nothing when it has ended."""
        ...


class Workspace(Protocol):
    """A root directory with its files and commands; `sandbox` names what confines the commands ("none").

    `roots` are further directories that belong to it.
    """

    root: Path
    roots: tuple[Path, ...]
    sandbox: str

    def resolve(self, path: str) -> Place:
        """Follow `path` (absolute, or relative to the root) to its place; the file need not exist."""
        ...

    async def entry(self, path: Path) -> Entry | None:
        """What lies at a resolved path; None where nothing does."""
        ...

    async def list(self, path: Path) -> list[Entry]:
        """The entries of a directory, by name."""
        ...

    async def read_bytes(self, path: Path, limit: int) -> bytes:
        """A regular file's bytes; refuses anything longer than `limit`, and anything but a regular file."""
        ...

    async def write_bytes(self, path: Path, data: bytes) -> None:
        """Replace or create a file, whole or not at all; makes parent directories and keeps an old file's mode."""
        ...

    async def run(
        self,
        command: str,
        *,
        timeout: float,
        emit: Listener | None = None,
        on_terminal: Listener | None = None,
        kind: Granted = "workspace",
    ) -> CommandResult:
        """Run a shell command at the root to its end, at most `timeout` seconds. Being cancelled leaves no process.

        `kind` is what it may reach. Raises SandboxError where it cannot be confined as meant. `emit` is given live
        output; where a face shows that itself, `on_terminal` is given the terminal's id instead.
        """
        ...

    async def follow(self, changes: Sequence[Change]) -> Sequence[str]:
        """A command changed these files on disk; lines for the model on those where that needs its attention."""
        ...

    async def start(self, command: str, kind: Granted = "workspace") -> Job:
        """Start a shell command in the background. Raises SandboxError as `run` does."""
        ...

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every background command of this workspace, ended ones too, by id."""
        ...

    async def aclose(self) -> None:
        """End all background commands."""
        ...


class LocalWorkspace:
    """The workspace on this machine's disk.

    `spool` is where long command output is kept (a fresh temporary directory, removed by `aclose`, when not given).
    Commands run behind `walls`; where none are given, as in a replay, `sandbox` is what they are said to be.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        spool: Path | None = None,
        roots: tuple[Path, ...] = (),
        walls: Walls | None = None,
        sandbox: str = "none",
    ) -> None:
        self.root = Path(os.path.realpath(root))
        self.roots = tuple(Path(os.path.realpath(each)) for each in roots)
        self.sandbox: str = walls.tier if walls else sandbox
        self._launcher = Launcher(spool, walls)

    def resolve(self, path: str) -> Place:
        if "\0" in path:
            raise ToolError("The path holds a NUL character.")
        try:
            wanted = self.root / Path(path.strip() or ".").expanduser()
        except RuntimeError:
            raise ToolError(f"Cannot resolve {path!r}: no such home directory.") from None
        real = Path(os.path.realpath(wanted))
        if real.is_relative_to(self.root):
            return Place(real, real.relative_to(self.root).as_posix(), "workspace")
        if any(real.is_relative_to(root) for root in self.roots):
            return Place(real, str(real), "workspace")
        spooled = self._launcher.spool is not None and real.is_relative_to(self._launcher.spool)
        return Place(real, str(real), "spool" if spooled else "outside")

    async def entry(self, path: Path) -> Entry | None:
        return await anyio.to_thread.run_sync(_entry, path)

    async def list(self, path: Path) -> list[Entry]:
        def scan() -> list[Entry]:
            with os.scandir(path) as found:
                return sorted((_scanned(item) for item in found), key=lambda entry: entry.name)

        try:
            return await anyio.to_thread.run_sync(scan)
        except OSError as error:
            raise _refusal("list", path, error) from error

    async def read_bytes(self, path: Path, limit: int) -> bytes:
        try:
            return await anyio.to_thread.run_sync(_read, path, limit)
        except OSError as error:
            raise _refusal("read", path, error) from error

    async def write_bytes(self, path: Path, data: bytes) -> None:
        try:
            await anyio.to_thread.run_sync(_write, path, data)
        except OSError as error:
            raise _refusal("write", path, error) from error

    async def run(
        self,
        command: str,
        *,
        timeout: float,
        emit: Listener | None = None,
        on_terminal: Listener | None = None,
        kind: Granted = "workspace",
    ) -> CommandResult:
        return await self._launcher.run(command, self.root, timeout=timeout, emit=emit, kind=kind)

    async def follow(self, changes: Sequence[Change]) -> Sequence[str]:
        return []

    async def require_writable(self, path: Path) -> None:
        """Make the parent directories; ToolError where `write_bytes` could not replace what lies at `path`."""
        try:
            await anyio.to_thread.run_sync(_prepare, path)
        except OSError as error:
            raise _refusal("write", path, error) from error

    def capture(self) -> Capture:
        """Where the output of a command is kept that something else runs; read as that of `run`."""
        return Capture(self._launcher.place("command")[1])

    async def start(self, command: str, kind: Granted = "workspace") -> Job:
        return await anyio.to_thread.run_sync(self._launcher.start, command, self.root, kind)

    @property
    def jobs(self) -> Mapping[str, Job]:
        return self._launcher.jobs

    async def aclose(self) -> None:
        await self._launcher.aclose()


def _refusal(verb: str, path: Path, error: OSError) -> ToolError:
    return ToolError(f"Cannot {verb} {path}: {error.strerror or error}.")


def _entry(path: Path) -> Entry | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal("look at", path, error) from error
    return Entry(path.name, _kind(found.st_mode), found.st_size)


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "other"


def _scanned(item: os.DirEntry[str]) -> Entry:
    try:
        found = item.stat(follow_symlinks=False)
    except OSError:
        return Entry(item.name, "other")
    return Entry(item.name, "symlink" if item.is_symlink() else _kind(found.st_mode), found.st_size)


def _read(path: Path, limit: int) -> bytes:
    # O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ToolError(f"{path} is not a regular file.")
        # Files of /proc report size 0, so the length that counts is the one that was read.
        data = b"" if found.st_size > limit else file.read(limit + 1)
        if found.st_size > limit or len(data) > limit:
            size = max(found.st_size, len(data))
            raise ToolError(f"{path} has {size:,} bytes, more than the {limit:,} that can be read at once.")
        return data


def _prepare(path: Path) -> os.stat_result | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if old is not None:
        if not stat.S_ISREG(old.st_mode):
            raise ToolError(f"{path} is not a regular file.")
        if not os.access(path, os.W_OK):
            raise ToolError(f"{path} is read-only.")
    return old


def _outdate_bytecode(handle: int, old: os.stat_result) -> None:
    """Python takes a cached module for current while the source's size and whole seconds are the same, so a change as
    long as what it replaces, within the second, would not be seen by the next run of a check."""
    new = os.fstat(handle)
    if int(new.st_mtime) <= int(old.st_mtime):
        os.utime(handle, (new.st_atime, int(old.st_mtime) + 1))


def _write(path: Path, data: bytes) -> None:
    old = _prepare(path)
    with replacing(path) as file:
        if old is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
        file.write(data)
        file.flush()
        if old is not None and path.suffix == ".py":
            _outdate_bytecode(file.fileno(), old)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
