"""Protected files that a command changed are put back, and nothing that lay in their place is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from laguna_agent.sandbox.watch import Watch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    (root / ".git" / "hooks").mkdir(parents=True)
    (root / ".git" / "config").write_text("[core]\n\tbare = false\n")
    (root / ".git" / "hooks" / "pre-commit").write_text("#!/bin/sh\necho mine\n")
    (root / ".git" / "hooks" / "pre-commit").chmod(0o755)
    (root / "real.json").write_text("{}")
    (root / ".mcp.json").symlink_to("real.json")
    return root


NAMES = (".git/hooks", ".git/config", ".git/commondir", ".mcp.json", ".envrc", ".vscode", ".git")


def state(root: Path) -> dict[str, object]:
    """Everything below `root`: links by where they lead, files by what they hold."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = (path.stat().st_mode, path.read_bytes())
        else:
            found[name] = "directory"
    return found


def swap_hooks(root: Path) -> None:
    (root / ".git" / "hooks").rename(root / "old")
    (root / ".git" / "hooks").symlink_to("/tmp")
    shutil.rmtree(root / "old")


ATTACKS: dict[str, Callable[[Path], object]] = {
    "a hook is changed": lambda root: (root / ".git/hooks/pre-commit").write_text("evil"),
    "a hook is made": lambda root: (root / ".git/hooks/post-checkout").write_text("evil"),
    "a hook is removed": lambda root: (root / ".git/hooks/pre-commit").unlink(),
    "a hook's mode is changed": lambda root: (root / ".git/hooks/pre-commit").chmod(0o644),
    "a directory of hooks is made": lambda root: (root / ".git/hooks/d").mkdir(),
    "the hooks become a link": swap_hooks,
    "the hooks become a file": lambda root: (
        shutil.rmtree(root / ".git/hooks"), (root / ".git/hooks").write_text("x")
    ),
    "the configuration runs a program": lambda root: (root / ".git/config").write_text("[core]\n\tfsmonitor = evil\n"),
    "the configuration is removed": lambda root: (root / ".git/config").unlink(),
    "the configuration becomes a directory": lambda root: (
        (root / ".git/config").unlink(), (root / ".git/config/x").mkdir(parents=True)
    ),
    "git is sent elsewhere": lambda root: (root / ".git/commondir").write_text("../evil\n"),
    "an absent file is made": lambda root: (root / ".envrc").write_text("evil"),
    "an absent directory is made": lambda root: (
        (root / ".vscode").mkdir(), (root / ".vscode/tasks.json").write_text("evil")
    ),
    "an absent link is made": lambda root: (root / ".envrc").symlink_to("real.json"),
    "a link leads elsewhere": lambda root: (
        (root / ".mcp.json").unlink(), (root / ".mcp.json").symlink_to("evil.json")
    ),
    "a link becomes a file": lambda root: ((root / ".mcp.json").unlink(), (root / ".mcp.json").write_text("evil")),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_command_does_to_protected_files_is_undone(root: Path, tmp_path: Path, attack: str) -> None:
    before = state(root)
    watch = Watch([root], lambda: [root / name for name in NAMES], tmp_path / "aside")
    watch.begin("command-1")
    ATTACKS[attack](root)
    lines = watch.end("command-1")
    assert state(root) == before
    # An empty directory is nothing that anybody runs or would miss.
    assert lines or attack == "a directory of hooks is made"


def test_a_git_directory_that_became_a_link_is_one_again_and_nothing_behind_the_link_changes(
    root: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root / ".git", elsewhere)
    (elsewhere / "hooks" / "post-merge").write_text("theirs")
    before, hooks = state(elsewhere), state(root / ".git")
    watch = Watch([root], lambda: [root / name for name in NAMES[:-1]], tmp_path / "aside")
    watch.begin("command-1")
    (root / ".git").rename(root / "mine")
    (root / ".git").symlink_to(elsewhere)
    assert watch.end("command-1")
    assert state(elsewhere) == before
    assert not (root / ".git").is_symlink()
    assert state(root / ".git") == hooks


@pytest.mark.parametrize("there", [True, False])
def test_nothing_behind_a_link_that_was_planted_on_the_way_is_touched(tmp_path: Path, there: bool) -> None:
    """`vendor` holds a repository; behind the link that takes its place lies another of the person's, or nothing."""
    root, other = tmp_path / "workspace", tmp_path / "other"
    config = root / "vendor" / "lib" / ".git" / "config"
    config.parent.mkdir(parents=True)
    config.write_text("[core]\n")
    (other / "lib" / ".git").mkdir(parents=True) if there else other.mkdir()
    if there:
        (other / "lib" / ".git" / "config").write_text("[alias]\n")
    before = state(other)
    watch = Watch([root], lambda: [config, config.with_name("commondir"), config.parent / "hooks"], tmp_path / "aside")
    watch.begin("command-1")
    (root / "vendor").rename(root / "v")
    (root / "vendor").symlink_to(other)
    assert any("way to it was changed" in line for line in watch.end("command-1"))
    assert state(other) == before


def test_a_directory_that_was_removed_is_not_made_again_but_the_persons_hooks_are(root: Path, tmp_path: Path) -> None:
    watch = Watch([tmp_path], lambda: [root / name for name in NAMES[:3]], tmp_path / "aside")
    hooks = state(root / ".git" / "hooks")
    watch.begin("command-1")
    shutil.rmtree(root / ".git")
    assert watch.end("command-1")
    assert state(root / ".git" / "hooks") == hooks
    watch.begin("command-2")
    shutil.rmtree(root)
    assert watch.end("command-2") == ()
    assert not root.exists()


def test_a_repository_that_is_moved_takes_its_hooks_along(root: Path, tmp_path: Path) -> None:
    def hooks() -> list[Path]:
        return [git / "hooks" for git in tmp_path.glob("*/.git")]

    watch = Watch([tmp_path], hooks, tmp_path / "aside")
    watch.begin("command-1")
    root.rename(tmp_path / "moved")
    assert watch.end("command-1") == ()
    assert (tmp_path / "moved" / ".git" / "hooks" / "pre-commit").exists()


def test_a_pointer_to_a_git_directory_comes_back(tmp_path: Path) -> None:
    pointer = tmp_path / ".git"
    pointer.write_text("gitdir: elsewhere\n")
    watch = Watch([tmp_path], lambda: [pointer], tmp_path / "aside")
    watch.begin("command-1")
    pointer.unlink()
    assert len(watch.end("command-1")) == 1
    assert pointer.read_text() == "gitdir: elsewhere\n"


def test_what_lay_there_is_kept(root: Path, tmp_path: Path) -> None:
    watch = Watch([root], lambda: [root / ".envrc"], tmp_path / "aside")
    watch.begin("command-1")
    (root / ".envrc").write_text("the person's own\n")
    (line,) = watch.end("command-1")
    kept = Path(line.rpartition(" ")[2])
    assert kept.read_text() == "the person's own\n"
    assert kept.is_relative_to(tmp_path / "aside")


def test_what_the_person_changed_between_two_commands_stays(root: Path, tmp_path: Path) -> None:
    watch = Watch([root], lambda: [root / ".envrc"], tmp_path / "aside")
    for number in range(2):
        (root / ".envrc").write_text(f"{number}")
        watch.begin("command")
        assert watch.end("command") == ()
    assert (root / ".envrc").read_text() == "1"


def test_while_a_job_runs_every_end_counts(root: Path, tmp_path: Path) -> None:
    watch = Watch([root], lambda: [root / ".envrc"], tmp_path / "aside")
    watch.begin("job-1")
    watch.begin("command-1")
    (root / ".envrc").write_text("evil")
    assert len(watch.end("command-1")) == 1
    (root / ".envrc").write_text("evil again")
    assert len(watch.end("job-1")) == 1
    assert not (root / ".envrc").exists()


def test_a_fresh_repository_keeps_what_git_itself_makes(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    root.mkdir()
    paths = [root / ".git" / name for name in ("hooks", "config", "commondir", "config.worktree")]
    watch = Watch([root], lambda: [root / ".git", *paths] if (root / ".git").is_file() else paths, tmp_path / "aside")
    watch.begin("command-1")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".git" / "hooks").mkdir(exist_ok=True)
    (root / ".git" / "hooks" / "pre-push").write_text("evil")
    (line,) = watch.end("command-1")
    assert "pre-push" in line
    assert (root / ".git" / "config").exists()
    subprocess.run(["git", "-C", str(root), "status"], check=True, capture_output=True)


@pytest.mark.parametrize(
    "line",
    [
        "[core]\n\tfsmonitor = evil", "[core]\n\thooksPath = evil", "[core]\n\tsshCommand = evil",
        "[alias]\n\tst = !evil",
        "[include]\n\tpath = ../evil", "[filter \"x\"]\n\tclean = evil", "[diff]\n\texternal = evil",
        "[core]\n\tpager = evil", "[core]\n\tbare = false\\\n[core]\nfsmonitor=evil", "[core]fsmonitor=evil",
        "[credential]\n\thelper = !evil", "[remote \"origin\"]\n\turl = ext::sh -c evil",
        "[core]\n\tworktree = /elsewhere", "[gpg]\n\tprogram = evil", "[core]\n\teditor = evil",
    ],
)  # fmt: skip
def test_a_fresh_repository_whose_configuration_runs_programs_loses_it(tmp_path: Path, line: str) -> None:
    config = tmp_path / ".git" / "config"
    watch = Watch([tmp_path], lambda: [config], tmp_path / "aside")
    watch.begin("command-1")
    config.parent.mkdir()
    config.write_text("[core]\n\trepositoryformatversion = 0\n" + line + "\n")
    assert len(watch.end("command-1")) == 1
    assert not config.exists()


def test_a_long_file_that_changed_is_told(tmp_path: Path) -> None:
    long = tmp_path / ".envrc"
    long.write_bytes(b"x" * 300_000)
    watch = Watch([tmp_path], lambda: [long], tmp_path / "aside")
    watch.begin("command-1")
    long.write_bytes(b"y" * 300_000)
    (line,) = watch.end("command-1")
    assert "too long" in line
