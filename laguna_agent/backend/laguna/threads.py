"""How many threads the engine computes with, and how torch's own wait for one another."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once: more threads compute no faster, and spin."""
    try:
        usable = os.sched_getaffinity(0)
        topologies = [Path(f"/sys/devices/system/cpu/cpu{number}/topology") for number in usable]
        cores = {
            ((folder / "physical_package_id").read_text(), (folder / "core_id").read_text()) for folder in topologies
        }
        return max(1, len(cores))
    except (AttributeError, OSError):  # not Linux, or a container without /sys
        return os.cpu_count() or 1


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
