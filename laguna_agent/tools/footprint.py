"""What a command left behind: the files that it changed on disk, found by looking before and after.

Knows names, times and sizes, and the bytes of the files that the model has seen; it must not know what ran. It looks at
the disk, never through an editor. Not looked at: .git, what ignore files name, the caches that tools leave behind. A
look is bounded in files and time; in a tree beyond that only the files that the model has seen are looked at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.tools.ripgrep import ripgrep

if TYPE_CHECKING:
    from laguna_agent.tools.files import Files
    from laguna_agent.tools.ledger import FileLedger
    from laguna_agent.tools.workspace import Workspace

FILES_CAP = 20_000
"""Files of the largest tree that is looked at whole."""
TIME_CAP = 2.0
"""Seconds that one look may take; with 20,000 files it takes a tenth of one."""
KNOWN_CAP = 64
"""Files whose bytes are kept while a command runs: those that the model saw last."""
KNOWN_BYTES = 256 * 1024
"""Bytes of the longest of them, and of a sixteenth of all of them."""
CHANGES_CAP = 50
"""Changes told of one command, those of files that the model has seen first."""
CACHES = (
    "__pycache__/", "*.pyc", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".hypothesis/", ".tox/", ".venv/",
    "node_modules/", ".gradle/", "target/debug/", "target/release/", ".DS_Store",
)  # fmt: skip

Stamp = tuple[int, int, int]
"""Time of the last change in ns, size in bytes, inode: rewriting a file changes at least one of them."""


class Change(msgspec.Struct, frozen=True):
    """A file that a command changed. `before` and `after` are its bytes where `known`: None where there was, or is, no
    file. Of a file that is not known only the path is."""

    path: Path
    known: bool = False
    before: bytes | None = None
    after: bytes | None = None


@dataclass
class Look:
    """How things were before: the stamp of each file, None for a tree too large; the bytes of the known files."""

    stamps: dict[str, Stamp] | None
    known: dict[str, tuple[Stamp, bytes]] = field(default_factory=dict)


class Footprint:
    """Looks at a workspace's disk around commands. A tree that was too large once is not looked at again."""

    def __init__(self) -> None:
        self._too_large = False

    async def before(self, workspace: Workspace, ledger: FileLedger) -> Look:
        """How things are now."""
        known = await anyio.to_thread.run_sync(_contents, ledger.latest(KNOWN_CAP), workspace.files)
        return Look(await self._tree(workspace), known)

    async def changes(self, workspace: Workspace, look: Look) -> list[Change]:
        """What is not as it was, at most `CHANGES_CAP` files, by path."""
        stamps = None if look.stamps is None else await self._tree(workspace)
        return await anyio.to_thread.run_sync(_compare, look, stamps, workspace.files)

    async def _tree(self, workspace: Workspace) -> dict[str, Stamp] | None:
        if self._too_large:
            return None
        found: dict[str, Stamp] | None = None
        with anyio.move_on_after(TIME_CAP):
            paths = await _paths(workspace)
            if paths is not None:
                deadline = monotonic() + TIME_CAP
                found = await anyio.to_thread.run_sync(_stamps, paths, deadline, abandon_on_cancel=True)
        self._too_large = found is None
        return found


async def _paths(workspace: Workspace) -> list[str] | None:
    """The files of the workspace; None where there are too many, or nothing can list them."""
    paths: list[str] = []
    for root in (workspace.root, *workspace.roots):
        try:
            globs = (f"--glob=!{name}" for name in CACHES)
            listing = await ripgrep("--files", *globs, files=workspace.files, path=root)
        except (ToolError, OSError):
            return None
        paths += [f"{root}/{name}" for name in listing.files]
        if listing.error or listing.cut or len(paths) > FILES_CAP:
            return None
    return paths


def _stamps(paths: Iterable[str], deadline: float) -> dict[str, Stamp] | None:
    stamps: dict[str, Stamp] = {}
    for path in paths:
        stamp = _stamp(path)
        if stamp is not None:
            stamps[path] = stamp
        if not len(stamps) % 256 and monotonic() > deadline:
            return None
    return stamps


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _contents(paths: Iterable[Path], files: Files) -> dict[str, tuple[Stamp, bytes]]:
    known: dict[str, tuple[Stamp, bytes]] = {}
    room = KNOWN_BYTES * 16
    for path in paths:
        stamp = _stamp(str(path))
        if stamp is None or stamp[1] > min(KNOWN_BYTES, room):
            continue
        try:
            data = files.read(path, KNOWN_BYTES)
        except ToolError:
            continue
        known[str(path)] = (stamp, data)
        room -= len(data)
    return known


def _compare(look: Look, now: dict[str, Stamp] | None, files: Files) -> list[Change]:
    known = (_known_change(path, stamp, data, files) for path, (stamp, data) in look.known.items())
    changes = [change for change in known if change is not None]
    if now is not None and look.stamps is not None:
        then = look.stamps
        others = [path for path, stamp in now.items() if then.get(path) != stamp]
        # A file also leaves the listing when an ignore file begins to name it.
        others += [path for path in then.keys() - now.keys() if not Path(path).exists()]
        changes += [Change(Path(path)) for path in sorted(others) if path not in look.known]
    return sorted(changes[:CHANGES_CAP], key=lambda change: change.path)


def _known_change(path: str, stamp: Stamp, before: bytes, files: Files) -> Change | None:
    now = _stamp(path)
    if now == stamp:
        return None
    if now is None:
        return Change(Path(path), known=True, before=before)
    if now[1] > KNOWN_BYTES:
        return Change(Path(path))
    try:
        # A link may be on the way by now, and what it leads to is nobody's to see.
        after = files.read(Path(path), KNOWN_BYTES)
    except ToolError:
        return Change(Path(path))
    return None if after == before else Change(Path(path), known=True, before=before, after=after)
