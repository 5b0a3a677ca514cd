"""Calls that the filter hands over, for want of mounts: in the workspace as the kernel makes them, outside never."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.confining import Ground, parent
from tests.sandbox.conftest import Grounds, made_as_can_be
from tests.sandbox.test_single_walls import alone

PROGRAM = str(Path(__file__).with_name("attribute_calls.py"))


@pytest.fixture(params=["with-namespaces", "without-namespaces"])
def landlocked(request: pytest.FixtureRequest, make_ground: Grounds) -> Ground:
    """A workspace in the tier whose files no mount keeps."""
    return made_as_can_be(make_ground, "landlock", apart=request.param == "with-namespaces")


def lay_out(place: Path) -> Path:
    """A file, a link to it and a folder."""
    (place / "folder").mkdir(parents=True)
    (place / "file").write_text("as it was\n")
    (place / "link").symlink_to("file")
    return place


def attributes_below(place: Path) -> dict[str, tuple[int, ...]]:
    """All but the time of the last reading, which looking at a link changes."""
    found = {each.name: each.lstat() for each in place.iterdir()}
    return {name: (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, at.st_ctime_ns) for name, at in found.items()}


def unconfined(place: Path, other: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, PROGRAM, str(lay_out(place)), str(lay_out(other)), "0"],
        capture_output=True, check=True, cwd=place, preexec_fn=_without_capabilities,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _without_capabilities() -> None:
    from laguna_agent.sandbox.warden import capabilities

    capabilities.drop_all()


def test_inside_as_the_kernel_does_and_outside_not_at_all(landlocked: Ground, tmp_path: Path) -> None:
    expected = unconfined(tmp_path / "one" / "inside", tmp_path / "one" / "outside")
    inside, outside = lay_out(landlocked.workspace / "inside"), lay_out(landlocked.outside / "there" / "outside")
    before = attributes_below(outside)
    done = landlocked.run_program(sys.executable, "-I", "-S", PROGRAM, str(inside), str(outside), "0.3", cwd=inside)
    told = json.loads(done.output)
    assert told["told"] == expected["told"]
    assert "done" not in told["refused"].values(), told["refused"]
    assert attributes_below(outside) == before
    assert told["kept"] == ["done", "done", "done", "0o600"]
    # What is read while it is being exchanged may be half of each.
    assert "done" in told["raced"] and set(told["raced"].split()) <= {"done", "EPERM", "ENOENT", "ENOTDIR"}


OF_PROCESSES = """
import ctypes, errno, json, os, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine != "x86_64"
def ioprio(which, who):
    if libc.syscall(ctypes.c_long((251, 30)[machine]), which, who, (2 << 13) | 6) < 0:
        raise OSError(ctypes.get_errno(), "ioprio_set")
ways = {
    "setpriority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "affinity": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
    "scheduler": lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
    "param": lambda pid: os.sched_setparam(pid, os.sched_param(0)),
    "ioprio": lambda pid: ioprio(1, pid),
}
def attempt(do, *a):
    try: do(*a); return "done"
    except OSError as error: return errno.errorcode[error.errno]
child = subprocess.Popen(["sleep", "60"])
thread = threading.Thread(target=threading.Event().wait, daemon=True); thread.start()
told = {way: [attempt(do, pid) for pid in (0, os.getpid(), child.pid, thread.native_id)] for way, do in ways.items()}
victims = {way: [attempt(do, int(pid)) for pid in sys.argv[1:]] for way, do in ways.items()}
everybody = [attempt(os.setpriority, os.PRIO_USER, os.getuid(), 19), attempt(os.setpriority, os.PRIO_USER, 0, 19),
             attempt(os.setpriority, os.PRIO_PGRP, int(sys.argv[1]), 19), attempt(ioprio, 3, os.getuid()), attempt(ioprio, 2, int(sys.argv[1]))]
own = [attempt(os.setpriority, os.PRIO_PGRP, 0, 19), attempt(ioprio, 2, 0)]
child.kill()
print(json.dumps([told, victims, everybody, own]))
"""  # noqa: E501 - a program


def test_priorities_of_its_own_processes_only(landlocked: Ground) -> None:
    """Also of one without capabilities, as every process of a user is: for root the kernel itself would refuse."""
    victim = subprocess.Popen(["sleep", "60"], preexec_fn=_without_capabilities, start_new_session=True)
    try:
        priority = os.getpriority(os.PRIO_PROCESS, victim.pid)
        warden = parent(landlocked.start("sleep", "60").pid)
        # Where processes are apart nobody else has a number, and 1 is the warden.
        others = [str(each) for each in (victim.pid, warden, parent(warden), *([] if landlocked.apart else [1]))]
        done = landlocked.run_program(sys.executable, "-I", "-S", "-c", OF_PROCESSES, *others)
        own, victims, everybody, group = json.loads(done.output)
        assert {each for way in own.values() for each in way} == {"done"}, own
        assert {each for way in victims.values() for each in way} == {"ESRCH" if landlocked.apart else "EPERM"}, victims
        assert everybody == (["done", "done", "ESRCH", "done", "ESRCH"] if landlocked.apart else ["EPERM"] * 5)
        assert group == ["done"] * 2
        assert os.getpriority(os.PRIO_PROCESS, victim.pid) == priority
    finally:
        victim.kill()
        victim.wait()


NESTED = """
import os, threading
sys.path.insert(0, os.getcwd())
outer = seccomp.install("nothing", own_ipc=False)
inner = seccomp.install("nothing", own_ipc=False)
answers = []
thread = threading.Thread(target=lambda: answers.append(attempt(os.chmod, sys.argv[1], 0o700)), daemon=True)
thread.start()
thread.join(0.3)
waits = thread.is_alive()
os.close(outer)
thread.join(10)
print(inner, waits, *answers)
"""


def test_a_filter_within_a_filter_leaves_it_to_the_outer_one(tmp_path: Path) -> None:
    """There is at most one listener. When nobody listens any more, such a call fails: it neither waits nor is made."""
    path = tmp_path / "file"
    path.touch(0o600)
    before = path.stat()
    assert alone(NESTED, str(path)).split() == ["None", "True", str(errno.ENOSYS)]
    assert path.stat() == before
