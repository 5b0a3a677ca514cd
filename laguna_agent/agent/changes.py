"""Every change of the workspace since a point in time, whoever made it.

The state is kept by git in a repository outside the workspace (its own object store and index; the person's repository,
index, stash and refs are never touched, nor does anything run that they, or repositories nested in the workspace, name:
`own_git`). What .gitignore names, the caches that tools leave behind, and nested repositories are not part of it. Files
count by their bytes as they are on disk, whatever .gitattributes would make of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laguna_agent.agent.own_git import require_git, run_git
from laguna_agent.tools.footprint import CACHES

# Of all attributes these count most. A filter's name alone starts nothing; conversions would hide what really changed.
_ATTRIBUTES = "* -text -filter -ident -working-tree-encoding\n"


class Snapshot:
    """The state of `root` at construction, kept in the bare repository `git_directory`. Blocking; use a thread."""

    def __init__(self, root: Path, git_directory: Path) -> None:
        """Raises UsageError where git is missing or refuses."""
        self._root = root
        self._directory = git_directory
        # Without a template: one may bring hooks.
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
        return sorted(self._changed(self._start, self._tree()))

    def _tree(self) -> str:
        """The tree of the files as they are. A path that ends in "/" is a nested repository: as an entry of the index
        it would make git look into it, by its own configuration."""
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
        files = dict.fromkeys(path for path in listed if path and not path.endswith(b"/"))
        self._git("update-index", "--add", "--remove", "--replace", "-z", "--stdin", given=b"\0".join((*files, b"")))
        return self._git("write-tree").decode().strip()

    def _git(self, *arguments: str, given: bytes = b"") -> bytes:
        tree = None if arguments[0] == "init" else self._root
        return run_git(list(arguments), cwd=self._root, git_directory=self._directory, work_tree=tree, given=given)

    def _changed(self, old: str, new: str) -> Iterator[str]:
        """Read with GitPython's own reader of objects, which starts no process and takes no options."""
        # On import it runs whatever is called git, unless it is told which one.
        os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = require_git(self._root)
        os.environ["GIT_PYTHON_REFRESH"] = "quiet"
        from git import GitDB
        from git.objects.fun import tree_entries_from_data

        objects = GitDB(str(self._directory / "objects"))

        def entries(tree: bytes | None) -> dict[str, tuple[bytes, int]]:
            if tree is None:
                return {}
            return {name: (sha, mode) for sha, mode, name in tree_entries_from_data(objects.stream(tree).read())}

        def compare(before: bytes | None, after: bytes | None, where: str) -> Iterator[str]:
            was, now = entries(before), entries(after)
            for name in {**was, **now}:
                pair = was.get(name), now.get(name)
                if pair[0] == pair[1]:
                    continue
                folders: list[Any] = [each[0] if each and each[1] == _FOLDER else None for each in pair]
                if any(each and each[1] != _FOLDER for each in pair):
                    yield where + name
                if any(folders):
                    yield from compare(folders[0], folders[1], f"{where}{name}/")

        yield from compare(bytes.fromhex(old), bytes.fromhex(new), "")


_FOLDER = 0o040000
