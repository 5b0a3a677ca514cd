"""How many threads the engine computes with."""

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
