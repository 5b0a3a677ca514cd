"""The shim of `shim.c`, compiled once per test run, as an environment for the program."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


@cache
def _library() -> Path:
    source = Path(__file__).with_name("shim.c")
    folder = tempfile.mkdtemp(prefix="fault-shim-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    built = Path(folder) / "shim.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True, timeout=60)
    return built


def killed_at(call: int, when: str, path: Path | str = "") -> dict[str, str]:
    """SIGKILL at the `call`th call that changes a file, of those with this text in their path; `when` is before, after
    or half."""
    return {"LD_PRELOAD": str(_library()), "FAULT_KILL": f"{call} {when} {path}"}


def full_after(count: int, path: Path | str) -> dict[str, str]:
    """No room is left once `count` bytes were written below `path`, or to paths with this text in them."""
    return {"LD_PRELOAD": str(_library()), "FAULT_FULL": f"{count} {path}"}


def jumping_clock(file: Path) -> dict[str, str]:
    """The wall clock is off by as many seconds as `file` says."""
    return {"LD_PRELOAD": str(_library()), "FAULT_CLOCK": str(file)}
