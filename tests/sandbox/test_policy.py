"""What a path is to the policy: hidden, protected, denied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.directories import config_directory, state_directory
from laguna_agent.sandbox.policy import PROTECTED_NAMES, Policy, policy_for, protects

NAMES = st.sampled_from(["a", "b.pem", ".env", "secrets", "src", ".ENV", "x.py", "é"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/pre-commit", ".git/config", ".git", "sub/.git", "deep/er/.git/hooks", ".git/modules/x/config",
        ".git/worktrees/w/config.worktree", ".vscode/settings.json", ".VSCode/settings.json", "a/b/.envrc", ".mcp.json",
        ".GIT/config", ".git./config", ".git /hooks/x", "git~1/config", ".g\u200cit/config", ".git::$INDEX/config",
        ".idea", ".zed/tasks.json", ".laguna/config.toml", "packages/one/.cursor/mcp.json", ".ｇit/config",
    ],
)  # fmt: skip
def test_what_other_programs_obey_is_protected(root: Path, path: str) -> None:
    assert policy_for(root).is_protected(root / path)


@pytest.mark.parametrize(
    "path",
    [
        "AGENTS.md", "README.md", ".gitignore", ".gitattributes", ".github/workflows/ci.yml", ".git/HEAD", ".git/index",
        ".git/info/exclude", "git/config", "config", "hooks/x", ".env", ".envrc.example", "a.git/config",
        ".editorconfig", "vscode/settings.json", ".", "x~1/config",
    ],
)  # fmt: skip
def test_honest_files_are_not_protected(root: Path, path: str) -> None:
    assert not policy_for(root).is_protected(root / path)


@given(st.lists(NAMES, max_size=4), st.sampled_from(PROTECTED_NAMES), st.data())
def test_case_and_depth_count_for_nothing(parts: list[str], name: str, data: st.DataObject) -> None:
    written = "".join(data.draw(st.sampled_from([each.lower(), each.upper()])) for each in name)
    assert protects((*parts, written))
    assert protects((*parts, written, *parts))


def test_a_git_directory_of_another_name_is_protected_too(root: Path) -> None:
    (root / ".bare" / "hooks").mkdir(parents=True)
    (root / ".git").write_text("gitdir: ./.bare\n")
    policy = policy_for(root)
    assert policy.is_protected(root / ".bare/hooks/post-checkout")
    assert policy.is_protected(root / ".bare/config")
    assert not policy.is_protected(root / ".bare/HEAD")
    (root / ".git").unlink()
    (root / ".git").symlink_to(".bare")
    assert policy_for(root).is_protected(root / ".bare/config")
    for name in ("objects", "refs"):
        (root / ".bare" / name).mkdir()
    (root / ".bare" / "HEAD").touch()
    assert policy_for(root / ".bare").is_protected(root / ".bare/config")


def test_a_pointer_of_another_kind_stops_nobody(root: Path) -> None:
    os.mkfifo(root / ".git")
    assert policy_for(root).protected == ()
    (root / ".git").unlink()
    (root / ".git").write_bytes(b"gitdir: \xff\0/etc\n" + bytes(10_000))
    policy_for(root)


def test_keys_and_our_own_state_are_hidden(root: Path) -> None:
    for folder in (Path.home() / ".ssh", config_directory(), state_directory() / "sessions" / "1" / "output"):
        folder.mkdir(parents=True, exist_ok=True)
    spool = state_directory() / "sessions" / "1" / "output"
    policy = policy_for(root, readable=[spool])
    assert policy.is_hidden(Path.home() / ".ssh" / "id_ed25519")
    assert policy.is_hidden(config_directory() / "credentials.json")
    assert policy.is_hidden(state_directory() / "sessions" / "1" / "log.jsonl")
    assert policy.is_hidden(Path(f"/proc/{os.getpid()}/environ"))
    assert policy.is_hidden(Path("/run/docker.sock"))
    assert not policy.is_hidden(spool / "1.log")
    assert not policy.is_hidden(Path("/proc/cpuinfo"))
    assert not policy.is_hidden(Path.home() / "notes")
    assert not policy.is_hidden(Path.home() / ".sshx")


def test_what_names_a_path_more_closely_counts(tmp_path: Path) -> None:
    home = Path.home()
    (home / ".ssh").mkdir()
    (home / ".claude" / "worktrees" / "w").mkdir(parents=True)
    whole = policy_for(home)
    assert whole.is_hidden(home / ".ssh" / "id_rsa")
    assert not whole.is_hidden(home / "project")
    assert whole.is_protected(home / ".bashrc")
    assert whole.is_protected(home / ".config" / "git" / "config")
    assert not whole.is_protected(home / "project" / ".bashrc")
    below = policy_for(home / ".claude" / "worktrees" / "w")
    assert not below.is_hidden(home / ".claude/worktrees/w/src")
    assert below.is_hidden(home / ".claude/settings.json")
    assert not below.is_protected(home / ".claude/worktrees/w/src")


@pytest.mark.parametrize(
    ("glob", "denied", "not_denied"),
    [
        (".env", [".env", "sub/.env", ".ENV", ".env/x"], [".envrc", "x.env"]),
        ("**/*.pem", ["a.pem", "x/y/a.PEM", "d.pem/inside"], ["a.pemx", "pem"]),
        ("secrets/**", ["secrets/a", "secrets/b/c", "Secrets/a"], ["x/secrets/a", "secretsx/a"]),
        ("./conf/*.json", ["conf/a.json"], ["conf/a/b.txt", "x/conf/a.json"]),
        ("src/**/key", ["src/key", "src/a/b/key"], ["src/keys", "key"]),
        ("k[0-9]", ["k1", "a/k2"], ["kx"]),
        ("", [], ["a"]),
    ],
)
def test_denied_globs(root: Path, tmp_path: Path, glob: str, denied: list[str], not_denied: list[str]) -> None:
    policy = policy_for(root, [tmp_path / "other"], denied=[glob])
    for base in policy.workspace:
        assert [name for name in denied if not policy.is_denied(base / name)] == []
        assert [name for name in not_denied if policy.is_denied(base / name)] == []
    assert not policy.is_denied(tmp_path / "elsewhere" / ".env")


def test_absolute_globs(root: Path) -> None:
    policy = policy_for(root, denied=["/etc/sha*", "~/notes/**"])
    assert policy.is_denied(Path("/etc/shadow"))
    assert policy.is_denied(Path.home() / "notes" / "a")
    assert not policy.is_denied(root / "etc" / "shadow")


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(NAMES | st.sampled_from(["**", "*", "?"]), max_size=4))
def test_whatever_lies_below_what_is_denied_is_denied(parts: list[str], glob: list[str]) -> None:
    policy = Policy(root=Path("/r"), denied=("/".join(glob),))
    path = Path("/r", *parts)
    if any(policy.is_denied(parent) for parent in path.parents if parent != Path("/r")):
        assert policy.is_denied(path)
    if policy.is_denied(path):
        assert Policy(root=Path("/r"), denied=("**/" + "/".join(glob),)).is_denied(Path("/r/x", *parts))
