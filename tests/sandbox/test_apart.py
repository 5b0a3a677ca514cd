"""Processes apart from the machine's, where there is no bubblewrap: with namespaces, and where none can be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laguna_agent.sandbox.confinement import Tier
from tests.sandbox.confining import Ground
from tests.sandbox.conftest import Grounds, made_as_can_be
from tests.sandbox.test_single_walls import alone

SECRET = "--token=of-somebody-else"
NAMESPACES = ["unshare", "-Urpmf", "--mount-proc", "true"]
CAN = subprocess.run(NAMESPACES, capture_output=True, check=False).returncode == 0 if sys.platform == "linux" else False
permitted = pytest.mark.skipif(not CAN, reason="this machine permits no namespaces")


@pytest.fixture
def apart(make_ground: Grounds) -> Ground:
    return made_as_can_be(make_ground, "landlock", apart=True)


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the person's with a secret among its arguments."""
    words = ["sh", "-c", "echo there; read -r _", "sh", SECRET]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    # Only then it has become this program for certain.
    assert process.stdout.readline() == b"there\n"
    yield process
    process.communicate()


@permitted
def test_namespaces_are_used_where_the_machine_permits_them(apart: Ground) -> None:
    """Found out without any code of ours: what `apart` skips for is never a wall that has fallen."""
    assert apart.apart


def test_arguments_of_others_are_out_of_reach(apart: Ground, somebody: subprocess.Popen[bytes]) -> None:
    look = f"cat /proc/{somebody.pid}/cmdline /proc/[0-9]*/cmdline /proc/[0-9]*/task/*/cmdline | tr '\\0' ' '; ps -ef"
    assert SECRET.encode() in Path(f"/proc/{somebody.pid}/cmdline").read_bytes()
    assert SECRET not in apart.run(look).output
    assert SECRET not in apart.run(look, kind="reading").output


def test_its_own_processes_are_there(apart: Ground) -> None:
    """What programs look up of themselves and of each other, also what another command has left running."""
    apart.run("sleep 61.5 > /dev/null 2>&1 &")
    child = "sleep 60 > /dev/null 2>&1 & until [ \"$(tr '\\0' ' ' < /proc/$!/cmdline)\" = 'sleep 60 ' ]; do :; done"
    assert apart.run(f"{child}; grep -c . /proc/self/maps /proc/$$/status | wc -l") == (0, "2\n")
    found = "import glob; print(*(open(f).read().replace(chr(0), ' ') for f in glob.glob('/proc/[0-9]*/cmdline')))"
    assert "sleep 61.5" in apart.run_program(sys.executable, "-c", found).output
    assert apart.run("head -c 1 /proc/cpuinfo /proc/meminfo /proc/sys/kernel/ostype > /dev/null").code == 0


def test_who_it_is_stays_the_same(apart: Ground) -> None:
    """Files that it makes are the person's, and nobody's processes but its own are in its namespaces."""
    assert apart.run("id -u; id -g; echo x > made").output.split() == [str(os.geteuid()), str(os.getegid())]
    at = (apart.workspace / "made").stat()
    assert (at.st_uid, at.st_gid) == (os.geteuid(), os.getegid())
    child = apart.start("sleep", "60")
    for name in ("user", "mnt", "pid"):
        assert os.readlink(f"/proc/{child.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")


ELSEWHERE = """
import pathlib, subprocess
from laguna_agent.sandbox.warden.kernel import mount
from tests.sandbox.confining import Ground
folder = pathlib.Path(sys.argv[1])
# Nowhere that a sandbox exchanges anyway; these mounts are this process's alone.
mount(b"none", b"/mnt", b"tmpfs", 0)
other = pathlib.Path("/mnt/other places/pröc")
other.mkdir(parents=True)
mount(b"/proc", os.fsencode(other), None, 1 << 12)
ground = Ground(sys.argv[4], folder)
print(sys.argv[2] in (other / sys.argv[3] / "cmdline").read_text(), end=" ")
print(sys.argv[2] in ground.run(f"cat '{other}'/[0-9]*/cmdline").output, len(list(other.glob("[0-9]*"))) > 5, end=" ")
print("Name" in ground.run(f"cat '{other}'/self/status").output)
ground.confinement.close()
"""


@permitted
def test_a_second_proc_shows_nobody_either(tier: Tier, tmp_path: Path, somebody: subprocess.Popen[bytes]) -> None:
    """As containers that look after a machine have one."""
    wrapper = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-Urm")
    told = alone(ELSEWHERE, str(tmp_path), SECRET, str(somebody.pid), tier, wrapper=wrapper)
    assert told.split() == ["True", "False", "True", "True"]


MASKED = """
import pathlib
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.warden.kernel import mount
from tests.sandbox.confining import Ground
mount(b"none", b"/proc/irq", b"tmpfs", 0)
try: Ground("landlock", pathlib.Path(sys.argv[1]), apart=True).run("true")
except SandboxError as error: print(error)
"""


@permitted
def test_what_is_masked_in_proc_stays_masked(tmp_path: Path) -> None:
    """As in containers: a new /proc would show it, so there is none, and that is an error."""
    wrapper = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-Urm")
    assert "Operation not permitted" in alone(MASKED, str(tmp_path), wrapper=wrapper)


REFUSED = """
import json, pathlib
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.probe import CLAIMS
from laguna_agent.sandbox.tiers import examine
from tests.sandbox.confining import Ground
unshare = seccomp._WITH_ARGUMENTS["unshare"][seccomp.MACHINE != "x86_64"]
load, equal, give = (0x20, 0, 0, 0), (0x15, 0, 1, unshare), 0x06
seccomp._install([load, equal, (give, 0, 0, seccomp.REFUSE), (give, 0, 0, seccomp.ALLOW)], 0)
proof = examine("landlock")
keys = {claim.words: claim.key for claim in CLAIMS}
lacking = [keys[words] for words, held, _ in proof.claims if not held]
try: Ground("landlock", pathlib.Path(sys.argv[1]), apart=True).run("touch ../outside/ran")
except SandboxError as error: said = str(error)
print(json.dumps([proof.apart, proof.summary, proof.reasons, lacking, said]))
"""


def test_where_namespaces_are_refused_the_proof_says_so(tmp_path: Path) -> None:
    """The tier is there, with a hole more; a session that was promised namespaces gets them or an error."""
    without, summary, reasons, lacking, said = json.loads(alone(REFUSED, str(tmp_path)))
    assert not without and "namespace" not in summary
    refusal = "no namespaces for processes here: Operation not permitted"
    assert refusal in said and len(reasons) == 1 and refusal in reasons[0]
    assert sorted(lacking) == ["absent", "arguments", "config", "denied", "hooks", "loopback", "moved"]
    assert not (tmp_path / "outside" / "ran").exists()
