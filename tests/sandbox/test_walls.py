"""Each wall by an attempt on it, in a real warden; and that honest work goes on behind them."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.sandbox.probe import CLAIMS, probe
from laguna_agent.sandbox.programs import find_bubblewrap
from laguna_agent.sandbox.warden import landlock
from laguna_agent.sandbox.wardens import Recipe
from tests.sandbox.confining import Ground, proved, why_not
from tests.sandbox.conftest import Grounds

PYTHON = sys.executable


@pytest.mark.skipif(sys.platform != "linux", reason="these tiers are Linux's")
def test_no_tier_is_skipped_without_need() -> None:
    """What the other tests skip for is a machine that lacks something, never a wall of ours that has fallen."""
    if landlock.abi():
        assert why_not("landlock") == ""
    if program := find_bubblewrap():
        words = [str(program), "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            assert why_not("bubblewrap") == ""


def test_what_the_probe_finds(tier: Tier) -> None:
    """Everything in the best tier; in the other all but the documented gaps."""
    report = probe(tier, apart=tier == "landlock" and proved(tier).apart)
    broken = {each.claim.key for each in report.found if not each.held}
    gaps = {"loopback", "hooks", "config", "moved", "absent", "denied"} if tier == "landlock" else set()
    gaps |= {"arguments"} if tier == "landlock" and not proved(tier).apart else set()
    assert broken == gaps, {each.claim.key: each.how for each in report.found}
    assert report.failures(tier) == []
    assert len(report.found) == len(CLAIMS)


def test_a_failed_claim_is_a_failure(bubblewrap: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe sees what it claims to see: without the walls every hostile attempt is reported. Only what is mounted
    stays in a namespace."""
    from laguna_agent.sandbox import probe as module

    open_rules = {
        "walls": True, "writable": [], "changeable": [], "readable": None, "identities": [], "reach": "world",
        "own": False, "apart": False, "kernel": False, "processes": 2000,
    }  # fmt: skip
    words = (str(find_bubblewrap()), "--unshare-user", "--cap-add", "ALL", "--dev-bind", "/", "/")
    monkeypatch.setattr(module, "recipe", lambda *_, **__: lambda _: Recipe(words, open_rules))  # type: ignore[arg-type]
    report = probe(bubblewrap)
    held = {each.claim.key for each in report.found if each.held}
    works = {each.key for each in CLAIMS if each.works}
    # Nothing is mounted there; devices, and root's processes, need the machine's own root. Some kernels lack io_uring.
    assert held - works <= {"unmount", "device", "environment", "io_uring"}
    assert report.failures(bubblewrap)


ATTACKS = """
echo x > sub/project/.vscode/tasks.json
mv sub elsewhere
mv sub/project elsewhere
rm -rf sub/project
rm -rf .git/hooks; mkdir -p .git/hooks; echo x > .git/hooks/pre-commit
mv .git g; mkdir -p .git/hooks; echo x > .git/hooks/pre-commit
git config core.fsmonitor x
git config core.hooksPath x
echo x > new; mv -f new .git/config
ln -f .git/config linked; echo x >> linked
ln -sfT /tmp .git/hooks
ln -s /tmp .laguna
mkdir .claude/x; echo x > .claude/settings.json
rmdir .envrc; echo x > .envrc
rm -rf .mcp.json; echo x > .mcp.json
mv .idea x; mkdir .idea; echo x > .idea/workspace.xml
echo x > .git/config.worktree
echo x > .git/modules/m/config
echo x > .git/modules/m/hooks/post-checkout
mv .git/modules g; mkdir -p .git/modules/m/hooks
mv .git/modules/m .git/modules/n
echo x > vendor/lib/.git/hooks/pre-commit
echo x >> vendor/lib/.git/config
mv vendor/lib/.git vendor/lib/g
mv vendor v
chmod 777 .git/hooks/pre-commit
umount .git/hooks; echo x > .git/hooks/post-commit
umount -l .envrc; rmdir .envrc; echo x > .envrc
mount -o remount,bind,rw .git/hooks; echo x > .git/hooks/post-commit
mount -o remount,bind,rw /; echo x >> ../outside/file
unshare -Urm sh -c 'umount -l .git/hooks; echo x > .git/hooks/post-commit'
echo x >> ../outside/file
ln ../outside/file here; echo x >> here
mv new ../outside/new
chmod 777 ../outside/file
touch -d 2001-01-01 ../outside/file
truncate -s 0 ../outside/file
rm -rf ../outside
echo x >> /proc/self/root/etc/../../$PWD/../outside/file
echo x >> out/file
"""
EXCHANGE = "import ctypes; ctypes.CDLL(None).syscall(316, -100, b'.git', -100, b'plain', 2)"


def test_protected_paths(make_ground: Grounds, bubblewrap: Tier, tmp_path: Path) -> None:
    for name in ("sub/project/.vscode", "vendor/lib"):
        (tmp_path / "workspace" / name).mkdir(parents=True, exist_ok=True)
    workspace = tmp_path / "workspace"
    (workspace / "sub/project/.vscode/tasks.json").write_text("{}")
    for repository in (workspace, workspace / "vendor/lib"):
        subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (workspace / ".git/hooks/pre-commit").write_text("#!/bin/sh\n")
    (workspace / ".git/modules/m/hooks").mkdir(parents=True)
    for name in ("HEAD", "config"):
        (workspace / ".git/modules/m" / name).write_text("[core]\n")
    (workspace / "out").symlink_to("../outside")
    (workspace / "plain").mkdir()
    ground = make_ground(bubblewrap)
    ground.run("true")
    before = snapshot(ground)
    for attack in ATTACKS.strip().splitlines():
        ground.run(attack)
        assert snapshot(ground) == before, attack
    ground.run_program(PYTHON, "-c", EXCHANGE)
    assert snapshot(ground) == before
    assert ground.run("echo more > plain/file && mv plain p && git add p && git commit -qm p").code == 0


def snapshot(ground: Ground) -> dict[str, object]:
    """What must stay: protected paths and everything outside, with content, mode and time."""
    kept = ["sub/project/.vscode", "vendor/lib/.git/hooks", "vendor/lib/.git/config", ".git/hooks", ".git/config"]
    kept += [".git/modules/m/hooks", ".git/modules/m/config", ".git/config.worktree"]
    kept += [".envrc", ".mcp.json", ".laguna", ".claude", ".idea"]
    found: dict[str, object] = {}
    for top in [*(ground.workspace / each for each in kept), ground.outside]:
        for path in [top, *sorted(top.rglob("*"))]:
            content = path.read_bytes() if path.is_file() else sorted(each.name for each in path.iterdir())
            found[str(path)] = (content, path.lstat().st_mode, path.lstat().st_mtime_ns)
    return found


HONEST = r"""
git init -q inner && git -C inner commit -q --allow-empty -m x
echo a > a && git add a && git commit -qm a && git checkout -qb topic && git stash list && git log --oneline | grep a
mkdir -p d/e && mv a d/e/ && ln d/e/a hard && ln -s d/e soft && cat soft/a
cp -r .git copy && rm -rf copy inner
python3 -c 'import tempfile; tempfile.TemporaryDirectory().cleanup(); tempfile.NamedTemporaryFile().close()'
echo x > /tmp/x && cat /tmp/x > $TMPDIR/y && test -e /tmp/y
mkfifo pipe && (cat pipe &) && echo x > pipe
printf 'all:\n\techo made > made\n' > Makefile && make -s && cat made
chmod +x made; touch -d 2001-01-01 made; ls -l /proc/self/fd > /dev/null; echo x > /dev/null; head -c 9 /dev/urandom
python3 -c 'import multiprocessing as m; print(m.Pool(2).map(abs, [-1]))'
python3 -c 'import threading as t; x = t.Thread(target=print); x.start(); x.join()'
cat /etc/passwd | grep -q root; ls / ~ > /dev/null; df . > /dev/null; ps > /dev/null; git --version
setsid sh -c 'echo $PPID' && nohup true && timeout 5 true && nice true
"""


def test_honest_work(ground: Ground) -> None:
    for command in HONEST.strip().splitlines():
        done = ground.run(command)
        # A private /tmp needs mounts.
        if not (ground.tier == "landlock" and "/tmp/x" in command):
            assert done.code == 0, (command, done.output)


def test_the_kind_that_looks_only(ground: Ground) -> None:
    (ground.workspace / "file").write_text("seen\n")
    assert ground.run("cat file; git status --short", kind="reading") == (0, "seen\n?? file\n")
    for attempt in ("echo x > new", "echo x >> file", "rm file", "mkdir d", "git add file", "mv file f"):
        assert ground.run(attempt, kind="reading").code != 0, attempt
    assert sorted(each.name for each in ground.workspace.iterdir()) == [".git", "file"]
    assert ground.run("echo x > $TMPDIR/x", kind="reading").code == 0


CONNECT = "import socket, sys; s = socket.socket(getattr(socket, sys.argv[1])); s.connect({}); s.send(b'!')"


def test_the_network_only_where_granted(ground: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        program = CONNECT.format(f"('127.0.0.1', {server.getsockname()[1]})")
        assert ground.run_program(PYTHON, "-c", program, "AF_INET").code != 0
        with pytest.raises(TimeoutError):
            server.accept()
        assert ground.run_program(PYTHON, "-c", program, "AF_INET", kind="network").code == 0
        server.accept()[0].close()
    assert ground.run("echo x > .git/hooks/h", kind="network").code != 0 or ground.tier == "landlock"
    assert ground.run("cat /etc/resolv.conf > /dev/null", kind="network").code == 0


@pytest.mark.parametrize("kind", ["workspace", "network"])
def test_no_local_socket_of_others(ground: Ground, kind: str) -> None:
    """Through which a container engine or a session bus would do anything."""
    with contextlib.ExitStack() as stack:
        # Short, and neither hidden nor of its own in the sandbox: only root may put it beside the services' own.
        place = "/var/lib" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_dir
        short = stack.enter_context(tempfile.TemporaryDirectory(dir=place))
        name = Path(short).name
        for address, expression in ((f"{short}/s", f"'{short}/s'"), (f"\0{name}", f"'\\0{name}'")):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen()
            done = ground.run_program(PYTHON, "-c", CONNECT.format(expression), "AF_UNIX", kind=kind)
            assert done.code != 0, address


def test_only_harmless_sockets(ground: Ground) -> None:
    """Packet, vsock, crypto and other netlink sockets reach into the kernel or the machine."""
    program = (
        "import socket\nfor f, t, p in {}:\n try:\n  socket.socket(f, t, p); print('open', f)\n except OSError: pass"
    )
    reaching = [(17, 3, 0), (38, 5, 0), (40, 1, 0), (16, 3, 9), (16, 3, 15), (31, 3, 1), (44, 3, 0)]
    for kind in ("workspace", "network"):
        assert ground.run_program(PYTHON, "-c", program.format(reaching), kind=kind).output == ""


def test_keys_are_hidden(make_ground: Grounds, tier: Tier, tmp_path: Path) -> None:
    home = Path(os.environ["HOME"])
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text("very secret")
    (home / ".netrc").write_text("very secret")
    shown = home / "state" / "laguna-agent" / "outputs"
    shown.mkdir(parents=True)
    (shown.parent / "log").write_text("very secret")
    (shown / "text").write_text("an output")
    (home / "plain").write_text("plain")
    (tmp_path / "workspace").mkdir()
    policy = policy_for(tmp_path / "workspace", readable=[shown])
    ground = make_ground(tier, hidden=policy.hidden, readable=policy.readable)
    places = f"{home}/.ssh/id_ed25519 {home}/.netrc {shown.parent}/log"
    for command in (f"cat {places}", f"cp -r {home}/.ssh {home}/.netrc {shown.parent} .", f"grep -r secret {home}"):
        assert "very secret" not in ground.run(command).output
    assert "very secret" not in ground.run("cat -r .ssh/* .netrc laguna-agent/log 2>/dev/null").output
    assert ground.run(f"cat {shown}/text {home}/plain").output == "an outputplain"
    assert ground.run(f"echo x > {shown}/new").code != 0
    # Nothing is lost in a directory that is not really there.
    assert ground.run(f"echo x > {home}/.ssh/new").code != 0


def test_a_home_directory_as_the_workspace(make_ground: Grounds, bubblewrap: Tier) -> None:
    """The keys in it stay hidden, though everything else is the workspace."""
    home = Path(os.environ["HOME"])
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("very secret")
    policy = policy_for(home)
    assert policy.is_hidden(home / ".ssh" / "id")
    ground = make_ground(bubblewrap, root=home, hidden=policy.hidden, readable=())
    assert "secret" not in ground.run("cat .ssh/id; mv .ssh s; cat s/id", cwd=home).output
    assert ground.run("echo x > new", cwd=home).code == 0


def test_a_workspace_below_a_hidden_directory(make_ground: Grounds, tier: Tier, tmp_path: Path) -> None:
    (tmp_path / "beside").write_text("very secret")
    ground = make_ground(tier, hidden=(tmp_path,))
    assert ground.run(f"cat {tmp_path}/beside; echo x > new; cat new").output.endswith("x\n")
    assert "secret" not in ground.run(f"cat {tmp_path}/beside {tmp_path}/outside/file").output


def test_what_the_person_denies(make_ground: Grounds, bubblewrap: Tier, tmp_path: Path) -> None:
    for name in (".env", "sub/.env", "keys/a.pem", "private/deep/file"):
        path = tmp_path / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("very secret")
    (tmp_path / "workspace" / "alias").symlink_to(".env")
    ground = make_ground(bubblewrap, denied=(".env", "keys/*.pem", "private/**"))
    for kind in ("workspace", "reading", "network"):
        done = ground.run("cat .env sub/.env alias keys/a.pem private/deep/file; grep -rs secret .", kind=kind)
        assert "very secret" not in done.output
    ground.run("rm -f .env; mv sub s; cp -r private p; cat s/.env p/deep/file")
    assert (tmp_path / "workspace" / ".env").read_text() == "very secret"
