"""Repositories that name programs: none of them runs because this program looked at the workspace.

Each trap is a workspace in which git, called in the ordinary way, would run a program that leaves a canary. The first
test of each shows that the trap is one, where this git still falls into it; the rest that we do not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from laguna_agent.agent.changes import Snapshot
from laguna_agent.agent.own_git import git_environment
from laguna_agent.config import load
from laguna_agent.program import find_program
from tests.conftest import RunCli
from tests.model_server import ModelServer, text, tool_call

HOOKS = (
    "applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit", "prepare-commit-msg",
    "commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge", "pre-push", "reference-transaction",
    "push-to-checkout", "pre-auto-gc", "post-rewrite", "sendemail-validate", "fsmonitor-watchman", "post-index-change",
    "pre-receive", "update", "post-update", "proc-receive",
)  # fmt: skip
Trap = Callable[[Path, Path], list[str] | None]


def git(where: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=where, check=True, capture_output=True)


def repository(where: Path) -> Path:
    where.mkdir(exist_ok=True)
    git(where, "init", "-q")
    (where / "tracked").write_text("one\n")
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", "first")
    (where / "tracked").write_text("two\n")
    return where


def setting(*settings: tuple[str, str], files: dict[str, str] | None = None, command: str = "status") -> Trap:
    def lay(where: Path, program: Path) -> list[str]:
        repository(where)
        for name, content in (files or {}).items():
            (where / name).write_text(content)
        for name, value in settings:
            git(where, "config", name, value.replace("PROGRAM", str(program)))
        return ["git", *command.split()]

    return lay


def hooks(where: Path, program: Path) -> list[str]:
    repository(where)
    for name in HOOKS:
        shutil.copy(program, where / ".git" / "hooks" / name)
    return ["git", "checkout", "-q", "-b", "other"]


def included(where: Path, program: Path) -> list[str]:
    repository(where)
    (where / "included").write_text(f"[core]\n\tfsmonitor = {program}\n")
    git(where, "config", "include.path", "../included")
    git(where, "config", f"includeIf.gitdir:{where}/.path", "../included")
    return ["git", "status"]


def nested(where: Path, program: Path) -> list[str]:
    repository(where)
    git(repository(where / "nested"), "config", "core.fsmonitor", str(program))
    git(where, "add", "nested")
    return ["git", "status"]


def submodule(where: Path, program: Path) -> list[str]:
    nested(where, program)
    (where / ".gitmodules").write_text('[submodule "nested"]\n\tpath = nested\n\turl = ./x\n')
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", "with it", "--no-verify")
    return ["git", "status"]


def absorbed(where: Path, program: Path) -> list[str]:
    """A nested `.git` file that points into the outer repository's modules."""
    nested(where, program)
    (where / ".git" / "modules").mkdir()
    shutil.move(where / "nested" / ".git", where / ".git" / "modules" / "nested")
    (where / "nested" / ".git").write_text("gitdir: ../.git/modules/nested\n")
    return ["git", "status"]


def bare(where: Path, program: Path) -> list[str]:
    """A directory that is a bare repository, with the workspace of the run inside."""
    where.mkdir(exist_ok=True)
    git(where, "init", "-q", "--bare", ".")
    git(where, "config", "core.bare", "false")
    git(where, "config", "core.worktree", ".")
    git(where, "config", "core.fsmonitor", str(program))
    return ["git", "status"]


def bare_below(where: Path, program: Path) -> list[str]:
    repository(where)
    bare((where / "lib"), program)
    return ["git", "-C", "lib", "status"]


def elsewhere(where: Path, program: Path) -> list[str]:
    """The workspace's `.git` is a file that points to somebody else's repository."""
    other = repository(where.with_name("elsewhere"))
    git(other, "config", "core.fsmonitor", str(program))
    where.mkdir(exist_ok=True)
    (where / ".git").write_text(f"gitdir: {other}/.git\n")
    return ["git", "status"]


def common(where: Path, program: Path) -> list[str]:
    """`commondir` makes git read the configuration of another directory."""
    other = repository(where.with_name("common"))
    git(other, "config", "core.fsmonitor", str(program))
    repository(where)
    (where / ".git" / "commondir").write_text(f"{other}/.git\n")
    return ["git", "status"]


def worktree(where: Path, program: Path) -> list[str]:
    """`core.worktree` makes git act on another directory."""
    repository(where)
    other = where.with_name("tree")
    other.mkdir()
    git(where, "config", "core.fsmonitor", str(program))
    git(where, "config", "core.worktree", str(other))
    return ["git", "status"]


def own_name(where: Path, program: Path) -> list[str]:
    """A program called git in the workspace, for who has a relative directory in PATH."""
    repository(where)
    shutil.copy(program, where / "git")
    shutil.copy(program, where / "rg.git")
    return ["./git"]


DRIVERS = {".gitattributes": "* filter=evil diff=evil merge=evil\n"}
TRAPS: dict[str, Trap] = {
    "fsmonitor": setting(("core.fsmonitor", "PROGRAM")),
    "hooksPath": lambda where, program: _hooks_path(where, program),
    "hooks": hooks,
    "pager": lambda where, program: _pager(where, program),
    "external diff": setting(("diff.external", "PROGRAM"), command="diff"),
    "diff driver": setting(("diff.evil.command", "PROGRAM"), files=DRIVERS, command="diff"),
    "textconv": setting(("diff.evil.textconv", "PROGRAM"), files=DRIVERS, command="diff"),
    "clean": setting(("filter.evil.clean", "PROGRAM"), files=DRIVERS, command="add -A"),
    "smudge": setting(("filter.evil.smudge", "PROGRAM"), files=DRIVERS, command="checkout -- tracked"),
    "process": setting(("filter.evil.process", "PROGRAM"), files=DRIVERS, command="add -A"),
    "sshCommand": setting(("core.sshCommand", "PROGRAM"), command="ls-remote ssh://host.invalid/x"),
    "ext": setting(("protocol.ext.allow", "always"), command="ls-remote ext::PROGRAM"),
    "gpg": setting(("gpg.program", "PROGRAM"), ("commit.gpgSign", "true"), command="commit -q -a -m x"),
    "credentials": setting(("credential.helper", "!PROGRAM"), command="credential fill"),
    "alias": setting(("alias.hit", "!PROGRAM"), command="hit"),
    "editor": setting(("core.editor", "PROGRAM"), command="commit -a"),
    "include": included,
    "nested": nested,
    "submodule": submodule,
    "absorbed": absorbed,
    "bare": bare,
    "bare below": bare_below,
    "elsewhere": elsewhere,
    "commondir": common,
    "worktree": worktree,
    "own name": own_name,
}  # fmt: skip


def _pager(where: Path, program: Path) -> list[str]:
    setting(("core.pager", "PROGRAM"), ("pager.log", "PROGRAM"))(where, program)
    return [sys.executable, "-c", "import pty; pty.spawn(['git', 'log'])"]


def _hooks_path(where: Path, program: Path) -> list[str]:
    repository(where)
    (where / "hooks").mkdir()
    for name in HOOKS:
        shutil.copy(program, where / "hooks" / name)
    git(where, "config", "core.hooksPath", "hooks")
    return ["git", "checkout", "-q", "-b", "other"]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def program(tmp_path: Path, canary: Path) -> Path:
    """A program that leaves the canary, and says nothing that git would take for an answer."""
    made = tmp_path / "program"
    made.write_text(f"#!/bin/sh\necho hit >> {canary}\nexit 0\n")
    made.chmod(0o755)
    return made


@pytest.fixture(params=TRAPS)
def trap(request: pytest.FixtureRequest, tmp_path: Path, program: Path, canary: Path) -> tuple[Path, list[str]]:
    """A workspace and the command that falls into its trap."""
    where = tmp_path / "trap"
    command = TRAPS[request.param](where, program)
    assert command is not None
    canary.unlink(missing_ok=True)
    return where, [part.replace("PROGRAM", str(program)) for part in command]


def test_it_is_a_trap(trap: tuple[Path, list[str]], canary: Path) -> None:
    where, command = trap
    subprocess.run(
        command, cwd=where, input=b"protocol=https\nhost=x\n\n", capture_output=True, check=False, timeout=30
    )
    assert canary.exists()


def test_a_snapshot_falls_into_none(
    trap: tuple[Path, list[str]], canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, _ = trap
    monkeypatch.chdir(where)
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.pathsep}{where}{os.pathsep}{os.environ['PATH']}")
    snapshot = Snapshot(where, tmp_path / "start.git")
    (where / "new").write_text("new\n")
    for file in where.rglob("tracked"):
        file.write_text("four\n")
    assert "new" in snapshot.changed()
    patch = snapshot.patch()
    assert b"+new" in patch
    load(where, {})
    assert not canary.exists()


def test_a_run_falls_into_none(
    model_server: ModelServer, run_cli: RunCli, tmp_path: Path, program: Path, canary: Path
) -> None:
    """All traps in one workspace, and whatever of ours looks at it."""
    where = tmp_path / "trap"
    TRAPS["textconv"](where, program)
    TRAPS["clean"](where, program)
    hooks(where, program)
    git(where, "config", "core.fsmonitor", str(program))
    for name in TRAPS:
        TRAPS[name](where / f"trap {name}", program)
    shutil.copy(program, where / "git")
    (where / "AGENTS.md").write_text("Be careful.\n")
    canary.unlink(missing_ok=True)
    model_server.reply(tool_call("list", {"path": "."}), tool_call("write", {"path": "new", "content": "new\n"}))
    model_server.reply(text("done"))
    env = {"PATH": f".:{where}:{os.environ['PATH']}", "LAGUNA_SANDBOX": "none"}
    patch = tmp_path / "patch"
    done = run_cli(
        "run", "--base-url", model_server.url, "--model", "test-model", "--approve", "edits", "--patch-out", patch,
        "Go.", cwd=where, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "+new" in patch.read_text()
    assert run_cli("sessions", "list", cwd=where, env=env).returncode == 0
    assert run_cli("config", "show", cwd=where, env=env).returncode == 0
    run_cli("doctor", "--base-url", model_server.url, cwd=where, env=env)
    assert not canary.exists()


VARIABLES = {
    "GIT_DIR": "{trap}/.git", "GIT_WORK_TREE": "{trap}", "GIT_INDEX_FILE": "{trap}/index",
    "GIT_EXTERNAL_DIFF": "{program}", "GIT_OBJECT_DIRECTORY": "{trap}/objects",
    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor",
    "GIT_CONFIG_VALUE_0": "{program}", "GIT_CONFIG_PARAMETERS": "'core.fsmonitor={program}'", "GIT_PAGER": "{program}",
    "GIT_EXEC_PATH": "{trap}", "GIT_TEMPLATE_DIR": "{trap}", "GIT_SSH_COMMAND": "{program}", "GIT_TRACE": "{canary}",
    "GIT_TRACE2": "{canary}", "GIT_ASKPASS": "{program}", "GIT_COMMON_DIR": "{trap}/.git", "LD_PRELOAD": "{program}",
    "GIT_CONFIG_GLOBAL": "{trap}/.git/config", "GIT_CONFIG_SYSTEM": "{trap}/.git/config", "GIT_CONFIG_NOSYSTEM": "0",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "{trap}", "GIT_NAMESPACE": "x", "GIT_CEILING_DIRECTORIES": "/",
}  # fmt: skip


def test_no_variable_of_the_environment_reaches_git(
    program: Path, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "trap"
    TRAPS["fsmonitor"](where, program)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value.format(trap=where, program=program, canary=canary))
    snapshot = Snapshot(where, tmp_path / "start.git")
    (where / "new").write_text("new\n")
    assert snapshot.changed() == ["new"]
    assert b"+new" in snapshot.patch()
    assert not canary.exists()
    assert not set(git_environment(os.environ, "/usr/bin/git")) & {"GIT_DIR", "LD_PRELOAD", "GIT_CONFIG_COUNT"}


def test_even_our_own_repository_names_no_program(program: Path, canary: Path, tmp_path: Path) -> None:
    """Should somebody write into it: the command line has the last word."""
    where, ours = tmp_path / "trap", tmp_path / "start.git"
    where.mkdir()
    (where / "tracked").write_text("one\n")
    snapshot = Snapshot(where, ours)
    for name in ("core.fsmonitor", "core.pager", "diff.external", "core.sshCommand", "core.hooksPath"):
        value = tmp_path / "hooks" if name == "core.hooksPath" else program
        git(ours, f"--git-dir={ours}", "config", name, str(value))
    for folder in (tmp_path / "hooks", ours / "hooks"):
        folder.mkdir(exist_ok=True)
        for name in HOOKS:
            shutil.copy(program, folder / name)
    (where / "tracked").write_text("two\n")
    assert snapshot.changed() == ["tracked"]
    assert snapshot.patch()
    assert not canary.exists()


def test_git_is_found_outside_the_workspace(tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "trap"
    (where / "bin").mkdir(parents=True)
    shutil.copy(program, where / "bin" / "git")
    shutil.copy(program, where / "git")
    (tmp_path / "link").symlink_to(where / "bin")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "git").symlink_to(where / "bin" / "git")
    real = shutil.which("git")
    monkeypatch.chdir(where)
    places = [".", "", "bin", str(where / "bin"), str(tmp_path / "link"), str(tmp_path / "out")]
    monkeypatch.setenv("PATH", os.pathsep.join([*places, str(Path(str(real)).parent)]))
    assert find_program("git", (where,)) == real
    # Nor a relative one that happens to lead somewhere else.
    (tmp_path / "beside").mkdir()
    shutil.copy(program, tmp_path / "beside" / "git")
    monkeypatch.chdir(tmp_path / "beside")
    assert find_program("git", (where,)) == real
    assert find_program("there-is-no-such-program", (where,)) is None
