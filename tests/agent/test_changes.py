"""Snapshots of workspaces that are hard to take: odd names, files without end, repositories in repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from laguna_agent.agent.changes import Snapshot
from laguna_agent.agent.own_git import run_git
from laguna_agent.errors import UsageError
from tests.agent.test_hostile_git import git, repository


def test_a_repository_that_breaks_git_breaks_no_snapshot(tmp_path: Path) -> None:
    where = tmp_path / "workspace"
    for name, content in {"none/.git": "gitdir: /nonexistent\n", "odd/.git": "what?\n"}.items():
        (where / name).parent.mkdir(parents=True)
        (where / name).write_text(content)
    git(where, "init", "-q", "unborn")
    (where / "crlf.txt").write_bytes(b"a\r\nb\r\n")
    (where / ".gitattributes").write_text("* text=auto eol=lf\n")
    snapshot = Snapshot(where, tmp_path / "start.git")
    (where / "crlf.txt").write_bytes(b"a\nb\n")
    assert snapshot.changed() == ["crlf.txt"]
    again = tmp_path / "again"
    again.mkdir()
    (again / "crlf.txt").write_bytes(b"a\r\nb\r\n")
    subprocess.run(["git", "apply"], cwd=again, input=snapshot.patch(), check=True)
    assert (again / "crlf.txt").read_bytes() == b"a\nb\n"


NAMES = [
    ".GIT/config", "git~1/x", "x\\..\\y", "-n", "new\nline", ".gitmodules ", "c:\\x", ".g\u200cit/x", "\udcff\udcfe",
    "con", ".gitmodules", ":(exclude)x", "*", "HEAD", "refs/heads/x", "objects/x",
]  # fmt: skip


def test_names_that_git_or_others_give_a_meaning(tmp_path: Path) -> None:
    where = tmp_path / "workspace"
    where.mkdir()
    snapshot = Snapshot(where, tmp_path / "start.git")
    for name in NAMES:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text("x")
    # What git never takes for content is left out.
    assert sorted(snapshot.changed()) == sorted(set(NAMES) - {".GIT/config"})
    assert snapshot.patch()


def test_files_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "workspace"
    where.mkdir()
    os.mkfifo(where / "fifo")
    (where / "zero").symlink_to("/dev/zero")
    with (where / "sparse").open("wb") as file:
        file.truncate(1 << 43)
    snapshot = Snapshot(where, tmp_path / "start.git")
    (where / "new").write_text("new\n")
    assert snapshot.changed() == ["new"]


def test_nested_repositories_are_no_part_of_it(tmp_path: Path) -> None:
    """As an entry of the index one would make git look into it."""
    where = tmp_path / "workspace"
    where.mkdir()
    nested = repository(where / "nested")
    snapshot = Snapshot(where, tmp_path / "start.git")
    git(nested, "commit", "-q", "-a", "-m", "second")
    repository(where / "other")
    assert snapshot.changed() == []
    assert run_git(["ls-files"], cwd=where, git_directory=tmp_path / "start.git") == b""


def test_what_git_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="git write-tree failed"):
        run_git(["write-tree"], cwd=tmp_path, git_directory=tmp_path / "none")
