"""Every change of the workspace since a point in time, whoever made it.

The state is kept by git in a repository outside the workspace (its own object store and index; the person's repository,
index, stash and refs are never touched, nor does anything run that they, or repositories nested in the workspace, name:
`own_git`). What .gitignore names, the caches that tools leave behind, nested repositories and very large files are not
part of it. Files count by their bytes as they are on disk, whatever .gitattributes would make of them.
"""

from __future__ import annotations

import os
from pathlib import Path

from laguna_agent.agent.own_git import run_git
from laguna_agent.tools.footprint import CACHES

LARGEST = 128 << 20
"""Bytes of a file that are read; a sparse one of a terabyte is made in no time, and would take hours."""
# Of all attributes these count most. A filter's name alone starts nothing; conversions would hide what really changed.
_ATTRIBUTES = "* -text -filter -ident -working-tree-encoding\n"


class Snapshot:
    """The state of `root` at construction, kept in the bare repository `git_directory`. Blocking; use a thread."""

    def __init__(self, root: Path, git_directory: Path) -> None:
        """Raises UsageError where git is missing or refuses."""
        self._root = root
        self._directory = git_directory
        # Without a template: one may bring hooks.
        # One that was killed leaves its lock behind; this repository is the session's, and that is held.
        (git_directory / "index.lock").unlink(missing_ok=True)
        self._git("init", "--quiet", "--bare", "--template=", str(git_directory))
        (git_directory / "info").mkdir(exist_ok=True)
        (git_directory / "info" / "exclude").write_text("\n".join(CACHES) + "\n", encoding="utf-8")
        (git_directory / "info" / "attributes").write_text(_ATTRIBUTES, encoding="utf-8")
        self._start = self._tree()

    def patch(self) -> bytes:
        """What changed since, binary-safe, new files included; empty where nothing did."""
        plain = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color")
        return self._git("diff-tree", "-r", "-p", *plain, self._start, self._tree())

    def changed(self) -> list[str]:
        """The paths that changed since, relative to the root."""
        listing = self._git("diff-tree", "-r", "--name-only", "-z", self._start, self._tree())
        return [os.fsdecode(name) for name in listing.split(b"\0") if name]

    def _tree(self) -> str:
        """The tree of the files as they are."""
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
        files = dict.fromkeys(path for path in listed if path and self._counts(path))
        self._git("update-index", "--add", "--remove", "--replace", "-z", "--stdin", given=b"\0".join((*files, b"")))
        return self._git("write-tree").decode().strip()

    def _git(self, *arguments: str, given: bytes = b"") -> bytes:
        tree = None if arguments[0] == "init" else self._root
        return run_git(list(arguments), cwd=self._root, git_directory=self._directory, work_tree=tree, given=given)

    def _counts(self, path: bytes) -> bool:
        """Whether a listed path is a file to look into. One that ends in "/" is a nested repository: as an entry of the
        index it would make git look into it, by its own configuration."""
        if path.endswith(b"/"):
            return False
        try:
            found = os.lstat(os.path.join(os.fsencode(self._root), path))  # noqa: PTH118 - bytes
        except OSError:
            return True  # It is gone, which is a change.
        return found.st_size <= LARGEST
