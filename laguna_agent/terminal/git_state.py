"""The branch of the workspace and whether anything is changed there, for the status line.

The repository is a stranger's: its configuration, hooks, attributes and filters may name programs. So git is never run
on it. The branch is read from its files; for the changes git runs on a directory of our own that borrows the
repository's objects and a copy of its index, under our configuration, which names no program (`agent.own_git`). Knows
git's layout on disk; must not know the screen.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE = 2.0
"""Seconds that a look may take; then nothing is said of changes."""
LARGEST_INDEX = 64 << 20
"""Bytes of an index that is copied for a look."""
HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
SHORT = 9
LINKS = 5
"""References that may lead to one another."""


class GitState(msgspec.Struct, frozen=True):
    """`branch` is its name, or the short hash of a commit that is checked out as such; `dirty` says whether files
    differ from it, and is None where that is not known."""

    branch: str
    dirty: bool | None = None


async def look(workspace: Path) -> GitState | None:
    """What git says of a workspace; None outside of a repository. Never raises, and takes two seconds at most."""
    import anyio
    import anyio.to_thread

    with anyio.move_on_after(PATIENCE + 1):
        return await anyio.to_thread.run_sync(git_state, workspace, abandon_on_cancel=True)
    return None


def git_state(workspace: Path) -> GitState | None:
    """The same, blocking."""
    try:
        found = _find(Path(os.path.realpath(workspace)))
        if found is None:
            return None
        tree, directory, common = found
        return _state(tree, directory, common)
    except OSError:
        return None


def _find(workspace: Path) -> tuple[Path, Path, Path] | None:
    """The working tree, its git directory, and the one that holds objects and branches."""
    from laguna_agent.sandbox.git_directories import git_directories, read_small

    for tree in (workspace, *workspace.parents):
        entry = tree / ".git"
        if not os.path.lexists(entry):
            continue
        common = next(iter(git_directories(tree)), None)
        if common is None or entry.is_symlink():
            return None
        own = entry
        if entry.is_file():
            own = Path(os.path.realpath(tree / read_small(entry).removeprefix("gitdir:").strip()))
        return tree, own, common
    return None


def _state(tree: Path, directory: Path, common: Path) -> GitState | None:
    from laguna_agent.sandbox.git_directories import read_small

    head = read_small(directory / "HEAD").strip()
    branch = head.removeprefix("ref: refs/heads/") if head.startswith("ref: refs/heads/") else ""
    commit = _resolved(head, (directory, common))
    if not branch and not commit:
        return None
    return GitState(branch or commit[:SHORT], _dirty(tree, directory, common, commit))


def _resolved(head: str, directories: Iterable[Path]) -> str:
    """The commit that a reference leads to; empty where there is none yet, or none that we can read."""
    from laguna_agent.sandbox.git_directories import read_small

    directories = list(directories)
    for _ in range(LINKS):
        if HASH.fullmatch(head):
            return head
        name = head.removeprefix("ref: ")
        # A name comes from a file that somebody else wrote: it leads nowhere else.
        if not name.startswith("refs/") or ".." in name.split("/"):
            return ""
        head = next(filter(None, (read_small(each / name).strip() for each in directories)), "")
        head = head or _packed(name, directories)
    return ""


def _packed(name: str, directories: Iterable[Path]) -> str:
    for directory in directories:
        packed = directory / "packed-refs"
        # A hostile one may be a FIFO.
        if not packed.is_file():
            continue
        with packed.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                commit, _, named = line.rstrip("\n").partition(" ")
                if named == name and HASH.fullmatch(commit):
                    return commit
    return ""


def _dirty(tree: Path, directory: Path, common: Path, commit: str) -> bool | None:
    """Whether the working tree differs from the commit, untracked files included."""
    from laguna_agent.agent.own_git import run_git
    from laguna_agent.errors import UsageError

    index = directory / "index"
    if len(commit) > 40 or "\n" in str(common) or (index.exists() and index.stat().st_size > LARGEST_INDEX):
        # Another kind of hash needs another kind of repository, and a list of paths takes no such path.
        return None
    with tempfile.TemporaryDirectory(prefix="laguna-git-") as made:
        own = Path(made)
        _borrow(own, common, index, commit)
        arguments = ["status", "--porcelain", "-z", "--ignore-submodules=all", "--no-renames", "--no-ahead-behind"]
        try:
            said = run_git(
                ["--no-optional-locks", *arguments], cwd=tree, git_directory=own, work_tree=tree, patience=PATIENCE
            )
        except UsageError:
            return None
    return bool(said)


def _borrow(own: Path, common: Path, index: Path, commit: str) -> None:
    """Make a git directory of our own that sees the repository's objects, index and commit."""
    from laguna_agent.sandbox.git_directories import read_small

    for name in ("objects/info", "refs/heads", "info"):
        (own / name).mkdir(parents=True)
    (own / "HEAD").write_text(f"{commit}\n" if commit else "ref: refs/heads/none\n")
    (own / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
    (own / "objects/info/alternates").write_bytes(os.fsencode(common / "objects") + b"\n")
    (own / "info/exclude").write_text(read_small(common / "info/exclude"), errors="surrogateescape")
    if index.is_file() and not index.is_symlink():
        # With its times: git tells by them which files must be looked into.
        shutil.copy2(index, own / "index")
