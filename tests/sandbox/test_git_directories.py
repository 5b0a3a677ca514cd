"""Which git directory a part of a repository may write to: its own, and nothing that a hostile pointer names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.git_directories import git_directories
from laguna_agent.sandbox.policy import policy_for
from tests.sandbox.confining import Ground
from tests.sandbox.conftest import Grounds


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments], check=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    made.mkdir()
    git(made, "init", "-q")
    (made / "part").mkdir()
    (made / "part" / "file").write_text("x")
    git(made, "add", ".")
    git(made, "commit", "-qm", "first")
    return made


def test_where_the_git_directory_is(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    git(repository, "submodule", "--quiet", "add", str(repository), "module")
    own = (repository / ".git",)
    assert git_directories(repository) == git_directories(repository / "part") == own
    assert git_directories(tmp_path / "linked") == own
    assert git_directories(repository / "module") == (repository / ".git/modules/module",)
    assert git_directories(tmp_path) == ()
    assert policy_for(repository).git_directories == ()
    assert policy_for(repository / "part").git_directories == own


def test_a_hostile_pointer_opens_nothing(repository: Path, tmp_path: Path) -> None:
    keys, workspace = tmp_path / "keys", tmp_path / "workspace"
    for each in (keys, workspace):
        each.mkdir()
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    worktree = next((repository / ".git" / "worktrees").iterdir())
    pointer = workspace / ".git"
    for text in (
        f"gitdir: {keys}",
        f"gitdir: {repository}/.git",
        f"gitdir: {worktree}",
        "gitdir: ../keys",
        "gitdir:",
        "",
    ):
        pointer.write_text(text)
        assert git_directories(workspace) == (), text
    # A target that points back, with something else as what it shares.
    fake = workspace / "fake"
    fake.mkdir()
    (fake / "gitdir").write_text(str(pointer))
    (fake / "commondir").write_text(str(keys))
    pointer.write_text(f"gitdir: {fake}")
    assert git_directories(workspace) == ()
    # A module whose tree is another one.
    (fake / "gitdir").unlink()
    (fake / "HEAD").write_text("ref: refs/heads/main")
    (fake / "objects").mkdir()
    (fake / "config").write_text(f"[core]\n\tworktree = {tmp_path}\n")
    assert git_directories(workspace) == ()
    pointer.unlink()
    pointer.symlink_to(repository / ".git")
    assert git_directories(workspace) == ()


@pytest.mark.parametrize("place", ["part", "linked"])
def test_committing_in_a_part_of_a_repository(
    make_ground: Grounds, tier: Tier, repository: Path, tmp_path: Path, place: str
) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    folder = repository / "part" if place == "part" else tmp_path / "linked"
    policy = policy_for(folder)
    ground: Ground = make_ground(tier, root=folder, git_directories=policy.git_directories)
    done = ground.run(
        "echo y > file2 && git add file2 && git commit -qm second && git log --oneline | wc -l", cwd=folder
    )
    assert done == (0, "2\n")
    ground.run(f"echo x > {repository}/.git/hooks/new; git config a.b c; mv {repository}/.git g", cwd=folder)
    assert (repository / ".git").is_dir() or tier == "landlock"
    if tier == "bubblewrap":
        assert not (repository / ".git" / "hooks" / "new").exists()
        assert "[a]" not in (repository / ".git" / "config").read_text()
    ground.run(f"echo x > {repository}/other", cwd=folder)
    assert not (repository / "other").exists()
