"""The machine's own limits, measured by `limits.cpp`: bytes read, int8 and fp32 operations in a second.

Knows a compiler and a program; must not know contenders.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("limits.cpp")
SMALLER = 0.05
"""GiB that are read where figures only have to be there."""


class Limits:
    """The best of every figure that was seen; None where the machine has no such unit."""

    def __init__(self, folder: Path, threads: int, gib: float) -> None:
        """Compiles the program into `folder`; SystemExit without a compiler. `gib`: how much is read in a pass."""
        self.best: dict[str, float | None] = {}
        self._command = [str(folder / "limits"), str(threads), str(gib)]
        compiler = os.environ.get("CXX", "c++").split()
        flags = ["-O3", "-march=native", "-std=c++17", "-pthread"]
        try:
            subprocess.run([*compiler, *flags, str(SOURCE), "-o", self._command[0]], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"{SOURCE.name} is not compiled: {error}") from error

    def measure(self) -> None:
        """One more time."""
        told = json.loads(subprocess.run(self._command, check=True, capture_output=True).stdout)
        for name, value in told.items():
            known = self.best.get(name)
            self.best[name] = value if known is None or value is None else max(known, value)

    @property
    def read(self) -> float:
        """Bytes a second."""
        value = self.best["read_bytes_per_s"]
        assert value is not None
        return value
