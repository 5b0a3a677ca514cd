"""Where, in the directories that a session may write, the things lie that must stay as they are.

Looks for what `policy.protects` names: in each root and in the repositories and projects nested in it, as far down as
is quick. Knows directories and git's layout; must not know how a kernel keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from laguna_agent.sandbox.git_directories import read_small
from laguna_agent.sandbox.policy import PROTECTED_GIT, PROTECTED_NAMES, Policy
from laguna_agent.sandbox.presence import is_file, is_link, is_real_directory

DEPTH = 4
"""Directories below a root that are looked into."""
MOST_DIRECTORIES = 2_000
MOST_PATHS = 300
_NOT_OURS = frozenset({"node_modules", ".venv", "venv", "__pycache__", ".tox", "target"})


class Protected(msgspec.Struct, frozen=True):
    """`present` are real paths that exist, `absent` ones that no one may make. `unenforced` can be neither: links, and
    what git would stumble over if it were an empty directory."""

    present: tuple[Path, ...]
    absent: tuple[Path, ...]
    unenforced: tuple[Path, ...]


class _Finding:
    def __init__(self) -> None:
        self.present: list[Path] = []
        self.absent: list[Path] = []
        self.unenforced: list[Path] = []
        self.looked_into = 0

    def name(self, path: Path) -> None:
        """Sort an existing path."""
        full = len(self.present) >= MOST_PATHS
        (self.unenforced if full or is_link(path) else self.present).append(path)

    def root(self, root: Path) -> None:
        """A root, where the absent counts as well."""
        names = {entry.casefold() for entry in _listing(root)}
        self.absent += [root / name for name in PROTECTED_NAMES if name not in names]
        if ".git" not in names:
            # `git init` is honest work.
            self.unenforced.append(root / ".git")
        self.directory(root, 0)

    def directory(self, directory: Path, depth: int) -> None:
        self.looked_into += 1
        try:
            with os.scandir(directory) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            return
        for name, is_directory in found:
            path, folded = directory / name, name.casefold()
            if folded in PROTECTED_NAMES:
                self.name(path)
            elif folded == ".git":
                self.git_entry(path, depth)
            elif is_directory and depth < DEPTH and folded not in _NOT_OURS and self.looked_into < MOST_DIRECTORIES:
                self.directory(path, depth + 1)

    def git_entry(self, path: Path, depth: int) -> None:
        """A `.git` in the workspace: a directory, or a pointer to one."""
        if not is_real_directory(path):
            self.name(path)
        else:
            self.git_directory(path, block_absent=depth == 0)

    def git_directory(self, directory: Path, *, block_absent: bool) -> None:
        """What makes git run programs, in a repository and in the modules and worktrees that it holds."""
        self._parts_of_git(directory, block_absent=block_absent)
        for module in _modules(directory / "modules", 3):
            self._parts_of_git(module, block_absent=block_absent)
        for name in _listing(directory / "worktrees"):
            if is_real_directory(directory / "worktrees" / name):
                self._parts_of_git(directory / "worktrees" / name, block_absent=False)

    def _parts_of_git(self, directory: Path, *, block_absent: bool) -> None:
        for name in PROTECTED_GIT:
            path = directory / name
            if os.path.lexists(path):
                self.name(path)
            elif block_absent and (
                name == "hooks" or (name == "config.worktree" and not _has_worktree_config(directory))
            ):
                self.absent.append(path)
            else:
                # An empty directory of that name would stop git itself.
                self.unenforced.append(path)


def find_protected(policy: Policy) -> Protected:
    """What must stay as it is, in every root and every git directory of the policy."""
    finding = _Finding()
    for root in policy.workspace:
        finding.root(root)
    for directory in policy.git_directories:
        finding.git_directory(directory, block_absent=True)
    for path in policy.protected:
        if os.path.lexists(path):
            finding.name(path)
        else:
            # Nobody would understand an empty directory in the place of a `.bashrc`.
            finding.unenforced.append(path)
    groups = (finding.present, finding.absent, finding.unenforced)
    return Protected(*(tuple(dict.fromkeys(group)) for group in groups))


def unenforced(policy: Policy) -> tuple[Path, ...]:
    """Protected paths, present or absent, that mounts cannot hold: whoever starts commands has to look at them before
    and after."""
    return find_protected(policy).unenforced


def _modules(directory: Path, depth: int) -> Iterator[Path]:
    """The git directories of submodules, whose names may hold slashes."""
    for name in _listing(directory):
        path = directory / name
        if is_real_directory(path):
            # Also what is only on the way to be one: git takes the hooks that it finds there.
            if is_file(path / "HEAD") or any(os.path.lexists(path / name) for name in PROTECTED_GIT):
                yield path
            elif depth:
                yield from _modules(path, depth - 1)


def _has_worktree_config(directory: Path) -> bool:
    return "worktreeconfig" in read_small(directory / "config").casefold()


def _listing(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208
    except OSError:
        return []
