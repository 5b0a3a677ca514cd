"""The branch and whether files differ from it, without a program of the repository's choice being run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import anyio
import pytest

from laguna_agent.terminal.git_state import GitState, git_state, look


def git(where: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=where, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(workspace: Path) -> Path:
    git(workspace, "init", "-q", "-b", "main")
    (workspace / "a.txt").write_text("one\n")
    (workspace / ".gitignore").write_text("*.log\n")
    git(workspace, "add", ".")
    git(workspace, "commit", "-q", "-m", "first")
    return workspace


def test_outside_of_a_repository_there_is_nothing(workspace: Path) -> None:
    assert git_state(workspace) is None
    assert git_state(workspace / "missing") is None


def test_a_branch_and_its_changes(repository: Path) -> None:
    assert git_state(repository) == GitState("main", dirty=False)
    (repository / "b.log").write_text("ignored\n")
    assert git_state(repository) == GitState("main", dirty=False)
    (repository / "a.txt").write_text("two\n")
    assert git_state(repository) == GitState("main", dirty=True)
    git(repository, "add", "a.txt")
    assert git_state(repository) == GitState("main", dirty=True)
    git(repository, "commit", "-q", "-m", "second")
    assert git_state(repository) == GitState("main", dirty=False)
    (repository / "new.txt").write_text("untracked\n")
    assert git_state(repository) == GitState("main", dirty=True)


def test_in_a_directory_of_it(repository: Path) -> None:
    (repository / "deep" / "er").mkdir(parents=True)
    assert git_state(repository / "deep" / "er") == GitState("main", dirty=False)


def test_before_the_first_commit(workspace: Path) -> None:
    git(workspace, "init", "-q", "-b", "trunk")
    assert git_state(workspace) == GitState("trunk", dirty=False)
    (workspace / "a.txt").write_text("one\n")
    assert git_state(workspace) == GitState("trunk", dirty=True)


def test_a_commit_without_a_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    assert git_state(repository) == GitState(git(repository, "rev-parse", "HEAD")[:9], dirty=False)


def test_packed_branches_and_linked_worktrees(repository: Path, tmp_path: Path) -> None:
    git(repository, "pack-refs", "--all")
    git(repository, "gc", "-q")
    assert git_state(repository) == GitState("main", dirty=False)
    git(repository, "worktree", "add", "-q", "-b", "side/line", str(tmp_path / "side"))
    assert git_state(tmp_path / "side") == GitState("side/line", dirty=False)
    (tmp_path / "side" / "a.txt").write_text("two\n")
    assert git_state(tmp_path / "side") == GitState("side/line", dirty=True)
    assert git_state(repository) == GitState("main", dirty=False)


def test_what_the_person_ignores_here_alone(repository: Path) -> None:
    (repository / ".git" / "info" / "exclude").write_text("*.mine\n")
    (repository / "x.mine").write_text("")
    assert git_state(repository) == GitState("main", dirty=False)


def test_no_program_of_the_repository_runs(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    program.chmod(0o755)
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "core.pager"):
        git(repository, "config", key, str(program))
    git(repository, "config", "core.hooksPath", str(tmp_path))
    (tmp_path / "post-index-change").write_bytes(program.read_bytes())
    (tmp_path / "post-index-change").chmod(0o755)
    (repository / ".gitattributes").write_text("* filter=evil\n")
    (repository / "a.txt").write_text("two\n")
    os.utime(repository / "a.txt", (1, 1))
    assert git_state(repository) == GitState("main", dirty=True)
    assert not proof.exists()
    # That the repository does run it where git is asked plainly is what makes this a test.
    subprocess.run(["git", "add", "a.txt"], cwd=repository, check=False, capture_output=True)
    assert proof.exists()


def test_nothing_is_written_there(repository: Path) -> None:
    os.utime(repository / "a.txt", (1, 1))
    before = {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")}
    git_state(repository)
    assert {path: path.stat().st_mtime_ns for path in (repository / ".git").rglob("*")} == before


@pytest.mark.parametrize(
    "head", ["ref: refs/heads/../../../../etc/passwd", "ref: refs/heads/a", "", "\x1b[2J", "0" * 40]
)
def test_a_repository_that_makes_no_sense(repository: Path, head: str) -> None:
    (repository / ".git" / "HEAD").write_text(head + "\n")
    (repository / ".git" / "index").write_bytes(b"DIRC\xff\xff garbage")
    state = anyio.run(look, repository)
    assert state is None or state.dirty is None


def test_files_that_hang_are_not_waited_for(repository: Path) -> None:
    (repository / ".git" / "HEAD").write_text("ref: refs/heads/x\n")
    os.mkfifo(repository / ".git" / "packed-refs")
    os.mkfifo(repository / ".git" / "refs" / "heads" / "x")
    assert git_state(repository) is not None
