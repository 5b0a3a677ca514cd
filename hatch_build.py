"""Compiles the CPU kernels when the package is installed or a wheel is built; that never fails for want of them.

Where a C++ compiler is there the library goes into the package, and a wheel gets the tag of its platform; where none
is, or it fails, the log says so in one line and the wheel is for every machine (the program then compiles at its first
use, where it can). LAGUNA_WHEEL_TARGET, which `scripts/build_wheels.py` sets, names another machine to compile for as
zig writes it (x86_64-linux-gnu.2.17); there a failure is one.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "LAGUNA_WHEEL_TARGET"
PLACE = "laguna_agent/backend/kernels/cpu/_library.so"


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before the wheel is written; in an editable installation the library goes into the tree itself."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version`: "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        # The compiling is the package's own; importing it takes nothing but the standard library.
        sys.path.insert(0, self.root)
        from laguna_agent.atomic import replace_file
        from laguna_agent.backend.kernels.cpu import building

        target = os.environ.get(TARGET)
        try:
            if target:
                made = building.build(building.zig(target), target.split("-")[0])
            else:
                made = building.build(building.find_compiler())
        except building.CannotBuild as problem:
            if target:
                raise
            self.app.display_warning(f"The CPU kernels are not compiled now: {problem}")
            return
        if version == "editable":
            replace_file(Path(self.root) / PLACE, made)
            return
        with tempfile.NamedTemporaryFile(prefix="laguna-kernels-", suffix=".so", delete=False) as file:
            file.write(made)
        self._made = Path(file.name)
        self._made.chmod(0o755)
        build_data["force_include"][file.name] = PLACE
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform(target)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The library is in the wheel now."""
        if made := getattr(self, "_made", None):
            made.unlink()


def _platform(target: str | None) -> str:
    """The platform as wheels' names say it: manylinux of the glibc in `target`, or the platform of this Python."""
    if target is None:
        return sysconfig.get_platform().replace("-", "_").replace(".", "_")
    machine, system, libc = target.split("-")
    name, major, minor = libc.split(".")
    if (system, name) != ("linux", "gnu"):
        raise ValueError(f"{TARGET}={target}: wheels are made for linux-gnu")
    return f"manylinux_{major}_{minor}_{machine}"
