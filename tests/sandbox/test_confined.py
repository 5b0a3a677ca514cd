"""Starting processes behind the walls: what arrives, what is reported, and that nothing outlives its warden."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox import archive, plans, wardens
from laguna_agent.sandbox.confinement import Tier
from tests.sandbox.confining import Ground, ended, gone, parent
from tests.sandbox.conftest import Grounds

SHOW = "import os, sys; sys.stdout.buffer.write(repr([os.fsencode(a) for a in sys.argv[1:]]).encode() + b'|'"
SHOW += " + repr(os.environb.get(b'ODD')).encode() + b'|' + os.fsencode(os.getcwd()))"


def test_what_arrives(ground: Ground) -> None:
    odd = os.fsdecode(b"\xff\xfe \n'\"$x")
    done = ground.run_program(sys.executable, "-c", SHOW, odd, "", "-c", env={"ODD": odd})
    expected = f"{[os.fsencode(odd), b'', b'-c']!r}|{os.fsencode(odd)!r}|{ground.workspace}"
    assert done == (0, expected)
    large = {f"LARGE_{i}": "x" * 10_000 for i in range(90)}
    assert ground.run("env | wc -c", env=large).output.strip() > "900000"


def test_exit_codes(ground: Ground) -> None:
    assert ground.run("exit 7").code == 7
    assert ground.run("kill -KILL $$").code == -signal.SIGKILL
    assert ground.run("kill -TERM $$").code == -signal.SIGTERM
    assert ground.run("exec true").code == 0


def test_a_program_that_cannot_be_started(ground: Ground) -> None:
    plain = ground.workspace / "plain"
    plain.write_text("no program")
    too_large = {f"L{i}": "x" * 100_000 for i in range(40)}
    for argv, env, cwd, expected in (
        (["nonesuch"], {}, None, errno.ENOENT),
        ([str(plain)], {}, None, errno.EACCES),
        (["true"], {}, ground.workspace / "nowhere", errno.ENOENT),
        (["true"], too_large, None, errno.E2BIG),
        (["a\0b"], {}, None, errno.EINVAL),
        (["true"], {"A=B": ""}, None, errno.EINVAL),
        ([], {}, None, errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            ground.start(*argv, env=env, cwd=cwd)
        assert caught.value.errno == expected, argv
    assert ground.run("echo still here").output == "still here\n"


def test_nothing_but_three_descriptors(ground: Ground) -> None:
    with ThreadPoolExecutor(4) as threads:
        listings = list(threads.map(lambda _: ground.run("ls /proc/self/fd; sleep 0.1").output.split(), range(8)))
    # The fourth is that of ls itself, which reads the directory.
    assert listings == [["0", "1", "2", "3"]] * 8


def test_signals_are_as_programs_expect(ground: Ground) -> None:
    status = ground.run("grep -E '^Sig(Blk|Ign)' /proc/self/status").output.split()
    # libc keeps 32 and 33 to itself; what an outer program did to them, no other can undo.
    assert [int(each, 16) & ~(0b11 << 31) for each in status[1::2]] == [0, 0]


def test_a_process_is_known_by_its_id_outside(ground: Ground) -> None:
    child = ground.start("sleep", "60")
    assert child.poll() is None
    assert b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes()
    assert os.getsid(child.pid) == child.pid == os.getpgid(child.pid)
    os.killpg(child.pid, signal.SIGTERM)
    assert ended(child) == -signal.SIGTERM
    child.close()
    assert child.watch is None


def test_many_at_once(ground: Ground) -> None:
    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(lambda i: ground.run(f"echo {i}; exit {i}"), range(48)))
    assert done == [(i, f"{i}\n") for i in range(48)]


def test_a_server_in_the_background(full: Ground) -> None:
    """On a loopback of its own, which later commands share."""
    serve = "import http.server as h; h.HTTPServer(('127.0.0.1', 8765), h.SimpleHTTPRequestHandler).serve_forever()"
    server = full.start(sys.executable, "-c", serve)
    (full.workspace / "page").write_text("served")
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8765/page').read().decode())"
    command = f'for i in 1 2 3 4 5 6 7 8 9; do {sys.executable} -c "{ask}" 2>/dev/null && break; sleep 0.2; done'
    assert full.run(command).output == "served\n"
    os.kill(server.pid, signal.SIGKILL)
    assert ended(server) == -signal.SIGKILL


def test_closing_ends_everything(ground: Ground) -> None:
    ground.run("setsid sleep 300 > /dev/null 2>&1 &")
    child = ground.start("/bin/sh", "-c", "trap '' TERM HUP INT; (setsid setsid sleep 300 &) ; sleep 300; true")
    below = below_warden(child.pid)
    assert len(below) >= 3
    ground.confinement.close()
    assert ended(child) == -signal.SIGKILL
    assert all(gone(pid) for pid in below)
    with pytest.raises(SandboxError, match="closed"):
        ground.run("true")


def test_a_warden_that_was_killed(ground: Ground) -> None:
    child = ground.start("sleep", "300")
    ground.run("setsid sleep 300 > /dev/null 2>&1 &")
    below = below_warden(child.pid)
    os.kill(parent(child.pid), signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    assert all(gone(pid) for pid in below)
    assert ground.run("echo again") == (0, "again\n")


def test_a_command_that_kills_its_warden(ground: Ground) -> None:
    """In a pid namespace it cannot; without one the next command gets another warden, and nothing stays."""
    child = ground.start("sleep", "300")
    warden = 1 if ground.own_pids else parent(child.pid)
    ground.run(f"kill -KILL {warden}; kill -STOP {warden}; sleep 0.2")
    assert ground.run("echo again") == (0, "again\n")
    if ground.own_pids:
        assert child.poll() is None
    else:
        assert gone(child.pid)
        assert ended(child) == -signal.SIGKILL


def test_the_warden_keeps_its_socket_to_itself(ground: Ground) -> None:
    child = ground.start("sleep", "300")
    warden = 1 if ground.own_pids else parent(child.pid)
    done = ground.run(f"ls /proc/{warden}/fd; cat /proc/{warden}/environ; echo x > /proc/{warden}/mem")
    assert done.output.count("Permission denied") + done.output.count("cannot create") >= 3, done.output


AGENT = """
import sys, time
from pathlib import Path
from tests.sandbox.confining import Ground, parent
ground = Ground(sys.argv[1], Path(sys.argv[2]))
ground.run("(setsid sleep 300 > /dev/null 2>&1 &)")
child = ground.start("/bin/sh", "-c", "trap '' TERM HUP; sleep 300; true")
reading = ground.start("sleep", "300", kind="reading")
print(child.pid, reading.pid, parent(child.pid), parent(reading.pid), flush=True)
time.sleep(300)
"""


def test_an_agent_that_was_killed(tier: Tier, tmp_path: Path) -> None:
    agent = subprocess.Popen([sys.executable, "-c", AGENT, tier, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    pids = [int(word) for word in agent.stdout.readline().split()]
    below = below_warden(pids[0]) | set(pids)
    agent.kill()
    agent.wait()
    assert all(gone(pid) for pid in below)
    agent.stdout.close()


def test_an_explosion_of_processes(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the kernel does not hold for root, so the warden counts."""
    monkeypatch.setattr(plans, "MOST_PROCESSES", 60)
    child = ground.start("/bin/sh", "-c", "for i in $(seq 150); do setsid sleep 300 & done; wait")
    began = time.monotonic()
    assert ended(child) == -signal.SIGKILL
    assert time.monotonic() - began < 30
    assert ground.run("echo again") == (0, "again\n")


def test_resource_limits(ground: Ground) -> None:
    assert ground.run("ulimit -Hc; ulimit -Hn").output.split()[0] == "0"
    assert int(ground.run("ulimit -Hn").output) <= 65_536
    assert ground.run("cat /proc/self/oom_score_adj").output.strip() == "500"


def test_nothing_gives_rights_back(ground: Ground) -> None:
    """No program that root owns, no capability, no second filter taken off."""
    status = dict(line.split(":\t") for line in ground.run("cat /proc/self/status").output.splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    if os.getuid() == 0 or ground.own_pids:
        assert status["CapBnd"] == "0" * 16


def test_a_changed_program_is_not_started(ground: Ground, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who works on this program has it in the workspace: a warden is what it was when the session began."""
    package = tmp_path / "package"
    (package / "warden").mkdir(parents=True)
    (package / "warden" / "serving.py").write_text("def main():\n    raise SystemExit('changed')\n")
    monkeypatch.setattr(wardens, "_PACKAGE", str(package))
    monkeypatch.setattr(archive, "_FOLDER", package / "warden")
    assert ground.run("echo unchanged") == (0, "unchanged\n")


def test_no_confinement_without_walls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that fails is an error, never a bare process."""
    false = tmp_path / "bwrap"
    false.write_text("#!/bin/sh\necho 'bwrap: no permission to create namespaces' >&2\nexit 1\n")
    false.chmod(0o755)
    monkeypatch.setattr(plans, "find_bubblewrap", lambda: false)
    ground = Ground("bubblewrap", tmp_path)
    with pytest.raises(SandboxError, match="no permission to create namespaces"):
        ground.run(f"touch {ground.outside}/ran")
    assert sorted(each.name for each in ground.outside.iterdir()) == ["file"]
    assert sorted(each.name for each in ground.workspace.iterdir()) == [".git"]


def test_kinds_have_wardens_of_their_own(make_ground: Grounds, tier: Tier) -> None:
    ground = make_ground(tier)
    children = [ground.start("sleep", "60", kind=kind) for kind in ("workspace", "reading", "network")]
    assert len({parent(each.pid) for each in children}) == 3


def below_warden(pid: int) -> set[int]:
    """Every process that the warden of `pid` has below it, and the warden."""
    time.sleep(0.3)
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = parent(int(name))
            except OSError:
                continue
    found = {parent(pid)}
    while more := {each for each, above in parents.items() if above in found} - found:
        found |= more
    return found
