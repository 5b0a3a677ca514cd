"""git as this program calls it: always the same program, with an environment and a configuration of our own.

A repository can name programs that git runs (hooks, fsmonitor, pagers, drivers of diffs and filters, ssh commands,
credential helpers, aliases) in its configuration, in files that this includes, and in repositories nested in it. So no
command that is run here reads a repository but the one that this program made itself: `--git-dir` names it, the
environment is written from nothing, and what else could start a program is set to nothing on every command line.

Knows git; must not know what it is asked for.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from laguna_agent.errors import UsageError
from laguna_agent.program import STANDARD_PATH, find_program

PATIENCE = 300.0
"""Seconds that one command may take."""

# Of settings, the last one given counts, and the command line's come last.
_SETTINGS = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.sshCommand=false", "core.askPass=",
    "core.editor=false", "core.attributesFile=/dev/null", "core.untrackedCache=false", "core.alternateRefsCommand=",
    "core.autocrlf=false", "core.quotePath=false", "core.gitProxy=", "diff.external=", "diff.ignoreSubmodules=all",
    "submodule.recurse=false", "status.submoduleSummary=false", "credential.helper=", "gpg.program=false",
    "protocol.allow=never", "protocol.ext.allow=never", "safe.bareRepository=explicit", "gc.auto=0",
    "maintenance.auto=false", "advice.addEmbeddedRepo=false", "uploadpack.packObjectsHook=", "log.showSignature=false",
    # Nothing is ever checked out from our repository, and a name that other systems misread is a change here.
    "core.protectNTFS=false", "core.protectHFS=false",
)  # fmt: skip
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "false",
    "GIT_SSH_COMMAND": "false",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C.UTF-8",
}
_KEPT = ("HOME", "XDG_CONFIG_HOME", "TMPDIR", "SYSTEMROOT")
"""Of the person's environment: git reads the list of files that they ignore everywhere from there."""


def run_git(
    arguments: list[str],
    *,
    cwd: Path,
    git_directory: Path,
    work_tree: Path | None = None,
    given: bytes = b"",
    patience: float = PATIENCE,
) -> bytes:
    """What git printed, run on the repository at `git_directory`, which must be this program's own, with `given` on its
    standard input, within `patience` seconds. Blocking. Raises UsageError where git is missing or fails."""
    program = require_git(cwd if work_tree is None else work_tree)
    where = [] if arguments[0] == "init" else [f"--git-dir={git_directory}"]
    where += [] if work_tree is None else [f"--work-tree={work_tree}"]
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    try:
        done = subprocess.run(
            [program, "--no-pager", *settings, *where, *arguments],
            cwd=cwd,
            env=git_environment(os.environ, program),
            input=given,
            capture_output=True,
            check=False,
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"git {arguments[0]} took longer than {patience:g} s; are there very many files?") from error
    except OSError as error:
        raise UsageError(f"git cannot be run ({program}): {error.strerror}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise UsageError(f"git {arguments[0]} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout


def require_git(workspace: Path) -> str:
    """The path of git. Raises UsageError where there is none to trust."""
    program = find_program("git", (workspace,))
    if program is None:
        raise UsageError("git is not installed, and the changes of a run are told with it")
    return program


def git_environment(outer: Mapping[str, str], program: str) -> dict[str, str]:
    """The whole environment of our git: nothing of `outer` that tells it what to run, or which repository to read."""
    kept = {name: outer[name] for name in _KEPT if name in outer}
    return {"PATH": os.pathsep.join((str(Path(program).parent), *STANDARD_PATH)), **kept, **_ENVIRONMENT}
