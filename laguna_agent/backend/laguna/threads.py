"""How many threads the engine computes with, on which processors, and how torch's own wait for one another.

    LAGUNA_PIN_THREADS=1   bind the threads of the compiled kernels to a core each

`root` is where the system's folders /sys and /proc lie: tests have machines of their own.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

PIN = "LAGUNA_PIN_THREADS"
ROOT = Path("/")


def physical_cores(root: Path = ROOT) -> int:
    """As many as there are `compute_processors`, but no more than the control group may keep busy all the time.

    A thread more would wait for its turn while the others spin and wait for it.
    """
    try:
        cores = len(compute_processors(root))
    except (AttributeError, OSError):  # not Linux, or a container without /sys
        cores = os.cpu_count() or 1
    return int(max(1, min(cores, _quota(root))))


def compute_processors(root: Path = ROOT) -> list[int]:
    """One processor of each core that this process may use, on the fast cores alone where the machine has two kinds.

    A second thread of a core computes nothing more; a slow core is the one that the others wait for. Raises OSError
    where the system does not describe its processors, AttributeError where it has no affinity.
    """
    usable = os.sched_getaffinity(0)
    first = dict[tuple[str, str], int]()
    for number in sorted(usable & _fast(usable, root) or usable):
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        first.setdefault(((folder / "physical_package_id").read_text(), (folder / "core_id").read_text()), number)
    return list(first.values())


def _fast(usable: set[int], root: Path) -> set[int]:
    """The processors of the fast kind: as Intel's hybrids name them, or by ARM's capacities; all if all are alike."""
    try:
        return _numbers((root / "sys/devices/cpu_core/cpus").read_text())
    except OSError:
        pass
    try:
        places = {number: root / f"sys/devices/system/cpu/cpu{number}/cpu_capacity" for number in usable}
        capacity = {number: int(place.read_text()) for number, place in places.items()}
    except OSError:
        return usable
    # Three kinds are common, and the middle one is worth having: only the small ones are far below.
    return {number for number in usable if 2 * capacity[number] > max(capacity.values())}


def _numbers(text: str) -> set[int]:
    """A list of processors as the kernel writes it: 0-3,8."""
    found = set[int]()
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def _quota(root: Path) -> float:
    """Processors' worth of time that the control groups of this process grant it; infinite where none limits it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    granted = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            granted += [_share(folder / "cpu.max") for folder in _upwards(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            granted += [_old_share(folder) for folder in _upwards(root / "sys/fs/cgroup/cpu", path)]
    return min(granted)


def _upwards(top: Path, path: str) -> list[Path]:
    """The folder of a group and those of the groups around it. A container sees its own as the top."""
    folder = top / path.lstrip("/")
    return [folder, *(each for each in folder.parents if each.is_relative_to(top))]


def _share(place: Path) -> float:
    """Of the second version's cpu.max: "200000 100000", or "max 100000"."""
    try:
        quota, period = place.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _old_share(folder: Path) -> float:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


def pin_threads() -> None:
    """Bind the threads of the compiled kernels to a core each where the environment asks for it; else nothing.

    The thread that calls the kernels is bound while it computes in them and free again afterwards: torch starts its own
    threads from it, and they would all inherit its core.
    """
    if os.environ.get(PIN) != "1":
        return
    import ctypes

    from laguna_agent.backend.kernels.cpu.library import library

    opened = library().opened
    try:
        processors = compute_processors()
    except (AttributeError, OSError):
        return
    if opened is not None:
        opened.laguna_pin((ctypes.c_int32 * len(processors))(*processors), len(processors))


def load_torch() -> None:
    """Import torch so that its threads sleep where they wait; to be called before anything else imports it.

    Its OpenMP runtime reads the policy once, when it is loaded. By default a thread that waits for another spins, and
    where an editor or a test run has the core that the other needs, it burns that time: measured with every core taken,
    a token costs four times as much. The variable is put back, for the commands that the agent runs inherit it.
    """
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        import torch
    else:
        os.environ[name] = "passive"
        try:
            import torch  # noqa: F401
        finally:
            del os.environ[name]
