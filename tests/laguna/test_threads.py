"""How many threads compute and where, on machines of all kinds; and how torch is loaded for the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.backend.laguna.threads import compute_processors, physical_cores

LOADING = """
import os, sys
from laguna_agent.backend.laguna.threads import load_torch
load_torch()
print("torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY"))
"""
# Pinned, the caller must be on its own processor while it computes, and where it was before and afterwards.
PINNING = """
import os, ctypes, torch
from laguna_agent.backend.kernels.cpu import abi
from laguna_agent.backend.kernels.cpu.library import library
from laguna_agent.backend.laguna.threads import compute_processors, pin_threads
def masks():
    return {int(t): os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")}
before, all = set(masks()), os.sched_getaffinity(0)
w, x, y = torch.randn(9000, 64), torch.randn(9, 64), torch.empty(9, 9000)
m = abi.Matrix(abi.PLAIN_F32, 0, 0, 0, 1, 9000, 64, w.data_ptr())
p = abi.Product(m, x.data_ptr(), None, y.data_ptr(), None, 9, 3, 0)
def workers():
    assert library().opened.laguna_exact_product(p) == 0
    torch.testing.assert_close(y, x @ w.T)
    assert os.sched_getaffinity(0) == all
    return [cpus for task, cpus in sorted(masks().items()) if task not in before]
pin_threads()
bound = compute_processors()[1:]
assert workers() == [{bound[i]} if i < len(bound) else all for i in range(2)], workers()
library().opened.laguna_pin(None, 0)
assert workers() == [all, all], workers()
if os.fork() == 0:
    before = set(masks())
    assert workers() == [all, all]
    os._exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""


def test_threads_sleep_where_they_wait_and_commands_inherit_nothing():
    for asked, shown, left in ((None, "PASSIVE", "None"), ("active", "ACTIVE", "active")):
        told = {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": asked} if asked else {})
        command = [sys.executable, "-c", LOADING]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | told, timeout=100)
        assert done.stdout.split() == ["True", left], done.stderr
        assert f"OMP_WAIT_POLICY = '{shown}'" in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no threads to processors")
def test_pinned_threads_have_processors_of_their_own_until_they_are_released():
    pinned = os.environ | {"LAGUNA_PIN_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PINNING], capture_output=True, text=True, env=pinned, timeout=100)
    assert done.returncode == 0, done.stderr


class Machine:
    """A folder with the parts of /sys and /proc that are read; this process may use all of its processors, or some."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._monkeypatch = root, monkeypatch

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def processors(self, cores: list[tuple[int, int]], capacities: list[int] | None = None) -> None:
        """Socket and core of each processor."""
        for number, (socket, core) in enumerate(cores):
            self.write(f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id", str(socket))
            self.write(f"sys/devices/system/cpu/cpu{number}/topology/core_id", str(core))
            if capacities:
                self.write(f"sys/devices/system/cpu/cpu{number}/cpu_capacity", str(capacities[number]))
        self.may_use(set(range(len(cores))))

    def may_use(self, numbers: set[int]) -> None:
        self._monkeypatch.setattr(os, "sched_getaffinity", lambda _: numbers, raising=False)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_threads_of_a_core_count_once_and_sockets_apart(machine):
    machine.processors([(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 0)])
    assert compute_processors(machine.root) == [0, 1, 4]
    machine.may_use({2, 3, 5})
    assert compute_processors(machine.root) == [2, 3, 5]
    assert physical_cores(machine.root) == 3


def test_the_slow_cores_of_a_hybrid_compute_nothing(machine):
    machine.processors([(0, 0), (0, 0), (0, 4), (0, 4), (0, 8), (0, 9), (0, 10), (0, 11)])
    machine.write("sys/devices/cpu_core/cpus", "0-3")
    machine.write("sys/devices/cpu_atom/cpus", "4-7")
    assert compute_processors(machine.root) == [0, 2]
    # Whoever is kept off the fast ones uses what is left.
    machine.may_use({5, 6})
    assert compute_processors(machine.root) == [5, 6]


def test_arm_s_small_cores_compute_nothing(machine):
    machine.processors([(0, core) for core in range(8)], [250, 250, 250, 250, 780, 780, 780, 1024])
    assert compute_processors(machine.root) == [4, 5, 6, 7]
    machine.processors([(0, core) for core in range(4)], [1024] * 4)
    assert physical_cores(machine.root) == 4


def test_no_more_threads_than_the_control_group_keeps_busy(machine):
    machine.processors([(0, core) for core in range(8)])
    machine.write("proc/self/cgroup", "0::/jobs/ours")
    machine.write("sys/fs/cgroup/jobs/ours/cpu.max", "max 100000")
    assert physical_cores(machine.root) == 8
    machine.write("sys/fs/cgroup/jobs/cpu.max", "250000 100000")
    assert physical_cores(machine.root) == 2
    machine.write("sys/fs/cgroup/jobs/ours/cpu.max", "50000 100000")
    assert physical_cores(machine.root) == 1


def test_the_older_control_groups_count_too(machine):
    machine.processors([(0, core) for core in range(8)])
    machine.write("proc/self/cgroup", "7:memory:/x\n4:cpu,cpuacct:/docker/abc")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert physical_cores(machine.root) == 3
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    assert physical_cores(machine.root) == 8


def test_a_system_that_describes_nothing_has_its_processors(machine):
    machine.may_use({0, 1, 2})
    assert physical_cores(machine.root) == os.cpu_count()
