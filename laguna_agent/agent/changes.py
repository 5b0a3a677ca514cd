"""Every change of the workspace since a point in time, whoever made it.

The state is kept by git in a repository outside the workspace (its own object store and index; the person's repository,
index, stash and refs are never touched, nor are the hooks and filters that their configuration names run). What
.gitignore names, and the caches that tools leave behind, are not part of it.
"""

from __future__ import annotations

import os
from pathlib import Path

from laguna_agent.errors import UsageError
from laguna_agent.tools.footprint import CACHES


class Snapshot:
    """The state of `root` at construction, kept in the bare repository `git_directory`. Blocking; use a thread."""

    def __init__(self, root: Path, git_directory: Path) -> None:
        """Raises UsageError where git is missing or refuses."""
        self._root = root
        self._directory = git_directory
        self._git("init", "--quiet", "--bare", str(git_directory))
        (git_directory / "info").mkdir(exist_ok=True)
        (git_directory / "info" / "exclude").write_text("\n".join(CACHES) + "\n", encoding="utf-8")
        self._start = self._tree()

    def patch(self) -> bytes:
        """What changed since, binary-safe, new files included; empty where nothing did."""
        return self._git("diff", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", self._start, self._tree())

    def changed(self) -> list[str]:
        """The paths that changed since, relative to the root."""
        listing = self._git("diff", "--name-only", "-z", "--no-ext-diff", self._start, self._tree())
        return [os.fsdecode(name) for name in listing.split(b"\0") if name]

    def _tree(self) -> str:
        self._git("add", "--all", ".")
        return self._git("write-tree").decode().strip()

    def _git(self, *arguments: str) -> bytes:
        import git
        from git.exc import GitCommandError, GitCommandNotFound

        quiet = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false"]
        quiet += ["-c", "advice.addEmbeddedRepo=false", "-c", "core.quotePath=false", "-c", "gc.auto=0"]
        where = [] if arguments[0] == "init" else [f"--git-dir={self._directory}", f"--work-tree={self._root}"]
        environment = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
        try:
            output = git.Git(self._root).execute(
                ["git", *quiet, *where, *arguments],
                env=environment,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
            )
        except GitCommandNotFound as error:
            raise UsageError("git is not installed, and the changes of a run are told with it") from error
        except GitCommandError as error:
            raise UsageError(f"git {arguments[0]} failed: {' '.join(str(error.stderr).split())}") from error
        assert isinstance(output, bytes)
        return output
