"""Which git directories belong to a workspace that is only a part of its repository.

A workspace may be a directory of a repository, a linked worktree, or a submodule; committing then writes to a git
directory that lies elsewhere. A `.git` file comes with a clone and may name any directory, so it is believed only where
the directory that it names points back. Knows git's layout on disk; runs nothing, and must not know mounts.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from laguna_agent.sandbox.presence import is_directory, is_file

_LARGEST = 64 * 1024
_WORKTREE = re.compile(r"(?mi)^\s*worktree\s*=\s*\"?([^\"\n]+?)\"?\s*$")


def git_directories(root: Path) -> tuple[Path, ...]:
    """The real git directories that git would use in `root`, a real path; none where there is no repository."""
    for directory in (root, *root.parents):
        entry = directory / ".git"
        try:
            mode = entry.lstat().st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            return (entry,)
        # A link is nothing that git makes.
        return _pointed_at(entry) if stat.S_ISREG(mode) else ()
    return ()


def _pointed_at(pointer: Path) -> tuple[Path, ...]:
    """The directories that a `.git` file stands for, where they name this very file as theirs."""
    text = read_small(pointer)
    if not text.startswith("gitdir:"):
        return ()
    target = _resolve(pointer.parent, text.removeprefix("gitdir:").strip())
    back = read_small(target / "gitdir").strip()
    if back and _resolve(target, back) == pointer:
        # A linked worktree: what it shares with the others lies two levels up, nowhere else.
        common = _resolve(target, read_small(target / "commondir").strip() or ".")
        shared = target.parent.name == "worktrees" and common == target.parent.parent
        return (common,) if shared and _is_git(common) else ()
    tree = _WORKTREE.search(read_small(target / "config"))
    if tree and _is_git(target) and _resolve(target, tree[1]) == pointer.parent:
        return (target,)
    return ()


def _resolve(base: Path, text: str) -> Path:
    return Path(os.path.realpath(base / text))


def _is_git(directory: Path) -> bool:
    return is_file(directory / "HEAD") and is_directory(directory / "objects")


def read_small(path: Path) -> str:
    """A small regular file's text; empty where it is none, for a hostile one may be a FIFO."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            data = file.read(_LARGEST)
            # With a NUL it is no text, and no path can be made of it.
            return "" if b"\0" in data else data.decode(errors="surrogateescape")
    except OSError:
        return ""
