"""The place tools act on: files under one root, and commands run there.

`Workspace` is the whole contract: `LocalWorkspace` fulfils it with the disk and the launcher, an editor's workspace
with its own calls. It knows paths, bytes and processes; it must not know the model, the tools' arguments, or who may
do what (a tool states its needs, the session decides). Every method raises ToolError with a line meant for the model.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.launcher import CommandResult, Granted, Launcher
from laguna_agent.sandbox.output import Capture
from laguna_agent.sandbox.policy import PROTECTED_NAMES, policy_for
from laguna_agent.sandbox.walls import Walls
from laguna_agent.tools.files import Entry, Files
from laguna_agent.tools.footprint import Change

Listener = Callable[[str], Awaitable[None]]
Scope = Literal["workspace", "temporary", "spool", "outside"]
PATH_CAP = 4096
"""Characters of the longest path; the kernel takes no longer one."""
_LINKS_CAP = 40
_SHARED_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


class Place(msgspec.Struct, frozen=True):
    """Where a path leads once every symlink on the way is followed.

    `shown` is how people and models name it: relative to the root where it lies inside, else absolute. Scope "spool" is
    the kept output of commands: outside the root, but the model's own; so is "temporary", what commands see as /tmp,
    shown under the name that it has for them. `protected` says that other programs obey what lies there, `hidden` that
    nobody is to see it; what is hidden is outside wherever it lies. `denied` says that the person denies reading it.
    """

    path: Path
    shown: str
    scope: Scope
    protected: bool = False
    hidden: bool = False
    denied: bool = False

    @property
    def outside(self) -> bool:
        """Whether reaching it leaves both the workspace and the kept output."""
        return self.scope == "outside"


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

    `roots` are further directories that belong to it. `files` is the disk itself, whatever an editor holds.
    """

    root: Path
    roots: tuple[Path, ...]
    sandbox: Tier
    files: Files

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
    Commands run behind `walls`, whose policy the files follow too; where none are given, as in a replay, `sandbox` is
    what they are said to be, and the policy is the one for these roots.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        spool: Path | None = None,
        roots: tuple[Path, ...] = (),
        walls: Walls | None = None,
        sandbox: Tier = "none",
    ) -> None:
        readable = [] if spool is None else [spool]
        self.policy = walls.policy if walls else policy_for(Path(root), roots, readable=readable)
        self.root, self.roots = self.policy.root, self.policy.roots
        self.files = Files(self.policy)
        self.sandbox: Tier = walls.tier if walls else sandbox
        self._launcher = Launcher(spool, walls)

    def resolve(self, path: str) -> Place:
        place = self._resolved(path)
        # By what it is called as well: a link may lead from a name that is denied to one that is not.
        named = Path(os.path.normpath(self.root / Path(path.strip()).expanduser()))
        if self.policy.is_denied(place.path) or self.policy.is_denied(named):
            return msgspec.structs.replace(place, denied=True)
        return place

    def _resolved(self, path: str) -> Place:
        _require_a_path(path)
        try:
            wanted = self.root / Path(path.strip() or ".").expanduser()
        except RuntimeError:
            raise ToolError(f"Cannot resolve {path!r}: no such home directory.") from None
        real = self._outside_name(Path(os.path.realpath(wanted)))
        private = self.policy.temporary
        if private is not None and real.is_relative_to(private):
            seen_at = _SHARED_TEMPORARY[0] if self.sandbox == "bubblewrap" else private
            return Place(real, str(seen_at / real.relative_to(private)), "temporary")
        shown = real.relative_to(self.root).as_posix() if real.is_relative_to(self.root) else str(real)
        if self.policy.is_hidden(real):
            return Place(real, shown, "outside", self.policy.is_protected(real), hidden=True)
        if self.policy.root_of(real) is not None:
            return Place(real, shown, "workspace", self.policy.is_protected(real))
        spooled = self._launcher.spool is not None and real.is_relative_to(self._launcher.spool)
        return Place(real, shown, "spool" if spooled else "outside")

    def _outside_name(self, real: Path) -> Path:
        """The real path, outside the sandbox, of what a real path names for commands: they have a /tmp of their own."""
        private, policy = self.policy.temporary, self.policy
        if private is None or self.sandbox != "bubblewrap":
            return real
        same = (private, *policy.workspace, *policy.readable, *policy.writable, *policy.hidden)
        for _ in range(_LINKS_CAP):
            shared = next((each for each in _SHARED_TEMPORARY if real.is_relative_to(each)), None)
            if shared is None or any(real.is_relative_to(each) for each in same):
                break
            named = private / real.relative_to(shared)
            if not os.path.lexists(named) and os.path.lexists(real):
                # Not theirs: a file that the person speaks of.
                break
            # A link in there leads to where it leads for commands.
            real = Path(os.path.realpath(named))
        return real

    async def entry(self, path: Path) -> Entry | None:
        return await anyio.to_thread.run_sync(self.files.entry, path)

    async def list(self, path: Path) -> list[Entry]:
        return [*await anyio.to_thread.run_sync(self._list, path)]

    def _list(self, path: Path) -> Sequence[Entry]:
        entries = self.files.list(path)
        if self.sandbox == "none" or path not in self.policy.workspace:
            return entries
        # While a sandbox is up, empty directories keep absent protected names from being taken.
        held = {each.name for each in entries if each.name in PROTECTED_NAMES and each.kind == "directory"}
        empty = {name for name in held if not self.files.list(path / name)}
        return [each for each in entries if each.name not in empty]

    async def read_bytes(self, path: Path, limit: int) -> bytes:
        return await anyio.to_thread.run_sync(self.files.read, path, limit)

    async def write_bytes(self, path: Path, data: bytes) -> None:
        await anyio.to_thread.run_sync(self.files.write, path, data)

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
        await anyio.to_thread.run_sync(self.files.prepare, path)

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


def _require_a_path(path: str) -> None:
    if "\0" in path:
        raise ToolError("The path holds a NUL character.")
    if len(path) > PATH_CAP:
        raise ToolError(f"The path has {len(path):,} characters; at most {PATH_CAP:,} are a path.")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ToolError("The path holds half of a surrogate pair, which no file name can hold.") from None
